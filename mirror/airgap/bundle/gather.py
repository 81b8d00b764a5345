"""What a store holds, read out of it for a bundle or an inventory."""

import hashlib
from collections.abc import Mapping, Sequence

import msgspec

from mirror.airgap.bundle.format import FileEntry, Origin, PageEntry
from mirror.airgap.bundle.inventory import FileKey, Inventory, LogKey, LogMark, PageKey, UploadKey
from mirror.blobs import BlobStore
from mirror.catalog import Catalog, UploadRow
from mirror.catalog.bundles import Seen
from mirror.config import Settings
from mirror.errors import MissingBlob, Unavailable
from mirror.index.ecosystem import Ecosystem

TRIES = 20
"""How often the store is read anew because it changed meanwhile."""


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """Where things stand in a store, by its settings."""

    repositories: Mapping[str, Origin]
    sidecars: Mapping[str, str]
    """Source → how the names of its sidecars end."""
    logs: Mapping[LogKey, str]
    """What a log is stored under."""

    @property
    def sources(self) -> list[str]:
        """Every upstream, once."""
        return list(dict.fromkeys(source for origin in self.repositories.values() for source in origin.sources))


def places(settings: Settings, ecosystems: Mapping[str, Ecosystem]) -> Places:
    """Return those of a mirror with these settings."""
    repositories: dict[str, Origin] = {}
    logs: dict[LogKey, str] = {}
    for name, one in settings.repositories.items():
        repositories[name] = Origin(format=one.format, sources=tuple(str(upstream.url) for upstream in one.upstreams))
        if ecosystems[one.format].log_path is not None:
            logs |= {(role, name): f"{role} {name}" for role in ("published", "own")}
            for upstream in one.upstreams:
                logs["upstream", str(upstream.url)] = f"upstream {upstream.url} {upstream.username}"
    return Places(
        repositories=repositories,
        sidecars={
            source: ecosystems[one.format].sidecar_suffix for one in repositories.values() for source in one.sources
        },
        logs=logs,
    )


class BundleContents(msgspec.Struct, frozen=True, kw_only=True):
    """All that a store holds, but for bodies and blobs."""

    node: str
    serial: int
    """Of the feed, at that moment."""
    seen: Mapping[str, Seen]
    pages: Mapping[PageKey, PageEntry]
    """Those too that upstream has no more."""
    files: Mapping[FileKey, FileEntry]
    uploads: Mapping[UploadKey, UploadRow]
    logs: Mapping[LogKey, bytes]
    blobs: Mapping[str, int]
    """Digest → size, of what is really there."""
    lost: Sequence[str]
    """Names of files and uploads whose bytes should be there and are not; they are left out."""

    @property
    def inventory(self) -> Inventory:
        """The same as a list."""
        return Inventory(
            node=self.node,
            imported={node: seen.whole for node, seen in self.seen.items()},
            pages={key: page_mark(page) for key, page in self.pages.items() if page.found},
            files={key: file.digest for key, file in self.files.items()},
            uploads={key: upload_mark(row) for key, row in self.uploads.items()},
            logs={key: LogMark(len(log), hashlib.sha256(log).hexdigest()) for key, log in self.logs.items() if log},
            blobs=frozenset(self.blobs),
        )

    @property
    def gone(self) -> frozenset[PageKey]:
        """The pages that upstream has no more."""
        return frozenset(key for key, page in self.pages.items() if not page.found)


def page_mark(page: PageEntry) -> str:
    """Equal marks, equal answers to clients; how to ask upstream for it again may differ."""
    facts = (page.revision, page.url, page.content_type, page.serial, page.removed)
    return _mark(facts)


def upload_mark(row: UploadRow) -> str:
    """Equal marks, equal uploads."""
    return _mark(row)


def _mark(facts: object) -> str:
    return hashlib.sha256(msgspec.json.encode(facts)).hexdigest()[:32]


async def gather(catalog: Catalog, blobs: BlobStore, where: Places) -> BundleContents:
    """Everything as it is at one moment, also while a mirror serves. Raises Unavailable when it never stands still."""
    for _ in range(TRIES):
        moment = await catalog.bundles.moment()
        gathered = await _gather(catalog, blobs, where, moment[0])
        if moment == await catalog.bundles.moment():
            return gathered
    raise Unavailable("The store changes all the time: try again when less is going on.", 60)


async def _gather(catalog: Catalog, blobs: BlobStore, where: Places, serial: int) -> BundleContents:
    reading = _Reading(catalog, blobs)
    for source in where.sources:
        await reading.pages(source)
        await reading.files(source, where.sidecars[source])
    for repository in where.repositories:
        await reading.uploads(repository)
    return BundleContents(
        node=await catalog.bundles.node(),
        serial=serial,
        seen=await catalog.bundles.seen(),
        pages=reading.found_pages,
        files=reading.found_files,
        uploads=reading.found_uploads,
        logs={key: await catalog.logs.read(name) for key, name in where.logs.items()},
        blobs=reading.blobs,
        lost=reading.lost,
    )


class _Reading:
    """A store while it is read."""

    def __init__(self, catalog: Catalog, blobs: BlobStore) -> None:
        self.found_pages: dict[PageKey, PageEntry] = {}
        self.found_files: dict[FileKey, FileEntry] = {}
        self.found_uploads: dict[UploadKey, UploadRow] = {}
        self.blobs: dict[str, int] = {}
        self.lost: list[str] = []
        self._catalog = catalog
        self._store = blobs

    async def pages(self, source: str) -> None:
        removed = await self._catalog.bundles.removed(source)
        for page in await self._catalog.bundles.pages(source):
            rows = tuple(removed.get(page.name, ())) if page.kind == "project" else ()
            entry = PageEntry(**msgspec.structs.asdict(page), removed=rows)
            if not entry.found:  # nothing of what it once was counts any more
                entry = PageEntry(
                    source=source, kind=page.kind, name=page.name, checked=page.checked, found=False, removed=rows
                )
            self.found_pages[source, page.kind, page.name] = entry

    async def files(self, source: str, sidecar: str) -> None:
        for project, filename, digest, size in await self._catalog.bundles.files(source):
            if await self._is_there(digest, filename):
                self.found_files[source, project, filename] = FileEntry(
                    source=source, project=project, filename=filename, digest=digest, size=size,
                    kind="sidecar" if filename.endswith(sidecar) else "file",
                )  # fmt: skip

    async def uploads(self, repository: str) -> None:
        for row in await self._catalog.uploads.all(repository):
            name = row.upload.filename
            there = row.upload.deleted or (
                await self._is_there(row.upload.digest, name) and await self._is_there(row.sidecar, name)
            )
            if there:
                self.found_uploads[repository, name] = row

    async def _is_there(self, digest: str, filename: str) -> bool:
        if digest not in self.blobs:
            try:
                self.blobs[digest] = (await self._store.open(digest)).size
            except MissingBlob:
                self.lost.append(filename)
                return False
        return True
