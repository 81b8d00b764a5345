"""SQLite as the catalog's engine: one writer, a few readers, write-ahead log, group commit.

Each commit waits for the disk (`synchronous=FULL`), because answered means durable; transactions that wait at the same
time share one commit, so that many small ones cost little. A database file that turns out damaged, at the start or in
use, is set aside, never deleted, and a new one begun: what was cached comes again from upstream, and uploads are
rebuilt from their records.
"""

import asyncio
import logging
import os
import sqlite3
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

import aiosqlite

from mirror.catalog.database import Row, Statement, Value
from mirror.errors import StorageFull
from mirror.runtime import end_process

logger = logging.getLogger(__name__)

READERS = 2
TRANSACTIONS_PER_COMMIT = 256
"""The most transactions that share one commit."""
CHECKED_BYTES = 64 << 20
"""Bytes above which a file is not checked as a whole at the start; its damage shows in use."""

SPARE_BYTES = 256 << 10
"""Bytes that are reserved while the file is closed, so that it can be opened on a disk that has become full since."""

_UNFIT = (OverflowError, UnicodeEncodeError)
"""Raised for an integer of more than 64 bits, and for text with lone surrogates."""

_Job = tuple[Sequence[Statement], asyncio.Future[list[list[Row]]]]


class SQLite:
    """A catalog in one file, which other processes of this machine may use at the same time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(f"{path.name}.spare")
        self._writer: aiosqlite.Connection | None = None
        self._readers: asyncio.Queue[aiosqlite.Connection] = asyncio.Queue()
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._renewing = asyncio.Lock()
        self.renewed = 0
        """How often a damaged file was replaced."""

    async def open(self) -> None:
        """Open the file, made or brought up to date as needed; a damaged one is set aside with an error in the log."""
        try:
            await self._connect()
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            await self._renew(error)
        self._worker = asyncio.create_task(self._work(), name="the writer of the catalog")
        self._worker.add_done_callback(end_process)

    async def read(self, sql: str, *values: Value) -> list[Row]:
        try:
            return await self._read(sql, values)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            await self._renew(error)
            return await self._read(sql, values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        done: asyncio.Future[list[list[Row]]] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((statements, done))
        return await asyncio.shield(done)

    async def close(self) -> None:
        await self._jobs.join()
        if self._worker is not None:
            self._worker.remove_done_callback(end_process)
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
        await self._disconnect()

    async def _read(self, sql: str, values: Sequence[Value]) -> list[Row]:
        connection = await self._readers.get()
        try:
            return await _run(connection, sql, values)
        finally:
            self._readers.put_nowait(connection)

    async def _work(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            while len(batch) < TRANSACTIONS_PER_COMMIT and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            try:
                await self._commit_with_room(batch)
            except Exception as error:  # whatever it is: the writer goes on, and no caller waits for ever
                try:
                    if _is_damage(error):
                        await self._renew(error)
                except Exception:
                    logger.exception("a new catalog could not be begun")
                for _, done in batch:
                    _fail(done, error)
            finally:
                for _ in batch:
                    self._jobs.task_done()

    async def _commit_with_room(self, batch: list[_Job]) -> None:
        """Run a batch in one commit; once more where the disk is full but the log of changes can begin anew."""
        try:
            await self._commit(batch)
        except sqlite3.Error as error:
            if not _is_full(error):
                raise
            assert self._writer is not None
            with suppress(sqlite3.Error):
                # The log of changes takes more when it begins anew, which it otherwise does only behind a commit.
                await _run(self._writer, "PRAGMA wal_checkpoint(PASSIVE)")
            await self._commit(batch)

    async def _commit(self, batch: list[_Job]) -> None:
        """Run a batch in one commit; a transaction that breaks a constraint or has an unfit value fails alone."""
        assert self._writer is not None
        results: list[tuple[asyncio.Future[list[list[Row]]], list[list[Row]]]] = []
        broken: list[tuple[asyncio.Future[list[list[Row]]], Exception]] = []
        try:
            await _run(self._writer, "BEGIN IMMEDIATE")
            alone = len(batch) == 1
            for statements, done in batch:
                if not alone:
                    await _run(self._writer, "SAVEPOINT job")
                try:
                    results.append((done, [await _run(self._writer, sql, values) for sql, values in statements]))
                except (sqlite3.IntegrityError, *_UNFIT) as error:
                    if alone:
                        raise  # nothing else is to be saved
                    await _run(self._writer, "ROLLBACK TO job")
                    broken.append((done, error))
                if not alone:
                    await _run(self._writer, "RELEASE job")
            await _run(self._writer, "COMMIT")
        except Exception:
            if self._writer.in_transaction:
                await self._writer.rollback()
            raise
        for done, rows in results:
            if not done.done():
                done.set_result(rows)
        for done, violation in broken:
            _fail(done, violation)

    async def _connect(self) -> None:
        self._spare.unlink(missing_ok=True)
        with suppress(FileExistsError):  # the files beside it get its mode
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        connections: list[aiosqlite.Connection] = []
        try:
            for number in range(1 + READERS):
                connection = await aiosqlite.connect(self._path, isolation_level=None, timeout=30)
                connections.append(connection)
                await _run(connection, "PRAGMA journal_mode = WAL")
                await _run(connection, "PRAGMA synchronous = FULL")
                if number == 0:
                    await _migrate(connection, thorough=self._path.stat().st_size <= CHECKED_BYTES)
                else:
                    await _run(connection, "PRAGMA query_only = ON")
        except BaseException:
            for connection in connections:
                await connection.close()
            raise
        self._writer, readers = connections[0], connections[1:]
        for reader in readers:
            self._readers.put_nowait(reader)

    async def _disconnect(self) -> None:
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
            for _ in range(READERS):
                await (await self._readers.get()).close()
            with suppress(OSError):  # then there is no room, and opening it again has to do without
                self._spare.write_bytes(bytes(SPARE_BYTES))

    async def _renew(self, error: Exception) -> None:
        """Set the damaged file aside and begin a new one; once, however many readers saw the damage."""
        seen = self.renewed
        async with self._renewing:
            if self.renewed != seen:
                return
            await self._disconnect()
            aside = f"{self._path.name}.damaged-{int(time.time())}"
            logger.error("The catalog is damaged (%s): it is kept as %s, and a new one is begun.", error, aside)
            for suffix in ("", "-wal", "-shm"):
                part = self._path.with_name(self._path.name + suffix)
                if part.exists():
                    part.rename(part.with_name(aside + suffix))
            await self._connect()
            self.renewed += 1


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def _fail(done: asyncio.Future[list[list[Row]]], error: Exception) -> None:
    if done.done():
        return
    done.set_exception(StorageFull("The disk that holds the catalog is full.") if _is_full(error) else error)
    done.exception()  # retrieved here, since the writer may have gone: without it asyncio logs a warning


_NUMBERS = tuple(map(str, range(1, 1 << 15)))
"""The names of `$1` and so on; SQLite itself takes no more."""


async def _run(connection: aiosqlite.Connection, sql: str, values: Sequence[Value] = ()) -> list[Row]:
    return list(await connection.execute_fetchall(sql, dict(zip(_NUMBERS, values, strict=False))))  # type: ignore[arg-type]  # rows are tuples here


async def _migrate(connection: aiosqlite.Connection, thorough: bool) -> None:
    """Apply the numbered files that this database has not seen, each in a transaction of its own."""
    if thorough:
        (verdict, *_) = await _run(connection, "PRAGMA quick_check(1)")
        if verdict != ("ok",):
            damage = sqlite3.DatabaseError(str(verdict[0]))
            damage.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise damage
    scripts = [entry for entry in files("mirror.catalog").joinpath("migrations").iterdir() if entry.name[:4].isdigit()]
    for script in sorted(scripts, key=lambda entry: entry.name):
        number = int(script.name[:4])
        await _run(connection, "BEGIN IMMEDIATE")
        ((version,),) = await _run(connection, "PRAGMA user_version")
        if version < number:
            # executescript would commit first; one statement at a time stays inside the transaction.
            for statement in _statements(script.read_text()):
                await _run(connection, statement)
            await _run(connection, f"PRAGMA user_version = {number}")
        await _run(connection, "COMMIT")


def _statements(script: str) -> list[str]:
    lines = [line for line in script.splitlines() if not line.lstrip().startswith("--")]
    return [statement for statement in "\n".join(lines).split(";") if statement.strip()]
