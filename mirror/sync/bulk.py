"""Many small files of upstreams at once: given to workers in batches, and written down in batches.

What is larger, or of unknown size or digest, is left to a transfer.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from mirror.blobs import BlobStore
from mirror.bulk import Brought, Crew, Kit, Order, Worker, working
from mirror.catalog import Files, HeldFile
from mirror.feed import Feed
from mirror.model import File, Format
from mirror.upstream import Upstream

SMALL = 64 << 10
"""Bytes up to which a file counts as small."""
BATCH = 256
"""The most files that a worker is given at a time, and so the most that share a commit …"""
WORTH_A_BATCH = 64
"""… and so few only when no more are waiting."""


def crew_size(connections: int) -> int:
    """How many workers share so many connections: one for each core."""
    return min(os.cpu_count() or 1, connections)


class _Waiting(msgspec.Struct, frozen=True):
    project: str
    order: Order
    done: asyncio.Future[list[Brought]]


class Bulk:
    """Brings in small files of upstreams."""

    def __init__(
        self,
        formats: Iterable[Format],
        upstreams: Mapping[str, Upstream],
        blobs: BlobStore,
        files: Files,
        feed: Feed,
        slots: asyncio.Semaphore,
        connections: int,
        clock: Callable[[], float] = time.time,
        crew: Crew | None = None,
    ) -> None:
        """`upstreams` by the names of their sources. Each of the `slots`, `connections` in all, is a connection.

        `crew`, one that stands ready, of the size that `crew_size` says; else one is made when it is needed.
        """
        self._count = crew_size(connections)
        self._crew = crew
        self._share = connections // self._count
        self._kit = Kit(
            formats={one.name: one for one in formats}, upstreams=upstreams, blobs=blobs, connections=self._share
        )
        self._files = files
        self._feed = feed
        self._slots = slots
        self._clock = clock
        self._waiting: asyncio.Queue[_Waiting] = asyncio.Queue()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Ready to bring in files, for the length of the block."""
        async with working(self._crew or Crew(self._count), self._kit) as ready:
            # Two for each worker: while the one writes down what was brought, the worker has the batch of the other.
            tasks = [asyncio.create_task(self._employ(worker)) for worker in ready for _ in range(2)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def takes(self, file: File) -> bool:
        """Whether a file is one for this way."""
        known = file.sha256 is not None and file.size is not None
        return known and (file.size or 0) <= SMALL and file.source in self._kit.upstreams

    async def bring(self, format: Format, project: str, file: File) -> list[Brought]:
        """Bring in a file that `takes` says yes to, with its sidecar where that can be made from it.

        What is returned is durable, in the catalog and in the feed; nothing, where the usual way has to try.
        Raises StorageFull.
        """
        done: asyncio.Future[list[Brought]] = asyncio.get_running_loop().create_future()
        self._waiting.put_nowait(_Waiting(project, Order(format.name, file), done))
        return await done

    async def _employ(self, worker: Worker) -> None:
        """Give a worker one batch after the other, until cancelled."""
        while True:
            batch = await self._batch()
            try:
                async with worker.turn, AsyncExitStack() as slots:
                    for _ in range(self._share):
                        await slots.enter_async_context(self._slots)
                    brought = await worker.bring([one.order for one in batch])
                await self._record(batch, brought)
            except Exception as error:
                for one in batch:
                    if not one.done.done():
                        one.done.set_exception(error)
            else:
                for one, result in zip(batch, brought, strict=True):
                    if not one.done.done():
                        one.done.set_result(result)

    async def _batch(self) -> list[_Waiting]:
        """What is waiting: a fair part of it, so that all workers end at about the same time."""
        batch = [await self._waiting.get()]
        size = min(BATCH, max(WORTH_A_BATCH, self._waiting.qsize() // (2 * self._count)))
        while len(batch) < size and not self._waiting.empty():
            batch.append(self._waiting.get_nowait())
        return batch

    async def _record(self, batch: Sequence[_Waiting], brought: Sequence[Sequence[Brought]]) -> None:
        """Enter in catalog and feed what is stored now."""
        now = self._clock()
        held = [
            (
                HeldFile(
                    source=one.order.file.source, project=one.project, filename=thing.filename,
                    digest=thing.digest, size=thing.size, stored=now,
                ),
                thing.kind,
            )
            for one, things in zip(batch, brought, strict=True)
            for thing in things
        ]  # fmt: skip
        if held:
            self._feed.recorded(await self._files.add_all(held))
