"""What a store can do without: blobs that nothing refers to, and the least recently used files above a limit.

The surprise: nothing here holds the whole store. The blobs are compared with the catalog by the first two digits of
their digests, and what may go comes from the catalog in slices, in the order in which it goes.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Collection, Mapping, Sequence
from contextlib import aclosing, suppress

import msgspec

from mirror.blobs import BlobStore, parts_of
from mirror.catalog import Catalog, HeldFile, SidecarNaming
from mirror.catalog.eviction import START, EvictionSlice, Position
from mirror.errors import StorageError
from mirror.model import File, Format

BATCH_BLOBS = 500
"""How many blobs are removed together, without the sidecars that go along."""


class Batch(msgspec.Struct, frozen=True, kw_only=True):
    """Some of what goes, or would go."""

    files: Sequence[HeldFile] = ()
    """One for each name of a blob, with the sidecars that go along."""
    orphans: Sequence[str] = ()
    """Digests of blobs that nothing refers to."""
    freed: int = 0
    """Bytes."""

    @property
    def digests(self) -> set[str]:
        """All blobs that go."""
        return {*self.orphans, *(one.digest for one in self.files)}


def fewest(candidates: Sequence[HeldFile], excess: int) -> Sequence[HeldFile]:
    """Return the first candidates, as many as have `excess` bytes together; all when they have not."""
    for number, one in enumerate(candidates):
        if excess <= 0:
            return candidates[:number]
        excess -= one.size
    return candidates


class Surplus:
    """The blobs that one store can do without at a moment."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        formats: Mapping[str, Format],
        limit: int | None,
        min_age: float,
        now: float,
        *,
        ahead: bool = False,
    ) -> None:
        """`formats`: source → the format of its files; `limit` in bytes, `min_age` in seconds.

        `ahead`: each slice is read while the one before is looked at, as nothing of that will be removed.
        """
        self._catalog = catalog
        self._blobs = blobs
        self._formats = formats
        self._limit = limit
        self._now = now
        self._ahead = ahead
        self._used_before = now - min_age
        self._sidecars = sorted(
            {(one.sidecar_name(File(filename="", version="")), one.sidecar_instead_of) for one in formats.values()}
        )
        self._lost: set[str] = set()
        """Digests of what should be in the store, and is not: as a rule none."""
        self.before = 0
        """Bytes in the store; known once the orphans have been found."""

    async def batches(self) -> AsyncIterator[Batch]:
        """Yield what can go: orphans, which no one misses, then files, those first that were not used for longest.

        Each batch is to be removed before the next one is read, but for a dry run.
        """
        freed = 0
        async for orphans in self._orphans():
            freed += orphans.freed
            yield orphans
        if self._limit is None:
            return
        excess = self.before - freed - self._limit
        async for batch in self._unused(excess):
            yield batch

    async def _orphans(self) -> AsyncIterator[Batch]:
        files, self.before = await self._catalog.files.totals()
        order, found, size = self._catalog.eviction, list[str](), 0
        for beginning in await parts_of(self._blobs, files):
            if self._ahead:
                names, held = await asyncio.gather(self._blobs.digests(beginning), order.held(beginning))
            else:
                names, held = await self._blobs.digests(beginning), await order.held(beginning)
            ours, stored = await order.uploaded(beginning), set(names)
            lost = {one.digest: one.size for one in await order.named(held - stored)}
            self.before -= sum(lost.values())
            self._lost |= lost.keys()
            for blob in await self._blobs.stored(stored - held):
                self.before += blob.size
                if blob.digest not in ours and self._now - blob.stored >= self._blobs.orphan_seconds:
                    found.append(blob.digest)
                    size += blob.size
            if len(found) >= BATCH_BLOBS:
                yield Batch(orphans=found, freed=size)
                found, size = [], 0
        if found:
            yield Batch(orphans=found, freed=size)

    async def _unused(self, excess: int) -> AsyncIterator[Batch]:
        with suppress(StorageError):  # then what is noted counts all the same
            await self._catalog.files.flush_uses()
        if excess <= 0:
            return
        async with aclosing(self._slices()) as slices:
            async for found in slices:
                for start in range(0, len(found.candidates), BATCH_BLOBS):
                    some = found.candidates[start : start + BATCH_BLOBS]
                    stored = [one for one in some if one.digest not in self._lost]
                    batch = await self._complete(fewest(stored, excess), found.shared)
                    if batch.files:
                        yield batch
                        excess -= batch.freed
                    if excess <= 0:
                        return

    async def _slices(self) -> AsyncGenerator[EvictionSlice]:
        """Yield what may go, in the order in which it goes."""
        namings = [SidecarNaming(*naming) for naming in self._sidecars]
        position: Position | None = START
        reading: asyncio.Task[EvictionSlice] | None = None
        try:
            while position is not None:
                found = await (reading or self._catalog.eviction.slice(position, self._used_before, namings))
                position = found.end
                if self._ahead and position is not None:
                    reading = asyncio.create_task(
                        self._catalog.eviction.slice(position, self._used_before, namings), name="the next slice"
                    )
                yield found
        finally:
            if reading is not None:
                reading.cancel()
                await asyncio.wait({reading})

    async def _complete(self, candidates: Sequence[HeldFile], shared: Collection[str]) -> Batch:
        """Return a batch with every name of these blobs, and with their sidecars; `shared` have several names."""
        order, noted_use = self._catalog.eviction, self._catalog.files.noted_use
        named = [one for one in candidates if one.digest not in shared]
        named += await order.named([one.digest for one in candidates if one.digest in shared])
        used = {one.digest for one in named if noted_use(one) > self._used_before}
        named = [one for one in named if one.digest not in used]
        sidecars, several = await order.files([name for one in named if (name := self._sidecar(one)) is not None])
        going = {(one.source, one.project, one.filename) for one in (*named, *sidecars)}
        kept = {
            one.digest for one in await order.named(several) if (one.source, one.project, one.filename) not in going
        }
        sizes = {one.digest: one.size for one in (*named, *sidecars) if one.digest not in kept}
        rank = {one.digest: number for number, one in enumerate(candidates)}
        named.sort(key=lambda one: (rank[one.digest], one.source, one.project, one.filename))
        return Batch(files=(*named, *sidecars), freed=sum(sizes.values()))

    def _sidecar(self, held: HeldFile) -> tuple[str, str, str] | None:
        """Return the name of a file's sidecar; None for one that can have none."""
        format, file = self._formats.get(held.source), File(filename=held.filename, version="")
        if format is None or not format.has_sidecar(file):
            return None
        return held.source, held.project, format.sidecar_name(file)
