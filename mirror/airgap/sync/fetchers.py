"""How a sync fetches pages and files, and what is held already.

`LocalFetcher` works in the process that serves, `ReadOnlyFetcher` only reads the store; the command has one more, a
client of a running mirror. Everything else (what is needed, in which order, what failed) is the same for all.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Protocol

from mirror.airgap.sync.bulk import BulkFetcher
from mirror.airgap.sync.queue import FetchCallback, FetchQueue
from mirror.blobs import BlobStore
from mirror.catalog import Catalog, SetMember
from mirror.errors import NoSidecar, Offline, StorageFull
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import File

CONNECTIONS = 16
"""The default number of files that are fetched at the same time."""


class Fetcher(Protocol):
    """The source of pages and files for a sync."""

    async def fetch_index(self, repository: str) -> None:
        """Store the index that clients of a repository request first, where it has one. Raises MirrorError."""

    async def project(self, repository: str, name: str) -> View:
        """Return a project as it is now, and store its page. Raises NotFound, Unavailable, UpstreamError."""

    async def fetch(self, repository: str, project: str, file: File) -> None:
        """Fetch a file and its sidecar unless they are held. Raises MirrorError."""

    def is_small(self, file: File) -> bool:
        """Return whether a file is one for `fetch_small`."""

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: FetchCallback) -> None:
        """Fetch small files, many at once, until their queue ends. Raises StorageFull.

        Files that could not be fetched are added to `rest`: `fetch` tries again and reports the error.
        """


class Holdings:
    """The contents of the store."""

    def __init__(self, repositories: Mapping[str, Repository], catalog: Catalog, blobs: BlobStore) -> None:
        self._repositories = repositories
        self._catalog = catalog
        self._blobs = blobs
        self._local = {
            source.name for repository in repositories.values() for source in repository.sources if source.local
        }

    def members(self, repository: str, project: str, file: File) -> list[SetMember]:
        """Return the names under which a file of an upstream and its sidecar are held; none for an upload."""
        one = self._repositories[repository]
        if any(source.local for source in one.sources if source.name == file.source):
            return []
        sidecar = [one.format.sidecar_name(file)] if one.format.has_sidecar(file) else []
        return [SetMember(file.source, project, filename) for filename in (file.filename, *sidecar)]

    async def file(self, project: str, file: File) -> bool:
        """Return whether the bytes of a file are held, as its source has delivered them."""
        digest = file.sha256
        if file.source not in self._local:
            known = await self._catalog.files.get(file.source, project, file.filename)
            if known is None or digest not in (None, known.digest):
                return False
            digest = known.digest
        return digest is not None and await self._blobs.find(digest) is not None

    async def size(self, project: str, file: File) -> int:
        """Return the bytes of a file: as its index lists them, else as they are held."""
        if file.size is not None:
            return file.size
        known = await self._catalog.files.get(file.source, project, file.filename)
        return 0 if known is None else known.size

    async def sidecar(self, repository: str, project: str, file: File) -> bool:
        """Return whether a file's sidecar is held, or it has none."""
        for member in self.members(repository, project, file)[1:]:
            known = await self._catalog.files.get(member.source, member.project, member.filename)
            if known is None or await self._blobs.find(known.digest) is None:
                return False
        return True

    async def whole(self, repository: str, project: str, file: File) -> bool:
        """Return whether a file and its sidecar are held."""
        return await self.file(project, file) and await self.sidecar(repository, project, file)


class LocalFetcher:
    """A Fetcher for the process that owns the store."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        indexes: Mapping[str, Callable[[], Awaitable[object]]],
        holdings: Holdings,
        bulk: BulkFetcher,
        slots: asyncio.Semaphore,
    ) -> None:
        """`indexes`: functions that fetch the index of a repository, by its name, for those that have one.

        Each of the `slots`, which `bulk` shares, stands for a file that may be fetched at the same time.
        """
        self._repositories = repositories
        self._indexes = indexes
        self._holdings = holdings
        self._bulk = bulk
        self._slots = slots

    async def fetch_index(self, repository: str) -> None:
        if repository in self._indexes:
            await self._indexes[repository]()

    async def project(self, repository: str, name: str) -> View:
        return await self._repositories[repository].project(name)

    async def fetch(self, repository: str, project: str, file: File) -> None:
        listed = await self._repositories[repository].file(project, file.filename)  # policy has the last word
        if not await self._holdings.file(project, listed):
            await self._fetch_file(repository, project, listed)
        if not await self._holdings.sidecar(repository, project, listed):
            async with self._slots:
                with suppress(NoSidecar):  # then clients read the file itself
                    await self._repositories[repository].sidecar(project, file.filename)

    def is_small(self, file: File) -> bool:
        return self._bulk.takes(file)

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: FetchCallback) -> None:
        await self._bulk.fetch(small, rest, on_fetched)

    async def _fetch_file(self, repository: str, project: str, file: File) -> None:
        async with self._slots:
            _, opened = await self._repositories[repository].open(project, file.filename)
            async for _ in opened.body.read(max(0, opened.body.size - 1)):
                pass  # the last byte can be read once the file is verified and stored
        if not await self._holdings.file(project, file):
            raise StorageFull(f"{file.filename} could not be stored: the disk of the mirror is full.")


class ReadOnlyFetcher:
    """A Fetcher that only reads the store, and fetches nothing."""

    def __init__(
        self, repositories: Mapping[str, Repository], indexes: Mapping[str, Callable[[], Awaitable[object]]]
    ) -> None:
        """`repositories` that are offline; `indexes` raise Offline where a repository's index is not held."""
        self._repositories = repositories
        self._indexes = indexes

    async def fetch_index(self, repository: str) -> None:
        if repository in self._indexes:
            await self._indexes[repository]()

    async def project(self, repository: str, name: str) -> View:
        return await self._repositories[repository].project(name, Freshness.ANY)

    async def fetch(self, repository: str, project: str, file: File) -> None:
        raise Offline(f"{file.filename} is not held.")

    def is_small(self, file: File) -> bool:
        return False

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: FetchCallback) -> None:
        """Do nothing: no file is small."""


def reason_of(error: Exception) -> str:
    """Return an error as the end of a line in a report."""
    text = (error.strerror or str(error)) if isinstance(error, OSError) else str(error)
    return text.rstrip(".")
