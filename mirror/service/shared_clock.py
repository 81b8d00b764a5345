"""The time of a database that several machines share, on each of them.

What one node stores, others judge by its age: pages, uses of files, tokens. So all of them take the time from the
database. A node whose own clock is wrong writes wrong times into its log, and nowhere else.
"""

import time

from mirror.catalog import Leases

QUESTION_SECONDS = 10.0
"""Time between two questions: two clocks hardly part in it."""
LONGEST_SECONDS = 2.0
"""The answer to a question that took longer says too little."""


class SharedClock:
    """The database's clock, as it goes on here since it was last asked."""

    def __init__(self) -> None:
        self._offset: float | None = None
        """To the monotonic clock, which no one sets; None before the first answer."""

    def __call__(self) -> float:
        """Return the time in seconds since the epoch."""
        return time.time() if self._offset is None else time.monotonic() + self._offset

    async def learn(self, leases: Leases) -> None:
        """Ask the database for its time. Raises StorageUnavailable."""
        began = time.monotonic()
        now = await leases.now(time.time())
        ended = time.monotonic()
        if self._offset is None or ended - began <= LONGEST_SECONDS:
            self._offset = now - (began + ended) / 2
