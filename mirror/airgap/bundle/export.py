"""Writing a bundle: decide what goes into it, and write it as one tar or as parts of a given size.

Pages are compressed twice, once for their digests (which come first) and once to be written, so that memory holds only
one of them. Equal stores give equal bytes, except for the time in the manifest.
"""

import gzip
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from mirror.airgap.bundle import format
from mirror.airgap.bundle.contents import (
    BundleContents,
    Difference,
    FileKey,
    Inventory,
    LogKey,
    PageKey,
    StoreLayout,
    common_length,
    difference,
    gather,
    pack,
)  # fmt: skip
from mirror.airgap.bundle.format import BundleMember, FileEntry, LogEntry, Manifest, PageEntry
from mirror.airgap.bundle.signing import Signer
from mirror.blobs import BlobStore
from mirror.catalog import Catalog, UploadRow
from mirror.errors import Conflict, Invalid, MissingBlob
from mirror.model import Page

MAX_PARTS = 999
MIN_PART_BYTES = 1 << 20
EVENTS_PER_READ = 10_000


class ExportSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what is held: these files, with the pages of their projects."""

    files: frozenset[tuple[str, str, str]] = frozenset()
    """(repository, project, file name), with their sidecars."""
    projects: frozenset[tuple[str, str]] = frozenset()
    """(repository, project)."""


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of an export."""

    paths: tuple[Path, ...]
    size: int
    """Bytes of all parts."""
    manifest: Manifest
    lost: tuple[str, ...]
    """Names of files whose bytes are lost; they are not in the bundle."""


async def export(
    catalog: Catalog,
    blobs: BlobStore,
    layout: StoreLayout,
    target: Path,
    *,
    now: float,
    signer: Signer | None,
    selection: ExportSelection | None = None,
    since: int = 0,
    have: Inventory | None = None,
    parts: int | None = None,
    expires: float | None = None,
) -> ExportResult:
    """Write a bundle to `target`, or to parts of at most `parts` bytes with numbers after its name.

    It contains the `selection`, or everything; of that only what has changed after the serial `since`, or only what a
    mirror lacks that holds `have`. It is not imported after the moment `expires`, in seconds since the epoch. Raises
    Conflict, Invalid; then no file is left behind.
    """
    held = await gather(catalog, blobs, layout)
    if have is not None:
        since = 0 if selection is not None else have.imported.get(held.node, 0)
        if since > held.serial:
            raise Conflict(
                "The inventory has a newer state of this mirror than the mirror itself: is this an old copy?"
            )
        lacking = difference(have, held.inventory, held.gone)
    else:
        lacking = difference(Inventory(), held.inventory)
        lacking = msgspec.structs.replace(lacking, gone=held.gone)
        if since:
            lacking = await _changed(catalog, held, lacking, since)
    if selection is not None:
        lacking = _selected(lacking, layout, selection)
    files = tuple(held.files[key] for key in sorted(lacking.files))
    uploads = tuple(held.uploads[key] for key in sorted(lacking.uploads))
    manifest = Manifest(
        node=held.node,
        made=round(now, 3),
        since=since,
        serial=held.serial,
        whole=selection is None,
        made_for=have.node if have is not None else "",
        repositories=layout.repositories,
        files=files,
        uploads=uploads,
        blobs={digest: held.blobs[digest] for digest in _needed_blobs(files, uploads, have)},
        expires=expires,
    )
    with _PartWriter(target, parts) as out:
        await _BundleWriter(catalog, blobs, held, out).write(manifest, lacking, have, signer)
    return ExportResult(paths=out.finished, size=out.size, manifest=out.manifest, lost=tuple(dict.fromkeys(held.lost)))


def _needed_blobs(files: Sequence[FileEntry], uploads: Sequence[UploadRow], have: Inventory | None) -> list[str]:
    """Return the sorted digests of files and uploads that a mirror holding `have` lacks."""
    needed = {file.digest for file in files}
    needed |= {digest for row in uploads if not row.upload.deleted for digest in (row.upload.digest, row.sidecar)}
    return sorted(needed - have.blobs if have is not None else needed)


async def write_inventory(catalog: Catalog, blobs: BlobStore, layout: StoreLayout, target: Path) -> Inventory:
    """Write the inventory of a mirror."""
    held = await gather(catalog, blobs, layout)
    with _PartWriter(target, None) as out:
        out.write(pack(held.inventory))
    return held.inventory


async def _changed(catalog: Catalog, held: BundleContents, lacking: Difference, since: int) -> Difference:
    """Return the part with an event after a serial; and whole logs, because it is unknown what the other mirror has."""
    oldest, newest = await catalog.feed.bounds()
    if since > newest:
        raise Invalid(f"--since {since}: the journal of this mirror ends at {newest}.")
    if oldest > since + 1:
        raise Invalid(
            f"--since {since}: the journal begins at {oldest}. Export everything (--all), or what an inventory"
            " of the other side lacks (--for)."
        )
    projects: set[tuple[str, str]] = set()
    names: set[tuple[str, str]] = set()
    while events := await catalog.feed.since(since, EVENTS_PER_READ):
        projects |= {(event.source, event.project) for event in events}
        names |= {(event.source, event.filename) for event in events if event.filename}
        since = events[-1].serial
    return Difference(
        pages=frozenset(key for key in lacking.pages if (key[0], key[2]) in projects),
        gone=frozenset(key for key in lacking.gone if (key[0], key[2]) in projects),
        files=frozenset(key for key in lacking.files if (key[0], key[2]) in names),
        uploads=frozenset(key for key in lacking.uploads if (f"uploads:{key[0]}", key[1]) in names),
        logs=lacking.logs,
    )


def _selected(lacking: Difference, layout: StoreLayout, selection: ExportSelection) -> Difference:
    """Return the selected part; with the lists of all projects, and the logs without which clients see no gem."""
    sources = {name: one.sources for name, one in layout.repositories.items()}
    pages = {(source, "project", project) for name, project in selection.projects for source in sources[name]}
    of_all = layout.index_pages
    pages |= {
        (source, page.kind, page.name)
        for name, _ in selection.projects for source in sources[name] for page in of_all[source]
    }  # fmt: skip
    files = {(source, project, file) for name, project, file in selection.files for source in sources[name]}
    uploads = {(name, file) for name, _, file in selection.files}
    gems = any(("published", name) in layout.logs for name, _ in selection.projects)

    def wanted(key: FileKey) -> bool:
        source, project, filename = key
        if key in files or not filename.endswith(layout.sidecars[source]):
            return key in files
        stem = filename.removesuffix(layout.sidecars[source])
        # The ending of a sidecar is appended to the name of a Python file, and replaces that of a gem.
        return (source, project, stem) in files or (source, project, f"{stem}.gem") in files

    return Difference(
        pages=lacking.pages & pages,
        gone=lacking.gone & pages,
        files=frozenset(filter(wanted, lacking.files)),
        uploads=lacking.uploads & uploads,
        logs=lacking.logs if gems else frozenset(),
    )


class _BundleWriter:
    """Writes one bundle."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, held: BundleContents, out: "_PartWriter") -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._held = held
        self._out = out
        self._bodies: dict[str, PageKey | tuple[LogKey, int]] = {}
        """The digest of a compressed page or log → its key; of a log, also where its body begins."""

    async def write(
        self, manifest: Manifest, lacking: Difference, have: Inventory | None, signer: Signer | None
    ) -> None:
        pages = [await self._page(key) for key in sorted(lacking.pages)]
        pages += [self._held.pages[key] for key in sorted(lacking.gone)]
        logs = [self._log(key, have) for key in sorted(lacking.logs)]
        modified = {digest: await self._modified(digest) for digest in manifest.blobs}
        manifest = msgspec.structs.replace(manifest, pages=tuple(pages), logs=tuple(logs), modified=modified)
        content = format.write_manifest(manifest)
        paths = format.members(manifest)
        sums = {format.MANIFEST: hashlib.sha256(content).hexdigest()} | {path: format.digest_of(path) for path in paths}
        listed = format.write_sums(sums)
        made = int(manifest.made)
        self._small(format.SUMS, listed, made)
        if signer is not None:
            self._small(format.SIGNATURE, signer.sign(listed), made)
        self._small(format.MANIFEST, content, made)
        for path in paths:
            digest = format.digest_of(path)
            if path.startswith("pages/"):
                self._small(path, await self._compressed(digest), made)
            else:
                await self._blob(BundleMember(path, manifest.blobs[digest], modified[digest]))
        self._out.write(format.END)
        self._out.manifest = manifest

    async def _page(self, key: PageKey) -> PageEntry:
        body = await self._body(key)
        digest = hashlib.sha256(_gzip(body)).hexdigest()
        self._bodies[digest] = key
        return msgspec.structs.replace(self._held.pages[key], body=digest, length=len(body))

    async def _body(self, key: PageKey) -> bytes:
        source, kind, name = key
        answer = await self._catalog.pages.answer(source, Page(kind, name))
        if answer is None:
            raise Conflict(
                f"The stored page of {name or kind} is lost or damaged: request it from the mirror, and export again."
            )
        return answer.body

    def _log(self, key: LogKey, have: Inventory | None) -> LogEntry:
        content = self._held.logs[key]
        known = have.logs.get(key) if have is not None else None
        start = common_length(content, known)
        digest = hashlib.sha256(_gzip(content[start:])).hexdigest()
        self._bodies[digest] = key, start
        role, name = key
        return LogEntry(
            role=role,  # type: ignore[arg-type]  # the roles of `layout_of`
            name=name, start=start, before=known.sha256 if start and known else "", body=digest,
            length=len(content) - start,
        )  # fmt: skip

    async def _compressed(self, digest: str) -> bytes:
        match self._bodies[digest]:
            case (tuple() as key, int() as start):
                compressed = _gzip(self._held.logs[key][start:])
            case (str() as source, str() as kind, str() as name):
                compressed = _gzip(await self._body((source, kind, name)))
        if hashlib.sha256(compressed).hexdigest() != digest:
            raise Conflict("A page has changed while it was exported: export again.")
        return compressed

    def _small(self, path: str, content: bytes, modified: int) -> None:
        member = BundleMember(path, len(content), modified)
        self._out.write(format.write_header(member))
        self._out.write(content)
        self._out.write(bytes(member.padding))

    async def _modified(self, digest: str) -> int:
        body = await self._blobs.open(digest)
        return int(body.path.stat().st_mtime) if body.path is not None else 0

    async def _blob(self, member: BundleMember) -> None:
        digest, size = format.digest_of(member.name), member.size
        body = await self._blobs.open(digest)
        self._out.write(format.write_header(member))
        found, count = hashlib.sha256(), 0
        async for chunk in _read(body.read(), digest):
            found.update(chunk)
            count += len(chunk)
            self._out.write(chunk)
        if found.hexdigest() != digest or count != size:
            raise Conflict(f"The bytes of {digest} are damaged here: run `mirror verify`, and export again.")
        self._out.write(bytes(member.padding))


async def _read(chunks: AsyncIterator[bytes], digest: str) -> AsyncIterator[bytes]:
    try:
        async for chunk in chunks:
            yield chunk
    except MissingBlob:
        raise Conflict(f"The blob {digest} was removed while it was exported: export again.") from None


def _gzip(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


class _PartWriter:
    """Writes one file, or several of a given size, which get their names when all of them are durable."""

    def __init__(self, target: Path, parts: int | None) -> None:
        if parts is not None and parts < MIN_PART_BYTES:
            raise Invalid(f"--parts: a part must have at least {MIN_PART_BYTES} bytes.")
        self.size = 0
        self.finished: tuple[Path, ...] = ()
        self.manifest: Manifest
        self._target = target
        self._parts = parts
        self._left = 0
        self._names: dict[Path, Path] = {}
        """Temporary name → name."""

    def __enter__(self) -> Self:
        self._next()
        return self

    def _next(self) -> None:
        if self._names:
            self._finish_part()
        if len(self._names) == MAX_PARTS:
            raise Invalid(f"--parts: that would be more than {MAX_PARTS} parts; make them larger.")
        number = f".{len(self._names) + 1:03}" if self._parts is not None else ""
        path = self._target.with_name(f"{self._target.name}{number}")
        temporary = path.with_name(f"{path.name}.part")
        self._names[temporary] = path
        self._file = temporary.open("wb")
        self._left = self._parts or 1 << 62

    def write(self, content: bytes) -> None:
        """Append to the current part."""
        view = memoryview(content)
        self.size += len(view)
        while len(view):
            if not self._left:
                self._next()
            chunk = view[: self._left]
            self._file.write(chunk)
            self._left -= len(chunk)
            view = view[len(chunk) :]

    def _finish_part(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._finish_part()
                for temporary, path in self._names.items():
                    temporary.replace(path)
                self.finished = tuple(self._names.values())
        finally:
            self._file.close()
            for temporary in self._names:
                with suppress(OSError):
                    temporary.unlink()
