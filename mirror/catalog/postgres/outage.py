"""Whether the database answers: noticed once for all callers, so that they fail at once, and looked for until it does.

The surprise: a question that waits long is not ended by a timeout, which would end long but sound ones as well. It
makes the server be asked by a connection of its own, and only when that fails everything that waits is broken off.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from mirror.catalog.postgres.connecting import unavailable

logger = logging.getLogger(__name__)

PROBE_SECONDS = 1.0
"""The pause between two attempts to reach a server that does not answer."""
SLOW_SECONDS = 3.0
"""How long a statement runs before it is checked whether the server still answers others."""


class Outage:
    """The state of the server: it answers, or it does not and is tried again and again."""

    def __init__(self, ask: Callable[[], Awaitable[None]], break_off: Callable[[], None]) -> None:
        """`ask` succeeds when the server answers; `break_off` ends all that waits for it."""
        self._ask = ask
        self._break_off = break_off
        self._looking: asyncio.Task[None] | None = None
        self.since: float | None = None
        """When it began, on the monotonic clock; None while the server answers."""

    def check(self) -> None:
        """Raise StorageUnavailable while the server does not answer."""
        if self.since is not None:
            raise unavailable()

    def begin(self, error: BaseException) -> None:
        """Note that the server does not answer; callers fail from now on until it does."""
        if self.since is None:
            self.since = time.monotonic()
            logger.error("The catalog's database does not answer; what is in memory is served until it does: %s", error)
            self._break_off()
        self.suspect()

    def suspect(self) -> None:
        """Find out in the background whether the server answers."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look(), name="asking whether the database answers")

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Find out whether the server answers, should the block take long, again and again."""
        watch = _Watch(self.suspect)
        try:
            yield
        finally:
            watch.timer.cancel()

    async def close(self) -> None:
        """Stop looking."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _look(self) -> None:
        while True:
            try:
                await self._ask()
            except Exception as error:
                if self.since is None:
                    self.since = time.monotonic()
                    logger.error("The catalog's database does not answer: %s", error or type(error).__name__)
                    self._break_off()
            else:
                if self.since is not None:
                    logger.warning("The catalog's database answers again, after %.0f s.", time.monotonic() - self.since)
                    self.since = None
                return
            await asyncio.sleep(PROBE_SECONDS)


class _Watch:
    """Calls a function every few seconds, until its timer is cancelled."""

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look
        self.timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._again)

    def _again(self) -> None:
        self._look()
        self.timer = asyncio.get_running_loop().call_later(SLOW_SECONDS, self._again)
