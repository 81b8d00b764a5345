"""Importing a bundle: verified as it is read, staged invisibly, and made visible in one transaction.

The order makes it safe: signature, manifest and whether it fits here are checked before the first byte is stored; blobs
are adopted one by one, which no client sees; pages are staged in tables of their own; then one transaction shows
everything. If the process is killed before, the old state stays and the next run continues; if it is killed after, only
the records beside uploads are missing, which the next run, or the start of a mirror, writes.
"""

import asyncio
import fcntl
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from mirror.airgap.bundle import format
from mirror.airgap.bundle.acceptance import check_expiry, check_repositories, check_sequence, differs, fits
from mirror.airgap.bundle.contents import BundleContents, StoreLayout, gather, upload_mark
from mirror.airgap.bundle.format import BundleMember, DamagedBundle, LogEntry, Manifest, PageEntry, check_facts
from mirror.airgap.bundle.reading import BundleHead, BundleReader, read_head
from mirror.airgap.bundle.signing import Keys, PublicKey
from mirror.blobs import BlobStore
from mirror.blobs.local import storage_errors
from mirror.catalog import Catalog, UploadRow
from mirror.catalog.bundles import BundleImport, ImportedLog, ImportedSerials, StagedFile, StoredPage
from mirror.errors import Conflict, StorageFull
from mirror.index.records import UploadRecords, record_uploads
from mirror.model import File

RESERVED_BYTES = 64 << 20
"""Bytes of the disk that stay free."""


class ImportResult(msgspec.Struct, frozen=True, kw_only=True):
    """The changes by an import."""

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
    """The number of blobs that were not held before this run."""
    size: int
    """Bytes of those blobs."""
    own_index: tuple[str, ...]
    """The repositories whose published log differs from the bundle's; the changes are appended to it."""


async def load(
    parts: Sequence[Path],
    catalog: Catalog,
    blobs: BlobStore,
    records: UploadRecords,
    layout: StoreLayout,
    data_dir: Path,
    *,
    keys: Keys,
    now: float,
    unsigned: bool = False,
    force: bool = False,
    notice: float = 0.0,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> ImportResult:
    """Import a bundle, or its parts in their order, beside a mirror that may be serving.

    `force` imports it whatever its place in the sequence or its age, and its pages even where newer ones are held.
    `notice`: the seconds between the announcement of the import to a serving mirror and the import itself. `progress`
    gets the bytes of blobs that are done and all of them. Raises DamagedBundle, Forbidden, Conflict, StorageFull; then
    nothing of the bundle is visible.
    """
    with _locked(data_dir):
        await record_uploads(catalog, records)
        reader = BundleReader(parts)
        try:
            head = read_head(reader, keys, unsigned=unsigned)
            seen = await check_sequence(head.manifest, catalog, force=force)
            check_expiry(head.manifest, now, force=force)
            check_repositories(head.manifest, layout)
            held = await gather(catalog, blobs, layout)
            running = _Import(head, seen, held, catalog, blobs, records, layout)
            running.compare(force=force)
            await running.check_blobs(data_dir)
            await running.read(reader, progress)
        finally:
            reader.close()
        await running.show(now, notice)
        await record_uploads(catalog, records)
    return running.result()


class _Import:
    """One import while it runs."""

    def __init__(
        self,
        head: BundleHead,
        seen: ImportedSerials,
        held: BundleContents,
        catalog: Catalog,
        blobs: BlobStore,
        records: UploadRecords,
        layout: StoreLayout,
    ) -> None:
        """`seen` is what is recorded of the bundle's mirror afterwards, `held` what the store has before."""
        self._head = head
        self._manifest = head.manifest
        self._seen = seen
        self._held = held
        self._catalog = catalog
        self._blobs = blobs
        self._records = records
        self._layout = layout
        self._pages: dict[int, PageEntry] = {}
        """Position in the manifest → pages that differ from the held ones."""
        self._files: list[StagedFile] = []
        self._uploads: list[tuple[str, UploadRow]] = []
        self._logs: list[ImportedLog] = []
        self._diverged: set[str] = set()
        self._bodies: dict[str, list[int]] = {}
        """Digest of a compressed page → the positions of the pages that have it."""
        self._log_bodies: dict[str, bytes] = {}
        self._new_blobs = self._new_bytes = 0

    # What would change

    def compare(self, *, force: bool) -> None:
        """Find out what is new. Raises Conflict, Invalid."""
        for place, page in enumerate(self._manifest.pages, 1):
            mine = self._held.pages.get((page.source, page.kind, page.name))
            if differs(mine, page) and (force or mine is None or mine.checked <= page.checked):
                self._pages[place] = page
        digests = {key: file.digest for key, file in self._held.files.items()}
        self._files = [
            StagedFile(
                event=file.kind, source=file.source, project=file.project, filename=file.filename, digest=file.digest,
                size=file.size,
            )
            for file in self._manifest.files
            if digests.get((file.source, file.project, file.filename)) != file.digest
        ]  # fmt: skip
        for row in self._manifest.uploads:
            self._compare_upload(row, force=force)

    def _compare_upload(self, row: UploadRow, *, force: bool) -> None:
        theirs = row.upload
        self._records.check(theirs)
        if not theirs.deleted:
            row = self._named(check_facts(row), row)
            theirs = row.upload
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
            return  # this mirror has the later change
        kind = "delete" if theirs.deleted else "unyank" if theirs.yanked is None else "yank"
        self._uploads.append((kind, row))

    def _named(self, facts: File, row: UploadRow) -> UploadRow:
        """Return an upload as it is named here: the bundle may be from a mirror with earlier rules."""
        renamed = self._layout.renamed.get(row.upload.repository)
        named = renamed(facts) if renamed else facts
        if named == facts:
            return row
        upload = msgspec.structs.replace(row.upload, filename=named.filename)
        return msgspec.structs.replace(row, upload=upload, facts=msgspec.json.encode(named).decode())

    async def check_blobs(self, data_dir: Path) -> None:
        """Check that needed blobs are held or in the bundle, and fit on the disk. Raises Conflict, StorageFull."""
        manifest = self._manifest
        needed = {one.digest: one.filename for one in self._files}
        for _, row in self._uploads:
            if not row.upload.deleted:
                needed |= {row.upload.digest: row.upload.filename, row.sidecar: row.upload.filename}
        for digest, filename in needed.items():
            if digest not in manifest.blobs and digest not in self._held.blobs:
                raise Conflict(
                    f"The bundle requires {filename}, which is no longer held here: make a new inventory, and"
                    " export for it."
                )
        lengths = [page.length for page in self._pages.values()] + [log.length for log in manifest.logs]
        new = [size for digest, size in manifest.blobs.items() if not await self._is_held(digest, size)]
        required = sum(new) + sum(lengths)
        free = shutil.disk_usage(data_dir).free
        if required + RESERVED_BYTES > free:
            raise StorageFull(
                f"The bundle needs {required >> 20} MiB, and {max(0, free - RESERVED_BYTES) >> 20} MiB of the"
                " mirror's disk are free for it: free some space, or move data_dir."
            )

    # Reading the members

    async def read(self, reader: BundleReader, progress: Callable[[int, int], None]) -> None:
        """Read, verify and stage everything after the manifest. Raises DamagedBundle."""
        manifest, bundle = self._manifest, self._head.id
        await self._catalog.bundles.clear(bundle)
        done = await self._catalog.bundles.staged(bundle)
        if not done <= self._pages.keys():  # the store has changed since the last run
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
                raise DamagedBundle(f"The bundle is truncated or altered: {path} is missing.")
            if path.startswith("pages/"):
                body = reader.page(member, lengths[digest])
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
            raise DamagedBundle("The bundle is altered: it has more members than its manifest names.")
        await self._catalog.bundles.stage_files(bundle, self._files)

    async def _blob(self, reader: BundleReader, member: BundleMember, digest: str) -> None:
        """Compare a blob with its digest, and adopt it unless it is held. Raises DamagedBundle, StorageFull."""
        if await self._is_held(digest, member.size):
            for _ in reader.verified(member):
                pass
            return
        fd, name = tempfile.mkstemp(dir=self._blobs.incoming)
        path = Path(name)
        try:
            with storage_errors(), os.fdopen(fd, "wb") as file:
                for chunk in reader.verified(member):
                    file.write(chunk)
            # So that both mirrors send the same Last-Modified; what the tar says of it is not signed.
            modified = self._manifest.modified.get(digest, int(self._manifest.made))
            os.utime(path, (modified, modified))
            await self._blobs.adopt(path, digest)
        finally:
            path.unlink(missing_ok=True)
        self._new_blobs += 1
        self._new_bytes += member.size

    async def _is_held(self, digest: str, size: int) -> bool:
        body = await self._blobs.find(digest)
        return body is not None and body.size == size

    # Making it visible

    async def show(self, now: float, notice: float) -> None:
        """Make everything visible in one transaction. Raises Conflict."""
        for entry in self._manifest.logs:
            if entry.role == "upstream":
                await self._import_upstream_log(entry)
        for repository in self._layout.repositories:
            await self._import_published_log(repository)
        for one in self._files:
            if not await self._is_held(one.digest, one.size):  # evicted, in an import that took days
                raise Conflict("A file of the bundle was evicted meanwhile: import it again.")
            await self._blobs.label(one.digest, one.source, one.filename)
        if notice:
            await self._catalog.bundles.announce(self._manifest.node, now)
            await asyncio.sleep(notice)
        pages = list(self._pages.values())
        await self._catalog.bundles.take(
            BundleImport(
                bundle=self._head.id, origin=self._manifest.node, seen=self._seen, at=now, pages=len(pages),
                files=len(self._files), uploads=self._uploads, logs=self._logs,
                removed=[
                    (page.source, page.name, row) for page in pages if page.kind == "project" for row in page.removed
                ],
            )
        )  # fmt: skip

    async def _import_upstream_log(self, entry: LogEntry) -> None:
        """Take over the log of an upstream. Raises Conflict."""
        name = self._layout.logs["upstream", entry.name]
        mine, body = await self._catalog.logs.read(name), self._log_bodies[entry.body]
        if not fits(entry, mine):
            raise Conflict(
                f"The held list of gems of {entry.name} does not match: make a new inventory, and export for it."
            )
        self._replace_log(name, mine, entry, body)

    async def _import_published_log(self, repository: str) -> None:
        """Take over the log that a repository publishes, unless the repository publishes a different one here."""
        entries = {entry.role: entry for entry in self._manifest.logs if entry.name == repository}
        entries.pop("upstream", None)
        if "published" not in entries or ("published", repository) not in self._layout.logs:
            return
        changes = []
        for role, entry in entries.items():
            name = self._layout.logs[role, repository]
            mine, body = await self._catalog.logs.read(name), self._log_bodies[entry.body]
            if not (fits(entry, mine) and (entry.start or role == "own" or body.startswith(mine))):
                self._diverged.add(repository)
                return
            changes.append((name, mine, entry, body))
        for change in changes:
            self._replace_log(*change)

    def _replace_log(self, name: str, mine: bytes, entry: LogEntry, body: bytes) -> None:
        if body if entry.start else body != mine:
            self._logs.append(ImportedLog(name=name, content=body, replace=not entry.start))

    def result(self) -> ImportResult:
        """Return what has changed."""
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


def _row(page: PageEntry) -> StoredPage:
    return StoredPage(**{name: getattr(page, name) for name in StoredPage.__struct_fields__})


@contextmanager
def _locked(data_dir: Path) -> Iterator[None]:
    """Hold the lock of imports for the length of the block. Raises Conflict."""
    data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    fd = os.open(data_dir / "import.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise Conflict("Another import is running: wait for its end.") from None
    finally:
        os.close(fd)
