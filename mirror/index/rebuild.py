"""Making the catalog's table of uploads again from the records and the files, and renaming by newer rules."""

import asyncio
import logging

import msgspec

from mirror.catalog import Upload, UploadRow
from mirror.errors import Invalid, MissingBlob, StorageUnavailable
from mirror.index.publish import Publisher, digest_of, facts_text
from mirror.index.records import DamagedRecord
from mirror.index.upload_bytes import on_disk
from mirror.index.uploads import source_name
from mirror.model import File

logger = logging.getLogger(__name__)

NAMING = "naming"
"""The counter of the rules by which our own files are named …"""
NAMING_RULES = 1
"""… and its value when all are named by those of today."""


class RebuildResult(msgspec.Struct, frozen=True):
    """The result of a rebuild of the table."""

    uploads: int
    faults: tuple[str, ...] = ()
    """A sentence for each record or file that could not be used."""


class UploadRebuild:
    """Corrects what the catalog has of the uploads of one repository."""

    def __init__(self, publisher: Publisher) -> None:
        self.repository = publisher.repository
        self._publisher = publisher
        self._writer = publisher.writer
        self._records = publisher.writer.records
        self._uploads = publisher.writer.catalog.uploads
        self._blobs = publisher.writer.blobs

    async def lost(self) -> bool:
        """Return whether there are records, but nothing in the catalog."""
        if await self._uploads.count(self.repository):
            return False
        try:
            return await asyncio.to_thread(self._records.any, self.repository)
        except StorageUnavailable as error:
            logger.error("%s: whether uploads were lost is not known: %s", self.repository, error)
            return False

    async def rebuild(self) -> RebuildResult:
        """Rebuild the catalog's rows from the records and the files; those that are right stay as they are."""
        faults: list[str] = []
        count = 0
        async with self._writer.writing:
            for upload in await asyncio.to_thread(lambda: list(self._records.read(self.repository))):
                if isinstance(upload, DamagedRecord):
                    faults.append(str(upload))
                    continue
                known = await self._uploads.get(self.repository, upload.filename)
                if known is None or known.upload != upload:
                    try:
                        row = await self._row(upload)
                    except (Invalid, MissingBlob) as error:
                        faults.append(f"{upload.filename} is not shown: {error}")
                        continue
                    if row.upload.filename != upload.filename:
                        await self._rename(upload, row)
                    else:
                        await self._writer.put(row, "delete" if upload.deleted else "upload")
                    await self._publisher.published(upload.project)
                count += 1
        for fault in faults:
            logger.error("%s: %s", self.repository, fault)
        return RebuildResult(count, tuple(faults))

    async def _row(self, upload: Upload) -> UploadRow:
        if upload.deleted:
            return UploadRow(upload=upload, sidecar="", facts="")
        inspect = self._publisher.inspect
        body = await self._blobs.open(upload.digest)
        async with on_disk(body, self._blobs.incoming) as path:
            try:
                kept = await inspect(upload.filename, path, bool(upload.attestations))
            except Invalid:  # perhaps it was named by earlier rules
                kept = await inspect("", path, bool(upload.attestations))
        if digest_of(kept) != upload.digest or kept.project != upload.project:
            raise Invalid("its bytes are not those that were uploaded.")
        sidecar = await self._blobs.write(kept.sidecar)
        upload = msgspec.structs.replace(upload, filename=kept.file.filename)
        return UploadRow(upload=upload, sidecar=sidecar.digest, facts=facts_text(kept))

    async def rename_all(self) -> None:
        """Rename the files that earlier rules named otherwise than those of today would.

        A file whose name is taken stays as it is, with an error in the log. Interrupted, it is done again.
        """
        async with self._writer.writing:
            for row in await self._uploads.all(self.repository):
                if row.upload.deleted:
                    continue
                file = msgspec.json.decode(row.facts, type=File)
                named = self._publisher.format.renamed(file)
                if named == file:
                    continue
                newest = await self._uploads.newest(self.repository, row.upload.project)
                moment = self._writer.moment_after(newest)
                upload = msgspec.structs.replace(row.upload, filename=named.filename, changed=moment)
                facts = msgspec.json.encode(named).decode()
                await self._rename(row.upload, UploadRow(upload=upload, sidecar=row.sidecar, facts=facts))

    async def _rename(self, before: Upload, row: UploadRow) -> None:
        """Give an upload another name: its record first, so that a loss of power leaves one of both, or both."""
        upload = row.upload
        taken = await self._uploads.get(self.repository, upload.filename)
        if before.filename != upload.filename and taken is not None:
            if taken.upload.digest != upload.digest or taken.upload.deleted:
                logger.error(
                    "%s: %s should be named %s by its specification, which is taken: delete one of the two",
                    self.repository, before.filename, upload.filename,
                )  # fmt: skip
                return
            row = taken
        await self._writer.record(row.upload)
        await self._uploads.rename(before.filename, row, source_name(self.repository))
        if before.filename != upload.filename:
            await asyncio.to_thread(self._records.remove, before)
            logger.warning("%s: %s is named %s from now on", self.repository, before.filename, upload.filename)
