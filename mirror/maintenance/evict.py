"""Eviction: remove the least recently used blobs, while clients install and other processes write.

What has to go is decided from what is known of all blobs, purely (`plan`): least recently used first, and never an
upload, a file of a sync set or one that upstream no longer has. What was used within the minimum age stays too, so that
an installation in progress finds its files again.

A blob that goes is first moved out of the store, then the catalog is asked again whether anything has begun to need it,
and only then is it removed, or put back. A client that is reading it keeps what it has opened; a later request has it
fetched again.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, HeldFile
from mirror.errors import StorageFull
from mirror.model import File, Format

logger = logging.getLogger(__name__)

PAUSE_SECONDS = 2.0
"""Time between moving blobs out of the store and removing them."""
BATCH_BLOBS = 500
"""How many blobs are removed together."""
CATALOG_ROOM_BYTES = 8 << 20
"""Free space with which the catalog can record what goes."""
LEASE_SECONDS = 3600.0
"""How long one process has the right to sweep."""


class Candidate(msgspec.Struct, frozen=True, kw_only=True):
    """One blob, with all that is held under it."""

    digest: str
    size: int
    used: float
    """When any of its names was last requested, in seconds since the epoch."""
    pinned: bool = False
    """Whether it is an upload, in a set, or no longer upstream."""


def plan(candidates: Iterable[Candidate], limit: int | None, now: float, min_age: float) -> list[Candidate]:
    """Return what has to go for the store to hold at most `limit` bytes, in order; nothing without a limit.

    More than the limit is left when what may go is not enough.
    """
    known = sorted(candidates, key=lambda one: (one.used, one.digest))
    size = sum(one.size for one in known)
    evicted: list[Candidate] = []
    for one in known:
        if limit is None or size <= limit:
            break
        if not one.pinned and now - one.used >= min_age:
            evicted.append(one)
            size -= one.size
    return evicted


class EvictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a sweep, or of a dry run."""

    evicted: tuple[HeldFile, ...] = ()
    """Files, one for each name of a removed blob."""
    orphans: tuple[str, ...] = ()
    """Digests of blobs that nothing referred to."""
    freed: int = 0
    before: int = 0
    after: int = 0
    limit: int | None = None
    busy: bool = False
    """Whether nothing was done because another process was sweeping."""


class _SweepDecision(msgspec.Struct, frozen=True, kw_only=True):
    """The files that a sweep removes, and the size of everything."""

    evicted: tuple[HeldFile, ...]
    """In the order in which they go."""
    orphans: tuple[str, ...]
    sizes: dict[str, int]
    """Digest → bytes, of every stored blob."""

    @property
    def digests(self) -> list[str]:
        """Return the digests of the blobs that go, each once; orphans first, which no one misses."""
        return list(dict.fromkeys((*self.orphans, *(one.digest for one in self.evicted))))


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

    async def sweep(self, *, dry_run: bool = False) -> EvictionReport:
        """Evict what is above the limit, and remove orphans. Raises StorageFull when the catalog cannot record it."""
        decision = await self._decide()
        if dry_run:
            return self._report(decision)
        try:
            leased = await self._catalog.leases.take("sweep", self._clock(), LEASE_SECONDS)
        except StorageFull:
            await self._make_room(decision)
            leased = await self._catalog.leases.take("sweep", self._clock(), LEASE_SECONDS)
        if not leased:
            return EvictionReport(limit=self._limit, busy=True)
        try:
            await self._settle(await self._blobs.withdrawn())  # left by a sweep that was killed
            await self._remove(self._catalog.under(leased), decision.evicted, decision.orphans)
        finally:
            await self._catalog.leases.give_back("sweep")
        return self._report(decision)

    async def _decide(self) -> _SweepDecision:
        now = self._clock()
        held = await self._catalog.files.all()
        uploads = await self._catalog.uploads.blobs()
        pinned = await self._catalog.sets.held() | await self._catalog.removed.held() | uploads
        stored = {blob.digest: blob async for blob in self._blobs.walk()}
        names: dict[str, list[HeldFile]] = {}
        for one in held:
            names.setdefault(one.digest, []).append(one)
        # Sidecars go and stay with their files: they are no candidates, and what they take counts beforehand.
        parents = self._parents(held)
        sidecars = {one.digest for one in parents} - {one.digest for one in parents.values()}
        candidates = [
            Candidate(
                digest=digest,
                size=stored[digest].size,
                used=max(one.used for one in known),
                pinned=digest in pinned,
            )
            for digest, known in names.items()
            if digest in stored and digest not in sidecars
        ]
        sidecar_bytes = sum(stored[digest].size for digest in sidecars if digest in stored)
        limit = None if self._limit is None else max(0, self._limit - sidecar_bytes)
        evicted = [one for blob in plan(candidates, limit, now, self._min_age) for one in names[blob.digest]]
        keys = {(one.source, one.project, one.filename) for one in evicted}
        evicted += [one for one, file in parents.items() if (file.source, file.project, file.filename) in keys]
        known_digests = names.keys() | uploads
        return _SweepDecision(
            evicted=tuple(evicted),
            orphans=tuple(
                digest
                for digest, blob in stored.items()
                if digest not in known_digests and now - blob.stored >= self._blobs.orphan_seconds
            ),
            sizes={digest: blob.size for digest, blob in stored.items()},
        )

    def _report(self, decision: _SweepDecision) -> EvictionReport:
        before = sum(decision.sizes.values())
        freed = sum(decision.sizes.get(digest, 0) for digest in decision.digests)
        return EvictionReport(
            evicted=decision.evicted,
            orphans=decision.orphans,
            freed=freed,
            before=before,
            after=before - freed,
            limit=self._limit,
        )

    async def _make_room(self, decision: _SweepDecision) -> None:
        """Remove some of what goes before the catalog can record it: a later request has it fetched again."""
        freed = 0
        for digest in decision.digests:
            if freed >= CATALOG_ROOM_BYTES:
                break
            await self._blobs.delete(digest)
            freed += decision.sizes.get(digest, 0)

    def _parents(self, held: Sequence[HeldFile]) -> dict[HeldFile, HeldFile]:
        """Return sidecar → the file that it belongs to, for those whose file is held."""
        by_sidecar: dict[tuple[str, str, str], HeldFile] = {}
        for one in held:
            if (format := self._formats.get(one.source)) is not None:
                file = File(filename=one.filename, version="")
                if format.has_sidecar(file):
                    by_sidecar[one.source, one.project, format.sidecar_name(file)] = one
        return {
            one: parent
            for one in held
            if (parent := by_sidecar.get((one.source, one.project, one.filename))) is not None and parent is not one
        }

    async def _remove(self, catalog: Catalog, evicted: Sequence[HeldFile], orphans: Sequence[str]) -> None:
        """Remove files and blobs; `catalog` is the one under the lease."""
        for start in range(0, len(evicted), BATCH_BLOBS):
            batch = evicted[start : start + BATCH_BLOBS]
            await catalog.files.forget_all(batch)
            await self._remove_blobs({one.digest for one in batch})
        for start in range(0, len(orphans), BATCH_BLOBS):
            await self._remove_blobs(set(orphans[start : start + BATCH_BLOBS]))
        for source, project in {(one.source, one.project) for one in evicted}:
            if not await self._catalog.files.of_project(source, project):
                # A page without a held file lets no one install offline; it is fetched again with the next file.
                await catalog.pages.forget(source, project, before=self._clock() - self._min_age)

    async def _remove_blobs(self, digests: Collection[str]) -> None:
        withdrawn = set(digests) - await self._needed(digests)
        for digest in withdrawn:
            await self._blobs.withdraw(digest)
        await asyncio.sleep(self._pause)
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
