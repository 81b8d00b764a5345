"""The seam between the catalog's SQL and an engine: read one query, write one transaction.

A transaction is a sequence of statements that is known beforehand. That is what lets an engine put the transactions
of many callers into one commit, and what makes the same SQL run on SQLite and on PostgreSQL. Placeholders are
`$1`, `$2`, …
"""

from collections.abc import Collection, Sequence
from typing import Any, Protocol

Value = str | int | float | bytes | None
Row = tuple[Any, ...]
Statement = tuple[str, Sequence[Value]]

AT_ONCE = 100
"""Values that one query is asked about."""


class Database(Protocol):
    """One engine."""

    async def read(self, sql: str, *values: Value) -> list[Row]:
        """The rows of one query, as last committed."""

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run the statements as one transaction; durable when it returns. The rows of each, in order."""

    async def close(self) -> None:
        """Finish what is running and let go of the files or connections."""


async def among(database: Database, sql: str, digests: Collection[str]) -> set[str]:
    """The digests that a query finds among these, some of them at a time; their places in it are `{}`."""
    asked, found = list(digests), set[str]()
    for start in range(0, len(asked), AT_ONCE):
        some = asked[start : start + AT_ONCE]
        places = ", ".join(f"${at}" for at in range(1, len(some) + 1))
        found.update(digest for (digest,) in await database.read(sql.format(places), *some))
    return found
