"""Connections to a PostgreSQL server, and the meaning of its errors.

No connection relies on the state of a session: all settings are those of one transaction, and statements are prepared
under a name only where the first connection has shown that there is no pooler. So one in transaction mode, such as
PgBouncer, may stand in between.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from enum import Enum
from typing import Protocol

import asyncpg
import msgspec

from mirror.catalog.database import Row, Value
from mirror.errors import ConstraintViolation, StorageFull, StorageUnavailable

CONNECT_SECONDS = 3.0
"""How long a connection may take to open."""
PREPARED_STATEMENTS = 200
"""Statements that a connection keeps prepared, where it has a session of its own."""
RETRY_AFTER_SECONDS = 5.0
"""The time after which a client may try again."""

LARGEST, SMALLEST = (1 << 63) - 1, -(1 << 63)
"""The bounds of whole numbers that the database can keep."""


class DatabaseConnection(Protocol):
    """The part of `asyncpg.Connection` that is used here."""

    async def fetch(self, sql: str, *values: Value) -> Sequence[Sequence[object]]:
        """Return the rows of one statement."""

    async def execute(self, sql: str) -> str:
        """Run statements without values; return the tag of the last one."""

    def cursor(self, sql: str, *, prefetch: int) -> AsyncIterable[Sequence[Value]]:
        """Return the rows of one statement, so many at a time; within a transaction."""

    def get_server_pid(self) -> int:
        """Return the number of the server's process, as the client knows it."""

    def terminate(self) -> None:
        """Close the connection without a word to the server."""

    def is_closed(self) -> bool:
        """Return whether the connection is closed."""

    async def close(self) -> None:
        """Close the connection."""


class ReaderPool(Protocol):
    """The part of `asyncpg.Pool` that is used here."""

    def acquire(self) -> AbstractAsyncContextManager[DatabaseConnection]:
        """Lend a connection for the length of a block."""

    async def expire_connections(self) -> None:
        """Open each connection anew before it is used again."""

    async def close(self) -> None:
        """Close all connections, once they are not in use any more."""

    def terminate(self) -> None:
        """Close all connections without a word to the server."""


class DatabaseServer(msgspec.Struct):
    """The address of a database, with the way to its password."""

    url: str
    """What libpq calls a connection URI, without a password."""
    password: Callable[[], str | None]
    """Reads the password from where it is kept; None leaves it to PGPASSFILE, PGPASSWORD and the server's rules."""
    statements: int = 0
    """How many statements each connection keeps prepared; see `learn_sessions`."""

    async def connect(self) -> DatabaseConnection:
        """Open a connection. Raises what `asyncpg.connect` raises."""
        connection: DatabaseConnection = await asyncpg.connect(**self.arguments())
        await prepare_types(connection)
        return connection

    async def pool(self, size: int) -> "ReaderPool":
        """Return a pool of at most so many connections, which are opened when they are needed."""
        pool: ReaderPool = await asyncpg.create_pool(
            **self.arguments(), min_size=0, max_size=size, init=prepare_types, reset=_keep_as_it_is
        )
        return pool

    async def learn_sessions(self, connection: DatabaseConnection) -> None:
        """Have statements kept prepared from now on, if a connection leads to one session of the server.

        They belong to a session, and a pooler gives each transaction another one: it also gives the client another
        number of its process than the server has.
        """
        ((number,),) = await connection.fetch("SELECT pg_backend_pid()")
        self.statements = PREPARED_STATEMENTS if number == connection.get_server_pid() else 0

    def arguments(self) -> dict[str, object]:
        """Return the arguments of `asyncpg.connect`."""
        return {
            "dsn": self.url,
            "password": None if self.password() is None else self.password,  # called for each connection
            "timeout": CONNECT_SECONDS,
            "statement_cache_size": self.statements,
            "server_settings": {"application_name": "mirror"},
        }


async def prepare_types(connection: DatabaseConnection) -> None:
    """Let a connection return numbers as SQLite returns them."""
    set_codec: Callable[..., Awaitable[None]] = connection.set_type_codec  # type: ignore[attr-defined]
    await set_codec("numeric", schema="pg_catalog", encoder=str, decoder=_number, format="text")
    await set_codec("bool", schema="pg_catalog", encoder=_bool_text, decoder=_truth, format="text")


def _number(text: str) -> int | float:
    """Return a sum of whole numbers as one, and any other exact number as a float."""
    return int(text) if text.lstrip("-").isdecimal() else float(text)


def _bool_text(value: object) -> str:
    return "t" if value else "f"


def _truth(text: str) -> int:
    return int(text == "t")


async def _keep_as_it_is(connection: DatabaseConnection) -> None:
    """Do nothing before a connection is used again: it has no state that could be left over."""


def check_fit(values: Sequence[Value]) -> None:
    """Raise OverflowError for whole numbers of more than 64 bits, UnicodeEncodeError for what is no text for it.

    That is text with lone surrogates, as with SQLite, and with NUL, which PostgreSQL cannot keep.
    """
    for value in values:
        if isinstance(value, str):
            value.encode()
            if (at := value.find("\0")) >= 0:
                raise UnicodeEncodeError("utf-8", value, at, at + 1, "PostgreSQL keeps no NUL in text")
        elif isinstance(value, int) and not SMALLEST <= value <= LARGEST:
            raise OverflowError("the catalog keeps whole numbers of 64 bits")


def rows_of(records: Sequence[Sequence[object]]) -> list[Row]:
    """Return rows as plain tuples."""
    return [tuple(record) for record in records]


class DatabaseFault(Enum):
    """The reason for which a statement failed."""

    UNREACHABLE = "unreachable"
    """The connection is lost, or the server takes none or no changes at this moment."""
    INTERRUPTED = "interrupted"
    """Another transaction was in the way: the same one can succeed when it is tried again."""
    FULL = "full"
    """The server's disk is full."""
    OWN = "own"
    """The statement itself."""


_UNREACHABLE = (
    OSError,  # of the connection; TimeoutError is one
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.TooManyConnectionsError,
    asyncpg.ReadOnlySQLTransactionError,  # it has become a replica of another one
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,
    asyncpg.InvalidCatalogNameError,  # the database is being restored
    asyncpg.InvalidAuthorizationSpecificationError,  # the password has changed
)
_INTERRUPTED = (
    asyncpg.SerializationError,
    asyncpg.DeadlockDetectedError,
    asyncpg.LockNotAvailableError,
    asyncpg.InvalidCachedStatementError,  # a newer version has changed the table
)


def fault_of(error: BaseException) -> DatabaseFault:
    """Return the reason of an error that came from asyncpg."""
    match error:
        case _ if isinstance(error, _INTERRUPTED):
            return DatabaseFault.INTERRUPTED
        case asyncpg.DiskFullError():
            return DatabaseFault.FULL
        case _ if isinstance(error, _UNREACHABLE):
            return DatabaseFault.UNREACHABLE
        case asyncpg.InterfaceError() if not isinstance(error, ValueError):
            return DatabaseFault.UNREACHABLE  # the connection was closed under the statement
    return DatabaseFault.OWN


def typed(error: Exception) -> Exception:
    """Return the error that callers of the catalog expect; one that is a mistake of a statement stays as it is."""
    match fault_of(error):
        case DatabaseFault.UNREACHABLE | DatabaseFault.INTERRUPTED:
            return unavailable()
        case DatabaseFault.FULL:
            return StorageFull("The disk of the catalog's database is full.")
    if isinstance(error, asyncpg.IntegrityConstraintViolationError):
        return ConstraintViolation(f"The catalog refuses a row: {type(error).__name__}.")
    return error


def unavailable() -> StorageUnavailable:
    """Return the error for clients while the server does not answer."""
    return StorageUnavailable("The catalog's database does not answer at the moment.", RETRY_AFTER_SECONDS)
