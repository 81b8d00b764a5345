"""PostgreSQL as the catalog's engine, which all nodes of a mirror share.

connecting (connections, and what errors mean), schema (tables and migrations), commits (the writer of this process),
outage (whether the server answers).

The surprise: nothing here relies on a session, and no lock outlives its transaction. So PgBouncer in transaction mode
may stand in between, and a node that is stopped holds up no one for long.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from mirror.catalog.database import Row, Statement, Value
from mirror.catalog.postgres.commits import CommitWriter
from mirror.catalog.postgres.connecting import (
    DatabaseConnection,
    DatabaseFault,
    DatabaseServer,
    ReaderPool,
    check_fit,
    fault_of,
    rows_of,
    typed,
)
from mirror.catalog.postgres.outage import Outage
from mirror.catalog.postgres.schema import prepare, refusal

READERS = 8
"""The most connections of one process that read; one more writes."""
READ_ATTEMPTS = 3
"""How often a query is tried whose connection is lost: one that lay idle may have been closed."""
CLOSE_SECONDS = 3.0


class PostgreSQL:
    """A catalog in a PostgreSQL database, which other nodes use at the same time."""

    shared = True
    """Other nodes use it as well."""
    renewed = 0
    """A damaged database is not replaced by the mirror."""

    def __init__(self, url: str, password: Callable[[], str | None], repositories: Mapping[str, str]) -> None:
        """`password` reads it from where it is kept; `repositories` has the format of each repository by its name."""
        self._server = DatabaseServer(url, password)
        self._repositories = repositories
        self._scanning = asyncio.Lock()
        self._busy: set[DatabaseConnection] = set()
        self.outage = Outage(self._ask, self._break_off)
        self._pool: ReaderPool | None = None
        self._writer = CommitWriter(self._server, self.outage)

    @property
    def available(self) -> bool:
        """Whether the server answers, as far as is known."""
        return self.outage.since is None

    async def open(self) -> None:
        """Connect, and make the tables or bring them up to date. Raises ConfigError; then nothing has changed."""
        try:
            connection = await self._server.connect()
            try:
                await prepare(connection, self._repositories)
                await self._server.learn_sessions(connection)
            finally:
                connection.terminate()
            self._pool = await self._server.pool(READERS)
        except Exception as error:
            if (sentence := refusal(error)) is None:
                raise
            raise sentence from error
        self._writer.start()

    async def read(self, sql: str, *values: Value) -> list[Row]:
        check_fit(values)
        attempt = 0
        while True:
            self.outage.check()
            attempt += 1
            try:
                with self.outage.watching():
                    return await self._read(sql, values)
            except Exception as error:
                if fault_of(error) is DatabaseFault.UNREACHABLE:
                    if attempt < READ_ATTEMPTS:
                        await self._expire()
                        continue
                    self.outage.begin(error)
                raise typed(error) from error

    async def find(self, sql: str, *values: Value) -> list[Row]:
        return await self.read(sql, *values)

    async def scan(self, sql: str, *values: Value) -> list[Row]:
        async with self._scanning:  # at most one, so that all others remain for what must not wait
            return await self.read(sql, *values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        for _, values in statements:
            check_fit(values)
        self.outage.check()
        return await self._writer.write(statements)

    async def close(self) -> None:
        await self._writer.close()
        await self.outage.close()
        if self._pool is None:
            return
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._pool.close()
        except TimeoutError:
            self._pool.terminate()

    async def _read(self, sql: str, values: tuple[Value, ...]) -> list[Row]:
        if self._pool is None:
            raise RuntimeError("The catalog is not open: call `open` before it is used.")
        async with self._pool.acquire() as connection:
            self._busy.add(connection)
            try:
                return rows_of(await connection.fetch(sql, *values))
            finally:
                self._busy.discard(connection)

    async def _expire(self) -> None:
        """Have the other connections opened anew before they are used: they may be lost as well."""
        if self._pool is not None:
            await self._pool.expire_connections()

    async def _ask(self) -> None:
        """Let the server answer a question on a new connection."""
        connection = await self._server.connect()
        with suppress(Exception):
            connection.terminate()

    def _break_off(self) -> None:
        for connection in list(self._busy):
            connection.terminate()
        self._writer.break_off()
