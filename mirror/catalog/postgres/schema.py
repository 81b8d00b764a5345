"""The tables in PostgreSQL: made and brought up to date in one transaction, or refused with nothing changed.

Three tables are this engine's own: `schema_version` has a row for each migration, `repositories` those that the
catalog has served, and `commits` the number of each writer's last transaction, by which it finds out after a lost
connection whether that was committed.
"""

import logging
import re
from collections.abc import Mapping

import asyncpg

from mirror.catalog.migration import POSTGRESQL_LINE, Migration, migrations
from mirror.catalog.postgres.connecting import DatabaseConnection
from mirror.errors import ConfigError

logger = logging.getLogger(__name__)

_WRITERS_KEY = "hashtextextended(CAST(current_schema() AS TEXT), 7815263)"
ONLY_WRITER = f"pg_advisory_xact_lock({_WRITERS_KEY})"
"""Waits until no other transaction of a mirror writes in this schema. It ends with the transaction."""
BEGIN = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE;"
    " SET LOCAL lock_timeout = '5s';"
    # A node that is stopped in the middle must not stop all others.
    " SET LOCAL idle_in_transaction_session_timeout = '5s';"
    f" SELECT {ONLY_WRITER}"
)
"""Begins a transaction that writes, as one message. `begin` waits twice as long."""
END_STANDING = f"""
    SELECT count(pg_terminate_backend(activity.pid)) FROM pg_locks JOIN pg_stat_activity AS activity USING (pid)
    WHERE locktype = 'advisory' AND granted AND objsubid = 1 AND database = activity.datid
    AND activity.datname = current_database()
    AND ((CAST(classid AS BIGINT) << 32) | CAST(objid AS BIGINT)) = {_WRITERS_KEY}
    AND activity.state = 'active' AND wait_event = 'ClientRead'
    AND state_change < clock_timestamp() - CAST('3s' AS INTERVAL)
"""
"""Ends the connection of a writer that has stood still for seconds in the middle of a statement."""

CLOCK = "CAST(extract(epoch FROM clock_timestamp()) AS DOUBLE PRECISION)"
"""The server's own time, in seconds since the epoch."""

OWN_TABLES = (
    "CREATE TABLE schema_version (number INTEGER PRIMARY KEY, name TEXT NOT NULL, at DOUBLE PRECISION NOT NULL)",
    'CREATE TABLE commits (writer TEXT COLLATE "C" PRIMARY KEY, number BIGINT NOT NULL, at DOUBLE PRECISION NOT NULL)',
    'CREATE TABLE repositories (name TEXT COLLATE "C" PRIMARY KEY, format TEXT NOT NULL)',
)
_TEXT = re.compile(r"\bTEXT\b")


def in_postgresql(migration: Migration) -> list[str]:
    """Return the statements of a migration as PostgreSQL runs them: text compares by its bytes, as in SQLite."""
    return [_TEXT.sub('TEXT COLLATE "C"', statement) for statement in migration.statements(POSTGRESQL_LINE)]


async def begin(connection: DatabaseConnection) -> None:
    """Begin a transaction that writes, once no other one does. Raises LockNotAvailableError after ten seconds.

    A writer that stands still between the parts of a statement is not idle for the server, which would let it hold up
    all others for as long as it does. So who has waited for five seconds ends its connection.
    """
    try:
        await connection.execute(BEGIN)
    except asyncpg.LockNotAvailableError:
        await connection.execute("ROLLBACK")
        try:
            ((ended,),) = await connection.fetch(END_STANDING)
        except asyncpg.InsufficientPrivilegeError:
            logger.warning("A node that uses another role of the database may be standing still while it writes.")
        else:
            if ended:
                logger.warning("A node stood still while it wrote to the database: its connection was ended.")
        await connection.execute(BEGIN)


async def prepare(connection: DatabaseConnection, repositories: Mapping[str, str]) -> None:
    """Make the tables or bring them up to date. Raises ConfigError where this mirror cannot use the database.

    `repositories` has the format of each repository by its name.
    """
    await _check_server(connection)
    if await _is_ready(connection, repositories):
        return  # without the lock, for which a command would have to wait behind a long import
    await begin(connection)
    try:
        await _prepare(connection, repositories)
        await connection.execute("COMMIT")
    except BaseException:
        if not connection.is_closed():
            await connection.execute("ROLLBACK")
        raise


async def schema_number(connection: DatabaseConnection) -> int:
    """Return the number of the newest migration that the database has seen; 0 without any."""
    ((present,),) = await connection.fetch("SELECT CAST(to_regclass('schema_version') AS TEXT)")
    if present is None:
        return 0
    ((number,),) = await connection.fetch("SELECT coalesce(max(number), 0) FROM schema_version")
    return int(str(number))


async def _check_server(connection: DatabaseConnection) -> None:
    ((version, encoding, replica, schema),) = await connection.fetch(
        "SELECT CAST(current_setting('server_version_num') AS INTEGER), current_setting('server_encoding'),"
        " pg_is_in_recovery(), CAST(current_schema() AS TEXT)"
    )
    if int(str(version)) < 130000:
        raise ConfigError("catalog.url: the server is older than PostgreSQL 13: upgrade it.")
    if encoding != "UTF8":
        raise ConfigError(f"catalog.url: the database has the encoding {encoding}: create one with UTF8.")
    if replica:
        raise ConfigError("catalog.url: the server is a replica, which takes no changes: name the primary.")
    if schema is None:
        raise ConfigError("catalog.url: the role has no schema to use there: create the one that search_path names.")


async def _is_ready(connection: DatabaseConnection, repositories: Mapping[str, str]) -> bool:
    """Return whether nothing has to be made or checked: the tables are those of this version and of this mirror."""
    ((present,),) = await connection.fetch("SELECT CAST(to_regclass('schema_version') AS TEXT)")
    if present is None:
        return False
    try:
        seen = {number for (number,) in await connection.fetch("SELECT number FROM schema_version")}
        rows = await connection.fetch("SELECT name, format FROM repositories")
        ((may_write,),) = await connection.fetch(
            "SELECT has_table_privilege('commits', 'INSERT') AND has_table_privilege('commits', 'UPDATE')"
            " AND has_table_privilege('feed', 'INSERT')"
        )
    except asyncpg.PostgresError:
        return False  # what is the matter is found out by what has to be done now
    recorded = {(str(name), str(form)) for name, form in rows}
    return bool(may_write) and seen == {one.number for one in migrations()} and recorded >= set(repositories.items())


async def _prepare(connection: DatabaseConnection, repositories: Mapping[str, str]) -> None:
    ((present,),) = await connection.fetch("SELECT CAST(to_regclass('schema_version') AS TEXT)")
    seen: set[object] = set()
    if present is not None:
        seen = {number for (number,) in await connection.fetch("SELECT number FROM schema_version")}
        await _check_owner(connection, seen, repositories)
    else:
        for statement in OWN_TABLES:
            await connection.execute(statement)
    for migration in migrations():
        if migration.number in seen:
            continue
        for statement in in_postgresql(migration):
            await connection.execute(statement)
        await connection.fetch(
            f"INSERT INTO schema_version (number, name, at) VALUES ($1, $2, {CLOCK})",
            migration.number, migration.name,
        )  # fmt: skip
    for name, form in repositories.items():
        await connection.fetch(
            "INSERT INTO repositories (name, format) VALUES ($1, $2) ON CONFLICT DO NOTHING", name, form
        )


async def _check_owner(connection: DatabaseConnection, seen: set[object], repositories: Mapping[str, str]) -> None:
    """Raise ConfigError where a newer version, or another mirror, has made the tables."""
    known = migrations()[-1].number
    newest = max((int(str(number)) for number in seen), default=0)
    if newest > known:
        raise ConfigError(
            f"catalog.url: a newer version of the mirror has made this catalog (schema {newest}, and this one knows"
            f" {known}): upgrade this node."
        )
    if strange := await strangers_catalog(connection, repositories):
        raise ConfigError(f"catalog.url: {strange}")


async def strangers_catalog(connection: DatabaseConnection, repositories: Mapping[str, str]) -> str:
    """Return why the tables are those of another mirror, in a sentence; empty when they are this one's."""
    recorded = {str(name): str(form) for name, form in await connection.fetch("SELECT name, format FROM repositories")}
    for name, form in repositories.items():
        if recorded.get(name, form) != form:
            return (
                f"this catalog belongs to another mirror, whose repository {name!r} is one of"
                f" {recorded[name]}: name a database or a schema of its own for this one."
            )
    if recorded and not recorded.keys() & repositories.keys():
        return (
            f"this catalog belongs to another mirror, with the repositories {', '.join(sorted(recorded))}:"
            " name a database or a schema of its own for this one."
        )
    return ""


def refusal(error: Exception) -> ConfigError | None:
    """Return what is wrong with the settings or the rights, in a sentence; None for an error that is a mistake here."""
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            sentence = "the server refuses the login: check the role and its password."
        case asyncpg.InvalidCatalogNameError():
            sentence = "there is no such database on the server: create it first."
        case asyncpg.InsufficientPrivilegeError():
            sentence = (
                f"the role has not enough rights ({_first_line(error)}): make it the owner of the database, or GRANT"
                " CREATE and USAGE on its schema."
            )
        case asyncpg.DuplicateTableError() | asyncpg.DuplicateObjectError() | asyncpg.UndefinedColumnError():
            sentence = (
                f"there are tables of something else in the database ({_first_line(error)}): name a database or a"
                " schema of its own."
            )
        case asyncpg.LockNotAvailableError():
            sentence = "the catalog is being changed by another node for too long: try again."
        case ValueError():  # asyncpg.ClientConfigurationError is one
            sentence = f"is not usable: {_first_line(error)}."
        case asyncpg.PostgresError():
            sentence = f"the server answers with an error: {_first_line(error)}."
        case TimeoutError():
            sentence = "the database server does not answer in time."
        case OSError() | asyncpg.InterfaceError() | asyncpg.InternalClientError():
            reason = error.strerror if isinstance(error, OSError) and error.strerror else _first_line(error)
            sentence = f"the database server cannot be reached: {reason}."
        case _:
            return None
    return ConfigError(f"catalog.url: {sentence}")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
