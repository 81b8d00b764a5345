"""How a sync reaches what is mirrored: in the process that serves, or as a client of it; and what is held already.

The two ways differ in two questions only. Everything else (what is needed, in which order, what failed) is the same.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

from mirror.airgap.sync.bulk import Bulk
from mirror.airgap.sync.pieces import FetchQueue, Told
from mirror.blobs import BlobStore
from mirror.catalog import Catalog, SetMember
from mirror.errors import MissingBlob, Offline, StorageFull
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import File

CONNECTIONS = 16
"""Files that are fetched at the same time."""


class Fetcher(Protocol):
    """Where pages and files come from."""

    async def index(self, repository: str) -> None:
        """See to it that what clients ask for first is stored, where a repository has such an index."""

    async def project(self, repository: str, name: str) -> View:
        """A project as it is shown now; its page is stored from now on. Raises NotFound, Unavailable, UpstreamError."""

    async def bring(self, repository: str, project: str, file: File) -> None:
        """See to it that a file is held, with its sidecar. Raises MirrorError."""

    def is_small(self, file: File) -> bool:
        """Whether a file is one for `bring_small`."""

    async def bring_small(self, small: FetchQueue, left: FetchQueue, told: Told) -> None:
        """See to it that small files are held, many at once, until there are no more. Raises StorageFull.

        What it adds to `left` is for `bring`, where errors have words.
        """


class Holdings:
    """What is held, asked of the store itself."""

    def __init__(self, repositories: Mapping[str, Repository], catalog: Catalog, blobs: BlobStore) -> None:
        self._repositories = repositories
        self._catalog = catalog
        self._blobs = blobs

    def members(self, repository: str, project: str, file: File) -> list[SetMember]:
        """The names under which a file of an upstream and its sidecar are held; nothing for one of our own."""
        one = self._repositories[repository]
        if any(source.local for source in one.sources if source.name == file.source):
            return []
        sidecar = [one.format.sidecar_name(file)] if one.format.has_sidecar(file) else []
        return [SetMember(file.source, project, filename) for filename in (file.filename, *sidecar)]

    async def file(self, project: str, file: File) -> bool:
        """Whether the bytes of a file are held."""
        digest = file.sha256
        if digest is None:
            known = await self._catalog.files.get(file.source, project, file.filename)
            digest = known.digest if known else None
        return digest is not None and await self._blob(digest)

    async def sidecar(self, repository: str, project: str, file: File) -> bool:
        """Whether its sidecar is held, or there is none that should be."""
        for member in self.members(repository, project, file)[1:]:
            known = await self._catalog.files.get(*_key(member))
            if known is None or not await self._blob(known.digest):
                return False
        return True

    async def whole(self, repository: str, project: str, file: File) -> bool:
        """Whether a file and its sidecar are held."""
        return await self.file(project, file) and await self.sidecar(repository, project, file)

    async def _blob(self, digest: str) -> bool:
        try:
            await self._blobs.open(digest)
        except MissingBlob:
            return False
        return True


def _key(member: SetMember) -> tuple[str, str, str]:
    return member.source, member.project, member.filename


class LocalFetcher:
    """The way of the process that owns the store."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        indexes: Mapping[str, Callable[[], Awaitable[object]]],
        holdings: Holdings,
        bulk: Bulk,
        slots: asyncio.Semaphore,
    ) -> None:
        """`indexes`: what brings in the index of a repository, by its name, for those that have one.

        Each of the `slots`, which `bulk` has too, is a file that may be fetched at the same time.
        """
        self._repositories = repositories
        self._indexes = indexes
        self._holdings = holdings
        self._bulk = bulk
        self._slots = slots

    async def index(self, repository: str) -> None:
        if repository in self._indexes:
            await self._indexes[repository]()

    async def project(self, repository: str, name: str) -> View:
        return await self._repositories[repository].project(name)

    async def bring(self, repository: str, project: str, file: File) -> None:
        listed = await self._repositories[repository].file(project, file.filename)  # policy has the last word
        if not await self._holdings.file(project, listed):
            await self._large(repository, project, listed)
        if not await self._holdings.sidecar(repository, project, listed):
            async with self._slots:
                await self._repositories[repository].sidecar(project, file.filename)

    def is_small(self, file: File) -> bool:
        return self._bulk.takes(file)

    async def bring_small(self, small: FetchQueue, left: FetchQueue, told: Told) -> None:
        await self._bulk.bring(small, left, told)

    async def _large(self, repository: str, project: str, file: File) -> None:
        async with self._slots:
            _, opened = await self._repositories[repository].open(project, file.filename)
            async for _ in opened.body.read(max(0, opened.body.size - 1)):
                pass  # the last byte can be read once the file is verified and kept
        if not await self._holdings.file(project, file):
            raise StorageFull(f"{file.filename} could not be kept: the disk of the mirror is full.")


class ReadOnlyFetcher:
    """The way of who only looks: nothing but the store is asked, and nothing is brought."""

    def __init__(
        self, repositories: Mapping[str, Repository], indexes: Mapping[str, Callable[[], Awaitable[object]]]
    ) -> None:
        """`repositories` that are offline; `indexes` raise Offline where a repository's index is not held."""
        self._repositories = repositories
        self._indexes = indexes

    async def index(self, repository: str) -> None:
        if repository in self._indexes:
            await self._indexes[repository]()

    async def project(self, repository: str, name: str) -> View:
        return await self._repositories[repository].project(name, Freshness.ANY)

    async def bring(self, repository: str, project: str, file: File) -> None:
        raise Offline(f"{file.filename} is not held.")

    def is_small(self, file: File) -> bool:
        return False

    async def bring_small(self, small: FetchQueue, left: FetchQueue, told: Told) -> None:
        """There are none."""


def reason_of(error: Exception) -> str:
    """An error as the end of a line in a report."""
    said = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return said.rstrip(".")
