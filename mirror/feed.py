"""Our journal: what changed here, in order, for whoever follows: our own memory, other nodes, other mirrors.

The events themselves are written by the catalog, in the transaction of the change; this module tells who waits.
"""

import asyncio
import logging
from collections.abc import Callable

from mirror.catalog import FeedTable
from mirror.model import Event

logger = logging.getLogger(__name__)


class Feed:
    """Reads the journal, and wakes those who wait for news."""

    def __init__(self, table: FeedTable) -> None:
        self._table = table
        self._news = asyncio.Event()
        self._listeners: list[Callable[[str, str], None]] = []
        self.serial = 0
        """The newest serial that this process has seen."""

    async def open(self) -> None:
        """Learn where the journal stands."""
        _, self.serial = await self._table.bounds()

    def listen(self, listener: Callable[[str, str], None]) -> None:
        """Call `listener(source, project)` on each change, in this process, as soon as it is committed."""
        self._listeners.append(listener)

    def changed(self, serial: int | None, source: str, project: str) -> None:
        """Say that what a project's pages show has changed; `serial` None when the journal does not hold it."""
        for listener in self._listeners:
            listener(source, project)
        if serial is not None:
            self.recorded(serial)

    def recorded(self, serial: int) -> None:
        """Say that an event was committed, and wake who waits."""
        self.serial = max(self.serial, serial)
        self._news.set()
        self._news = asyncio.Event()

    async def append(self, event: Event) -> int:
        """Write one event that belongs to no other transaction, and tell."""
        serial = await self._table.append(event)
        self.changed(serial, event.source, event.project)
        return serial

    async def since(self, serial: int, limit: int = 1000) -> list[Event]:
        """At most `limit` events after `serial`, oldest first."""
        return await self._table.since(serial, limit)

    async def bounds(self) -> tuple[int, int]:
        """The oldest serial that is kept, and the newest."""
        return await self._table.bounds()

    async def wait(self, timeout: float) -> bool:
        """Wait for news, at most `timeout` seconds; whether there were any."""
        news = self._news
        try:
            await asyncio.wait_for(news.wait(), timeout)
        except TimeoutError:
            return False
        return True
