"""Eviction: remove the least recently used blobs, while clients install and other processes write.

The least recently used go first, and never an upload, a file of a sync set or one that upstream no longer has. What was
used within the minimum age stays too, so that an installation in progress finds its files again.

A blob that goes is first moved out of the store, then the catalog is asked again whether anything has begun to need it,
and only then is it removed, or put back. A client that is reading it keeps what it has opened; a later request has it
fetched again.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import StorageFull
from mirror.maintenance.surplus import Batch, Surplus
from mirror.model import Format

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""Time between moving blobs out of the store and removing them."""
CATALOG_ROOM_BYTES = 8 << 20
"""Free space with which the catalog can record what goes."""
LEASE_SECONDS = 3600.0
"""How long one process has the right to sweep, renewed while it does."""


class EvictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a sweep, or of a dry run."""

    files: int = 0
    """Files that went, one for each name of a removed blob."""
    orphans: int = 0
    """Blobs that nothing referred to."""
    freed: int = 0
    before: int = 0
    after: int = 0
    limit: int | None = None
    busy: bool = False
    """Whether nothing was done because another process was sweeping."""


def _ignore(batch: Batch) -> None:
    """Serve as `tell` where no one wants to know."""


async def _chained(early: Sequence[Batch], batches: AsyncIterator[Batch]) -> AsyncIterator[Batch]:
    """Yield the early batches, then the others."""
    for batch in early:
        yield batch
    async for batch in batches:
        yield batch


class Evictor:
    """Keep one store below its limit."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        formats: Mapping[str, Format],
        *,
        limit: int | None,
        min_age: float,
        clock: Callable[[], float] = time.time,
        pause: float = PAUSE_SECONDS,
    ) -> None:
        """`formats`: source → the format of its files, for the names of sidecars. `min_age` is in seconds."""
        self._catalog = catalog
        self._blobs = blobs
        self._formats = formats
        self._limit = limit
        self._min_age = min_age
        self._clock = clock
        self._pause = pause

    async def sweep(self, *, dry_run: bool = False, tell: Callable[[Batch], None] = _ignore) -> EvictionReport:
        """Evict what is above the limit, and remove orphans; `tell` is called with all that went, or would go.

        Raises StorageFull when the catalog cannot record it.
        """
        store = self._catalog, self._blobs, self._formats
        surplus = Surplus(*store, self._limit, self._min_age, self._clock(), ahead=dry_run)
        batches, leases = surplus.batches(), self._catalog.leases
        early: list[Batch] = []
        if dry_run:
            return await self._sweep(surplus, early, batches, tell, None)
        try:
            leased = await leases.take("sweep", self._clock(), LEASE_SECONDS)
        except StorageFull:
            early = await self._make_room(batches)
            leased = await leases.take("sweep", self._clock(), LEASE_SECONDS)
        if not leased:
            return EvictionReport(limit=self._limit, busy=True)
        async with leases.held("sweep", self._clock, LEASE_SECONDS):
            await self._settle(await self._blobs.withdrawn())  # left by a sweep that was killed
            return await self._sweep(surplus, early, batches, tell, self._catalog.under(leased))

    async def _sweep(
        self,
        surplus: Surplus,
        early: Sequence[Batch],
        batches: AsyncIterator[Batch],
        tell: Callable[[Batch], None],
        catalog: Catalog | None,
    ) -> EvictionReport:
        """Remove all batches from a catalog, which is the one under the lease; None removes nothing.

        The blobs of `early` are gone already.
        """
        files = orphans = freed = 0
        async for batch in _chained(early, batches):
            if catalog is not None:
                await self._remove(catalog, batch)
            tell(batch)
            files, orphans, freed = files + len(batch.files), orphans + len(batch.orphans), freed + batch.freed
        before = surplus.before
        return EvictionReport(
            files=files, orphans=orphans, freed=freed, before=before, after=before - freed, limit=self._limit
        )

    async def _make_room(self, batches: AsyncIterator[Batch]) -> list[Batch]:
        """Remove the blobs of some batches before the catalog can record it; return these batches.

        A later request for one of them has it fetched again.
        """
        early: list[Batch] = []
        async for batch in batches:
            early.append(batch)
            for digest in batch.digests:
                await self._blobs.delete(digest)
            if sum(one.freed for one in early) >= CATALOG_ROOM_BYTES:
                break
        return early

    async def _remove(self, catalog: Catalog, batch: Batch) -> None:
        if batch.files:
            await catalog.files.forget_all(batch.files)
        await self._remove_blobs(catalog, batch.digests)
        for source, project in {(one.source, one.project) for one in batch.files}:
            if not await self._catalog.files.has_any(source, project):
                # A page without a held file lets no one install offline; it is fetched again with the next file.
                await catalog.pages.forget(source, project, before=self._clock() - self._min_age)

    async def _remove_blobs(self, catalog: Catalog, digests: Collection[str]) -> None:
        withdrawn = set(digests) - await self._needed(digests)
        await catalog.check_lease()
        for digest in withdrawn:
            await self._blobs.withdraw(digest)
        await asyncio.sleep(self._pause)
        await catalog.check_lease()  # after a long pause, another sweep has settled what is withdrawn
        await self._settle(withdrawn)

    async def _settle(self, withdrawn: Collection[str]) -> None:
        """Remove withdrawn blobs for good, or put them back if something has begun to need them."""
        needed = await self._needed(withdrawn)
        for digest in withdrawn:
            if digest in needed:
                await self._blobs.restore(digest)
                logger.info("blob %s is needed again and stays", digest)
            else:
                await self._blobs.discard(digest)

    async def _needed(self, digests: Collection[str]) -> set[str]:
        return await self._catalog.files.needed(digests) | await self._catalog.uploads.uses(digests)
