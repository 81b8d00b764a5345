"""Small files on their way into the store: those that arrive at the same time are made durable and recorded together.

The surprise: nothing is gained by waiting for more of them. Whatever arrives while some are written is written next.
"""

import asyncio
import logging
from collections.abc import Sequence

import msgspec

from mirror.blobs import BlobStore, SmallBlob
from mirror.catalog import Catalog, HeldFile
from mirror.errors import StorageError, StorageFull
from mirror.index.journal import Journal

logger = logging.getLogger(__name__)

MOST_AT_ONCE = 64
"""Files that are written and recorded together."""


class _Arrival(msgspec.Struct, frozen=True, eq=False):
    """A file that is to be stored."""

    blob: SmallBlob
    held: HeldFile
    kind: str
    page_written: "asyncio.Future[None] | None"
    """Done when the page that lists the file is stored, where that is on its way."""
    stored: "asyncio.Future[bool]"
    """Whether it is recorded now; else StorageError is raised."""


class SmallFileWriter:
    """Stores and records small files, many together when they arrive together."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, journal: Journal) -> None:
        self._catalog = catalog
        self._blobs = blobs
        self._journal = journal
        self._waiting: list[_Arrival] = []
        self._writing: asyncio.Task[None] | None = None

    async def store(
        self,
        blob: SmallBlob,
        held: HeldFile,
        kind: str = "file",
        page_written: "asyncio.Future[None] | None" = None,
    ) -> bool:
        """Make a file durable and record it, once `page_written` is done; return False where it was not recorded.

        Raises StorageError.
        """
        stored: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Arrival(blob, held, kind, page_written, stored))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_all(), name="the writer of small files")
        return await stored

    async def close(self) -> None:
        """Wait until everything is stored."""
        if self._writing is not None:
            await self._writing

    async def _write_all(self) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                await self._write(batch)
            except Exception as error:  # whatever it is: the writer goes on, and no caller waits for ever
                for one in batch:
                    if not one.stored.done():
                        one.stored.set_exception(error)
                        one.stored.exception()  # retrieved here, since the caller may have gone

    async def _write(self, batch: Sequence[_Arrival]) -> None:
        try:
            await self._blobs.store_all([one.blob for one in batch])
        except StorageFull:
            if len(batch) == 1:
                raise
            for one in batch:  # some of them may fit
                await self._write_alone(one)
            return
        if pages := [one.page_written for one in batch if one.page_written is not None]:
            await asyncio.wait(pages)
        try:
            newest = await self._catalog.files.add_all([(one.held, one.kind) for one in batch])
        except StorageError as error:
            for one in batch:
                logger.warning("%s is kept, but not entered in the catalog: %s", one.held.filename, error)
            recorded = False
        except Exception:  # the bytes are right: readers get them
            logger.exception("%d files are stored, but could not be recorded in the catalog", len(batch))
            recorded = False
        else:
            self._journal.own_serials.extend(range(newest - len(batch) + 1, newest + 1))
            self._journal.news.set()
            recorded = True
        for one in batch:
            if not one.stored.done():
                one.stored.set_result(recorded)

    async def _write_alone(self, one: _Arrival) -> None:
        try:
            await self._write([one])
        except StorageFull as error:
            one.stored.set_exception(error)
            one.stored.exception()
