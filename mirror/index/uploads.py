"""Files of our own as a source: the names and projects that were uploaded to one repository, read from the catalog.

A name that is here, or was, is never asked of an upstream (unless its files are merged), so what is known must not be
forgotten by accident: where the catalog has lost a project that was there a moment ago, the answer is an error, not
"unknown". A name whose last file was deleted stays ours until the operator releases it.
"""

import math
from collections.abc import Mapping
from datetime import UTC, datetime

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, UploadRow
from mirror.errors import MissingBlob, ReservedName, Unavailable, UnknownFile, UnknownProject
from mirror.index.cache import SingleFlight
from mirror.index.freshness import Freshness
from mirror.index.source import Document, DocumentBody, Listing, LoadedNames, NameListing, OpenFile, Outdated, Wanted
from mirror.model import File, Names, Page, Project
from mirror.transfer import NextOrigin, Origin


class UploadSource:
    """The uploads of one repository, for reading."""

    local = True

    def __init__(self, repository: str, catalog: Catalog, blobs: BlobStore) -> None:
        self.name = source_name(repository)
        self.repository = repository
        self.outdated: Outdated = lambda projects: None
        self.precedes = False
        self._catalog = catalog
        self._blobs = blobs
        self.projects: Mapping[str, float | None] | None = None
        """When each project that has a file here last changed, None for those of which only the names are kept; None
        when that has to be read again."""
        self._last_read: Mapping[str, float | None] = {}
        self._reading: SingleFlight[str, Mapping[str, float | None]] = SingleFlight()

    def forget(self, project: str) -> None:
        self.projects = None
        self._reading.pop("", None)

    async def names(self, freshness: Freshness = Freshness.USUAL) -> NameListing:
        projects = await self._projects()
        changed = {name: at for name, at in projects.items() if at is not None}
        newest = max(map(_serial, changed.values()), default=None)
        revision = f"{newest} {len(changed)} {len(projects)}"

        async def load() -> LoadedNames:
            return LoadedNames(
                revision, Names(serials={name: _serial(at) for name, at in changed.items()}, serial=newest)
            )

        return NameListing(revision=revision, until=math.inf, outcome="hit", load=load)

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL, known: str = "") -> Listing:
        projects = await self._projects()
        changed = projects.get(name)
        if changed is None:
            raise ReservedName(name) if name in projects else UnknownProject(name)
        revision = str(changed)
        if revision == known:
            return Listing(revision=revision, until=math.inf, outcome="hit", project=None)
        rows = await self._catalog.uploads.of_project(self.repository, name)
        files = tuple(_file(row, self.name) for row in rows if not row.upload.deleted)
        if not files:
            if (await self._projects()).get(name) != changed:
                return await self.project(name, freshness, known)  # deleted at this very moment
            raise Unavailable(f"The uploads of {name} are not in the catalog any more; it is being rebuilt.")
        versions = tuple(dict.fromkeys(file.version for file in files))
        project = Project(name=name, files=files, versions=versions, serial=_serial(changed))
        return Listing(revision=revision, until=math.inf, outcome="hit", project=project)

    async def _projects(self) -> Mapping[str, float | None]:
        if self.projects is None:
            return (await self._reading.run("", self._read))[0]
        return self.projects

    async def _read(self) -> Mapping[str, float | None]:
        uploads = self._catalog.uploads
        changed: dict[str, float | None] = dict.fromkeys(await self._catalog.claims.former(self.repository))
        changed |= await uploads.projects(self.repository)
        for name in self._last_read.keys() - changed.keys():
            if not await uploads.of_project(self.repository, name):
                changed[name] = self._last_read[name]  # lost: what was deleted leaves a row behind
        if self._reading.owns(""):
            self.projects = self._last_read = changed
        return changed

    def origin(self, project: str, file: File) -> Origin | None:
        return None

    async def holds(self, project: str, file: File) -> bool:
        return True

    async def open(
        self, project: str, file: File, wanted: Wanted = "whole", next_origin: NextOrigin | None = None
    ) -> OpenFile:
        return await self._open(project, file, file.sha256)

    async def sidecar(self, project: str, file: File) -> OpenFile:
        row = await self._catalog.uploads.get(self.repository, file.filename)
        return await self._open(project, file, row.sidecar if row and not row.upload.deleted else None)

    async def _open(self, project: str, file: File, digest: str | None) -> OpenFile:
        if digest is None:
            raise UnknownFile(project, file.filename)
        try:
            return OpenFile(await self._blobs.open(digest), "hit")
        except MissingBlob:
            raise Unavailable(f"The bytes of {file.filename} are lost here: restore them from a backup.") from None

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        """Return `metadata` or `provenance` of the file that the page names: its core metadata, its attestations."""
        if page.kind not in ("metadata", "provenance"):
            return None
        row = await self._catalog.uploads.get(self.repository, page.name)
        if row is None or row.upload.deleted:
            return None
        if page.kind == "provenance" and not row.upload.attestations:
            return None

        revision = f"{row.upload.changed}"

        async def read() -> DocumentBody:
            if page.kind == "provenance":
                return DocumentBody(revision, row.upload.attestations.encode())
            sidecar = await self._blobs.open(row.sidecar)
            return DocumentBody(revision, b"".join([chunk async for chunk in sidecar.read()]))

        return Document(revision=revision, outcome="hit", read=read)

    async def close(self) -> None:
        await self._reading.close()


def source_name(repository: str) -> str:
    """Return the name of a repository's uploads as a source."""
    return f"uploads:{repository}"


def _serial(changed: float) -> int:
    """Return a serial that outlives the catalog: the moment of the last change, in milliseconds."""
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
