"""When a shorter answer is doubted: pure decisions about lists and pages that lose a great part at once.

A response that was cut, a portal, an index that is being rebuilt: each parses, and lacks most of what was there. So a
great loss is not believed at once: what is stored goes on, with a warning, until a second answer minutes later lacks
it as well. What upstream has been seen to have removed one by one does not count as lost.

The surprise: the doubt is the caller's to keep, and may be forgotten at any time; then it only lasts longer.
"""

from collections.abc import Callable, Collection, Container

import msgspec

CONFIRMED_AFTER_SECONDS = 180.0
"""Time after the first doubted answer from which an answer that lacks the same is believed."""


class Tolerance(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of what may be lost at once without a doubt."""

    share: float
    """The part of what was there; more is a great loss."""
    number: int
    """The number of things; more is a great loss, whatever the share."""
    least: int
    """Fewer than these are no great loss, unless nothing is left."""


LIST = Tolerance(share=0.01, number=1000, least=5)
"""For lists of names, and for feeds of records."""
PAGE = Tolerance(share=0.2, number=1000, least=5)
"""For the files of one project: an author may remove a release, and hardly ever a fifth of them at once."""


class Doubt(msgspec.Struct, frozen=True, kw_only=True):
    """A great loss that has not been confirmed yet."""

    since: float
    """When the first answer with a great loss came, in seconds since the epoch."""
    lost: int
    """How many things the newest one lacks."""
    of: int
    """How many there were."""

    def __str__(self) -> str:
        return f"{self.lost:,} of {self.of:,}"


def lost(before: Collection[str], after: Container[str]) -> list[str]:
    """Return the names that were there before and are not there after."""
    return [name for name in before if name not in after]


def is_great(lost: int, of: int, tolerance: Tolerance) -> bool:
    """Return whether the loss of so many things of so many is a great one."""
    if lost <= 0 or of <= 0:
        return False
    if lost >= of:
        return True
    return lost >= tolerance.least and (lost > tolerance.number or lost > of * tolerance.share)


def doubt(known: Doubt | None, lost: int, of: int, now: float, tolerance: Tolerance, *, gone: int = 0) -> Doubt | None:
    """Return the doubt about an answer that lacks `lost` things of the `of` that are stored; None to believe it.

    `known` is the doubt about the answer before it. `gone` of the lost things are known to be removed, since upstream
    no longer has pages of their own for them.
    """
    if not is_great(lost - gone, of, tolerance):
        return None
    if known is None or now < known.since:
        return Doubt(since=now, lost=lost, of=of)
    if now - known.since >= CONFIRMED_AFTER_SECONDS:
        return None
    return Doubt(since=known.since, lost=lost, of=of)


class Doubts:
    """The doubts about several things, as they are now, with a clock."""

    def __init__(self, tolerance: Tolerance, clock: Callable[[], float]) -> None:
        self._tolerance = tolerance
        self._clock = clock
        self._known: dict[str, Doubt] = {}

    def believe(self, what: str, lost: int, of: int) -> bool:
        """Return whether it is believed that so many parts of something are gone, of so many; remember a doubt."""
        doubted = doubt(self._known.pop(what, None), lost, of, self._clock(), self._tolerance)
        if doubted is not None:
            self._known[what] = doubted
        return doubted is None
