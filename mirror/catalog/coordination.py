"""What processes and nodes share: running totals, positions in other journals, and leases."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import msgspec

from mirror.catalog.database import Database, Statement

KEPT_HOURS = 400 * 24
"""Hours for which the totals of single hours are kept."""

logger = logging.getLogger(__name__)


class Counters:
    """The tables of running totals, by name."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, amounts: Mapping[str, int], hour: int | None = None) -> None:
        """Add to totals, and to those of an hour since the epoch; a name that is new begins at zero."""
        statements: list[Statement] = [
            (
                "INSERT INTO counters (name, value) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET value = counters.value + excluded.value",
                (name, amount),
            )
            for name, amount in amounts.items()
        ]
        if hour is not None:
            statements += [
                (
                    "INSERT INTO hours (hour, name, value) VALUES ($1, $2, $3)"
                    " ON CONFLICT (hour, name) DO UPDATE SET value = hours.value + excluded.value",
                    (hour, name, amount),
                )
                for name, amount in amounts.items()
            ]
            statements.append(("DELETE FROM hours WHERE hour < $1", (hour - KEPT_HOURS,)))
        await self._database.write(*statements)

    async def spans(self, since: int, hours: int) -> list[tuple[int, str, int]]:
        """Return (number of the span, name, sum) from an hour on, in spans of so many hours, without empty ones."""
        rows = await self._database.read(
            "SELECT hour / $2, name, sum(value) FROM hours WHERE hour >= $1 GROUP BY hour / $2, name", since, hours
        )
        return [(int(span), name, int(value)) for span, name, value in rows]

    async def get(self, name: str) -> int | None:
        """Return one total; None when there is none of that name."""
        rows = await self._database.read("SELECT value FROM counters WHERE name = $1", name)
        return int(rows[0][0]) if rows else None

    async def settle(self, name: str, value: int) -> int:
        """Give a total its value unless it has one; return the value that it has, for every node the same."""
        insert = "INSERT INTO counters (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING"
        await self._database.write((insert, (name, value)))
        settled = await self.get(name)
        assert settled is not None, "it was just written"
        return settled

    async def all(self) -> dict[str, int]:
        """Return every total by its name."""
        return dict(await self._database.read("SELECT name, value FROM counters"))


class Cursor(msgspec.Struct, frozen=True):
    """A position in a journal: everything up to it has been applied here."""

    feed: str
    """The identity of the journal, which changes when the other mirror begins anew."""
    serial: int
    at: float
    """When it was applied, in seconds since the epoch."""


class Cursors:
    """The table of positions in the journals of other mirrors."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def get(self, name: str) -> Cursor | None:
        """Return the cursor of that name, or None."""
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


class Leases:
    """The table of leases."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._holder = f"{os.getpid()}-{secrets.token_hex(8)}"

    async def take(self, name: str, now: float, seconds: float) -> bool:
        """Take or renew a lease; return False while another process has it."""
        rows = await self._database.write(
            (
                "INSERT INTO leases (name, holder, until) VALUES ($1, $2, $4)"
                " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until"
                " WHERE leases.until <= $3 OR leases.holder = excluded.holder RETURNING holder",
                (name, self._holder, now, now + seconds),
            )
        )
        return bool(rows[0])

    async def give_back(self, name: str) -> None:
        """Release a lease that this process has."""
        await self._database.write(("DELETE FROM leases WHERE name = $1 AND holder = $2", (name, self._holder)))

    @asynccontextmanager
    async def held(self, name: str, clock: Callable[[], float], seconds: float) -> AsyncIterator[bool]:
        """Hold a lease for the length of the block, renewed in time; yield False while another process has it."""
        if not await self.take(name, clock(), seconds):
            yield False
            return
        renewing = asyncio.create_task(self._renew(name, clock, seconds))
        try:
            yield True
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.give_back(name)

    async def _renew(self, name: str, clock: Callable[[], float], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                await self.take(name, clock(), seconds)
            except Exception:
                logger.exception("could not renew the lease %s; it is tried again", name)
