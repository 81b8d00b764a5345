"""Caches that share one budget of memory, work that is shared while it runs, and until when a value is valid.

What has not been used for longest goes first, over all caches of a budget: a page that no one asks for makes room for a
project that someone does. Nothing here is for threads.
"""

import asyncio
import logging
import sys
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Hashable
from enum import IntEnum
from functools import partial
from typing import Any, Generic, TypeVar

import msgspec

from mirror.errors import MirrorError

logger = logging.getLogger(__name__)

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")
T = TypeVar("T")

ENTRY_BYTES = 300
"""Bytes that the place of an entry takes, besides its key and its value (measured)."""
FILE_BYTES = 1500
"""Bytes that the entry of one file of a parsed project takes (measured)."""


class Validity(msgspec.Struct, eq=False, weakref=True):
    """Until when a value is valid; `end` ends it before that moment."""

    until: float
    """Seconds since the epoch."""
    of: "Validity | None" = None
    """Another one with which it ends, whatever moment that has: a value is valid while `(of or self).live`."""
    live: bool = True

    def holds(self, now: float) -> bool:
        """Return whether the value is valid at this moment."""
        return now < self.until and (self.of or self).live

    def end(self) -> None:
        """Let nothing that depends on it be valid any longer."""
        self.live = False


class Worth(IntEnum):
    """The work that an entry spares, for the bytes that it takes."""

    USUAL = 0
    HIGH = 1
    HIGHEST = 2


class MemoryBudget:
    """Bytes that the caches made with it may take together.

    Entries of a high worth, which are small, make room only once they take more than three quarters; then those of the
    highest worth are the last to go.
    """

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.weight = 0
        """Bytes that all entries take; never above the limit."""
        self.worthy_weight = 0
        """The part of that for entries of more than usual worth."""
        # By worth, as they were put or had a second chance:
        self._orders: tuple[OrderedDict[CacheEntry[Any], None], ...] = tuple(OrderedDict() for _ in Worth)

    def add(self, entry: "CacheEntry[Any]") -> None:
        """Take in an entry that is no heavier than the limit; the oldest ones that no one uses make room for it.

        A hit only marks its entry as used, to cost nothing; here a marked one gets a second chance.
        """
        while self.weight + entry.weight > self.limit_bytes:
            order = self._first_to_go()
            oldest = next(iter(order))
            if oldest.used:
                oldest.used = False
                order.move_to_end(oldest)
            else:
                self.remove(oldest)
                oldest.cache.evict(oldest)
        self.weight += entry.weight
        self._orders[entry.worth][entry] = None
        if entry.worth:
            self.worthy_weight += entry.weight

    def _first_to_go(self) -> "OrderedDict[CacheEntry[Any], None]":
        usual, *worthy = self._orders
        if usual and 4 * self.worthy_weight <= 3 * self.limit_bytes:
            return usual
        return next(order for order in (*worthy, usual) if order)

    def remove(self, entry: "CacheEntry[Any]") -> None:
        """Let go of an entry."""
        self.weight -= entry.weight
        del self._orders[entry.worth][entry]
        if entry.worth:
            self.worthy_weight -= entry.weight


class CacheEntry(Generic[V]):
    """A value in a cache, with its place in the budget."""

    __slots__ = ("cache", "key", "used", "value", "weight", "worth")

    def __init__(self, cache: "BoundedCache[Any, V]", key: Any, value: V, weight: int, worth: Worth) -> None:
        self.cache = cache
        self.key = key
        self.value = value
        self.weight = weight
        self.worth = worth
        self.used = False
        """Set by the caller that uses the value: it is kept longer than those that no one uses."""


class BoundedCache(dict[K, CacheEntry[V]]):
    """Key → entry, for as long as the budget has room.

    It is a dictionary so that a hit costs no call: `get` returns the entry, whose `used` the caller sets. It is changed
    by the methods below alone.
    """

    __slots__ = ("_budget", "_evicted", "_worth")

    def __init__(
        self, budget: MemoryBudget, evicted: Callable[[K, V], None] | None = None, worth: Worth = Worth.USUAL
    ) -> None:
        """`evicted` is called with what is dropped for want of room, or never kept for that reason.

        `worth` is that of entries which are put without one.
        """
        super().__init__()
        self._worth = worth
        self._budget = budget
        self._evicted = evicted

    def value(self, key: K) -> V | None:
        """Return the value, which then counts as used; or None."""
        entry = self.get(key)
        if entry is None:
            return None
        entry.used = True
        return entry.value

    def peek(self, key: K) -> V | None:
        """Return the value, which does not count as used; or None."""
        entry = self.get(key)
        return None if entry is None else entry.value

    def put(self, key: K, value: V, weight: int = 0, worth: Worth | None = None) -> None:
        """Keep a value. `weight` is what key and value take, in bytes; what exceeds the whole budget is not kept."""
        self.forget(key)
        entry = CacheEntry(self, key, value, weight + ENTRY_BYTES, self._worth if worth is None else worth)
        if entry.weight <= self._budget.limit_bytes:
            self[key] = entry
            self._budget.add(entry)
        elif self._evicted is not None:
            self._evicted(key, value)

    def forget(self, key: K) -> None:
        """Drop a key if it is there."""
        entry = self.pop(key, None)
        if entry is not None:
            self._budget.remove(entry)

    def clear(self) -> None:
        """Drop everything."""
        for key in list(self):
            self.forget(key)

    def evict(self, entry: CacheEntry[V]) -> None:
        """Drop an entry that the budget has let go of."""
        del self[entry.key]
        if self._evicted is not None:
            self._evicted(entry.key, entry.value)


class SingleFlight(dict[K, "asyncio.Task[T]"]):
    """Runs work at most once per key at a time; callers that come meanwhile get the one result.

    The work belongs to the flight, not to the caller that started it: a caller that is cancelled (a client that hung
    up) changes nothing for the others, nor for the work. Callers may join work that began before they came. When what
    it is about changes, its key is popped: those who wait get its result, and later callers begin anew.
    """

    __slots__ = ("_at_once", "_waiting")

    def __init__(self, *, at_once: bool = False) -> None:
        """`at_once`: what is run begins in its first caller's turn of the event loop, where Python can do that.

        That spares a turn, and for work that has to wait for nothing all of it.
        """
        super().__init__()
        self._at_once = at_once and sys.version_info >= (3, 12)
        self._waiting: dict[asyncio.Task[T], list[asyncio.Future[None]]] = {}
        """What runs, also where its key was popped, and what wakes those who wait for it."""

    async def run(self, key: K, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """Return the result of `work()`, and whether another caller had started it. Raises what it raises."""
        task = self.get(key)
        joined = task is not None
        if task is None:
            task = self._begin_at_once(key, work) if self._at_once else self.start(key, work)
            if task.done():
                self._forget(key, task)
                return task.result(), False
        landed = asyncio.get_running_loop().create_future()  # as asyncio.shield does, with one callback for all of them
        self._waiting[task].append(landed)
        await landed
        return task.result(), joined

    def start(self, key: K, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Begin `work()` without waiting for it, or return the task that is running already."""
        running = self.get(key)
        if running is not None:
            return running

        async def fly() -> T:
            return await work()

        task = asyncio.create_task(fly())
        self[key] = task
        return self._follow(key, task)

    def _begin_at_once(self, key: K, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Begin `work()` as `start` does, but run it here until it waits for something."""

        async def fly() -> T:
            self[key] = asyncio.current_task()  # type: ignore[assignment]  # which is the one that runs this
            return await work()

        task = asyncio.Task(fly(), loop=asyncio.get_running_loop(), eager_start=True)  # type: ignore[call-arg]
        return task if task.done() else self._follow(key, task)

    def _follow(self, key: K, task: asyncio.Task[T]) -> asyncio.Task[T]:
        self._waiting[task] = []
        task.add_done_callback(partial(self._landed, key))
        return task

    def owns(self, key: K) -> bool:
        """Return whether the calling work is the one that callers join now: not after its key was popped."""
        return self.get(key) is asyncio.current_task()

    def _landed(self, key: K, task: asyncio.Task[T]) -> None:
        self._forget(key, task)
        waiting = self._waiting.pop(task)
        for landed in waiting:
            if not landed.done():
                landed.set_result(None)
        match None if task.cancelled() else task.exception():
            case None | MirrorError() | OSError():
                pass  # what was refreshed behind stays as it was, and is tried again
            case error if not waiting:
                logger.error("work on %s failed: %s", key, error, exc_info=error)

    def _forget(self, key: K, task: asyncio.Task[T]) -> None:
        if self.get(key) is task:
            del self[key]

    async def landed(self) -> None:
        """Wait until what runs now has ended."""
        if self._waiting:
            await asyncio.wait(list(self._waiting))

    async def close(self) -> None:
        """Cancel what runs and wait until it has stopped."""
        tasks = list(self._waiting)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class LoadingCache(Generic[K, V]):
    """Key → value that is loaded when it is not kept, once for all who ask meanwhile.

    What is forgotten while it is loaded is not kept, and later callers load it anew: no value outlives a change that
    was made before it was asked for.
    """

    def __init__(self, budget: MemoryBudget, weigh: Callable[[V], int]) -> None:
        self.kept: BoundedCache[K, V] = BoundedCache(budget)
        """What is kept: a look-up there costs no call."""
        self._loading: SingleFlight[K, V | None] = SingleFlight(at_once=True)
        self._weigh = weigh

    def peek(self, key: K) -> V | None:
        """Return the value if it is kept; it does not count as used."""
        return self.kept.peek(key)

    async def get(self, key: K, load: Callable[[], Awaitable[V | None]]) -> V | None:
        """Return the value; `load` gives it, or None where there is none, which is not kept."""
        value = self.kept.value(key)
        if value is not None:
            return value
        return (await self._loading.run(key, lambda: self._load(key, load)))[0]

    async def _load(self, key: K, load: Callable[[], Awaitable[V | None]]) -> V | None:
        loaded = await load()
        if loaded is not None and self._loading.owns(key):
            self.kept.put(key, loaded, self._weigh(loaded))
        return loaded

    def put(self, key: K, value: V) -> None:
        """Keep a value that is newer than whatever is being loaded."""
        self._loading.pop(key, None)
        self.kept.put(key, value, self._weigh(value))

    def forget(self, key: K) -> None:
        """Drop a key, kept or being loaded."""
        self._loading.pop(key, None)
        self.kept.forget(key)

    async def close(self) -> None:
        """Stop what is being loaded."""
        await self._loading.close()


class RareRows(Generic[V]):
    """The rows of a table by project, where few projects are in it: most are answered without reading it."""

    def __init__(
        self,
        budget: MemoryBudget,
        weigh: Callable[[V], int],
        read_projects: Callable[[], Awaitable[Collection[str]]],
        read: Callable[[str], Awaitable[V]],
    ) -> None:
        """`read_projects` returns the projects that are in the table, `read` what it has of one."""
        self.projects: Collection[str] | None = None
        """The projects that are in the table; None while that is not in memory."""
        self._read_projects = read_projects
        self._read = read
        self._reading: SingleFlight[str, Collection[str]] = SingleFlight()
        self._known: LoadingCache[str, V] = LoadingCache(budget, weigh)

    async def of(self, project: str) -> V | None:
        """Return what the table has of a project; None if the project is not in it."""
        projects = self.projects
        if projects is None:
            projects, _ = await self._reading.run("", self._load_projects)
        return await self._known.get(project, lambda: self._read(project)) if project in projects else None

    async def _load_projects(self) -> Collection[str]:
        projects = await self._read_projects()
        if self._reading.owns(""):
            self.projects = projects
        return projects

    def forget(self, project: str) -> None:
        """Read again what the table has of a project, since that has changed."""
        self.projects = None
        self._reading.pop("", None)
        self._known.forget(project)

    async def close(self) -> None:
        """Stop what is being read."""
        await self._reading.close()
        await self._known.close()
