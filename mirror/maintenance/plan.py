"""Which blobs have to go, decided from what is known of all of them: least recently used first, and never what is ours.

Pure. What was uploaded, what a set names and what upstream no longer has stays, however large the store is; so does
what was used within the minimum age, so that an install that is going on finds its files again.
"""

from collections.abc import Iterable

import msgspec


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One blob, with all that is held under it."""

    digest: str
    size: int
    used: float
    """When any of its names was last asked for, in seconds since the epoch."""
    pinned: bool = False
    """An upload, in a set, or gone from upstream."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """What to do, and what the store holds before and after."""

    evict: tuple[Candidate, ...] = ()
    before: int = 0
    """Bytes."""
    after: int = 0
    """Bytes; above the limit when what may go is not enough."""


def plan(candidates: Iterable[Candidate], limit: int | None, now: float, min_age: float) -> Plan:
    """What has to go for the store to hold at most `limit` bytes; nothing without a limit."""
    known = list(candidates)
    before = after = sum(one.size for one in known)
    evict: list[Candidate] = []
    if limit is not None:
        for one in sorted(known, key=lambda one: (one.used, one.digest)):
            if after <= limit:
                break
            if not one.pinned and now - one.used >= min_age:
                evict.append(one)
                after -= one.size
    return Plan(evict=tuple(evict), before=before, after=after)
