"""The writer of one process: transactions that wait at the same time share one commit, and each is decided right.

All mirrors of a schema write one after the other, by an advisory lock that the transaction holds: that is what the
catalog's SQL was written for, and it makes the serials of the journal visible in order.

The surprise: a connection that is lost in the middle of COMMIT leaves open whether it was committed. So each
transaction writes its number into the writer's row of `commits`. Afterwards, once the lock shows that the old
transaction has ended, that row tells. A table and not `pg_xact_status`, because a replica that takes over may give the
number of a lost transaction to another one.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Sequence

from mirror.catalog.database import Row, Statement
from mirror.catalog.postgres.connecting import (
    DatabaseConnection,
    DatabaseFault,
    DatabaseServer,
    fault_of,
    rows_of,
    typed,
)
from mirror.catalog.postgres.outage import Outage
from mirror.catalog.postgres.schema import CLOCK, begin
from mirror.runtime import end_process

logger = logging.getLogger(__name__)

TRANSACTIONS_PER_COMMIT = 256
"""The most transactions that share one commit."""
ATTEMPTS = 5
"""How often a transaction is tried that another one interrupts, or whose connection is lost before its commit."""
DECIDE_SECONDS = 10.0
"""How long a writer waits for the server to learn whether a transaction was committed."""
PAUSE_SECONDS = 0.2
"""The pause between two attempts."""
KEPT_SECONDS = 30 * 86_400.0
"""How long the row of a writer that has ended is kept."""

Results = list[list[Row]]
_Job = tuple[Sequence[Statement], asyncio.Future[Results]]
_Outcome = Results | Exception


class _UndecidedError(Exception):
    """The connection was lost in the middle of a commit."""

    def __init__(self, outcomes: "list[_Outcome]", cause: Exception) -> None:
        super().__init__(str(cause))
        self.outcomes = outcomes
        self.cause = cause


class CommitWriter:
    """Writes the transactions of one process, many in a commit."""

    def __init__(self, server: DatabaseServer, outage: Outage) -> None:
        self._server = server
        self._outage = outage
        self._name = secrets.token_hex(12)
        self._number = 0
        self._connection: DatabaseConnection | None = None
        self._jobs: asyncio.Queue[_Job] = asyncio.Queue()
        self._worker: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write what is given to `write`."""
        self._worker = asyncio.create_task(self._work(), name="the writer of the catalog")
        self._worker.add_done_callback(end_process)

    async def write(self, statements: Sequence[Statement]) -> Results:
        """Run the statements as one transaction; return the rows of each."""
        if self._worker is None:
            raise RuntimeError("The catalog is not open: call `open` before it is used.")
        done: asyncio.Future[Results] = asyncio.get_running_loop().create_future()
        self._jobs.put_nowait((statements, done))
        return await asyncio.shield(done)

    def break_off(self) -> None:
        """Close the connection under what it is doing."""
        if self._connection is not None:
            self._connection.terminate()

    async def close(self) -> None:
        """Finish what is being written."""
        await self._jobs.join()
        worker, self._worker = self._worker, None  # a write from here on fails, and does not wait
        if worker is not None:
            worker.remove_done_callback(end_process)
            worker.cancel()
            await asyncio.gather(worker, return_exceptions=True)
        self.break_off()

    async def _work(self) -> None:
        while True:
            batch = [await self._jobs.get()]
            while len(batch) < TRANSACTIONS_PER_COMMIT and not self._jobs.empty():
                batch.append(self._jobs.get_nowait())
            outcomes: list[_Outcome]
            try:
                with self._outage.watching():
                    outcomes = await self._store([statements for statements, _ in batch])
            except Exception as error:  # whatever it is: the writer goes on, and no caller waits for ever
                outcomes = [error] * len(batch)
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                _settle(done, outcome)
                self._jobs.task_done()

    async def _store(self, batch: Sequence[Sequence[Statement]]) -> list[_Outcome]:
        """Commit a batch, trying again where that is safe. Raises what befalls all of it."""
        separately = False
        for attempt in range(1, ATTEMPTS + 1):
            self._outage.check()
            self._number += 1
            try:
                return await self._commit(batch, separately)
            except _UndecidedError as undecided:
                self.break_off()
                if await self._was_committed(undecided.cause):
                    return undecided.outcomes
                error: Exception = undecided.cause
            except Exception as failure:
                error = failure
                await self._roll_back()
            match fault_of(error):
                case DatabaseFault.OWN if not separately and len(batch) > 1:
                    separately = True  # one of them breaks a constraint: that one is to fail alone
                case DatabaseFault.UNREACHABLE | DatabaseFault.INTERRUPTED if attempt < ATTEMPTS:
                    await asyncio.sleep(PAUSE_SECONDS * (attempt - 1))
                case _:
                    break
        if fault_of(error) is DatabaseFault.UNREACHABLE:
            self._outage.begin(error)
        raise typed(error) from error

    async def _commit(self, batch: Sequence[Sequence[Statement]], separately: bool) -> list[_Outcome]:
        """Run a batch in one transaction; `separately`, those that fail by themselves are left out."""
        connection = await self._connected()
        await begin(connection)
        await connection.fetch(
            f"INSERT INTO commits (writer, number, at) VALUES ($1, $2, {CLOCK})"
            " ON CONFLICT (writer) DO UPDATE SET number = excluded.number, at = excluded.at",
            self._name, self._number,
        )  # fmt: skip
        if self._number == 1:
            await connection.fetch(f"DELETE FROM commits WHERE at < {CLOCK} - $1", KEPT_SECONDS)
        outcomes: list[_Outcome] = []
        for statements in batch:
            if separately:
                outcomes.append(await _run_separately(connection, statements))
            else:
                outcomes.append(await _run(connection, statements))
        try:
            ended = await connection.execute("COMMIT")
        except Exception as error:
            raise _UndecidedError(outcomes, error) from error
        if ended != "COMMIT":
            raise ConnectionError(f"the server answered a commit with {ended}")
        return outcomes

    async def _was_committed(self, cause: Exception) -> bool:
        """Return whether the last transaction was committed. Raises StorageUnavailable when that cannot be learnt."""
        logger.warning("The connection was lost during a commit (%s): its outcome is looked up.", cause)
        deadline = time.monotonic() + DECIDE_SECONDS
        while True:
            try:
                connection = await self._connected()
                await begin(connection)  # waits until the transaction in question has ended
                rows = await connection.fetch("SELECT number FROM commits WHERE writer = $1", self._name)
                await connection.execute("COMMIT")
            except Exception as error:
                self.break_off()
                if time.monotonic() > deadline:
                    self._outage.begin(error)
                    raise typed(error) from error
                await asyncio.sleep(PAUSE_SECONDS)
            else:
                return bool(rows) and rows[0][0] == self._number

    async def _roll_back(self) -> None:
        """Leave a transaction that failed; a connection that cannot is given up."""
        if self._connection is None or self._connection.is_closed():
            return
        try:
            await self._connection.execute("ROLLBACK")
        except Exception:
            self.break_off()

    async def _connected(self) -> DatabaseConnection:
        if self._connection is None or self._connection.is_closed():
            self._connection = await self._server.connect()
        return self._connection


async def _run(connection: DatabaseConnection, statements: Sequence[Statement]) -> Results:
    return [rows_of(await connection.fetch(sql, *values)) for sql, values in statements]


async def _run_separately(connection: DatabaseConnection, statements: Sequence[Statement]) -> _Outcome:
    """Return the rows of a transaction within another one, or its own error, which leaves the others as they are."""
    await connection.execute("SAVEPOINT job")
    try:
        rows = await _run(connection, statements)
    except Exception as error:
        if fault_of(error) is not DatabaseFault.OWN:
            raise
        await connection.execute("ROLLBACK TO job; RELEASE job")
        return typed(error)
    await connection.execute("RELEASE job")
    return rows


def _settle(done: asyncio.Future[Results], outcome: _Outcome) -> None:
    if done.done():
        return
    if isinstance(outcome, Exception):
        done.set_exception(outcome)
        done.exception()  # retrieved here, since the writer may have gone: without it asyncio logs a warning
    else:
        done.set_result(outcome)
