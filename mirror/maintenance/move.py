"""Moving a mirror from one catalog and store of files to others: embedded to shared ones, and back.

Both are copied, compared with what they were copied from, and made usable in the end. A move that was broken off goes
on where it was; nothing changes in what is moved. The surprise: it does not rely on the source to stay as it is between
two such runs. Tables are compared row by row at the end, and copied anew where the mirror has served meanwhile.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import msgspec

from mirror.blobs import BlobStore, parts_of
from mirror.blobs.copying import BlobCopier
from mirror.catalog import Catalog, Upload
from mirror.catalog.database import Database
from mirror.catalog.tables import (
    MoveSteps,
    TableShape,
    batches,
    count_rows,
    holds_content,
    last_key,
    table_shapes,
)
from mirror.errors import ConfigError, Conflict, ConstraintViolation, Invalid

UPLOADS_AT_ONCE = 500
"""Uploads whose records are written together."""


class MoveProgress(Protocol):
    """Shows how a move goes on."""

    def on_table(self, name: str, rows: int) -> None:
        """Show that a table is being copied, or compared again, which has so many rows."""

    def on_rows(self, count: int) -> None:
        """Show that so many more rows of it are done."""

    def on_files(self, count: int, size: int) -> None:
        """Show that so many files and bytes are to be copied, as far as is known."""

    def on_copied(self, count: int, size: int) -> None:
        """Show that so many more files and bytes are in the other store."""


class CatalogCopy(msgspec.Struct, frozen=True):
    """The result of a copy of a catalog."""

    tables: int
    rows: int


class FilesCopy(msgspec.Struct, frozen=True):
    """The result of a copy of files."""

    files: int
    bytes: int
    damaged: tuple[str, ...]
    """Digests of blobs that were damaged, and stayed behind."""
    missing: tuple[str, ...]
    """Digests of blobs of uploads that are not in the other store, because they were damaged or missing."""


async def begun_before(target: Database, identity: str) -> bool:
    """Return whether the copy of a catalog has begun there. Raises ConfigError for one with content of its own."""
    begun = await MoveSteps(target).source()
    if begun is None and await holds_content(target):
        raise ConfigError("--to-catalog: it holds a mirror's data already: name an empty database or directory.")
    if begun not in (None, identity):
        raise ConfigError("--to-catalog: the move of another mirror has begun there: finish it, or empty it first.")
    return begun is not None


async def copy_catalog(source: Database, target: Database, progress: MoveProgress) -> CatalogCopy:
    """Copy all tables that are not copied yet, compare all of them, and return what was copied.

    Raises Conflict when something changes the source all the time, and Invalid for a row that the other engine cannot
    keep.
    """
    state = MoveSteps(target)
    copied, rows = await state.copied(), 0
    for table in table_shapes():
        if table.name not in copied:
            await _copy(source, target, table, progress)
            await state.record_copied(table)
    for table in table_shapes():
        found = await _compare(source, target, table, progress)
        if found is None:  # the mirror has served since an earlier run
            await state.empty(table)
            await _copy(source, target, table, progress)
            await state.record_copied(table)
            found = await _compare(source, target, table, progress)
        if found is None:
            raise Conflict(f"The catalog changes while it is moved (table {table.name}): stop everything that uses it.")
        rows += found
    return CatalogCopy(len(table_shapes()), rows)


async def _copy(source: Database, target: Database, table: TableShape, progress: MoveProgress) -> None:
    progress.on_table(table.name, await count_rows(source, table))
    progress.on_rows(await count_rows(target, table))
    async for rows in batches(source, table, await last_key(target, table)):
        try:
            await target.write(table.adding(rows))
        except (UnicodeEncodeError, OverflowError, ConstraintViolation) as error:
            raise Invalid(f"A row of the table {table.name} cannot be kept there: {error}.") from None
        progress.on_rows(len(rows))


async def _compare(source: Database, target: Database, table: TableShape, progress: MoveProgress) -> int | None:
    """Return the number of rows of a table that is the same in both; None when it is not."""
    progress.on_table(f"{table.name}, compared", await count_rows(source, table))
    copies, seen = batches(target, table), 0
    async for rows in batches(source, table):
        if await anext(copies, None) != rows:  # batches are cut in the same way
            return None
        seen += len(rows)
        progress.on_rows(len(rows))
    return seen if await anext(copies, None) is None else None


async def copy_files(catalog: Catalog, source: BlobStore, target: BlobStore, progress: MoveProgress) -> FilesCopy:
    """Copy all blobs that are not in the other store yet; read those of uploads again from there.

    `catalog` is that of the source. Raises StorageError and OSError.
    """
    files, size = await catalog.files.totals()
    ours, our_size = await catalog.uploads.totals()
    progress.on_files(files + ours, size + our_size)
    done = [0, 0]

    def on_blobs(count: int, size: int) -> None:
        done[0] += count
        done[1] += size
        progress.on_copied(count, size)

    copier = BlobCopier(source, target, catalog.files.labels, on_blobs)
    for part in await parts_of(source, files + ours):
        await copier.copy(part)
    missing = [digest for digest in sorted(await catalog.uploads.blobs()) if not await copier.is_whole(digest)]
    return FilesCopy(done[0], done[1], tuple(copier.faults), tuple(missing))


async def copy_records(catalog: Catalog, write: Callable[[Upload], object]) -> None:
    """Call a function, which may block, with each upload of a catalog, to have its record written beside the files."""
    place = ("", "")
    while some := await catalog.uploads.behind(*place, UPLOADS_AT_ONCE):
        await asyncio.gather(*(asyncio.to_thread(write, row.upload) for row in some))
        place = (some[-1].upload.repository, some[-1].upload.filename)
