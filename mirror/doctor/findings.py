"""Requirements, and whether an index meets them: met, not met, or impossible to find out.

A requirement is written once, beside the check that judges it, with the clients that suffer when it is not met.
"""

from collections.abc import Awaitable, Callable, Iterable
from typing import Literal

import msgspec

from mirror.errors import MirrorError, UpstreamError

Result = Literal["ok", "fails", "unknown"]

SEEN_CHARACTERS = 300
"""How much of what was seen is shown: an index may answer anything."""


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Whether one requirement is met."""

    name: str
    """A short and stable name, for scripts: `pypi/etag`."""
    verdict: Result
    requirement: str = msgspec.field(name="demand")  # the key in the output of --json
    """What is required, in a sentence."""
    hurts: str
    """The clients that a failure hurts, and why."""
    seen: str = ""
    """What was found instead, or why it cannot be found out."""


class Requirement(msgspec.Struct, frozen=True):
    """Something that clients need of an index, or a mirror of its machine."""

    name: str
    text: str
    hurts: str

    def ok(self, seen: str = "") -> Finding:
        """Report that it is met."""
        return self._found("ok", seen)

    def fails(self, seen: str) -> Finding:
        """Report that it is not met, and what was seen instead."""
        return self._found("fails", seen)

    def unknown(self, why: str) -> Finding:
        """Report that it cannot be checked, and why."""
        return self._found("unknown", why)

    def judge(self, met: bool, seen: str) -> Finding:
        """Report whether it is met; if not, with what was seen instead."""
        return self.ok() if met else self.fails(seen)

    def after(self, error: MirrorError, hint: str = "") -> Finding:
        """Report an error of a check: not met where the index is at fault, else unknown, with a hint what to try."""
        if isinstance(error, UpstreamError):
            return self.fails(str(error))
        return self.unknown(f"{error} {hint}" if hint else str(error))

    def _found(self, verdict: Result, seen: str) -> Finding:
        printable = "".join(letter if letter.isprintable() else "·" for letter in seen[: SEEN_CHARACTERS + 1])
        shown = printable if len(printable) <= SEEN_CHARACTERS else printable[:SEEN_CHARACTERS] + "…"
        return Finding(name=self.name, verdict=verdict, requirement=self.text, hurts=self.hurts, seen=shown)


class ExamineOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The choices of the caller about what to examine."""

    project: str | None = None
    """The project to examine; None for the smallest of a few."""
    held: tuple[str, ...] = ()
    """Projects that are held, and so cheap to examine, to choose from."""
    upload: str | None = None
    """The project that may be created to try uploading; None to try nothing."""
    token: str | None = None
    """The token for uploading."""


Check = Callable[[], Awaitable[list[Finding]]]


async def run(area: str, checks: Iterable[Check]) -> list[Finding]:
    """Run every check in turn. An error of one is a finding about the index, in addition to those of the others."""
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
