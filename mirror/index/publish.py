"""Changing our own files: add, yank, un-yank, delete.

The order is what makes an answered upload outlive a loss of power: the bytes are durable, then the record beside them,
then the catalog with the event; only then do pages show it and the client gets its answer. Files are never
overwritten, and the name of a deleted one is never used again.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, Upload, UploadRow
from mirror.errors import (
    Conflict,
    ConstraintViolation,
    Invalid,
    MirrorError,
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
    UploadBatch,
)
from mirror.index.inspection import ATTESTED, INSPECT, SLOWEST_BYTES_PER_SECOND
from mirror.index.journal import Journal
from mirror.index.records import UploadRecords
from mirror.index.upload_bytes import UploadBytes
from mirror.index.upload_writer import ATTEMPTS, UploadWriter, busy
from mirror.isolation.processes import IsolatedProcesses, IsolationError
from mirror.model import AcceptedUpload, File, Format


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
        records: UploadRecords,
        journal: Journal,
        isolated: IsolatedProcesses,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.repository = repository
        self.format = format
        self.published: Callable[[str], Awaitable[None]] = _do_nothing
        """Awaited with the project after each change, before the client is answered: makes the change visible."""
        self.writer = UploadWriter(repository, catalog, blobs, records, journal, clock)
        """Writes what has been decided."""
        self.incoming = blobs.incoming
        """The directory for files that `add` takes."""
        self._uploads = catalog.uploads
        self._journal = journal
        self._isolated = isolated

    async def inspect(
        self, filename: str, path: Path, attested: bool = False, size: int | None = None
    ) -> AcceptedUpload:
        """Inspect a file that is to be added, and is called `filename` so far, which may be empty.

        `size` is in bytes, where the caller knows it. Its name here is that in the result. Raises Invalid for anything
        that must not be published, and for what takes too much time or memory to read.
        """
        options = (self.format.package_reader, filename, str(path.absolute()), ATTESTED if attested else "")
        try:
            if size is None:
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
        async with self.writer.writing:
            added = await self._add_all(files)
        results = [added[number] for number in range(len(files))]
        projects = dict.fromkeys(one.change.upload.project for one in results if one.change is not None)
        for project in projects:
            await self.published(project)
        if projects and (others := self._journal.changes.others) is not None:
            await others.wait_until_noticed(self.repository)
        return results

    async def _add_all(self, files: Sequence[NewFile]) -> dict[int, AddedFile]:
        batch = UploadBatch(files=files)
        for _ in range(ATTEMPTS):
            added: dict[int, AddedFile] = {}
            try:
                added |= await self._check_all(batch)
                return added | await self.writer.store(batch)
            except ConstraintViolation:  # another process has changed one of the projects since: all is looked at again
                continue
            except (StorageError, Conflict) as error:
                return added | {one.number: AddedFile(error=error) for one in batch.pending}
        return added | {one.number: AddedFile(error=busy()) for one in batch.pending}

    async def _check_all(self, batch: UploadBatch) -> dict[int, AddedFile]:
        """Set what of a batch can be stored, and return what became of the others."""
        rows: dict[str, list[UploadRow]] = {}
        added: dict[int, AddedFile] = {}
        batch.pending, batch.newest = [], {}
        for number, file in enumerate(batch.files):
            try:
                project = file.kept.project
                if project not in rows:
                    rows[project] = await self._uploads.of_project(self.repository, project)
                    batch.newest[project] = max((row.upload.changed for row in rows[project]), default=0.0)
                beside = [one for one in batch.pending if one.upload.project == project]
                others = ProjectFiles(rows[project], beside)
                if (known := await self._known(file, others)) is not None:
                    added[number] = AddedFile(Change(known, None))
                else:
                    batch.pending.append(self._checked(batch, number, others))
            except MirrorError as error:
                added[number] = AddedFile(error=error)
                await self.writer.forget(batch, number)
        return added

    async def _known(self, new: NewFile, beside: ProjectFiles) -> Upload | None:
        """Return the upload that has these bytes under that name already. Raises AlreadyUploaded."""
        filename, digest = new.kept.file.filename, digest_of(new.kept)
        known = next((one.upload for one in beside.pending if one.upload.filename == filename), None)
        if known is None and (row := await self._uploads.get(self.repository, filename)) is not None:
            known = row.upload
        if known is not None and (known.digest != digest or known.deleted):
            raise AlreadyUploaded(filename, known.digest, known.deleted)
        return known

    def _checked(self, batch: UploadBatch, number: int, beside: ProjectFiles) -> PendingFile:
        """Return a file as it will be stored. Raises Conflict, Invalid."""
        new = batch.files[number]
        kept, digest = new.kept, digest_of(new.kept)
        size = batch.sizes[number] if number in batch.sizes else os.stat(new.path).st_size
        batch.sizes[number] = size
        newest = 0.0
        if beside.rows or beside.pending:
            beside.check(kept.file, self.format.exclude)
            newest = beside.newest
        moment = self.writer.moment_after(newest)
        uploaded = moment if new.uploaded is None else round(new.uploaded, 3)
        upload = Upload(
            repository=self.repository, project=kept.project, filename=kept.file.filename, digest=digest, size=size,
            uploaded=uploaded, changed=moment, uploader=new.by, origin=new.origin, attestations=new.attestations,
        )  # fmt: skip
        self.writer.records.check(upload)
        stored = UploadBytes(path=new.path, digest=digest, size=size, sidecar=kept.sidecar, stays=new.stays)
        return PendingFile(number, upload, kept.file, facts_text(kept), stored)

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
        rows = await self._uploads.of_project(self.repository, project)
        return [msgspec.json.decode(row.facts, type=File) for row in rows if not row.upload.deleted]

    async def _change(self, filename: str, kind: str, **changes: object) -> Change:
        async with self.writer.writing:
            change = await self._change_row(filename, kind, changes)
        await self.published(change.upload.project)
        if (others := self._journal.changes.others) is not None:
            await others.wait_until_noticed(self.repository)
        return change

    async def _change_row(self, filename: str, kind: str, changes: Mapping[str, object]) -> Change:
        recorded = False
        for _ in range(ATTEMPTS):
            # What changes after `newest` was read makes the transaction fail, so the row is read after it.
            known = await self._uploads.get(self.repository, filename)
            project = known.upload.project if known else ""
            newest = await self._uploads.newest(self.repository, project)
            row = known and await self._uploads.get(self.repository, filename)
            if row is None:
                raise UnknownFile(project, filename)
            upload = row.upload if row.upload.deleted else msgspec.structs.replace(row.upload, **changes)
            if upload == row.upload:
                if recorded:
                    await self.writer.record(upload)  # another process has decided, after ours was written
                if upload.deleted:
                    raise UnknownFile(project, filename)
                return Change(upload, None)
            upload = msgspec.structs.replace(upload, changed=self.writer.moment_after(newest))
            await self.writer.record(upload)
            recorded = True
            kept = UploadRow(upload=upload, sidecar="", facts="") if upload.deleted else row
            try:
                serial = await self.writer.put(msgspec.structs.replace(kept, upload=upload), kind, newest)
            except ConstraintViolation:  # another process has changed the project meanwhile
                continue
            if upload.deleted:
                await self.writer.drop((upload.digest, row.sidecar))
            return Change(upload, serial)
        raise busy()


def digest_of(kept: AcceptedUpload) -> str:
    """Return the SHA-256 of an inspected file."""
    digest = kept.file.digests.get("sha256")
    assert digest is not None, "looking into a file gives its SHA-256"
    return digest


def facts_text(kept: AcceptedUpload) -> str:
    """Return what pages show of an inspected file, for the catalog. Raises Invalid."""
    try:
        return msgspec.json.encode(kept.file).decode()
    except UnicodeEncodeError:
        raise Invalid("The metadata inside the file holds text that is not UTF-8.") from None
