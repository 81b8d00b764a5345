"""Demands, and what was found of each: met, not met, or not to be known.

A demand is written down once, beside the check that judges it, together with who suffers when it is not met.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec

from mirror.errors import MirrorError, UpstreamError

Verdict = Literal["ok", "fails", "unknown"]

SHOWN = 300
"""Characters of what was seen that are shown: an index may answer anything."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one demand."""

    name: str
    """Short and stable, for scripts: `pypi/etag`."""
    verdict: Verdict
    demand: str
    """What should be so."""
    hurts: str
    """Which clients a failure hurts, and why."""
    seen: str = ""
    """What was found instead, or why it cannot be known."""


class Requirement(msgspec.Struct, frozen=True):
    """Something that clients need of an index, or a mirror of its machine."""

    name: str
    demand: str
    hurts: str

    def ok(self, seen: str = "") -> Finding:
        return self._found("ok", seen)

    def fails(self, seen: str) -> Finding:
        return self._found("fails", seen)

    def unknown(self, why: str) -> Finding:
        """It cannot be checked."""
        return self._found("unknown", why)

    def judge(self, met: bool, seen: str) -> Finding:
        """Met, or else what was seen instead."""
        return self.ok() if met else self.fails(seen)

    def after(self, error: MirrorError, hint: str = "") -> Finding:
        """Not met where the index is at fault, else not to be known; `hint` says what to try then."""
        if isinstance(error, UpstreamError):
            return self.fails(str(error))
        return self.unknown(f"{error} {hint}" if hint else str(error))

    def _found(self, verdict: Verdict, seen: str) -> Finding:
        printable = "".join(letter if letter.isprintable() else "·" for letter in seen[: SHOWN + 1])
        shown = printable if len(printable) <= SHOWN else printable[:SHOWN] + "…"
        return Finding(name=self.name, verdict=verdict, demand=self.demand, hurts=self.hurts, seen=shown)


class ExamineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be looked at, where the caller has an opinion."""

    project: str | None = None
    """The one project; None: the smallest among a few."""
    held: tuple[str, ...] = ()
    """Projects that are cheap to look at, to choose from."""
    upload: str | None = None
    """The project that may be created, to try uploading."""
    token: str | None = None
    """What uploading it takes."""


Check = Callable[[], Awaitable[list[Finding]]]


async def run(area: str, checks: Iterable[Check]) -> list[Finding]:
    """Every check in turn. One that got no usable answer counts as a failure of the index, not of the doctor."""
    answers = Requirement(
        f"{area}/answers",
        "Every request is answered, whole and in time.",
        "every client: pip gives up after 15 seconds without a byte, uv after 30; an answer that is cut is asked for "
        "again, or ends the installation",
    )
    found: list[Finding] = []
    for check in checks:
        try:
            found += await check()
        except MirrorError as error:
            found.append(answers.after(error))
    return found if any(one.name == answers.name for one in found) else [answers.ok(), *found]
