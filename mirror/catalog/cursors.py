"""How far the journals of other mirrors have been followed."""

import msgspec

from mirror.catalog.database import Database


class Cursor(msgspec.Struct, frozen=True):
    """A place in a journal: everything up to it has been done here."""

    feed: str
    """The identity of the journal, which changes when the other mirror begins anew."""
    serial: int
    at: float
    """When that was, in seconds since the epoch."""


class Cursors:
    """The table of cursors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> Cursor | None:
        """The cursor of that name, or None."""
        rows = await self._database.read("SELECT feed, serial, at FROM cursors WHERE name = $1", name)
        return Cursor(*rows[0]) if rows else None

    async def put(self, name: str, cursor: Cursor) -> None:
        """Move a cursor; it is durable when this returns."""
        await self._database.write(
            (
                "INSERT INTO cursors (name, feed, serial, at) VALUES ($1, $2, $3, $4) ON CONFLICT (name)"
                " DO UPDATE SET feed = excluded.feed, serial = excluded.serial, at = excluded.at",
                (name, cursor.feed, cursor.serial, cursor.at),
            )
        )
