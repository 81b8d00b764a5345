"""Our journal: what changed here, in order, for whoever follows: our own memory, other nodes, other mirrors.

The events themselves are written by the catalog, in the transaction of the change; this module tells who waits. What
other processes write into the same journal (a command, another node) is noticed by looking once a second.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from mirror.catalog import FeedTable, Position
from mirror.model import Event

logger = logging.getLogger(__name__)

LOOK = 1.0
"""Seconds between two looks at what other processes have written."""
HURRIED = 0.02
"""The same when a bundle is about to be taken in: until it is told, what is in memory and what is stored may differ."""
ANNOUNCED = 5.0
"""Seconds after which a bundle that was announced is no longer waited for."""
AT_ONCE = 1000
"""Events that are read at once."""

Listener = Callable[[str, str], None]
"""Called with a source and a project."""


class Journal:
    """Reads the journal, and wakes those who wait for news."""

    def __init__(self, table: FeedTable) -> None:
        self._table = table
        self._news = asyncio.Event()
        self._listeners: list[Listener] = []
        self._collected: list[Listener] | None = None
        self._followed = 0  # up to here every event was told
        self._hurry_until = 0.0
        self._told: set[int] | None = None  # our own events beyond that, while others are followed
        self.serial = 0
        """The newest serial that this process has seen."""

    async def open(self) -> None:
        """Learn where the journal stands."""
        _, self.serial = await self._table.bounds()
        self._followed = self.serial

    def listen(self, listener: Listener) -> None:
        """Call `listener(source, project)` on each change, in this process, as soon as it is committed."""
        self._listeners.append(listener)
        if self._collected is not None:
            self._collected.append(listener)

    @contextmanager
    def collecting(self, listeners: list[Listener]) -> Iterator[None]:
        """Take down in `listeners` who begins to listen inside the block (which awaits nothing), for `stop_telling`."""
        self._collected = listeners
        try:
            yield
        finally:
            self._collected = None

    def stop_telling(self, listeners: list[Listener]) -> None:
        """Forget these listeners, and empty the list."""
        gone = {id(listener) for listener in listeners}
        self._listeners = [listener for listener in self._listeners if id(listener) not in gone]
        listeners.clear()

    def changed(self, serial: int | None, source: str, project: str) -> None:
        """Say that what a project's pages show has changed; `serial` None when the journal does not hold it."""
        for listener in self._listeners:
            listener(source, project)
        if serial is not None:
            self.recorded(serial)

    def recorded(self, serial: int) -> None:
        """Say that an event was committed, and wake who waits."""
        self.serial = max(self.serial, serial)
        if self._told is not None:
            self._told.add(serial)
        self.wake()

    def wake(self) -> None:
        """Let those who wait look again."""
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

    async def position(self) -> Position:
        """Where the journal stands, and which one it is."""
        return await self._table.position()

    async def trim(self, before: float) -> None:
        """Forget the events older than a moment, in seconds since the epoch."""
        await self._table.trim(before)

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

    # Other processes

    async def follow_others(
        self, replaced: Callable[[], Awaitable[None]], taken_in: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Tell, until cancelled, of what other processes write; `replaced` is awaited when the journal began anew.

        `taken_in` is awaited when a bundle was taken in, before anybody is told of anything in it.
        """
        self._told = set()
        while True:
            try:
                await self.look(replaced, taken_in)
            except Exception:
                logger.exception("the journal cannot be read; it is tried again")
            await asyncio.sleep(HURRIED if time.monotonic() < self._hurry_until else LOOK)

    async def look(
        self, replaced: Callable[[], Awaitable[None]], taken_in: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """One look at what others have written. An event may be told twice, but never not at all."""
        seen = self.serial
        _, newest = await self._table.bounds()
        if newest < seen:
            logger.error("the catalog has been replaced: it knows less than it did")
            self._followed = self.serial = newest
            self._told = set()
            await replaced()
            return
        while self._followed < newest:
            events = await self._table.since(self._followed, AT_ONCE)
            told = self._told or set()
            if any(event.kind == "importing" for event in events):
                self._hurry_until = time.monotonic() + ANNOUNCED
            if taken_in and any(event.kind == "import" for event in events):
                self._hurry_until = 0.0
                await taken_in()
            for event in events:
                if event.serial not in told:
                    for listener in self._listeners:
                        listener(event.source, event.project)
            # A full batch may have more behind it; the serials up to `newest` that are missing were never given out.
            self._followed = (
                events[-1].serial if len(events) == AT_ONCE else max(newest, *(e.serial for e in events), 0)
            )
            told.difference_update([serial for serial in told if serial <= self._followed])
            if self._followed > self.serial:
                self.serial = self._followed
                self.wake()
