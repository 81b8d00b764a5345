"""Files of our own as a source: the names and projects that were uploaded to one repository, read from the catalog.

A name that is here is never asked of an upstream (unless its files are merged), so what is known must not be forgotten
by accident: where the catalog has lost a project that was there a moment ago, the answer is an error, not "unknown".
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, UploadRow
from mirror.errors import MissingBlob, Unavailable, UnknownFile, UnknownProject
from mirror.index.cache import BoundedCache
from mirror.index.freshness import Freshness
from mirror.index.journal import Journal
from mirror.index.source import Document, Listing, NameListing, OpenFile
from mirror.model import File, Names, Page, Project

REMEMBERED_FILES = 50_000
"""How many files' entries stay in memory."""


class _Held(msgspec.Struct, frozen=True):
    """A project, with what its pages do not show."""

    listing: Listing
    sidecars: Mapping[str, str]
    """File name → digest."""


class Uploads:
    """The uploads of one repository, to be read."""

    local = True

    def __init__(self, repository: str, catalog: Catalog, blobs: BlobStore, feed: Journal) -> None:
        self.name = source_name(repository)
        self.repository = repository
        self._catalog = catalog
        self._blobs = blobs
        self._names: NameListing | None = None
        self._projects: BoundedCache[str, _Held] = BoundedCache(REMEMBERED_FILES)
        self._changes = 0
        feed.listen(self._heard)

    def _heard(self, source: str, project: str) -> None:
        if source == self.name:
            self._changes += 1
            self._names = None
            self._projects.forget(project)

    async def names(self, demand: Freshness = Freshness.USUAL) -> NameListing:
        listing = self._names
        while listing is None:
            changes = self._changes
            changed = await self._catalog.uploads.projects(self.repository)
            serials = {name: _serial(at) for name, at in changed.items()}
            newest = max(serials.values(), default=None)
            listing = NameListing(Names(serials=serials, serial=newest), f"{newest} {len(serials)}", math.inf, "hit")
            if changes == self._changes:
                self._names = listing
            else:
                listing = None
        return listing

    async def project(self, name: str, demand: Freshness = Freshness.USUAL) -> Listing:
        return (await self._held(name)).listing

    async def open(self, project: str, file: File) -> OpenFile:
        return await self._open(project, file, file.sha256)

    async def sidecar(self, project: str, file: File) -> OpenFile:
        return await self._open(project, file, (await self._held(project)).sidecars.get(file.filename))

    async def document(self, page: Page, demand: Freshness = Freshness.USUAL) -> Document | None:
        """`metadata` and `provenance` of the file that the page names: what it says of itself, and who attests it."""
        if page.kind not in ("metadata", "provenance"):
            return None
        row = await self._catalog.uploads.get(self.repository, page.name)
        if row is None or row.upload.deleted:
            return None
        if page.kind == "provenance":
            body = row.upload.attestations.encode()
        else:
            sidecar = await self._blobs.open(row.sidecar)
            body = b"".join([chunk async for chunk in sidecar.read()])
        return Document(url="", content_type="", body=body) if body else None

    async def _held(self, name: str) -> _Held:
        if name not in (await self.names()).names.serials:
            raise UnknownProject(name)
        held = self._projects.get(name)
        if held is not None:
            return held
        changes = self._changes
        rows = await self._catalog.uploads.of_project(self.repository, name)
        there = [row for row in rows if not row.upload.deleted]
        if changes != self._changes:
            return await self._held(name)
        if not there:
            raise Unavailable(f"The uploads of {name} are not in the catalog any more; it is being rebuilt.", 5)
        files = tuple(_file(row, self.name) for row in there)
        changed = max(row.upload.changed for row in rows)
        project = Project(
            name=name,
            files=files,
            versions=tuple(dict.fromkeys(file.version for file in files)),
            serial=_serial(changed),
        )
        held = _Held(
            Listing(project, f"{changed} {len(files)}", math.inf, "hit"),
            {row.upload.filename: row.sidecar for row in there},
        )
        self._projects.put(name, held, weight=1 + len(files))
        return held

    async def _open(self, project: str, file: File, digest: str | None) -> OpenFile:
        if digest is None:
            raise UnknownFile(project, file.filename)
        try:
            return OpenFile(await self._blobs.open(digest), "hit")
        except MissingBlob:
            raise Unavailable(f"The bytes of {file.filename} are lost here: restore them from a backup.") from None

    async def close(self) -> None:
        """Nothing runs behind."""


def source_name(repository: str) -> str:
    """What the uploads of a repository are called where sources are named."""
    return f"uploads:{repository}"


def _serial(changed: float) -> int:
    """A serial that outlives the catalog: the moment of the last change, in milliseconds."""
    return round(changed * 1000)


_decoder = msgspec.json.Decoder(File)


def _file(row: UploadRow, source: str) -> File:
    upload = row.upload
    return msgspec.structs.replace(
        _decoder.decode(row.facts),
        uploaded=datetime.fromtimestamp(upload.uploaded, UTC),
        yanked=upload.yanked,
        source=source,
    )
