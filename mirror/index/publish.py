"""Changing our own files: add, yank, un-yank, delete; and rebuilding the catalog's table from the records.

The order is what makes an answered upload outlive a loss of power: the bytes are durable, then the record beside them,
then the catalog with the event; only then do pages show it and the client gets its answer. Files are never
overwritten, and the name of a deleted one is never used again.
"""

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, Upload, UploadRow
from mirror.errors import (
    Conflict,
    Invalid,
    MirrorError,
    MissingBlob,
    NotFound,
    StorageError,
    UnknownFile,
    UnknownProject,
)
from mirror.index.additions import (
    AddedFile,
    AlreadyUploaded,
    Change,
    NewFile,
    PendingFile,
    ProjectFiles,
    RebuildResult,
)
from mirror.index.inspection import ATTESTED, INSPECT, SLOWEST_BYTES_PER_SECOND
from mirror.index.journal import Journal
from mirror.index.records import DamagedRecord, Records
from mirror.index.upload_bytes import UploadBytes, on_disk, store_bytes
from mirror.index.uploads import source_name
from mirror.isolation import IsolatedProcesses, IsolationError
from mirror.model import AcceptedUpload, File, Format

logger = logging.getLogger(__name__)

NAMING = "naming"
"""The counter of the rules by which our own files are named …"""
NAMING_RULES = 1
"""… and its value when all are named by those of today."""


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

        Raises AlreadyUploaded, Conflict, Invalid, StorageError; then nothing has changed.
        """
        (added,) = await self.add_all([NewFile(path=path, kept=kept, by=by, origin=origin, attestations=attestations)])
        if added.error is not None:
            raise added.error
        assert added.change is not None
        return added.change

    async def add_all(self, files: Sequence[NewFile]) -> list[AddedFile]:
        """Add several files as `add` does, and return what became of each; all are durable together."""
        async with self._writing:
            pending: list[PendingFile] = []
            rows: dict[str, list[UploadRow]] = {}
            added: dict[int, AddedFile] = {}
            for number, file in enumerate(files):
                try:
                    project = file.kept.project
                    if project not in rows:
                        rows[project] = await self._catalog.uploads.of_project(self.repository, project)
                    beside = [one for one in pending if one.upload.project == project]
                    others = ProjectFiles(rows[project], beside)
                    if (known := await self._known(file, others)) is not None:
                        added[number] = AddedFile(Change(known, None))
                    else:
                        pending.append(self._checked(file, number, others))
                except MirrorError as error:
                    added[number] = AddedFile(error=error)
            try:
                added |= await self._store(pending)
            except (StorageError, Conflict) as error:
                added |= {one.number: AddedFile(error=error) for one in pending}
        results = [added[number] for number in range(len(files))]
        for project in dict.fromkeys(one.change.upload.project for one in results if one.change is not None):
            await self.published(project)
        return results

    async def _known(self, new: NewFile, beside: ProjectFiles) -> Upload | None:
        """Return the upload that has these bytes under that name already. Raises AlreadyUploaded."""
        filename, digest = new.kept.file.filename, _digest(new.kept)
        known = next((one.upload for one in beside.pending if one.upload.filename == filename), None)
        if known is None and (row := await self._catalog.uploads.get(self.repository, filename)) is not None:
            known = row.upload
        if known is not None and (known.digest != digest or known.deleted):
            raise AlreadyUploaded(filename, known.digest, known.deleted)
        return known

    def _checked(self, new: NewFile, number: int, beside: ProjectFiles) -> PendingFile:
        """Return a file as it will be stored. Raises Conflict, Invalid."""
        kept, digest = new.kept, _digest(new.kept)
        moment = round(self._clock(), 3)
        if beside.rows or beside.pending:
            beside.check(kept.file, self.format.exclude)
            moment = max(moment, round(beside.newest + 0.001, 3))
        size = os.stat(new.path).st_size
        upload = Upload(
            repository=self.repository, project=kept.project, filename=kept.file.filename, digest=digest, size=size,
            uploaded=moment, changed=moment, uploader=new.by, origin=new.origin, attestations=new.attestations,
        )  # fmt: skip
        self._records.check(upload)
        stored = UploadBytes(path=new.path, digest=digest, size=size, sidecar=kept.sidecar, stays=new.stays)
        return PendingFile(number, upload, kept.file, _facts(kept), stored)

    async def _store(self, pending: Sequence[PendingFile]) -> dict[int, AddedFile]:
        """Store what is pending: the bytes, then the records, then the rows with their events. Raises StorageError."""
        if not pending:
            return {}
        if len(pending) == 1 and not pending[0].stored.stays:
            await self._blobs.adopt(pending[0].stored.path, pending[0].stored.digest)
            sidecars = [(await self._blobs.write(pending[0].stored.sidecar)).digest]
        else:
            sidecars = await store_bytes(self._blobs, [one.stored for one in pending])
        recorded = await asyncio.to_thread(self._records.add_all, [one.upload for one in pending])
        added: dict[int, AddedFile] = {}
        rows: list[tuple[PendingFile, UploadRow]] = []
        for one, upload, sidecar in zip(pending, recorded, sidecars, strict=True):
            # The record may be an older one, which the catalog had lost.
            if upload.digest == one.upload.digest and not upload.deleted:
                rows.append((one, UploadRow(upload=upload, sidecar=sidecar, facts=one.facts)))
            else:
                await self._drop((one.upload.digest, sidecar))
                error = AlreadyUploaded(upload.filename, upload.digest, upload.deleted)
                added[one.number] = AddedFile(error=error)
        try:
            serials = await self._put_all([row for _, row in rows], "upload")
        except StorageError:
            for one, row in rows:
                if row.upload is one.upload:
                    await asyncio.to_thread(self._records.remove, one.upload)
                    await self._drop((one.upload.digest, row.sidecar))
            raise
        for (one, row), serial in zip(rows, serials, strict=True):
            added[one.number] = AddedFile(Change(row.upload, serial))
        return added

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
        (serial,) = await self._put_all([row], kind)
        return serial

    async def _put_all(self, rows: Sequence[UploadRow], kind: str) -> list[int]:
        """Write rows with an event of that kind for each, in one transaction; return the serials."""
        changes = []
        for row in rows:
            detail = {"digest": row.upload.digest} | ({"reason": row.upload.yanked} if kind == "yank" else {})
            changes.append((row, msgspec.json.encode(detail).decode()))
        serials = await self._catalog.uploads.put_all(changes, kind, self._source)
        for row, serial in zip(rows, serials, strict=True):
            for subscription in list(self._journal.subscriptions.get(self._source, ())):
                if self not in subscription.own:
                    subscription.listener(self._source, row.upload.project)
            self._journal.own_serials.append(serial)
        self._journal.news.set()
        self._journal.changes.advance()
        return serials

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
        async with on_disk(body, self._blobs.incoming) as path:
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
