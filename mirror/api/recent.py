"""Results that are made at most so often, however often they are requested.

A page of numbers takes milliseconds to make, and anyone may request it again and again. So the first few requests get a
result of their own, and those that come faster get the last one again, at most RECENT_SECONDS old, after a pause that
leaves the time to clients who install something.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from mirror.index.cache import SingleFlight

RECENT_SECONDS = 1.0
"""Seconds for which the last result of a kind is given again, where many are requested."""
RESULTS_AT_ONCE = 10.0
"""Results that are made without a pause, before the last one of a kind is given again; one more each RECENT_SECONDS."""
PAUSE_SECONDS = 0.25
"""How long those wait who get the last result again."""
KINDS = 8
"""Kinds of which the last result is kept."""

T = TypeVar("T")


class RecentResults(Generic[T]):
    """The newest results of some work, by their kind."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is in seconds."""
        self._clock = clock
        self._flights: SingleFlight[str, T] = SingleFlight()
        self._last: dict[str, tuple[float, T]] = {}
        """The last result of each kind, and when it was requested."""
        self._allowed = RESULTS_AT_ONCE
        self._asked = clock()

    async def get(self, kind: str, work: Callable[[], Awaitable[T]]) -> T:
        """Return a result of a kind: a new one, which `work` makes, or the last one where many are requested."""
        now = self._clock()
        self._allowed = min(RESULTS_AT_ONCE, self._allowed + (now - self._asked) / RECENT_SECONDS)
        self._asked = now
        if self._allowed < 1 and kind in self._last:
            requested, last = self._last[kind]
            if now - requested < RECENT_SECONDS:
                await asyncio.sleep(PAUSE_SECONDS)
                return last
        self._allowed = max(0.0, self._allowed - 1)
        result, _ = await self._flights.run(kind, work)
        if len(self._last) >= KINDS:
            self._last.clear()
        self._last[kind] = now, result
        return result

    async def close(self) -> None:
        """Cancel the work that is in progress."""
        await self._flights.close()
