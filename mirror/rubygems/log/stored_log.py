"""The published log as it is stored for all processes, and as far as this one knows it."""

import asyncio
import math
import time
from collections.abc import Callable
from functools import partial

from mirror.catalog import START, LogGrowth, Logs
from mirror.rubygems.log.published_log import PublishedLog

MOST_CHUNKS = 2000
"""Appends after which the stored log is written anew in one piece: the same bytes, in fewer rows."""


class StoredLog:
    """A published log that several processes append to, each at the position where it takes the log to end."""

    def __init__(
        self, logs: Logs, name: str, on_change: Callable[[], None], clock: Callable[[], float] = time.time
    ) -> None:
        """`on_change` is called as `log` is replaced."""
        self.log: PublishedLog | None = None
        """What is served; None until there is anything to list."""
        self.changed_at = clock()
        """The time at which the log last grew here, in seconds since the epoch."""
        self.behind = False
        """Whether another process may have written more than is known here."""
        self.on_append: Callable[[], None] = lambda: None
        """Called as the log has grown for all processes."""
        self._position = START
        self._logs = logs
        self._name = name
        self._on_change = on_change
        self._clock = clock

    async def open(self) -> None:
        """Read what is stored, without compressing it: that takes as long as all the rest."""
        stored = await self._logs.read_on(self._name, START)
        self._position = stored.position
        if stored.content:
            self.log = await asyncio.to_thread(partial(PublishedLog.from_bytes, stored.content, packed=False))

    async def pack(self) -> None:
        """Compress what was read."""
        if self.log is not None:
            self.log = await asyncio.to_thread(self.log.packed)
            self._on_change()

    async def is_outdated(self) -> bool:
        """Return whether what is stored is not what is known here, unless that changes just now."""
        known = self._position
        return await self._logs.position(self._name) != known == self._position

    async def read_on(self) -> LogGrowth:
        """Read what other processes have written, and return it."""
        self.behind = False
        try:
            growth = await self._logs.read_on(self._name, self._position)
        except BaseException:
            self.behind = True
            raise
        self._position, log = growth.position, self.log
        if growth.anew and not growth.content and log is not None:  # the catalog has been lost
            self._position = await self._logs.append(self._name, log.slice(), growth.position) or growth.position
        elif growth.content and (growth.anew or log is None):
            self._publish(await asyncio.to_thread(PublishedLog.from_bytes, growth.content))
        elif growth.content and log is not None:
            self._publish(await asyncio.to_thread(log.appended, growth.content))
        return growth

    async def append(self, tail: bytes, log: PublishedLog) -> bool:
        """Append lines, with which the log is `log`; return False where another process has written meanwhile."""
        position = await self._logs.append(self._name, tail, self._position)
        if position is None:
            return False
        if position.chunks > MOST_CHUNKS:
            position = await self._logs.replace(self._name, log.slice(), position) or position
        self._position = position
        self._publish(log)
        self.on_append()
        return True

    async def replace(self, log: PublishedLog) -> bool:
        """Replace the log; return False where another process has written meanwhile."""
        position = await self._logs.replace(self._name, log.slice(), self._position)
        if position is None:
            return False
        self._position = position
        self._publish(log)
        self.on_append()
        return True

    def _publish(self, log: PublishedLog) -> None:
        # Last-Modified has whole seconds: two states of one second would be the same to a proxy.
        self.log, self.changed_at = log, max(self._clock(), math.floor(self.changed_at) + 1)
        self._on_change()
