"""Many small files of upstreams at once: given to workers in batches, and written down in batches.

What is larger, or of unknown size or digest, and whatever goes wrong with a file is left to the usual way.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from mirror.airgap.sync.pieces import FetchQueue, SyncFile, Told
from mirror.airgap.sync.workers import HANDS, Job, JobResult, Worker, WorkerConfig, WorkerPool, working
from mirror.blobs import BlobStore
from mirror.catalog import Files, HeldFile
from mirror.errors import MirrorError
from mirror.index.flight import together
from mirror.index.journal import Journal
from mirror.index.repository import Repository
from mirror.model import File
from mirror.upstream import Upstream

SMALL = 64 << 10
"""Bytes up to which a file counts as small."""
BATCH = 256
"""The most files that a hand is given at a time, and so the most that share a commit …"""
WORTH_A_BATCH = 64
"""… and so few only when no more are to come."""

Batch = list[tuple[SyncFile, Job, Sequence[JobResult]]]
"""Pieces, how they were ordered, and what came."""


def crew_size(connections: int) -> int:
    """How many workers share so many connections: one for each core."""
    return min(os.cpu_count() or 1, connections)


class Bulk:
    """Brings in small files of upstreams."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        upstreams: Mapping[str, Upstream],
        blobs: BlobStore,
        files: Files,
        feed: Journal,
        slots: asyncio.Semaphore,
        connections: int,
        clock: Callable[[], float] = time.time,
        crew: WorkerPool | None = None,
    ) -> None:
        """`upstreams` by the names of their sources. Each of the `slots`, `connections` in all, is a connection.

        `crew`, one that stands ready, of the size that `crew_size` says; else one is made when it is needed.
        """
        self._count = crew_size(connections)
        self._hands = self._count * HANDS
        self._share = max(1, connections // self._hands)
        self._kit = WorkerConfig(
            formats={one.format.name: one.format for one in repositories.values()},
            upstreams=upstreams, blobs=blobs, connections=self._share,
        )  # fmt: skip
        self._repositories = repositories
        self._files = files
        self._feed = feed
        self._slots = slots
        self._clock = clock
        self._crew = crew
        self._ready: list[Worker] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Ready to bring in files, for the length of the block."""
        async with working(self._crew or WorkerPool(self._count), self._kit) as self._ready:
            yield

    async def bring(self, small: FetchQueue, left: FetchQueue, told: Told) -> None:
        """Bring in files that it `takes`, with the sidecars that can be made from them, until there are no more.

        What it could not bring is added to `left`. What `told` hears of is durable, in the catalog and in the feed.
        Raises StorageFull.
        """
        brought: asyncio.Queue[Batch | None] = asyncio.Queue()

        async def employ_all() -> None:
            await together(*(self._employ(hand, small, left, brought) for hand in self._ready))
            brought.put_nowait(None)

        await together(employ_all(), self._settle(brought, left, told))

    async def _employ(
        self, hand: Worker, small: FetchQueue, left: FetchQueue, brought: "asyncio.Queue[Batch | None]"
    ) -> None:
        """Give a hand one batch after the other, as long as something is to come."""
        while waiting := await small.waiting(WORTH_A_BATCH):
            # A fair part of what is waiting, so that all hands end at about the same time.
            share = min(BATCH, max(WORTH_A_BATCH, waiting // self._hands))
            orders = await self._orders(small.take(share), left)
            async with AsyncExitStack() as slots:
                for _ in range(self._share):
                    await slots.enter_async_context(self._slots)
                things = await hand.bring([order for _, order in orders])
            brought.put_nowait([(*one, things_of) for one, things_of in zip(orders, things, strict=True)])

    async def _settle(self, brought: "asyncio.Queue[Batch | None]", left: FetchQueue, told: Told) -> None:
        """Write down what was brought, until None comes: in one commit all that came during the last one."""
        more = True
        while more:
            batches = [await brought.get()]
            while not brought.empty():
                batches.append(brought.get_nowait())
            more = None not in batches
            done: Batch = [one for batch in batches if batch for one in batch]
            await self._record(done)
            for piece, order, things in done:
                if len(things) == 1 + self._kit.formats[order.format].has_sidecar(order.file):
                    told(piece)
                else:
                    left.add([piece])

    async def _orders(self, pieces: Sequence[SyncFile], left: FetchQueue) -> list[tuple[SyncFile, Job]]:
        """What a hand is to bring of some pieces."""
        orders = []
        for piece in pieces:
            repository = self._repositories[piece.repository]
            try:
                listed = await repository.file(piece.project, piece.file.filename)  # policy has the last word
            except MirrorError:
                left.add([piece])
                continue
            if self.takes(listed):
                orders.append((piece, Job(repository.format.name, listed)))
            else:
                left.add([piece])
        return orders

    def takes(self, file: File) -> bool:
        """Whether a file is small, and its size and digest are known."""
        known = file.sha256 is not None and file.size is not None
        return known and (file.size or 0) <= SMALL and file.source in self._kit.upstreams

    async def _record(self, batch: Batch) -> None:
        """Enter in catalog and feed what is stored now."""
        now = self._clock()
        held = [
            (
                HeldFile(
                    source=order.file.source, project=piece.project, filename=thing.filename,
                    digest=thing.digest, size=thing.size, stored=now,
                ),
                thing.kind,
            )
            for piece, order, things in batch
            for thing in things
        ]  # fmt: skip
        if held:
            self._feed.recorded(await self._files.add_all(held))
