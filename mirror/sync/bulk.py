"""Many small files of upstreams at once: given to workers in batches, and written down in batches.

What is larger, or of unknown size or digest, and whatever goes wrong with a file is left to the usual way.
"""

import asyncio
import os
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from mirror.blobs import BlobStore
from mirror.bulk import HANDS, Brought, Crew, Hand, Kit, Order, working
from mirror.catalog import Files, HeldFile
from mirror.errors import MirrorError
from mirror.feed import Feed
from mirror.model import File
from mirror.repository import Repository
from mirror.sync.pieces import Piece, Told
from mirror.upstream import Upstream

SMALL = 64 << 10
"""Bytes up to which a file counts as small."""
BATCH = 256
"""The most files that a hand is given at a time, and so the most that share a commit …"""
WORTH_A_BATCH = 64
"""… and so few only when no more are waiting."""

Orders = list[tuple[Piece, Order]]


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
        self._hands = self._count * HANDS
        self._share = max(1, connections // self._hands)
        self._kit = Kit(
            formats={one.format.name: one.format for one in repositories.values()},
            upstreams=upstreams, blobs=blobs, connections=self._share,
        )  # fmt: skip
        self._repositories = repositories
        self._files = files
        self._feed = feed
        self._slots = slots
        self._clock = clock
        self._crew = crew
        self._ready: list[Hand] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Ready to bring in files, for the length of the block."""
        async with working(self._crew or Crew(self._count), self._kit) as self._ready:
            yield

    async def bring(self, pieces: Sequence[Piece], told: Told) -> list[Piece]:
        """Bring in what of these is small, with the sidecars that can be made from it; returns what is left.

        What `told` hears of is durable, in the catalog and in the feed. Raises StorageFull.
        """
        waiting, left = deque(pieces), list[Piece]()
        async with asyncio.TaskGroup() as tasks:
            for hand in self._ready:
                tasks.create_task(self._employ(hand, waiting, left, told))
        return left

    async def _employ(self, hand: Hand, waiting: deque[Piece], left: list[Piece], told: Told) -> None:
        """Give a hand one batch after the other, as long as something is waiting."""
        while waiting:
            batch = await self._batch(waiting, left)
            async with AsyncExitStack() as slots:
                for _ in range(self._share):
                    await slots.enter_async_context(self._slots)
                brought = await hand.bring([order for _, order in batch])
            await self._record(batch, brought)
            for (piece, order), things in zip(batch, brought, strict=True):
                format = self._kit.formats[order.format]
                if len(things) == 1 + format.has_sidecar(order.file):
                    told(piece)
                else:
                    left.append(piece)

    async def _batch(self, waiting: deque[Piece], left: list[Piece]) -> Orders:
        """A fair part of what is waiting, so that all hands end at about the same time."""
        size = min(BATCH, max(WORTH_A_BATCH, len(waiting) // self._hands))
        batch: Orders = []
        while waiting and len(batch) < size:
            piece = waiting.popleft()
            repository = self._repositories[piece.repository]
            try:
                listed = await repository.file(piece.project, piece.file.filename)  # policy has the last word
            except MirrorError:
                left.append(piece)
                continue
            if self._takes(listed):
                batch.append((piece, Order(repository.format.name, listed)))
            else:
                left.append(piece)
        return batch

    def _takes(self, file: File) -> bool:
        known = file.sha256 is not None and file.size is not None
        return known and (file.size or 0) <= SMALL and file.source in self._kit.upstreams

    async def _record(self, batch: Orders, brought: Sequence[Sequence[Brought]]) -> None:
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
            for (piece, order), things in zip(batch, brought, strict=True)
            for thing in things
        ]  # fmt: skip
        if held:
            self._feed.recorded(await self._files.add_all(held))
