"""A copy of the catalog as the file of SQLite, as it is at one moment, whatever the nodes write meanwhile."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from mirror.catalog.migration import migrations
from mirror.catalog.postgres.connecting import DatabaseServer
from mirror.catalog.postgres.schema import refusal

ROWS_AT_ONCE = 500
"""Rows that are in memory at a time."""


async def copy_database(url: str, password: Callable[[], str | None], target: Path) -> None:
    """Write a consistent copy of the catalog to a new file. Raises ConfigError where the database cannot be read."""
    with closing(sqlite3.connect(target, isolation_level=None)) as copy:
        copy.execute("BEGIN")
        for migration in migrations():
            for statement in migration.statements():
                copy.execute(statement)
        copy.execute(f"PRAGMA user_version = {migrations()[-1].number}")
        try:
            await _fill(copy, DatabaseServer(url, password))
        except Exception as error:
            if (sentence := refusal(error)) is None:
                raise
            raise sentence from error
        copy.execute("COMMIT")


async def _fill(copy: sqlite3.Connection, server: DatabaseServer) -> None:
    """Replace the rows of all tables by those of the database."""
    connection = await server.connect()
    try:
        await connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for (table,) in copy.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
            columns = [row[1] for row in copy.execute(f"PRAGMA table_info({table})")]
            names, places = ", ".join(columns), ", ".join("?" * len(columns))
            copy.execute(f"DELETE FROM {table}")
            async for record in connection.cursor(f"SELECT {names} FROM {table}", prefetch=ROWS_AT_ONCE):
                copy.execute(f"INSERT INTO {table} ({names}) VALUES ({places})", tuple(record))
    finally:
        connection.terminate()
