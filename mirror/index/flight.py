"""At most one coroutine per key; whoever asks meanwhile gets its result.

The work belongs to the flight, not to the caller that started it: a caller that is cancelled (a client that hung up)
changes nothing for the others, nor for the work. Because callers join work that began before they asked, work over
things that change has to notice a change and begin anew: `Changes`.
"""

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
T = TypeVar("T")


class SingleFlight(Generic[K, T]):
    """Runs work once per key at a time."""

    def __init__(self) -> None:
        self._running: dict[K, asyncio.Task[T]] = {}

    def __len__(self) -> int:
        return len(self._running)

    def __contains__(self, key: K) -> bool:
        return key in self._running

    async def run(self, key: K, work: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """The result of `work()`, and whether another caller had already started it. Raises what it raises."""
        task = self._running.get(key)
        joined = task is not None
        if task is None:
            task = self.start(key, work)
        return await asyncio.shield(task), joined

    def start(self, key: K, work: Callable[[], Awaitable[T]]) -> asyncio.Task[T]:
        """Begin `work()` without waiting for it; the one already running where there is one."""
        running = self._running.get(key)
        if running is not None:
            return running

        async def fly() -> T:
            return await work()

        task = asyncio.create_task(fly())
        self._running[key] = task
        task.add_done_callback(lambda done: self._landed(key, done))
        return task

    def _landed(self, key: K, task: asyncio.Task[T]) -> None:
        del self._running[key]
        if not task.cancelled():
            task.exception()  # looked at here, so that work nobody waits for does not warn

    async def landed(self) -> None:
        """Wait until what runs now has ended."""
        if running := list(self._running.values()):
            await asyncio.wait(running)

    async def close(self) -> None:
        """Cancel what runs and wait until it has stopped."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


class Watch:
    """Whether something changed since this was made, or since `changed` was set to False."""

    __slots__ = ("changed",)

    def __init__(self) -> None:
        self.changed = False


class Changes(Generic[K]):
    """Tells whoever is making something of a thing that the thing changes."""

    def __init__(self) -> None:
        self._watches: dict[K, set[Watch]] = {}

    @contextmanager
    def watch(self, key: K) -> Iterator[Watch]:
        """For the length of a block, notice changes of `key`."""
        watch = Watch()
        watches = self._watches.setdefault(key, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.remove(watch)
            if not watches:
                del self._watches[key]

    def tell(self, key: K) -> None:
        """`key` has changed."""
        for watch in self._watches.get(key, ()):
            watch.changed = True

    def tell_all(self) -> None:
        """Everything has changed."""
        for key in self._watches:
            self.tell(key)
