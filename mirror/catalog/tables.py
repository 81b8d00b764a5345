"""The tables of a catalog as such: their rows in the order of their keys, for a copy into another engine.

The surprise: what has been copied is not recorded anywhere but by the rows themselves. They come in the order of their
keys, so that a copy that was broken off goes on behind the last one that is there.
"""

import sqlite3
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import closing
from functools import cache

import msgspec

from mirror.catalog.database import Database, Row, Statement, Value
from mirror.catalog.migration import migrations
from mirror.errors import Conflict

STATE = "move_steps"
"""The table that tells of the copy itself."""
LEFT_BEHIND = frozenset({STATE, "leases", "flights", "nodes", "follow_states"})
"""The tables that are not copied: what running processes hold and fetch is nothing to those of another catalog."""
BATCH_ROWS = 512
"""The most rows that are read and written together; a power of two, as the sizes of all batches."""
BATCH_BYTES = 4 << 20
"""Bytes of text and bodies in one batch, unless a single row has more."""


class TableShape(msgspec.Struct, frozen=True):
    """The columns of a table, which are the same in every engine."""

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    """The columns of its primary key, in order."""
    variable: tuple[str, ...]
    """The columns whose values may be large."""
    seeded: bool
    """Whether the table of a new catalog has rows already."""

    def key_of(self, row: Row) -> Row:
        """Return the key of a row."""
        return tuple(row[self.columns.index(name)] for name in self.key)

    # SQL, whose values are keys or rows

    def sizes(self, behind: bool) -> str:
        """Return the query of the keys and sizes of the first rows, or the first behind a key."""
        keys, sizes = ", ".join(self.key), [f"coalesce(length({column}), 0)" for column in self.variable]
        return (
            f"SELECT {keys}, {' + '.join(sizes) or '0'} FROM {self.name}{self._behind(behind)}"
            f" ORDER BY {keys} LIMIT {BATCH_ROWS}"
        )

    def rows(self, behind: bool) -> str:
        """Return the query of the rows up to a key, or of those behind one key and up to another."""
        keys, width = ", ".join(self.key), len(self.key)
        up_to = f"({keys}) <= ({_places(width, width + 1 if behind else 1)})"
        where = f"{self._behind(behind)} AND" if behind else " WHERE"
        return f"SELECT {', '.join(self.columns)} FROM {self.name}{where} {up_to} ORDER BY {keys}"

    def greatest_key(self) -> str:
        """Return the query of the greatest key."""
        descending = ", ".join(f"{column} DESC" for column in self.key)
        return f"SELECT {', '.join(self.key)} FROM {self.name} ORDER BY {descending} LIMIT 1"

    def count(self) -> str:
        """Return the query of the number of rows."""
        return f"SELECT count(*) FROM {self.name}"

    def any(self) -> str:
        """Return the query that has a row if the table has one."""
        return f"SELECT 1 FROM {self.name} LIMIT 1"

    def emptying(self) -> Statement:
        """Return the statement that removes all rows."""
        return f"DELETE FROM {self.name}", ()

    def adding(self, rows: Sequence[Row]) -> Statement:
        """Return the statement that adds rows."""
        width = len(self.columns)
        places = ", ".join(f"({_places(width, number * width + 1)})" for number in range(len(rows)))
        values: list[Value] = [value for row in rows for value in row]
        return f"INSERT INTO {self.name} ({', '.join(self.columns)}) VALUES {places}", values

    def _behind(self, behind: bool) -> str:
        return f" WHERE ({', '.join(self.key)}) > ({_places(len(self.key))})" if behind else ""


@cache
def table_shapes() -> tuple[TableShape, ...]:
    """Return the tables of a catalog of this version that belong to its content, by name."""
    with closing(sqlite3.connect(":memory:")) as made:
        for migration in migrations():
            for statement in migration.statements():
                made.execute(statement)
        names = [name for (name,) in made.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name")]
        return tuple(_shape(made, name) for name in names if name not in LEFT_BEHIND)


def _shape(made: sqlite3.Connection, name: str) -> TableShape:
    rows = made.execute(f"PRAGMA table_info({name})").fetchall()
    key = sorted((place, column) for _, column, _, _, _, place in rows if place)
    return TableShape(
        name=name,
        columns=tuple(row[1] for row in rows),
        key=tuple(column for _, column in key),
        variable=tuple(row[1] for row in rows if row[2] in ("TEXT", "BYTEA")),
        seeded=made.execute(f"SELECT 1 FROM {name} LIMIT 1").fetchone() is not None,
    )


async def batches(database: Database, table: TableShape, after: Row | None = None) -> AsyncIterator[list[Row]]:
    """Yield all rows of a table in the order of their keys, those behind a key if one is given, some at a time."""
    while rows := await next_rows(database, table, after):
        yield rows
        after = table.key_of(rows[-1])


async def next_rows(database: Database, table: TableShape, after: Row | None = None) -> list[Row]:
    """Return the first rows behind a key, as many as fit into one batch."""
    behind = after is not None
    ahead = await database.read(table.sizes(behind), *(after or ()))
    if not ahead:
        return []
    *last, _ = ahead[_fitting([int(row[-1]) for row in ahead]) - 1]
    return await database.read(table.rows(behind), *(after or ()), *last)


async def last_key(database: Database, table: TableShape) -> Row | None:
    """Return the greatest key of a table; None when it has no row."""
    rows = await database.read(table.greatest_key())
    return rows[0] if rows else None


async def count_rows(database: Database, table: TableShape) -> int:
    """Return the number of rows of a table."""
    ((count,),) = await database.scan(table.count())
    return int(count)


async def identity_of(database: Database, place: str) -> str:
    """Return the identity of the mirror whose catalog it is; its place, while it has given itself none."""
    rows = await database.read("SELECT id FROM node")
    return str(rows[0][0]) if rows else place


async def newest_serial(database: Database) -> int:
    """Return the serial of the newest event of a catalog."""
    ((serial,),) = await database.read("SELECT value FROM counters WHERE name = 'feed'")
    return int(serial)


async def holds_content(database: Database) -> bool:
    """Return whether a catalog has anything that a new one has not."""
    for table in table_shapes():
        if not table.seeded and await database.read(table.any()):
            return True
    return False


class MoveSteps:
    """The record of a move, in the catalog that is filled."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def source(self) -> str | None:
        """Return the identity of what is moved here; None when nothing is."""
        rows = await self._database.read(f"SELECT detail FROM {STATE} WHERE step = 'source'")
        return str(rows[0][0]) if rows else None

    async def ended(self) -> str | None:
        """Return what `finish` was given, in a catalog that was filled by a move."""
        rows = await self._database.read(f"SELECT detail FROM {STATE} WHERE step = 'ended'")
        return str(rows[0][0]) if rows else None

    async def begin(self, source: str) -> None:
        """Empty the catalog for the content of another one, whose identity is given.

        Raises Conflict where another move has begun at this moment, and then nothing has changed.
        """
        (rows,) = await self._database.write(
            (
                "INSERT INTO move_steps (step, detail) SELECT 'source', CAST($1 AS TEXT)"
                " WHERE NOT EXISTS (SELECT 1 FROM move_steps WHERE step = 'source') RETURNING step",
                (source,),
            )
        )
        if not rows:
            raise Conflict("Another move has begun to fill the same catalog at this moment.")
        await self._database.write(*(table.emptying() for table in table_shapes()))

    async def copied(self) -> set[str]:
        """Return the tables that are whole."""
        return {name for (name,) in await self._database.read(f"SELECT detail FROM {STATE} WHERE step = 'copied'")}

    async def record_copied(self, table: TableShape) -> None:
        """Record that a table is whole."""
        await self._database.write((f"INSERT INTO {STATE} (step, detail) VALUES ('copied', $1)", (table.name,)))

    async def empty(self, table: TableShape) -> None:
        """Have a table copied anew."""
        await self._database.write(
            (f"DELETE FROM {STATE} WHERE step = 'copied' AND detail = $1", (table.name,)),
            table.emptying(),
        )

    async def finish(self, ended: str, numbers: Mapping[str, int]) -> None:
        """Let mirrors be opened over the catalog from now on, in which these numbers are others than in the source.

        `ended` tells from what it was filled.
        """
        put = (
            "INSERT INTO counters (name, value) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET value = excluded.value"
        )
        await self._database.write(
            *((put, item) for item in numbers.items()),
            (f"DELETE FROM {STATE}", ()),
            (f"INSERT INTO {STATE} (step, detail) VALUES ('ended', $1)", (ended,)),
        )


def _places(count: int, first: int = 1) -> str:
    return ", ".join(f"${number}" for number in range(first, first + count))


def _fitting(sizes: Sequence[int]) -> int:
    """Return how many of the first rows make up one batch: a power of two, so that there are few statements."""
    count = total = 0
    for size in sizes:
        total += size
        if count and total > BATCH_BYTES:
            break
        count += 1
    return 1 << (count.bit_length() - 1)
