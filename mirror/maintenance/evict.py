"""Lets go of blobs, while clients install and other processes write.

A blob that goes is first moved out of the store, then everything that could have begun to need it is asked again, and
only then is it removed, or put back. Whoever reads it keeps what it has opened; whoever asks later has it fetched anew.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Mapping, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, HeldFile
from mirror.errors import StorageFull
from mirror.maintenance.plan import Candidate, plan
from mirror.model import File, Format

logger = logging.getLogger(__name__)

ORPHANED = 3600.0
"""Seconds after which a blob that nothing names is one that nobody is about to name."""
SECOND_THOUGHTS = 2.0
"""Seconds between moving blobs out of the store and removing them."""
AT_ONCE = 500
"""Blobs that go together."""
ROOM = 8 << 20
"""Bytes with which the catalog has enough room to write down what goes."""
LEASE = 3600.0
"""Seconds for which one process has the right to sweep."""


class EvictionReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a sweep did, or would do."""

    evicted: tuple[HeldFile, ...] = ()
    """By every name that they had."""
    orphans: tuple[str, ...] = ()
    """Digests of blobs that nothing named."""
    freed: int = 0
    before: int = 0
    after: int = 0
    limit: int | None = None
    busy: bool = False
    """Somebody else was sweeping, so nothing was done."""


class Evictor:
    """Keeps one store below its limit."""

    def __init__(
        self,
        catalog: Catalog,
        blobs: BlobStore,
        formats: Mapping[str, Format],
        *,
        limit: int | None,
        min_age: float,
        clock: Callable[[], float] = time.time,
        pause: float = SECOND_THOUGHTS,
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
        """Evict what is above the limit, and remove what nothing names. Raises StorageFull when that has no room."""
        decided = await self._decide()
        if dry_run:
            return self._report(decided)
        try:
            mine = await self._catalog.leases.take("sweep", self._clock(), LEASE)
        except StorageFull:
            await self._make_room(decided)
            mine = await self._catalog.leases.take("sweep", self._clock(), LEASE)
        if not mine:
            return EvictionReport(limit=self._limit, busy=True)
        try:
            await self._settle(await self._blobs.withdrawn())  # what a sweep left that was killed
            await self._let_go(decided.going, decided.orphans)
        finally:
            await self._catalog.leases.give_back("sweep")
        return self._report(decided)

    async def _decide(self) -> "_Decision":
        now = self._clock()
        held = await self._catalog.files.all()
        ours = await self._catalog.uploads.blobs()
        parents = self._parents(held)
        names: dict[str, list[HeldFile]] = {}
        for one in held:
            names.setdefault(one.digest, []).append(one)
        pinned = await self._catalog.sets.held() | await self._catalog.removed.held() | ours
        stored = {blob.digest: blob async for blob in self._blobs.walk()}
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
        small = sum(stored[digest].size for digest in sidecars if digest in stored)
        room = None if self._limit is None else max(0, self._limit - small)
        going = [
            one for candidate in plan(candidates, room, now, self._min_age).evict for one in names[candidate.digest]
        ]
        following = {(one.source, one.project, one.filename) for one in going}
        going += [
            one for one, parent in parents.items() if (parent.source, parent.project, parent.filename) in following
        ]
        named = names.keys() | ours
        return _Decision(
            going=tuple(going),
            orphans=tuple(
                digest for digest, blob in stored.items() if digest not in named and now - blob.stored >= ORPHANED
            ),
            sizes={digest: blob.size for digest, blob in stored.items()},
        )

    def _report(self, decided: "_Decision") -> EvictionReport:
        before = sum(decided.sizes.values())
        freed = sum(decided.sizes.get(digest, 0) for digest in decided.digests)
        return EvictionReport(
            evicted=decided.going,
            orphans=decided.orphans,
            freed=freed,
            before=before,
            after=before - freed,
            limit=self._limit,
        )

    async def _make_room(self, decided: "_Decision") -> None:
        """Remove some of what goes while not even that can be written down: whoever asks for it has it fetched anew."""
        freed = 0
        for digest in decided.digests:
            if freed >= ROOM:
                break
            await self._blobs.delete(digest)
            freed += decided.sizes.get(digest, 0)

    def _parents(self, held: Sequence[HeldFile]) -> dict[HeldFile, HeldFile]:
        """Sidecar → the file that it belongs to, for those whose file is held."""
        sidecars: dict[tuple[str, str, str], HeldFile] = {}
        for one in held:
            if (format := self._formats.get(one.source)) is not None:
                file = File(filename=one.filename, version="")
                if format.has_sidecar(file):
                    sidecars[one.source, one.project, format.sidecar_name(file)] = one
        return {
            one: parent
            for one in held
            if (parent := sidecars.get((one.source, one.project, one.filename))) is not None and parent is not one
        }

    async def _let_go(self, going: Sequence[HeldFile], orphans: Sequence[str]) -> None:
        for start in range(0, len(going), AT_ONCE):
            some = going[start : start + AT_ONCE]
            await self._catalog.files.forget_all(some)
            await self._remove({one.digest for one in some})
        for start in range(0, len(orphans), AT_ONCE):
            await self._remove(set(orphans[start : start + AT_ONCE]))
        for source, project in {(one.source, one.project) for one in going}:
            if not await self._catalog.files.of_project(source, project):
                # A page without a file helps nobody to install; it is asked for again with the next file.
                await self._catalog.pages.forget(source, project, before=self._clock() - self._min_age)

    async def _remove(self, digests: Collection[str]) -> None:
        withdrawn = set(digests) - await self._needed(digests)
        for digest in withdrawn:
            await self._blobs.withdraw(digest)
        await asyncio.sleep(self._pause)
        await self._settle(withdrawn)

    async def _settle(self, withdrawn: Collection[str]) -> None:
        """Remove withdrawn blobs for good, but for those that something has begun to need."""
        needed = await self._needed(withdrawn)
        for digest in withdrawn:
            if digest in needed:
                await self._blobs.restore(digest)
                logger.info("the blob %s is needed again, and stays", digest)
            else:
                await self._blobs.discard(digest)

    async def _needed(self, digests: Collection[str]) -> set[str]:
        return await self._catalog.files.needed(digests) | await self._catalog.uploads.uses(digests)


class _Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What is to go."""

    going: tuple[HeldFile, ...]
    """In the order in which it goes."""
    orphans: tuple[str, ...]
    sizes: dict[str, int]
    """Of every blob that is stored."""

    @property
    def digests(self) -> list[str]:
        """Of the blobs that go, each once; those first that nobody misses."""
        return list(dict.fromkeys((*self.orphans, *(one.digest for one in self.going))))
