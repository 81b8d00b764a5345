"""Writing a bundle: decide what goes into it, and write it as one tar or as parts of a given size.

Pages are packed twice, once for their digests (which come first) and once to be written: so memory holds only one of
them. The same store gives the same bytes, but for the moment in the manifest.
"""

import gzip
import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from mirror.airgap.bundle import format, inventory
from mirror.airgap.bundle.format import BundleMember, LogEntry, Manifest, PageEntry
from mirror.airgap.bundle.gather import BundleContents, Places, gather
from mirror.airgap.bundle.inventory import FileKey, Inventory, Lacking, LogKey, PageKey, difference
from mirror.airgap.bundle.signing import Signer
from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import Conflict, Invalid, MissingBlob
from mirror.model import Page

MOST_PARTS = 999
SMALLEST_PART = 1 << 20
AT_ONCE = 10_000
"""Events that are read at once."""


class ExportSelection(msgspec.Struct, frozen=True, kw_only=True):
    """A part of what is held: these files, with the pages of their projects."""

    files: frozenset[tuple[str, str, str]] = frozenset()
    """(repository, project, file name), with their sidecars."""
    projects: frozenset[tuple[str, str]] = frozenset()
    """(repository, project)."""


class ExportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of an export."""

    paths: tuple[Path, ...]
    size: int
    """Bytes of all parts."""
    manifest: Manifest
    lost: tuple[str, ...]
    """Names of files that should be held and are not; they are not in the bundle."""


async def export(
    catalog: Catalog,
    blobs: BlobStore,
    where: Places,
    target: Path,
    *,
    now: float,
    signer: Signer | None,
    choice: ExportSelection | None = None,
    since: int = 0,
    have: Inventory | None = None,
    parts: int | None = None,
) -> ExportResult:
    """Write a bundle to `target`, or to parts of it with numbers behind the name, of at most `parts` bytes.

    With a `choice` only that; after the serial `since` only what has changed; for a mirror that holds `have` only what
    it lacks. Raises Conflict, Invalid; then nothing is left behind.
    """
    held = await gather(catalog, blobs, where)
    if have is not None:
        since = 0 if choice is not None else have.imported.get(held.node, 0)
        if since > held.serial:
            raise Conflict("The inventory knows more of this mirror than the mirror itself does: is this an old copy?")
        lacking = difference(have, held.inventory, held.gone)
    else:
        lacking = difference(Inventory(), held.inventory)
        lacking = msgspec.structs.replace(lacking, gone=held.gone)
        if since:
            lacking = await _changed(catalog, held, lacking, since)
    if choice is not None:
        lacking = _chosen(lacking, where, choice)
    manifest = Manifest(
        node=held.node,
        made=round(now, 3),
        since=since,
        serial=held.serial,
        whole=choice is None,
        made_for=have.node if have is not None else "",
        repositories=where.repositories,
        files=tuple(held.files[key] for key in sorted(lacking.files)),
        uploads=tuple(held.uploads[key] for key in sorted(lacking.uploads)),
    )
    needed = [file.digest for file in manifest.files]
    for row in manifest.uploads:
        needed += [] if row.upload.deleted else [row.upload.digest, row.sidecar]
    there = have.blobs if have is not None else frozenset[str]()
    manifest = msgspec.structs.replace(
        manifest, blobs={digest: held.blobs[digest] for digest in sorted(set(needed) - there)}
    )
    with _Writing(target, parts) as out:
        await _Bundle(catalog, blobs, held, out).write(manifest, lacking, have, signer)
    return ExportResult(paths=out.finished, size=out.size, manifest=out.manifest, lost=tuple(dict.fromkeys(held.lost)))


async def write_inventory(catalog: Catalog, blobs: BlobStore, where: Places, target: Path) -> Inventory:
    """Write the list of what a mirror holds."""
    held = await gather(catalog, blobs, where)
    with _Writing(target, None) as out:
        out.write(inventory.pack(held.inventory))
    return held.inventory


async def _changed(catalog: Catalog, held: BundleContents, lacking: Lacking, since: int) -> Lacking:
    """Of everything only what the feed speaks of after a serial; logs whole, for nobody knows what the other has."""
    oldest, newest = await catalog.feed.bounds()
    if since > newest:
        raise Invalid(f"--since {since}: nothing has happened here after {newest}.")
    if oldest > since + 1:
        raise Invalid(
            f"--since {since}: the journal begins at {oldest} only. Export everything (--all), or what an inventory"
            " of the other side lacks (--for)."
        )
    projects: set[tuple[str, str]] = set()
    names: set[tuple[str, str]] = set()
    while events := await catalog.feed.since(since, AT_ONCE):
        projects |= {(event.source, event.project) for event in events}
        names |= {(event.source, event.filename) for event in events if event.filename}
        since = events[-1].serial
    return Lacking(
        pages=frozenset(key for key in lacking.pages if (key[0], key[2]) in projects),
        gone=frozenset(key for key in lacking.gone if (key[0], key[2]) in projects),
        files=frozenset(key for key in lacking.files if (key[0], key[2]) in names),
        uploads=frozenset(key for key in lacking.uploads if (f"uploads:{key[0]}", key[1]) in names),
        logs=lacking.logs,
    )


def _chosen(lacking: Lacking, where: Places, choice: ExportSelection) -> Lacking:
    """Of everything only what is chosen; the lists of names, and those of gems, without which clients see no gem."""
    sources = {name: one.sources for name, one in where.repositories.items()}
    pages = {(source, "project", project) for name, project in choice.projects for source in sources[name]}
    pages |= {(source, "names", "") for name, _ in choice.projects for source in sources[name]}
    files = {(source, project, file) for name, project, file in choice.files for source in sources[name]}
    uploads = {(name, file) for name, _, file in choice.files}
    gems = any(("published", name) in where.logs for name, _ in choice.projects)

    def wanted(key: FileKey) -> bool:
        source, project, filename = key
        if key in files or not filename.endswith(where.sidecars[source]):
            return key in files
        stem = filename.removesuffix(where.sidecars[source])
        # The ending of a sidecar is appended to the name of a Python file, and takes the place of a gem's.
        return (source, project, stem) in files or (source, project, f"{stem}.gem") in files

    return Lacking(
        pages=lacking.pages & pages,
        gone=lacking.gone & pages,
        files=frozenset(filter(wanted, lacking.files)),
        uploads=lacking.uploads & uploads,
        logs=lacking.logs if gems else frozenset(),
    )


class _Bundle:
    """A bundle while it is written."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, held: BundleContents, out: "_Writing") -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._held = held
        self._out = out
        self._bodies: dict[str, PageKey | tuple[LogKey, int]] = {}
        """The digest of a packed page or log → what it is; of a log, from which byte on."""

    async def write(self, manifest: Manifest, lacking: Lacking, have: Inventory | None, signer: Signer | None) -> None:
        pages = [await self._page(key) for key in sorted(lacking.pages)]
        pages += [self._held.pages[key] for key in sorted(lacking.gone)]
        logs = [self._log(key, have) for key in sorted(lacking.logs)]
        manifest = msgspec.structs.replace(manifest, pages=tuple(pages), logs=tuple(logs))
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
                self._small(path, await self._packed(digest), made)
            else:
                await self._blob(path, digest, manifest.blobs[digest])
        self._out.write(format.END)
        self._out.manifest = manifest

    async def _page(self, key: PageKey) -> PageEntry:
        body = await self._body(key)
        digest = hashlib.sha256(_zipped(body)).hexdigest()
        self._bodies[digest] = key
        return msgspec.structs.replace(self._held.pages[key], body=digest, length=len(body))

    async def _body(self, key: PageKey) -> bytes:
        source, kind, name = key
        answer = await self._catalog.pages.answer(source, Page(kind, name))
        if answer is None:
            raise Conflict(
                f"The stored page of {name or kind} is lost or damaged: ask the mirror for it, and export again."
            )
        return answer.body

    def _log(self, key: LogKey, have: Inventory | None) -> LogEntry:
        content = self._held.logs[key]
        known = have.logs.get(key) if have is not None else None
        start = inventory.tail(content, known)
        digest = hashlib.sha256(_zipped(content[start:])).hexdigest()
        self._bodies[digest] = key, start
        role, name = key
        return LogEntry(
            role=role,  # type: ignore[arg-type]  # those of `places`
            name=name, start=start, before=known.sha256 if start and known else "", body=digest,
            length=len(content) - start,
        )  # fmt: skip

    async def _packed(self, digest: str) -> bytes:
        match self._bodies[digest]:
            case (tuple() as key, int() as start):
                packed = _zipped(self._held.logs[key][start:])
            case (str() as source, str() as kind, str() as name):
                packed = _zipped(await self._body((source, kind, name)))
        if hashlib.sha256(packed).hexdigest() != digest:
            raise Conflict("A page has changed while it was exported: export again.")
        return packed

    def _small(self, path: str, content: bytes, modified: int) -> None:
        member = BundleMember(path, len(content), modified)
        self._out.write(format.write_header(member))
        self._out.write(content)
        self._out.write(bytes(member.padding))

    async def _blob(self, path: str, digest: str, size: int) -> None:
        body = await self._blobs.open(digest)
        modified = int(body.path.stat().st_mtime) if body.path is not None else 0
        member = BundleMember(path, size, modified)
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
        raise Conflict(f"The blob {digest} went while it was exported: export again.") from None


def _zipped(body: bytes) -> bytes:
    return gzip.compress(body, 6, mtime=0)


class _Writing:
    """One file, or several of a given size, that appear under their names when all of them are durable."""

    def __init__(self, target: Path, parts: int | None) -> None:
        if parts is not None and parts < SMALLEST_PART:
            raise Invalid(f"--parts: a part has at least {SMALLEST_PART} bytes.")
        self.size = 0
        self.finished: tuple[Path, ...] = ()
        self.manifest: Manifest
        self._target = target
        self._parts = parts
        self._left = 0
        self._names: dict[Path, Path] = {}
        """Passing name → name."""

    def __enter__(self) -> Self:
        self._next()
        return self

    def _next(self) -> None:
        if self._names:
            self._finish_part()
        if len(self._names) == MOST_PARTS:
            raise Invalid(f"--parts: that would be more than {MOST_PARTS} parts; make them larger.")
        number = f".{len(self._names) + 1:03}" if self._parts is not None else ""
        path = self._target.with_name(f"{self._target.name}{number}")
        passing = path.with_name(f"{path.name}.part")
        self._names[passing] = path
        self._file = passing.open("wb")
        self._left = self._parts or 1 << 62

    def write(self, content: bytes) -> None:
        """Append."""
        view = memoryview(content)
        self.size += len(view)
        while len(view):
            if not self._left:
                self._next()
            piece = view[: self._left]
            self._file.write(piece)
            self._left -= len(piece)
            view = view[len(piece) :]

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
                for passing, path in self._names.items():
                    passing.replace(path)
                self.finished = tuple(self._names.values())
        finally:
            self._file.close()
            for passing in self._names:
                with suppress(OSError):
                    passing.unlink()
