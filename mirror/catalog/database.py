"""The seam between the catalog's SQL and an engine: read one query, write one transaction.

A transaction is a sequence of statements that is known beforehand. That is what lets an engine put the transactions
of many callers into one commit, and what makes the same SQL run on SQLite and on PostgreSQL. Placeholders are
`$1`, `$2`, …
"""

import re
from collections.abc import Collection, Sequence
from functools import lru_cache
from typing import Any, Protocol

Value = str | int | float | bytes | None
Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Value]]

VALUES_PER_QUERY = 100
"""Values in one query."""


class Database(Protocol):
    """A database engine."""

    @property
    def shared(self) -> bool:
        """Whether nodes on other machines use it as well, so that it may be out of reach for a while."""

    @property
    def available(self) -> bool:
        """Whether the database answers, as far as is known."""

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of one query, as last committed."""

    async def find(self, sql: str, *values: Value) -> list[Row]:
        """Return the few rows of a query that names them by a key, with as little waiting as the engine allows."""

    async def scan(self, sql: str, *values: Value) -> list[Row]:
        """Return the rows of a query that may take long, on a connection that nothing else waits for."""

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run the statements as one transaction, durable when it returns; return the rows of each, in order."""

    async def close(self) -> None:
        """Finish what is running and close the files or connections."""


class Engine(Database, Protocol):
    """A database engine, with what only the process knows that opens it."""

    @property
    def renewed(self) -> int:
        """The number of times that a damaged catalog was replaced by an empty one."""

    async def open(self) -> None:
        """Open the database, made or brought up to date as needed. Raises ConfigError or OSError where it cannot be."""


async def among(database: Database, sql: str, digests: Collection[str]) -> set[str]:
    """Return the digests that a query finds among these; `{}` in the query stands for some of them at a time."""
    asked, found = list(digests), set[str]()
    for start in range(0, len(asked), VALUES_PER_QUERY):
        some = asked[start : start + VALUES_PER_QUERY]
        places = ", ".join(f"${at}" for at in range(1, len(some) + 1))
        found.update(digest for (digest,) in await database.read(sql.format(places), *some))
    return found


def placeholders(count: int, width: int, first: int, types: Sequence[str] = (), before: str = "") -> str:
    """Return so many rows of placeholders as VALUES takes them, from `$first` on; `before` begins each row.

    PostgreSQL needs the `types` of the first row where they follow from nothing else.
    """
    rows = []
    for row in range(count):
        places = [f"${first + row * width + at}" for at in range(width)]
        if row == 0 and types:
            places = [f"CAST({place} AS {kind})" for place, kind in zip(places, types, strict=True)]
        rows.append(f"({before}{', '.join(places)})")
    return ", ".join(rows)


@lru_cache(maxsize=512)
def for_sqlite(sql: str) -> str:
    """Return a statement as SQLite understands it: PostgreSQL's `string_agg` has another name before SQLite 3.44.

    A placeholder has its number only where that is not the next one. SQLite looks each numbered one up in the list of
    all, and takes the values of the others in their order.
    """
    highest = 0

    def place(found: re.Match[str]) -> str:
        nonlocal highest
        number = int(found[1])
        follows, highest = number == highest + 1, max(highest, number)
        return "?" if follows else f"?{number}"

    return _PLACEHOLDER.sub(place, sql).replace("string_agg(", "group_concat(")


_PLACEHOLDER = re.compile(r"\$(\d+)")
