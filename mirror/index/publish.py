"""Changing our own files: add, yank, un-yank, delete; and rebuilding the catalog's table from the records.

The order is what makes an answered upload outlive a loss of power: the bytes are durable, then the record beside them,
then the catalog with the event; only then do pages show it and the client gets its answer. Files are never
overwritten, and the name of a deleted one is never used again.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, Upload, UploadRow
from mirror.errors import Conflict, Invalid, MissingBlob, NotFound, StorageFull, UnknownFile, UnknownProject
from mirror.index.inspection import ATTESTED, INSPECT, SLOWEST_BYTES_PER_SECOND
from mirror.index.journal import Journal
from mirror.index.records import DamagedRecord, Records
from mirror.index.uploads import source_name
from mirror.isolation import IsolatedProcesses, IsolationError
from mirror.model import AcceptedUpload, Body, File, Format

logger = logging.getLogger(__name__)

NAMING = "naming"
"""The counter of the rules by which our own files are named …"""
NAMING_RULES = 1
"""… and its value when all are named by those of today."""


class AlreadyUploaded(Conflict):
    """Another file of that name is here, or was and is `deleted`; with its digest."""

    def __init__(self, filename: str, digest: str, deleted: bool) -> None:
        super().__init__(
            f"The file name {filename} was deleted here, and is not used again: publish another version."
            if deleted
            else f"There is another file named {filename} here: files are never overwritten; publish another version."
        )
        self.filename = filename
        self.digest = digest
        self.deleted = deleted


class Change(msgspec.Struct, frozen=True):
    """The result of a change."""

    upload: Upload
    """The upload after the change."""
    serial: int | None
    """The serial of the event in the journal; None when nothing had to be changed."""


class RebuildResult(msgspec.Struct, frozen=True):
    """The result of a rebuild of the table."""

    uploads: int
    faults: tuple[str, ...] = ()
    """A sentence for each record or file that could not be used."""


async def _do_nothing(project: str) -> None:
    """Serve as `published` where nothing has to be made visible."""


class Publisher:
    """Writes the uploads of one repository."""

    def __init__(
        self,
        repository: str,
        format: Format,
        catalog: Catalog,
        blobs: BlobStore,
        records: Records,
        journal: Journal,
        isolated: IsolatedProcesses,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.repository = repository
        self.format = format
        self.published: Callable[[str], Awaitable[None]] = _do_nothing
        """Awaited with the project after each change, before the client is answered: makes the change visible."""
        self._source = source_name(repository)
        self._catalog = catalog
        self.incoming = blobs.incoming
        """The directory for files that `add` takes."""
        self._blobs = blobs
        self._records = records
        self._journal = journal
        self._isolated = isolated
        self._clock = clock
        self._writing = asyncio.Lock()

    async def inspect(self, filename: str, path: Path, attested: bool = False) -> AcceptedUpload:
        """Inspect a file that is to be added, and is called `filename` so far, which may be empty.

        Its name here is that in the result. Raises Invalid for anything that must not be published, and for what takes
        too much time or memory to read.
        """
        options = (self.format.package_reader, filename, str(path.absolute()), ATTESTED if attested else "")
        try:
            size = await asyncio.to_thread(lambda: path.stat().st_size)
            more_seconds = size / SLOWEST_BYTES_PER_SECOND
            content = await self._isolated.run(INSPECT, b"", *options, more_seconds=more_seconds)
        except IsolationError as error:
            raise Invalid(f"The file cannot be inspected: {error}.") from error
        return msgspec.msgpack.decode(content, type=AcceptedUpload)

    async def add(self, path: Path, kept: AcceptedUpload, *, by: str, origin: str, attestations: str = "") -> Change:
        """Add the inspected file at `path`, which is moved away from there. The same bytes again change nothing.

        Raises AlreadyUploaded, Conflict, Invalid, StorageFull; then nothing has changed.
        """
        file = kept.file
        digest, facts = _digest(kept), _facts(kept)
        async with self._writing:
            row = await self._catalog.uploads.get(self.repository, file.filename)
            if row is None:
                await self._check_spelling(kept)
                await self._check_exclusion(kept)
                now = await self._moment(kept.project)
                held = await self._blobs.adopt(path, digest)
                sidecar = await self._blobs.write(kept.sidecar)
                wanted = Upload(
                    repository=self.repository, project=kept.project, filename=file.filename, digest=digest,
                    size=held.size, uploaded=now, changed=now, uploader=by, origin=origin, attestations=attestations,
                )  # fmt: skip
                upload = await asyncio.to_thread(self._records.add, wanted)
                if upload.digest == digest and not upload.deleted:
                    # The record may be an older one, which the catalog had lost.
                    try:
                        row = UploadRow(upload=upload, sidecar=sidecar.digest, facts=facts)
                        serial = await self._put(row, "upload")
                    except StorageFull:
                        if upload is wanted:
                            await asyncio.to_thread(self._records.remove, wanted)
                            await self._drop((digest, sidecar.digest))
                        raise
                    change = Change(upload, serial)
                else:
                    await self._drop((digest, sidecar.digest))
                    raise AlreadyUploaded(file.filename, upload.digest, upload.deleted)
            elif row.upload.digest != digest or row.upload.deleted:
                raise AlreadyUploaded(file.filename, row.upload.digest, row.upload.deleted)
            else:
                change = Change(row.upload, None)
        await self.published(kept.project)
        return change

    async def _check_spelling(self, kept: AcceptedUpload) -> None:
        """Check that no file is here whose name is another spelling of this one's. Raises Conflict."""
        file = kept.file
        other = await self._catalog.uploads.other_spelling(self.repository, kept.project, file.filename, file.version)
        if other is not None:
            raise Conflict(
                f"There is, or was, a file named {other} here, and {file.filename} is only another spelling of that"
                " name: publish another version."
            )

    async def _check_exclusion(self, kept: AcceptedUpload) -> None:
        """Raise Conflict when the project has a file beside which this one cannot be published."""
        for other in await self._files(kept.project):
            if self.format.exclude(kept.file, other):
                raise Conflict(
                    f"{other.filename} is here for the same version and platform as {kept.file.filename}: files are"
                    " never replaced by others; publish another version."
                )

    async def yank(self, filename: str, reason: str = "") -> Change:
        """Mark a file as not to be used any more. Raises UnknownFile."""
        return await self._change(filename, "yank", yanked=reason)

    async def unyank(self, filename: str) -> Change:
        """Undo a yank. Raises UnknownFile."""
        return await self._change(filename, "unyank", yanked=None)

    async def delete(self, filename: str) -> Change:
        """Remove a file, for ever. Raises UnknownFile."""
        return await self._change(filename, "delete", deleted=True)

    async def files(self, project: str, version: str = "", platform: str | None = None) -> list[str]:
        """Return the names of a project's files, or of one version's. Raises NotFound when there are none.

        `platform` narrows it to the files of one.
        """
        names = [
            file.filename
            for file in await self.uploaded(project)
            # A gem may be named after its content where others are named after their platform.
            if version in ("", file.version) and platform in (None, file.platform, file.extra.get("address"))
        ]
        if not names:
            raise NotFound(f"{project} has no version {version[:80]!r} of that kind here.")
        return names

    async def uploaded(self, project: str) -> list[File]:
        """Return the files of a project that are here, yanked or not. Raises UnknownProject when there are none."""
        files = await self._files(project)
        if not files:
            raise UnknownProject(project)
        return files

    async def _files(self, project: str) -> list[File]:
        rows = await self._catalog.uploads.of_project(self.repository, project)
        return [msgspec.json.decode(row.facts, type=File) for row in rows if not row.upload.deleted]

    async def _change(self, filename: str, kind: str, **changes: object) -> Change:
        async with self._writing:
            row = await self._catalog.uploads.get(self.repository, filename)
            if row is None or row.upload.deleted:
                raise UnknownFile(row.upload.project if row else "", filename)
            project = row.upload.project
            upload = msgspec.structs.replace(row.upload, **changes)
            if upload == row.upload:
                change = Change(upload, None)
            else:
                upload = msgspec.structs.replace(upload, changed=await self._moment(project))
                await asyncio.to_thread(self._records.replace, upload)
                kept = UploadRow(upload=upload, sidecar="", facts="") if upload.deleted else row
                kept = msgspec.structs.replace(kept, upload=upload)
                change = Change(upload, await self._put(kept, kind))
                if upload.deleted:
                    await self._drop((upload.digest, row.sidecar))
        await self.published(project)
        return change

    async def _moment(self, project: str) -> float:
        """Return this moment, to the millisecond, but later than every change of the project so far."""
        newest = await self._catalog.uploads.newest(self.repository, project)
        return max(round(self._clock(), 3), round(newest + 0.001, 3))

    async def _put(self, row: UploadRow, kind: str) -> int:
        upload = row.upload
        detail = {"digest": upload.digest} | ({"reason": upload.yanked} if kind == "yank" else {})
        serial = await self._catalog.uploads.put(row, kind, self._source, msgspec.json.encode(detail).decode())
        for subscription in list(self._journal.subscriptions.get(self._source, ())):
            if self not in subscription.own:
                subscription.listener(self._source, upload.project)
        self._journal.own_serials.append(serial)
        self._journal.news.set()
        self._journal.changes.advance()
        return serial

    async def _drop(self, digests: tuple[str, ...]) -> None:
        """Delete those of these blobs that nothing needs any more."""
        needed = await self._catalog.uploads.uses(digests)
        for digest in set(digests) - needed:
            if not await self._catalog.files.named(digest):
                await self._blobs.delete(digest)

    # Rebuilding from the records

    async def lost(self) -> bool:
        """Return whether there are records, but nothing in the catalog."""
        empty = await self._catalog.uploads.count(self.repository) == 0
        return empty and await asyncio.to_thread(self._records.any, self.repository)

    async def rebuild(self) -> RebuildResult:
        """Rebuild the catalog's rows from the records and the files; those that are right stay as they are."""
        faults: list[str] = []
        count = 0
        async with self._writing:
            for upload in await asyncio.to_thread(lambda: list(self._records.read(self.repository))):
                if isinstance(upload, DamagedRecord):
                    faults.append(str(upload))
                    continue
                known = await self._catalog.uploads.get(self.repository, upload.filename)
                if known is None or known.upload != upload:
                    try:
                        row = await self._row(upload)
                    except (Invalid, MissingBlob) as error:
                        faults.append(f"{upload.filename} is not shown: {error}")
                        continue
                    if row.upload.filename != upload.filename:
                        await self._rename(upload, row)
                    else:
                        await self._put(row, "delete" if upload.deleted else "upload")
                    await self.published(upload.project)
                count += 1
        for fault in faults:
            logger.error("%s: %s", self.repository, fault)
        return RebuildResult(count, tuple(faults))

    async def _row(self, upload: Upload) -> UploadRow:
        if upload.deleted:
            return UploadRow(upload=upload, sidecar="", facts="")
        body = await self._blobs.open(upload.digest)
        async with _on_disk(body, self._blobs.incoming) as path:
            try:
                kept = await self.inspect(upload.filename, path, bool(upload.attestations))
            except Invalid:  # perhaps it was named by earlier rules
                kept = await self.inspect("", path, bool(upload.attestations))
        if _digest(kept) != upload.digest or kept.project != upload.project:
            raise Invalid("its bytes are not those that were uploaded.")
        sidecar = await self._blobs.write(kept.sidecar)
        upload = msgspec.structs.replace(upload, filename=kept.file.filename)
        return UploadRow(upload=upload, sidecar=sidecar.digest, facts=_facts(kept))

    # Renaming

    async def rename_all(self) -> None:
        """Rename the files that earlier rules named otherwise than those of today would.

        A file whose name is taken stays as it is, with an error in the log. Interrupted, it is done again.
        """
        async with self._writing:
            for row in await self._catalog.uploads.all(self.repository):
                if row.upload.deleted:
                    continue
                file = msgspec.json.decode(row.facts, type=File)
                named = self.format.renamed(file)
                if named == file:
                    continue
                moment = await self._moment(row.upload.project)
                upload = msgspec.structs.replace(row.upload, filename=named.filename, changed=moment)
                facts = msgspec.json.encode(named).decode()
                await self._rename(row.upload, UploadRow(upload=upload, sidecar=row.sidecar, facts=facts))

    async def _rename(self, before: Upload, row: UploadRow) -> None:
        """Give an upload another name: its record first, so that a loss of power leaves one of both, or both."""
        upload = row.upload
        taken = await self._catalog.uploads.get(self.repository, upload.filename)
        if before.filename != upload.filename and taken is not None:
            if taken.upload.digest != upload.digest or taken.upload.deleted:
                logger.error(
                    "%s: %s should be named %s by its specification, which is taken: delete one of the two",
                    self.repository, before.filename, upload.filename,
                )  # fmt: skip
                return
            row = taken
        await asyncio.to_thread(self._records.replace, row.upload)
        await self._catalog.uploads.rename(before.filename, row, self._source)
        if before.filename != upload.filename:
            await asyncio.to_thread(self._records.remove, before)
            logger.warning("%s: %s is named %s from now on", self.repository, before.filename, upload.filename)


def _digest(kept: AcceptedUpload) -> str:
    digest = kept.file.digests.get("sha256")
    assert digest is not None, "looking into a file gives its SHA-256"
    return digest


def _facts(kept: AcceptedUpload) -> str:
    try:
        return msgspec.json.encode(kept.file).decode()
    except UnicodeEncodeError:
        raise Invalid("The metadata inside the file holds text that is not UTF-8.") from None


@asynccontextmanager
async def _on_disk(body: Body, incoming: Path) -> AsyncIterator[Path]:
    """Provide a path with the bytes of a blob; a temporary copy where the store has no local files."""
    if body.path is not None:
        yield body.path
        return
    with tempfile.NamedTemporaryFile(dir=incoming) as copy:
        async for chunk in body.read():
            await asyncio.to_thread(copy.write, chunk)
        copy.flush()
        yield Path(copy.name)
