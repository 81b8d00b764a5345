"""Writing what has been decided about our own files: the bytes, then their records, then the rows with their events.

Several processes may do so for one project at the same time. So each transaction fails where the project has changed
since the writer looked; then nothing is written, and the caller decides anew.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, Upload, UploadRow
from mirror.errors import StorageError, Unavailable
from mirror.index.additions import AddedFile, AlreadyUploaded, Change, PendingFile, UploadBatch
from mirror.index.journal import Journal
from mirror.index.records import UploadRecords
from mirror.index.upload_bytes import store_bytes
from mirror.index.uploads import source_name

ATTEMPTS = 20
"""How often a change is decided anew, because other processes were faster."""


class UploadWriter:
    """Writes the uploads of one repository."""

    def __init__(
        self,
        repository: str,
        catalog: Catalog,
        blobs: BlobStore,
        records: UploadRecords,
        journal: Journal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.writing = asyncio.Lock()
        """Held from looking to writing, so that the tasks of one process need not decide anew."""
        self.records = records
        self._repository = repository
        self._source = source_name(repository)
        self.catalog = catalog
        self.blobs = blobs
        self._journal = journal
        self._clock = clock

    def moment_after(self, newest: float) -> float:
        """Return this moment, to the millisecond, but later than a project's newest change."""
        return max(round(self._clock(), 3), round(newest + 0.001, 3))

    async def record(self, upload: Upload) -> None:
        """Write the record of an upload, in place of the one that is there. Raises StorageError."""
        await asyncio.to_thread(self.records.replace, upload)

    async def store(self, batch: UploadBatch) -> dict[int, AddedFile]:
        """Store what is pending, and return what became of it.

        Raises ConstraintViolation where a project has changed meanwhile, StorageError, and Conflict.
        """
        if not batch.pending:
            return {}
        await self._store_bytes(batch)
        recorded = await asyncio.to_thread(self.records.add_all, [one.upload for one in batch.pending])
        added: dict[int, AddedFile] = {}
        rows: list[tuple[PendingFile, UploadRow]] = []
        for one, upload in zip(batch.pending, recorded, strict=True):
            if upload is one.upload:
                batch.recorded[one.number] = upload
            if upload.digest != one.upload.digest or upload.deleted:
                await self.drop((one.upload.digest, batch.sidecars[one.number]))
                added[one.number] = AddedFile(error=AlreadyUploaded(upload.filename, upload.digest, upload.deleted))
                continue
            # The record may be an older one, which the catalog had lost, or that of an earlier attempt.
            if upload.changed <= batch.newest.get(upload.project, 0.0):
                upload = msgspec.structs.replace(upload, changed=one.upload.changed)
                await self.record(upload)
            rows.append((one, UploadRow(upload=upload, sidecar=batch.sidecars[one.number], facts=one.facts)))
        newest = {row.upload.project: batch.newest[row.upload.project] for _, row in rows}
        try:
            serials = await self.put_all([row for _, row in rows], "upload", newest)
        except StorageError:
            for one, _ in rows:
                await self.forget(batch, one.number)
            raise
        for (one, row), serial in zip(rows, serials, strict=True):
            added[one.number] = AddedFile(Change(row.upload, serial))
        return added

    async def forget(self, batch: UploadBatch, number: int) -> None:
        """Remove what was stored of a file that is not added after all."""
        upload, sidecar = batch.recorded.pop(number, None), batch.sidecars.pop(number, None)
        if upload is not None and sidecar is not None:
            await asyncio.to_thread(self.records.remove, upload)
            await self.drop((upload.digest, sidecar))

    async def _store_bytes(self, batch: UploadBatch) -> None:
        files = [one for one in batch.pending if one.number not in batch.sidecars]
        if len(files) == 1 and not files[0].stored.stays:
            await self.blobs.adopt(files[0].stored.path, files[0].stored.digest)
            sidecars = [(await self.blobs.write(files[0].stored.sidecar)).digest]
        else:
            sidecars = await store_bytes(self.blobs, [one.stored for one in files]) if files else []
        batch.sidecars.update(zip((one.number for one in files), sidecars, strict=True))

    async def put(self, row: UploadRow, kind: str, newest: float | None = None) -> int:
        """Write a row with its event; return the serial. `newest` and errors are those of `put_all`."""
        (serial,) = await self.put_all([row], kind, {} if newest is None else {row.upload.project: newest})
        return serial

    async def put_all(self, rows: Sequence[UploadRow], kind: str, newest: Mapping[str, float]) -> list[int]:
        """Write rows with an event of that kind for each, in one transaction; return the serials.

        `newest` has when their projects changed last, as far as the caller knows. Raises ConstraintViolation where that
        is no longer so, and then nothing is written; StorageError.
        """
        changes = []
        for row in rows:
            detail = {"digest": row.upload.digest} | ({"reason": row.upload.yanked} if kind == "yank" else {})
            changes.append((row, msgspec.json.encode(detail).decode()))
        places = {(self._repository, project): changed for project, changed in newest.items()}
        serials = await self.catalog.uploads.put_all(changes, kind, self._source, places)
        for row, serial in zip(rows, serials, strict=True):
            for subscription in list(self._journal.subscriptions.get(self._source, ())):
                if self not in subscription.own:
                    subscription.listener(self._source, row.upload.project)
            self._journal.own_serials.append(serial)
        self._journal.news.set()
        self._journal.changes.advance()
        return serials

    async def drop(self, digests: tuple[str, ...]) -> None:
        """Delete those of these blobs that nothing needs any more."""
        needed = await self.catalog.uploads.uses(digests)
        for digest in set(digests) - needed:
            if not await self.catalog.files.named(digest):
                await self.blobs.delete(digest)


def busy() -> Unavailable:
    """Return the error for a change that others were always faster than."""
    return Unavailable("Others are changing the files of this project at the moment: try again.", 1.0)
