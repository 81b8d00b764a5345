"""The writer of a published log: a task that takes what happened from a queue, and appends what follows from it.

What may change the log arrives as a value: an upstream lists something else, a page shows something else, policy has
seen a change. The writer takes all events that wait, works out what the log should list, and persists the differences
before anyone can see them. Each event has a future, which is done when the log lists the event. Readers take
`log`, which is immutable; `on_change` is called when another one replaces it.

Each process has such a writer, and all of them append to one log, at the position where they take it to end. Who is
refused there reads on, first the log and then what others have made it from, and works out again what is missing.

The surprise: the writer fetches nothing. Pages are fetched before events about them are posted, so that a push never
waits for an upstream. And an upstream's list arrives with the event that names what has changed in it: what changes in
the list later has not been seen by policy yet, and must not reach the log with an earlier event.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Sequence, Set
from datetime import UTC, datetime
from functools import partial

import msgspec

from mirror.catalog import Catalog, LogGrowth, SharedLog
from mirror.index.precedence import Precedence
from mirror.rubygems.log.events import LogEvent, PageChange, Release, ReviewEnd, Update, UpstreamChange
from mirror.rubygems.log.local_entries import LocalEntries
from mirror.rubygems.log.name_owners import NameOwners
from mirror.rubygems.log.policy_review import PolicyReview
from mirror.rubygems.log.published_log import PublishedLog, UpstreamMaps, wanted_map
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.versions_map import LocalEntry, VersionsMap, diff, names_in
from mirror.runtime import end_process

logger = logging.getLogger(__name__)

OPEN_AGAIN_SECONDS = 1.0
"""Time after which a log that could not be read is read again: until then, each request gets the same error."""
MOST_CHUNKS = 2000
"""Appends after which the stored log is written anew in one piece: the same bytes, in fewer rows."""
SLACK_BYTES = 4 << 20
"""How much longer than twice its shortest form the log may be before it is begun anew."""


class LogWriter:
    """The task that writes one log."""

    def __init__(
        self,
        repository: str,
        upstreams: Sequence[UpstreamIndex],
        precedence: Precedence,
        catalog: Catalog,
        local: LocalEntries,
        review: PolicyReview,
        on_change: Callable[[], None],
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`on_change` is called as `log` is replaced."""
        self.log: PublishedLog | None = None
        """What is served; None until there is anything to list."""
        self.changed_at = clock()
        """The time at which the log last grew, in seconds since the epoch by the database's clock."""
        self.behind = False
        """Whether another process may have written more than is known here."""
        self.on_append: Callable[[], None] = lambda: None
        """Called as the log has grown for all processes."""
        self.retired = False
        """Whether another writer goes on with the log, so that nothing is appended here."""
        self.loaded = _awaited()
        """Done once the stored log has been read."""
        self.opened = _awaited()
        """Done once the log lists what the stored copies of the upstreams do."""
        self.on_open: Callable[[], None] = lambda: None
        """Called then."""
        self._stored = SharedLog(catalog.logs, f"published {repository}", clock)
        self._on_change = on_change
        self._upstreams = tuple(upstreams)
        self._maps = UpstreamMaps((None,) * len(upstreams), NameOwners(precedence))
        self._following = False
        self._changed: set[str] | None = None
        """The gems for which the log may differ from what it should list; None: all of them."""
        self._queue: asyncio.Queue[tuple[LogEvent, asyncio.Future[bytes]]] = asyncio.Queue()
        self._batch: list[tuple[LogEvent, asyncio.Future[bytes]]] = []
        self._last: asyncio.Future[bytes] | None = None
        """Of the event that was posted last; the events before it are done no later."""
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self._repository = repository
        self._claims = catalog.claims
        self._local = local
        self._review = review
        self._clock = clock

    # Posting events

    @property
    def idle(self) -> bool:
        """Whether the log lists all that was posted."""
        return self._queue.empty() and not self._batch

    def listed_upstream(self, name: str) -> LocalEntry | None:
        """Return how the upstream to which a gem belongs lists it now; None where it does not."""
        return UpstreamMaps(tuple(one.map for one in self._upstreams), self._maps.owners).entry(name)

    def post(self, event: LogEvent) -> asyncio.Future[bytes]:
        """Queue an event; the future has the bytes by which the log grew, or what went wrong; cancelled once closed."""
        done: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        done.add_done_callback(_retrieve)
        if self._closed:
            done.cancel()
        else:
            self._queue.put_nowait((event, done))
            self._last = done
        return done

    async def apply(self, event: LogEvent) -> bytes:
        """Post an event and wait until the log lists it; return the bytes by which the log grew."""
        return await asyncio.shield(self.post(event))

    def upstream_changed(self, upstream: int, names: frozenset[str]) -> None:
        """Post what an upstream lists now; before the log has been opened, its list is still to be read."""
        listed = self._upstreams[upstream].map
        if self._following and listed is not None:
            self.post(UpstreamChange(upstream, listed, names))

    async def wait_until_open(self) -> None:
        """Wait for `opened`; where opening has failed, try it again. Raises what went wrong."""
        if self.opened.done() and self.opened.exception() is not None:
            await self.apply(Update())
        await asyncio.shield(self.opened)

    def start(self) -> None:
        """Read what is stored, then take events. What is posted before is taken afterwards."""
        self._task = asyncio.create_task(self._run(), name="the writer of a gem index")
        self._task.add_done_callback(end_process)

    async def retire(self) -> None:
        """Append nothing any more, once what was posted before has been written or has failed."""
        if self._last is not None:
            await asyncio.wait({self._last})
        async with self._writing:
            self.retired = True

    def resume(self) -> None:
        """Go on with the log after all."""
        self.retired = False
        self.post(Update())

    async def close(self) -> None:
        """Stop, and cancel what waits for the log."""
        self._closed = True
        if self._task is not None:
            self._task.remove_done_callback(end_process)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        while not self._queue.empty():
            self._batch.append(self._queue.get_nowait())
        for _, done in self._batch:
            done.cancel()
        for future in (self.loaded, self.opened):
            future.cancel()

    # The task

    async def _run(self) -> None:
        failure, tried = await self._try_to_open(), time.monotonic()
        while True:
            self._batch = [await self._queue.get()]
            while not self._queue.empty():
                self._batch.append(self._queue.get_nowait())
            if failure is not None and time.monotonic() - tried >= OPEN_AGAIN_SECONDS:
                failure, tried = await self._try_to_open(), time.monotonic()
            tail, problem = b"", failure
            if problem is None:
                try:
                    async with self._writing:
                        tail = await self._apply_all([event for event, _ in self._batch])
                except Exception as error:
                    self._changed = None  # how much of it was done is not known: the next time, all is compared
                    problem = error
            for _, done in self._batch:
                if not done.done() and problem is not None:
                    done.set_exception(problem)
                elif not done.done():
                    done.set_result(tail)
            self._batch = []

    async def _try_to_open(self) -> Exception | None:
        """Read what is stored, without which nothing may be written in its place; return why that failed."""
        if self.opened.done():
            self.loaded, self.opened = _awaited(), _awaited()
        try:
            async with self._writing:
                await self._open()
        except Exception as error:
            logger.exception("the published index cannot be read; nothing is added to it until it can")
            for future in filter(lambda one: not one.done(), (self.loaded, self.opened)):
                future.set_exception(error)
            return error
        self.on_open()
        return None

    async def _open(self) -> None:
        # Without compressing it: that takes as long as all the rest.
        await self._take_growth(await self._stored.growth(), packed=False)
        await self._local.read()
        self.loaded.set_result(None)
        await asyncio.gather(*(one.read_on() for one in self._upstreams))
        self._maps = UpstreamMaps(tuple(one.map for one in self._upstreams), await self._owners())
        self._following = True
        if self.log is not None:
            self.log = await asyncio.to_thread(self.log.packed)
            self._on_change()
            if self._review.policy_applies and (maps := self._maps.usable()) is not None:
                wanted = await asyncio.to_thread(wanted_map, maps, self._maps.owners, dict(self._local.entries))
                # What upstreams have changed since the log was written is held back, too.
                self._review.hold_back(names_in(await asyncio.to_thread(diff, self.log.map, wanted)))
            try:
                await self._update()  # a crash may have come between an upstream's change and ours
            except Exception:
                logger.exception("the published index cannot be brought up to date; the next change tries again")
                self._changed = None
        self.opened.set_result(None)

    async def _apply_all(self, events: Sequence[LogEvent]) -> bytes:
        """Apply all events to the log; return the bytes by which it grew."""
        needed = await self._take(events)
        if self.behind:
            await self._read_on()
        return await self._update() if needed or self.log is not None else b""

    async def _take(self, events: Sequence[LogEvent]) -> bool:
        """Take over what events tell; return whether they need a log where there is none."""
        pages: dict[str, PageChange] = {}
        needed = False
        for event in events:
            match event:
                case PageChange(name):
                    if not self.retired:
                        pages[name] = event
                case UpstreamChange(upstream, listed, names):
                    self._maps = self._maps.replace(upstream, listed)
                    if self.log is not None:
                        self._review.hold_back(names)
                    self._add_changed(names)
                    needed = True
                case ReviewEnd(names, failed):
                    self._review.end(names, failed)
                    self._add_changed(names - failed)
                    needed = True
                case Release(names):
                    owners = await self._owners()
                    if owners != self._maps.owners:
                        self._maps = msgspec.structs.replace(self._maps, owners=owners)
                        self._add_changed(names)
                        needed = True
                case Update():
                    needed = True
        if pages:
            self._add_changed(await self._local.store(pages, self._maps.entry))
        return needed

    # What other processes write

    async def _read_on(self) -> None:
        """Read what other processes have appended to the log, and then from what they have made it."""
        self.behind = False
        try:
            growth = await self._stored.growth()
            await self._take_growth(growth)
        except BaseException:
            self.behind = True
            raise
        if not growth.content:
            return
        if growth.anew:
            self._changed = None
        self._add_changed(await self._local.read_on())
        for one in self._upstreams:
            await one.read_on()
        events: list[LogEvent] = []
        while not self._queue.empty():  # what they list now must count before anything is compared with the log
            self._batch.append(self._queue.get_nowait())
            events.append(self._batch[-1][0])
        await self._take(events)

    async def _take_growth(self, growth: LogGrowth, *, packed: bool = True) -> None:
        log = self.log
        if growth.anew and not growth.content and log is not None:  # the catalog has been lost
            self._stored.position = growth.position
            await self._stored.replace(log.slice())
            return
        if growth.content and (growth.anew or log is None):
            log = await asyncio.to_thread(partial(PublishedLog.from_bytes, growth.content, packed=packed))
        elif growth.content and log is not None:
            log = await asyncio.to_thread(log.appended, growth.content)
        self._stored.position = growth.position
        if log is not None and log is not self.log:
            self._show(log)

    def _publish(self, log: PublishedLog) -> None:
        self._show(log)
        self.on_append()

    def _show(self, log: PublishedLog) -> None:
        # Last-Modified has whole seconds: two states of one second would be the same to a proxy.
        grown = self._stored.position.at  # for all processes the same, unless an older version has written
        self.log, self.changed_at = log, grown or max(self._clock(), math.floor(self.changed_at) + 1)
        self._on_change()

    async def _owners(self) -> NameOwners:
        released = await self._claims.released(self._repository)
        return NameOwners(self._maps.owners.precedence, frozenset(released))

    def _add_changed(self, names: Set[str]) -> None:
        if self._changed is not None:
            self._changed |= names

    async def _update(self) -> bytes:
        """Append the differences to the log, persisted before they are seen; return the bytes by which it grew."""
        names, self._changed = self._changed, set()
        while True:
            maps = self._maps.usable()
            if maps is None or self.retired:
                self._changed = None
                return b""
            tail = await self._append_differences(maps, names)
            if tail is not None:
                return tail
            await self._read_on()
            names = None if names is None or self._changed is None else names | self._changed
            self._changed = set()

    async def _append_differences(self, maps: Sequence[VersionsMap], names: set[str] | None) -> bytes | None:
        """Append the differences of some gems, or of all; return them, or None where another process has appended."""
        owners = self._maps.owners
        if self.log is None or names is None:
            wanted = await asyncio.to_thread(wanted_map, maps, owners, self._overrides(None))
            if self.log is None or self.log.size > 2 * wanted.size + SLACK_BYTES:
                return await self._begin(wanted)
            log, tail = await asyncio.to_thread(self.log.updated, wanted)
        else:
            wanted = wanted_map([one.only(names) for one in maps], owners, self._overrides(names))
            tail = b"".join(line + b"\n" for line in diff(self.log.map.only(names), wanted))
            log = await asyncio.to_thread(self.log.appended, tail) if tail else self.log
        if tail and not await self._stored.append(tail, MOST_CHUNKS):
            return None
        if tail:
            self._publish(log)
        if names is None:
            await self._share_memory(log.map)
        return tail

    async def _begin(self, wanted: VersionsMap) -> bytes | None:
        """Write the log anew, in its shortest form; return it, or None where another process has written."""
        log = await asyncio.to_thread(PublishedLog.begin, wanted, datetime.fromtimestamp(self._clock(), UTC))
        if not await self._stored.replace(log.slice()):
            return None
        self._publish(log)
        await self._share_memory(log.map)
        return log.slice()

    def _overrides(self, names: set[str] | None) -> dict[str, LocalEntry]:
        """Return how these gems, or all, are listed whatever upstreams list: local entries, and what is held back."""
        entries, held_back = self._local.entries, self._review.held_back
        if names is not None:
            entries = {name: entries[name] for name in names if name in entries}
            held_back &= names
        if self.log is None:
            return dict(entries)
        return entries | {name: LocalEntry.from_map(self.log.map, name) for name in held_back}

    async def _share_memory(self, listed: VersionsMap) -> None:
        """Let the upstreams' maps consist of the log's names and entries as far as they are equal."""
        for at, one in enumerate(self._upstreams):
            known = self._maps.maps[at]
            if known is not None:
                shared = await asyncio.to_thread(known.sharing, listed)
                self._maps = self._maps.replace(at, shared)
                one.replace_equal(known, shared)


def _awaited() -> "asyncio.Future[None]":
    future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    future.add_done_callback(_retrieve)
    return future


def _retrieve(future: "asyncio.Future[bytes] | asyncio.Future[None]") -> None:
    """Look at the outcome, so that an error for which no one waits is not reported once more by asyncio."""
    if not future.cancelled():
        future.exception()
