"""Our journal: what changed here, in order, for those who follow: other nodes, other mirrors, and our own memory.

The events themselves are written by the catalog, in the transaction of the change; this module wakes those who wait
for news, and reports changes to listeners. A writer does not hear of its own change: what that outdates in its own
memory it updates itself. What other processes (a command, another node) write into the same journal is noticed by
looking once a second.
"""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple

from mirror.catalog import FeedTable, Leases, Position
from mirror.errors import StorageUnavailable
from mirror.index.cache import SingleFlight
from mirror.index.change_counter import COUNTER_BYTES, ChangeCounter
from mirror.index.other_nodes import OtherNodes
from mirror.model import Event

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
"""Between two looks at what other processes have written."""
HURRIED_LOOK_SECONDS = 0.02
"""The same while a bundle is about to be taken in: until that is noticed, memory and store may differ."""
ANNOUNCED_SECONDS = 5.0
"""After this, a bundle that was announced is no longer waited for."""
EVENTS_AT_ONCE = 1000
"""Events that are read with one query."""

Listener = Callable[[str, str], None]
"""Called with a source and a project ("" for its list of names)."""


class Subscription(NamedTuple):
    """Someone who listens to changes of a source, but for those by writers of its own."""

    listener: Listener
    own: Collection[object]


class Journal:
    """Reads the journal, and wakes those who wait for news."""

    def __init__(self, table: FeedTable, changes: ChangeCounter | None = None) -> None:
        """`changes`: what tells at once that another process has changed something."""
        self._table = table
        self.changes = changes or ChangeCounter()
        self.news = asyncio.Event()
        """Set when there is something new, for those who wait."""
        self.own_serials: deque[int] = deque()
        """The serials of our own events, taken in when they are needed: recording one costs no call."""
        self.subscriptions: dict[str, list[Subscription]] = {}
        """Those who listen to changes, by source."""
        self._accounts = 0  # the generation of users and tokens that was seen last
        self._followed = 0  # up to here every event was reported
        self._hurry_until = 0.0
        self._own: set[int] | None = None  # serials beyond that of our own events, while others are followed
        self._serial = 0
        self._replaced: Callable[[], Awaitable[None]] = _do_nothing
        self._taken_in: Callable[[], Awaitable[None]] | None = None
        self._looking: SingleFlight[str, None] = SingleFlight()
        self._noticing: list[Callable[[], None]] = []
        self._logs = 0  # the number of changes of logs that was seen last
        self._outdating: list[Callable[[], None]] = []

    async def open(self) -> None:
        """Learn where the journal stands."""
        began = time.monotonic()
        head = await self._table.head()
        self._followed = self._serial = head.serial
        self._accounts, self._logs = head.accounts, head.logs
        if self.changes.others is not None:
            self.changes.others.looked(head, began)

    def share(self, leases: Leases, clock: Callable[[], float]) -> None:
        """Notice at once, from now on, what other nodes change in a catalog that they share."""
        self.changes.others = OtherNodes(self._table, leases, clock, self._look_anew)

    async def wait_until_noticed(self, repository: str) -> None:
        """Wait, before a change of its uploads is answered, until every node notices it. Raises StorageUnavailable."""
        if self.changes.others is not None:
            await self.changes.others.wait_until_noticed(repository)

    @property
    def serial(self) -> int:
        """The newest serial that this process has seen."""
        while self.own_serials:
            serial = self.own_serials.popleft()
            self._serial = max(self._serial, serial)
            if self._own is not None:
                self._own.add(serial)
        return self._serial

    def listen(self, listener: Listener, sources: Iterable[str], own: Collection[object] = ()) -> Callable[[], None]:
        """Call `listener` on each change of these sources as soon as it is committed, but for changes by its `own`.

        Returns a function that ends it.
        """
        subscription, sources = Subscription(listener, own), list(sources)
        for source in sources:
            self.subscriptions.setdefault(source, []).append(subscription)

        def end() -> None:
            for source in sources:
                self.subscriptions[source].remove(subscription)

        return end

    def on_change(self, notice: Callable[[], None]) -> Callable[[], None]:
        """Call `notice` whenever another process has announced a change, which need not be an event.

        Returns a function that ends it.
        """
        self._noticing.append(notice)
        return lambda: self._noticing.remove(notice)

    def changed(self, source: str, project: str, writer: object = None) -> None:
        """Report to all but the writer that what a source lists of a project has changed."""
        for one in list(self.subscriptions.get(source, ())):
            if writer is None or writer not in one.own:
                one.listener(source, project)

    def recorded(self, serial: int) -> None:
        """Report that an event was committed, and wake those who wait."""
        self.own_serials.append(serial)
        self.news.set()

    def wake(self) -> None:
        """Let those who wait look again."""
        self.news.set()

    async def append(self, event: Event) -> int:
        """Write one event that belongs to no other transaction, and report it."""
        serial = await self._table.append(event)
        self.changed(event.source, event.project)
        self.recorded(serial)
        return serial

    async def since(self, serial: int, limit: int = 1000) -> list[Event]:
        """Return at most `limit` events after `serial`, oldest first."""
        return await self._table.since(serial, limit)

    async def position(self) -> Position:
        """Return where the journal stands, and which one it is."""
        return await self._table.position()

    async def bounds(self) -> tuple[int, int]:
        """Return the oldest serial that is kept, and the newest."""
        return await self._table.bounds()

    async def wait(self, timeout: float) -> bool:
        """Wait for news, at most `timeout` seconds, and return whether there were any."""
        self.news.clear()  # those who wait already are woken by what was set before, as each has its own future
        try:
            await asyncio.wait_for(self.news.wait(), timeout)
        except TimeoutError:
            return False
        return True

    # Other processes

    async def follow_others(
        self, replaced: Callable[[], Awaitable[None]], taken_in: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Report what other processes write, until cancelled; `replaced` is awaited when the journal began anew.

        `taken_in` is awaited when a bundle was taken in, before anything in it is reported.
        """
        self._own = set()
        self._replaced, self._taken_in = replaced, taken_in
        while True:
            try:
                await self._looking.run("", self._look)
            except StorageUnavailable:  # the catalog reports it once
                logger.debug("the journal cannot be read at the moment")
            except Exception:
                logger.exception("the journal cannot be read; it is tried again")
            hurried = time.monotonic() < self._hurry_until
            await asyncio.sleep(HURRIED_LOOK_SECONDS if hurried else LOOK_SECONDS)

    def on_log_change(self, outdate: Callable[[], None]) -> Callable[[], None]:
        """Call `outdate` whenever a look finds that a log in the catalog has changed, of this process or another.

        Returns a function that ends it.
        """
        self._outdating.append(outdate)
        return lambda: self._outdating.remove(outdate)

    async def catch_up(self) -> bool:
        """Report what other processes have changed before this call, where `changes` says that there is something.

        Returns False when the journal cannot be read, which is logged: what is in memory is served on.
        """
        while self.changes.memory[:COUNTER_BYTES] != self.changes.seen:  # once more, where a look had begun before
            try:
                await self._looking.run("", self._look)
            except StorageUnavailable:
                return False
            except Exception:
                logger.exception("the journal cannot be read; it is tried again")
                return False
        return True

    async def _look_anew(self) -> None:
        """Look with a query that begins after this call."""
        if running := self._looking.get(""):
            await asyncio.wait({running})
        await self._looking.run("", self._look)

    async def _look(self) -> None:
        seen = self.changes.memory[:COUNTER_BYTES]
        moved = seen != self.changes.seen
        await self.look(self._replaced, self._taken_in)
        if moved:
            self.changes.seen = seen
            for notice in self._noticing:
                notice()

    async def look(
        self, replaced: Callable[[], Awaitable[None]], taken_in: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """Look once at what others have written. An event may be reported twice, but never not at all."""
        seen, began = self.serial, time.monotonic()
        head = await self._table.head()
        newest = head.serial
        if newest < seen:
            logger.error("the catalog has been replaced: it knows less than it did")
            self._followed = self._serial = newest
            self._own = set()
            await replaced()
            self._outdate_logs(head.logs)
            return
        while self._followed < newest:
            events = await self._table.since(self._followed, EVENTS_AT_ONCE)
            if any(event.kind == "importing" for event in events):
                self._hurry_until = time.monotonic() + ANNOUNCED_SECONDS
            if taken_in and any(event.kind == "import" for event in events):
                self._hurry_until = 0.0
                await taken_in()
            seen = self.serial  # takes in our own events up to this moment
            own = self._own or set()
            for event in events:
                if event.serial not in own:
                    self.changed(event.source, event.project)
            # A full batch may have more behind it; the serials up to `newest` that are missing were never given out.
            self._followed = (
                events[-1].serial if len(events) == EVENTS_AT_ONCE else max(newest, *(e.serial for e in events), 0)
            )
            own.difference_update([serial for serial in own if serial <= self._followed])
            if self._followed > seen:
                self._serial = max(self._followed, self.serial)
                self.wake()
        if head.logs != self._logs:  # after `taken_in`, which shows what a bundle has written, all of it at once
            self._outdate_logs(head.logs)
        if head.accounts != self._accounts:
            self._accounts = head.accounts
            for notice in self._noticing:
                notice()
        if self.changes.others is not None:
            self.changes.others.looked(head, began)

    def _outdate_logs(self, changes: int) -> None:
        self._logs = changes
        for outdate in tuple(self._outdating):
            outdate()


async def _do_nothing() -> None:
    """Stand for what is to be done when the journal began anew, in a process that does not follow others."""
