"""Taking in a bundle: checked as it is read, staged out of sight, and made visible in one transaction.

The order is what makes it safe: who signed it, what it is and whether it fits here is known before the first byte is
kept; blobs are adopted one by one, which nobody sees; pages wait in tables of their own; then one transaction shows
everything. Killed before that, the old state stays and the next run goes on; killed after it, only the records beside
uploads are missing, which the next run, or the start of a mirror, writes.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mirror.airgap.bundle import format
from mirror.airgap.bundle.format import BundleMember, DamagedBundle, LogEntry, Manifest, PageEntry, check_facts
from mirror.airgap.bundle.gather import BundleContents, Places, gather, page_mark, upload_mark
from mirror.airgap.bundle.inventory import unzipped
from mirror.airgap.bundle.reading import Head, Reader, follows, read_head
from mirror.airgap.bundle.signing import Keys, PublicKey
from mirror.blobs import BlobStore, storage_errors
from mirror.catalog import Catalog, UploadRow
from mirror.catalog.bundles import ImportedLog, Seen, StagedFile, StoredPage, Taken
from mirror.errors import Conflict, MissingBlob, StorageFull
from mirror.index.records import Records, record_uploads

ROOM = 64 << 20
"""Bytes that stay free on the disk."""


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """What an import has changed."""

    manifest: Manifest
    signed_by: PublicKey | None
    new_pages: tuple[PageEntry, ...]
    changed_pages: tuple[PageEntry, ...]
    gone_pages: tuple[PageEntry, ...]
    new_files: tuple[str, ...]
    """Names of files, without sidecars."""
    uploads: tuple[tuple[str, str], ...]
    """(upload, yank, unyank or delete, file name)."""
    blobs: int
    """That were not here before this run."""
    size: int
    """Bytes of these."""
    own_index: tuple[str, ...]
    """The repositories whose list of gems goes its own way here; what the bundle changes is appended to it."""


async def load(
    parts: Sequence[Path],
    catalog: Catalog,
    blobs: BlobStore,
    records: Records,
    where: Places,
    data_dir: Path,
    *,
    keys: Keys,
    now: float,
    unsigned: bool = False,
    force: bool = False,
    notice: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportResult:
    """Take in a bundle, or its parts in their order, beside a mirror that may be serving.

    `force` takes it in whatever its place in the sequence, and its pages even where newer ones are here.
    `notice` are the seconds that a mirror which serves is given to hear that something is about to come. Raises
    Damaged, Forbidden, Conflict, StorageFull; then nothing of it is visible.
    """
    with _alone(data_dir):
        await record_uploads(catalog, records)
        reader = Reader(parts)
        try:
            head = read_head(reader, keys, unsigned=unsigned)
            taking = _Taking(head, catalog, blobs, records, where, data_dir)
            await taking.check(force=force)
            await taking.read(reader, progress)
        finally:
            reader.close()
        await taking.show(now, notice)
        await record_uploads(catalog, records)
    return taking.imported()


class _Taking:
    """A bundle while it is taken in."""

    def __init__(
        self, head: Head, catalog: Catalog, blobs: BlobStore, records: Records, where: Places, data_dir: Path
    ) -> None:
        self._head = head
        self._manifest = head.manifest
        self._catalog = catalog
        self._blobs = blobs
        self._records = records
        self._where = where
        self._data_dir = data_dir
        self._held: BundleContents
        self._seen: Seen
        self._pages: dict[int, PageEntry] = {}
        """Place → what differs from here."""
        self._files: list[StagedFile] = []
        self._uploads: list[tuple[str, UploadRow]] = []
        self._logs: list[ImportedLog] = []
        self._diverged: set[str] = set()
        self._bodies: dict[str, list[int]] = {}
        """Digest of a packed page → the places of those pages."""
        self._log_bodies: dict[str, bytes] = {}
        self._new_blobs = self._new_bytes = 0

    # What it would change

    async def check(self, *, force: bool) -> None:
        """Whether it fits here, and what of it is new. Raises Conflict, Invalid, StorageFull."""
        manifest = self._manifest
        known = await self._catalog.bundles.seen()
        seen = known.get(manifest.node, Seen())
        node = await self._catalog.bundles.node()
        if force:
            self._seen = Seen(max(seen.whole, manifest.serial if manifest.whole else 0), manifest.serial)
        else:
            self._seen = follows(manifest, node, seen)
        self._check_places()
        self._held = held = await gather(self._catalog, self._blobs, self._where)
        for place, page in enumerate(manifest.pages, 1):
            mine = held.pages.get((page.source, page.kind, page.name))
            if _differs(mine, page) and (force or mine is None or mine.checked <= page.checked):
                self._pages[place] = page
        self._files = [
            StagedFile(
                event=file.kind, source=file.source, project=file.project, filename=file.filename, digest=file.digest,
                size=file.size,
            )
            for file in manifest.files
            if (mine_ := held.files.get((file.source, file.project, file.filename))) is None
            or mine_.digest != file.digest
        ]  # fmt: skip
        for row in manifest.uploads:
            self._check_upload(row, force=force)
        await self._check_blobs()

    def _check_places(self) -> None:
        """Whether everything in the bundle has a place in the settings here."""
        mine, theirs = self._where.repositories, self._manifest.repositories
        for name in {row.upload.repository for row in self._manifest.uploads}:
            if name not in mine or name not in theirs or mine[name].format != theirs[name].format:
                raise Conflict(f"The bundle has uploads of a repository {name!r}, and there is none like it here.")
        sources = [page.source for page in self._manifest.pages] + [file.source for file in self._manifest.files]
        sources += [log.name for log in self._manifest.logs if log.role == "upstream"]
        for source in dict.fromkeys(sources):
            if source not in self._where.sidecars:
                raise Conflict(
                    f"The bundle has content from {source[:200]}, and no repository here has that upstream: add it to"
                    " the settings (a mirror that is offline never asks it)."
                )

    def _check_upload(self, row: UploadRow, *, force: bool) -> None:
        theirs = row.upload
        self._records.check(theirs)
        if not theirs.deleted:
            check_facts(row)
        known = self._held.uploads.get((theirs.repository, theirs.filename))
        if known is None:
            self._uploads.append(("delete" if theirs.deleted else "upload", row))
            return
        mine = known.upload
        if upload_mark(known) == upload_mark(row):
            return
        if mine.digest != theirs.digest:
            raise Conflict(
                f"{theirs.filename} was uploaded on both sides with different content. Files are never overwritten:"
                " publish another version on one side, and delete the file on the other."
            )
        if (mine.deleted and not theirs.deleted) or (mine.changed > theirs.changed and not force):
            return  # changed here later
        kind = "delete" if theirs.deleted else "unyank" if theirs.yanked is None else "yank"
        self._uploads.append((kind, row))

    async def _check_blobs(self) -> None:
        """Whether all that is needed is here or comes, and there is room for it."""
        manifest = self._manifest
        needed = {one.digest: one.filename for one in self._files}
        for _, row in self._uploads:
            if not row.upload.deleted:
                needed |= {row.upload.digest: row.upload.filename, row.sidecar: row.upload.filename}
        for digest, filename in needed.items():
            if digest not in manifest.blobs and digest not in self._held.blobs:
                raise Conflict(
                    f"The bundle builds on {filename}, which is not held here any more: make a new inventory, and"
                    " export for that."
                )
        lengths = [page.length for page in self._pages.values()] + [log.length for log in manifest.logs]
        coming = [size for digest, size in manifest.blobs.items() if not await self._is_here(digest, size)]
        wanted = sum(coming) + sum(lengths)
        free = shutil.disk_usage(self._data_dir).free
        if wanted + ROOM > free:
            raise StorageFull(
                f"The bundle needs {wanted >> 20} MiB and the disk of the mirror has {max(0, free - ROOM) >> 20} MiB"
                " for it: free some space, or move data_dir."
            )

    # Reading the rest

    async def read(self, reader: Reader, progress: Callable[[int, int], None]) -> None:
        """Read, compare and put aside everything else. Raises Damaged."""
        manifest, bundle = self._manifest, self._head.id
        await self._catalog.bundles.clear(bundle)
        done = await self._catalog.bundles.staged(bundle)
        if not done <= self._pages.keys():  # something here has changed since the last try
            await self._catalog.bundles.clear()
            done = set()
        for place, page in self._pages.items():
            if not page.found and place not in done:
                await self._catalog.bundles.stage_page(bundle, place, _row(page), b"")
            elif page.found:
                self._bodies.setdefault(page.body, []).append(place)
        logs = {entry.body: entry.length for entry in manifest.logs}
        lengths = {page.body: page.length for page in manifest.pages if page.found} | logs
        total, at = sum(manifest.blobs.values()), 0
        for path in format.members(manifest):
            member = reader.header()
            digest = format.digest_of(path)
            if member is None or member.name != path:
                raise DamagedBundle(f"The bundle is cut or altered: {path} is not where it should be.")
            if path.startswith("pages/"):
                body = self._unpacked(reader, member, digest, lengths[digest])
                if digest in logs:
                    self._log_bodies[digest] = body
                for place in self._bodies.get(digest, ()):
                    if place not in done:
                        await self._catalog.bundles.stage_page(bundle, place, _row(self._pages[place]), body)
            else:
                if member.size != manifest.blobs[digest]:
                    raise DamagedBundle(f"The bundle is altered: {path} has {member.size} bytes.")
                await self._blob(reader, member, digest)
                at += member.size
                progress(at, total)
        if reader.header() is not None:
            raise DamagedBundle("The bundle is altered: something stands behind what its manifest names.")
        await self._catalog.bundles.stage_files(bundle, self._files)

    def _unpacked(self, reader: Reader, member: BundleMember, digest: str, length: int) -> bytes:
        packed = b"".join(reader.content(member))
        if hashlib.sha256(packed).hexdigest() != digest:
            raise DamagedBundle(f"The bundle is altered: {member.name} is not what {format.SUMS} says.")
        try:
            body = unzipped(packed, length)
        except ValueError as error:
            raise DamagedBundle(f"The bundle is altered: {member.name}: {error}.") from None
        if len(body) != length:
            raise DamagedBundle(f"The bundle is altered: {member.name} has another length than {format.MANIFEST} says.")
        return body

    async def _blob(self, reader: Reader, member: BundleMember, digest: str) -> None:
        """Compare a blob with its digest, and adopt it unless it is here."""
        found = hashlib.sha256()
        if await self._is_here(digest, member.size):
            for chunk in reader.content(member):
                found.update(chunk)
            self._compare(found.hexdigest(), member)
            return
        fd, name = tempfile.mkstemp(dir=self._blobs.incoming)
        path = Path(name)
        try:
            with storage_errors(), os.fdopen(fd, "wb") as file:
                for chunk in reader.content(member):
                    found.update(chunk)
                    file.write(chunk)
            self._compare(found.hexdigest(), member)
            os.chmod(path, 0o644)
            os.utime(path, (member.modified, member.modified))  # its Last-Modified, on both sides
            await self._blobs.adopt(path, digest)
        finally:
            path.unlink(missing_ok=True)
        self._new_blobs += 1
        self._new_bytes += member.size

    async def _is_here(self, digest: str, size: int) -> bool:
        try:
            return (await self._blobs.open(digest)).size == size
        except MissingBlob:
            return False

    def _compare(self, digest: str, member: BundleMember) -> None:
        if digest != format.digest_of(member.name):
            raise DamagedBundle(f"The bundle is altered: {member.name} has the SHA-256 {digest}.")

    # The end

    async def show(self, now: float, notice: float) -> None:
        """Make all of it visible at once."""
        for entry in self._manifest.logs:
            if entry.role == "upstream":
                await self._grow(entry)
        for repository in self._where.repositories:
            await self._publish(repository)
        for one in self._files:
            if not await self._is_here(one.digest, one.size):  # swept, in an import that took days
                raise Conflict("Something that the bundle brought has been swept meanwhile: import it again.")
        if notice:
            await self._catalog.bundles.announce(self._manifest.node, now)
            await asyncio.sleep(notice)
        pages = list(self._pages.values())
        await self._catalog.bundles.take(
            Taken(
                bundle=self._head.id, origin=self._manifest.node, seen=self._seen, at=now, pages=len(pages),
                files=len(self._files), uploads=self._uploads, logs=self._logs,
                removed=[
                    (page.source, page.name, row) for page in pages if page.kind == "project" for row in page.removed
                ],
            )
        )  # fmt: skip

    async def _grow(self, entry: LogEntry) -> None:
        """Take over what an upstream lists."""
        name = self._where.logs["upstream", entry.name]
        mine, body = await self._catalog.logs.read(name), self._log_bodies[entry.body]
        if not _fits(entry, mine):
            raise Conflict(
                f"The list of gems of {entry.name} is another one here: make a new inventory, and export for that."
            )
        self._change(name, mine, entry, body)

    async def _publish(self, repository: str) -> None:
        """Take over what a repository publishes, unless it has begun to say something else here."""
        entries = {entry.role: entry for entry in self._manifest.logs if entry.name == repository}
        entries.pop("upstream", None)
        if "published" not in entries or ("published", repository) not in self._where.logs:
            return
        changes = []
        for role, entry in entries.items():
            name = self._where.logs[role, repository]
            mine, body = await self._catalog.logs.read(name), self._log_bodies[entry.body]
            fits = _fits(entry, mine) and (entry.start or role == "own" or body.startswith(mine))
            if not fits:
                self._diverged.add(repository)
                return
            changes.append((name, mine, entry, body))
        for change in changes:
            self._change(*change)

    def _change(self, name: str, mine: bytes, entry: LogEntry, body: bytes) -> None:
        if body if entry.start else body != mine:
            self._logs.append(ImportedLog(name=name, content=body, replace=not entry.start))

    def imported(self) -> ImportResult:
        """What has changed."""
        pages = [page for page in self._pages.values() if page.found]
        known = {key for key, page in self._held.pages.items() if page.found}
        return ImportResult(
            manifest=self._manifest,
            signed_by=self._head.signed_by,
            new_pages=tuple(page for page in pages if (page.source, page.kind, page.name) not in known),
            changed_pages=tuple(page for page in pages if (page.source, page.kind, page.name) in known),
            gone_pages=tuple(page for page in self._pages.values() if not page.found),
            new_files=tuple(file.filename for file in self._files if file.event == "file"),
            uploads=tuple((kind, row.upload.filename) for kind, row in self._uploads),
            blobs=self._new_blobs,
            size=self._new_bytes,
            own_index=tuple(sorted(self._diverged)),
        )


def _differs(mine: PageEntry | None, theirs: PageEntry) -> bool:
    if mine is None or not mine.found:
        return theirs.found
    return not theirs.found or page_mark(mine) != page_mark(theirs)


def _fits(entry: LogEntry, mine: bytes) -> bool:
    """Whether what a bundle has of a log goes on where ours ends; the whole of one always does."""
    if not entry.start:
        return True
    return len(mine) == entry.start and hashlib.sha256(mine).hexdigest() == entry.before


def _row(page: PageEntry) -> StoredPage:
    return StoredPage(**{name: getattr(page, name) for name in StoredPage.__struct_fields__})


@contextmanager
def _alone(data_dir: Path) -> Iterator[None]:
    """One import at a time. Raises Conflict."""
    data_dir.mkdir(parents=True, exist_ok=True)
    fd = os.open(data_dir / "import.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict("Another import is going on: wait for its end.") from None
    finally:
        os.close(fd)
