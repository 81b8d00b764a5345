"""SQLite as the catalog's engine: one writer, a few readers, write-ahead log, group commit.

Each commit waits for the disk (`synchronous=FULL`), because answered means durable; transactions that wait at the same
time share one commit, so that many small ones cost little. A database file that turns out damaged, at the start or in
use, is set aside, never deleted, and a new one begun: what was cached comes again from upstream, and uploads are
rebuilt from their records.

The surprise: a whole commit is one call to the thread of its connection. To go there and back for each statement, as
aiosqlite's own methods do, takes as long as SQLite does for all of them. And a row that is named by its key is read on
the event loop: a thread and back takes twenty times as long as the row, while other requests wait for the interpreter.
"""

import asyncio
import fcntl
import logging
import os
import sqlite3
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Self, TypeVar

import aiosqlite

from mirror.catalog.database import Row, Statement, Value, for_sqlite
from mirror.catalog.migration import migrate_sqlite
from mirror.errors import ConstraintViolation, StorageFull
from mirror.runtime import end_process

logger = logging.getLogger(__name__)

READERS = 2
TRANSACTIONS_PER_COMMIT = 256
"""The most transactions that share one commit."""
CHECKED_BYTES = 64 << 20
"""Bytes above which a file is not checked as a whole at the start; its damage shows in use."""

ROWS_AT_ONCE = 64
"""Rows that aiosqlite's own cursors, which are not used here, would fetch at a time."""
SCANNERS = 2
"""Long reads at once; more wait."""
CACHED_STATEMENTS = 256
"""Statements that a connection keeps prepared: writing some pages has four for each number of them."""
SCAN_KIB = 4 << 10
"""KiB of memory for pages of the file that one connection for long reads has come across; more makes none faster."""
LOCKED_SECONDS = 45.0
"""Time that a transaction waits while another process writes: longer than a worker lives that stands still in one."""
SLOW_LOOKUP_SECONDS = 0.02
"""Time after which a row on the event loop has taken too long. When two do so in a row, for …"""
PAUSE_SECONDS = 2.0
"""… so many seconds threads read them, as when the disk is slow or busy."""
LOOK_SECONDS = 0.05
"""Between two looks, on the event loop, whether another process has begun a new file."""
SPARE_BYTES = 256 << 10
"""Bytes that are reserved while the file is closed, so that it can be opened on a disk that has become full since."""

_UNFIT = (OverflowError, UnicodeEncodeError)
"""Raised for an integer of more than 64 bits, and for text with lone surrogates."""

_Results = list[list[Row]]
_Job = tuple[Sequence[Statement], asyncio.Future[_Results]]
T = TypeVar("T")


class _Connection(aiosqlite.Connection):
    """A connection of aiosqlite, in whose thread a whole commit is one call."""

    @classmethod
    async def open(cls, path: Path, prepare: Callable[[sqlite3.Connection], None]) -> Self:
        """Return an open connection, for which `prepare` was called in its thread."""

        def connect() -> sqlite3.Connection:
            connection = sqlite3.connect(
                path, isolation_level=None, timeout=LOCKED_SECONDS, cached_statements=CACHED_STATEMENTS
            )
            try:
                connection.create_function("current_seconds", 1, lambda given: given)  # see migration 0015
                prepare(connection)
            except BaseException:
                connection.close()
                raise
            return connection

        connection = cls(connect, iter_chunk_size=ROWS_AT_ONCE)
        opening = asyncio.ensure_future(connection)
        try:
            await asyncio.shield(opening)
        except asyncio.CancelledError:  # its thread opens it all the same
            await asyncio.gather(opening, return_exceptions=True)
            await connection.close()
            raise
        return connection

    async def call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Return what `work` returns for the connection in its thread, once earlier calls have ended."""
        result: T = await self._execute(work, self._conn)  # type: ignore[no-untyped-call]  # aiosqlite has no types there
        return result


class SQLite:
    """A catalog in one file, which other processes of this machine may use at the same time."""

    shared = False
    """A file belongs to its machine."""
    available = True
    """A file answers, or the process that needs it ends."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._spare = path.with_name(f"{path.name}.spare")
        self._writer: _Connection | None = None
        self._readers: asyncio.Queue[_Connection] = asyncio.Queue()
        self._finder: sqlite3.Connection | None = None
        """Used on the event loop, for single rows."""
        self._find_from = 0.0
        """When it may be used again, on a monotonic clock in seconds."""
        self._look_at = 0.0
        self._was_slow = False
        self._scanners: list[_Connection] = []
        """Those that are idle: `scan` opens them."""
        self._scanning = asyncio.Semaphore(SCANNERS)
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None
        self._inode = 0
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
        return await self._twice(self._read, sql, values)

    async def find(self, sql: str, *values: Value) -> list[Row]:
        began = time.monotonic()
        if began > self._look_at and self._finder is not None:
            self._look_at = began + LOOK_SECONDS
            if self._is_replaced():
                self._find_from = began + LOOK_SECONDS  # who reads in a thread opens the new one
        if self._finder is not None and began >= self._find_from:
            with suppress(sqlite3.Error):  # locked, or damaged: who reads in a thread waits, or begins a new file
                rows = _run(self._finder, sql, values)
                slow = time.monotonic() > began + SLOW_LOOKUP_SECONDS
                if slow and self._was_slow:  # once, it may have been the scheduler
                    self._find_from = began + PAUSE_SECONDS
                self._was_slow = slow
                return rows
        return await self.read(sql, *values)

    async def scan(self, sql: str, *values: Value) -> list[Row]:
        return await self._twice(self._scan, sql, values)

    async def write(self, *statements: Statement) -> _Results:
        self._check_open()
        done: asyncio.Future[_Results] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((statements, done))
        return await asyncio.shield(done)

    async def close(self) -> None:
        await self._jobs.join()
        if self._worker is not None:
            self._worker.remove_done_callback(end_process)
            self._worker.cancel()
            await asyncio.gather(self._worker, return_exceptions=True)
            self._worker = None
        await self._disconnect()

    def _check_open(self) -> None:
        if self._worker is None:
            raise RuntimeError(f"The catalog {self._path} is not open: call `open` before it is used.")

    async def _twice(
        self, read: Callable[[str, Sequence[Value]], Awaitable[list[Row]]], sql: str, values: Sequence[Value]
    ) -> list[Row]:
        """Return the rows of a query, asked again of a new file where this one turns out damaged."""
        self._check_open()
        if self._is_replaced():
            await self._renew(None)
        try:
            return await read(sql, values)
        except sqlite3.DatabaseError as error:
            if not _is_damage(error):
                raise
            await self._renew(error)
            return await read(sql, values)

    async def _read(self, sql: str, values: Sequence[Value]) -> list[Row]:
        connection = await self._readers.get()
        try:
            return await connection.call(lambda opened: _run(opened, sql, values))
        finally:
            self._readers.put_nowait(connection)

    async def _scan(self, sql: str, values: Sequence[Value]) -> list[Row]:
        async with self._scanning:
            scanner = self._scanners.pop() if self._scanners else await _Connection.open(self._path, _prepare_scanner)
            try:
                return await scanner.call(lambda opened: _run(opened, sql, values))
            finally:
                self._scanners.append(scanner)

    async def _work(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            while len(batch) < TRANSACTIONS_PER_COMMIT and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            try:
                if self._is_replaced():
                    await self._renew(None)
                await self._commit(batch)
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

    async def _commit(self, batch: list[_Job]) -> None:
        """Run a batch in one commit, and give each transaction its result."""
        assert self._writer is not None
        transactions = [statements for statements, _ in batch]
        results = await self._writer.call(lambda writer: _commit_with_room(writer, transactions))
        for (_, done), result in zip(batch, results, strict=True):
            if isinstance(result, Exception):
                _fail(done, result)
            elif not done.done():
                done.set_result(result)

    async def _connect(self) -> None:
        self._spare.unlink(missing_ok=True)
        with suppress(FileExistsError):  # the files beside it get its mode
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        found = self._path.stat()
        self._inode, thorough = found.st_ino, found.st_size <= CHECKED_BYTES
        connections: list[_Connection] = []
        try:
            connections += [await _Connection.open(self._path, partial(_prepare_writer, thorough=thorough))]
            for _ in range(READERS):
                connections += [await _Connection.open(self._path, _prepare_reader)]
        except BaseException:
            for connection in connections:
                await connection.close()
            raise
        self._writer = connections[0]
        self._finder = sqlite3.connect(self._path, isolation_level=None, timeout=0)
        _prepare_reader(self._finder)
        for reader in connections[1:]:
            self._readers.put_nowait(reader)

    async def _disconnect(self) -> None:
        if self._finder is not None:
            self._finder.close()
            self._finder = None
        if self._writer is not None:
            await self._writer.close()
            self._writer = None
            for _ in range(READERS):
                await (await self._readers.get()).close()
            for _ in range(SCANNERS):
                await self._scanning.acquire()
            while self._scanners:
                await self._scanners.pop().close()
            for _ in range(SCANNERS):
                self._scanning.release()
            with suppress(OSError):  # then there is no room, and opening it again has to do without
                self._spare.write_bytes(bytes(SPARE_BYTES))

    def _is_replaced(self) -> bool:
        """Return whether another process has set our file aside as damaged: what we write would go there."""
        try:
            return os.stat(self._path).st_ino != self._inode
        except FileNotFoundError:
            return True

    async def _renew(self, error: Exception | None) -> None:
        """Begin a new file where this one is damaged, or use the one that another process has begun.

        Once, however many readers and processes saw the damage; a damaged file is set aside.
        """
        seen = self.renewed
        async with self._renewing:
            if self.renewed != seen:
                return
            await self._disconnect()
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_CLOEXEC)
            try:
                await asyncio.to_thread(fcntl.flock, directory, fcntl.LOCK_EX)
                if not self._is_replaced():
                    self._set_aside(error)
                await self._connect()
            finally:
                os.close(directory)
            self.renewed += 1

    def _set_aside(self, error: Exception | None) -> None:
        aside = f"{self._path.name}.damaged-{int(time.time())}"
        logger.error("The catalog is damaged (%s): it is kept as %s, and a new one is begun.", error, aside)
        for suffix in ("", "-wal", "-shm"):
            part = self._path.with_name(self._path.name + suffix)
            if part.exists():
                part.rename(part.with_name(aside + suffix))


# In the threads of the connections


def _commit_with_room(writer: sqlite3.Connection, batch: Sequence[Sequence[Statement]]) -> list[_Results | Exception]:
    """Run a batch in one commit; once more where the disk is full but the log of changes can begin anew."""
    try:
        return _commit(writer, batch)
    except sqlite3.Error as error:
        if not _is_full(error):
            raise
        with suppress(sqlite3.Error):
            # The log of changes takes more when it begins anew, which it otherwise does only behind a commit.
            _run(writer, "PRAGMA wal_checkpoint(PASSIVE)")
        return _commit(writer, batch)


def _commit(writer: sqlite3.Connection, batch: Sequence[Sequence[Statement]]) -> list[_Results | Exception]:
    """Run a batch in one commit; a transaction that breaks a constraint or has an unfit value fails alone."""
    results: list[_Results | Exception] = []
    alone = len(batch) == 1
    try:
        _run(writer, "BEGIN IMMEDIATE")
        for statements in batch:
            if not alone:
                _run(writer, "SAVEPOINT job")
            try:
                results.append([_run(writer, sql, values) for sql, values in statements])
            except (sqlite3.IntegrityError, *_UNFIT) as error:
                if alone:
                    raise  # nothing else is to be saved
                _run(writer, "ROLLBACK TO job")
                results.append(error)
            if not alone:
                _run(writer, "RELEASE job")
        _run(writer, "COMMIT")
    except BaseException:
        if writer.in_transaction:
            writer.rollback()
        raise
    return results


def _prepare_writer(connection: sqlite3.Connection, thorough: bool) -> None:
    _run(connection, "PRAGMA journal_mode = WAL")
    _run(connection, "PRAGMA synchronous = FULL")
    migrate_sqlite(partial(_run, connection), thorough)


def _prepare_reader(connection: sqlite3.Connection) -> None:
    _run(connection, "PRAGMA query_only = ON")


def _prepare_scanner(connection: sqlite3.Connection) -> None:
    _prepare_reader(connection)
    _run(connection, f"PRAGMA cache_size = -{SCAN_KIB}")


def _is_damage(error: Exception) -> bool:
    code = getattr(error, "sqlite_errorcode", None)
    return code is not None and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _is_full(error: Exception) -> bool:
    return getattr(error, "sqlite_errorcode", None) in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)


def _fail(done: asyncio.Future[_Results], error: Exception) -> None:
    if done.done():
        return
    if _is_full(error):
        error = StorageFull("The disk that holds the catalog is full.")
    elif isinstance(error, sqlite3.IntegrityError):
        error = ConstraintViolation(f"The catalog refuses a row: {error}.")
    done.set_exception(error)
    done.exception()  # retrieved here, since the writer may have gone: without it asyncio logs a warning


def _run(connection: sqlite3.Connection, sql: str, values: Sequence[Value] = ()) -> list[Row]:
    return connection.execute(for_sqlite(sql), values).fetchall()
