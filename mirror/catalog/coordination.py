"""What processes and nodes share: running totals, positions in other journals, and leases."""

import asyncio
import logging
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import TypeVar

import msgspec

from mirror.catalog.database import Database, Row, Statement, Value
from mirror.errors import ConstraintViolation, LostLease, StorageError

SERVING = "serving "
"""How the names of the leases begin by which processes show that they serve from a shared catalog, each by its own."""
KEPT_HOURS = 400 * 24
"""Hours for which the totals of single hours are kept."""

logger = logging.getLogger(__name__)

T = TypeVar("T")


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

    async def report(self, name: str, state: str) -> None:
        """Store how far the process has come that moves a cursor, for others to show."""
        await self._database.write(
            (
                "INSERT INTO follow_states (name, state) VALUES ($1, $2)"
                " ON CONFLICT (name) DO UPDATE SET state = excluded.state",
                (name, state),
            )
        )

    async def reported(self, name: str) -> str | None:
        """Return what was last reported of a cursor; None where nothing was."""
        rows = await self._database.read("SELECT state FROM follow_states WHERE name = $1", name)
        return str(rows[0][0]) if rows else None


class Lease(msgspec.Struct, frozen=True):
    """The right of one process to do a thing, for as long as no other one has taken it since."""

    name: str
    holder: str
    epoch: int
    """Rises whenever the lease goes to another holder, and is never given out twice."""

    @property
    def guard(self) -> Statement:
        """The statement that makes its transaction fail when the lease has gone to another holder.

        It adds a row without a holder then, which the table does not allow.
        """
        return (
            "INSERT INTO leases (name, holder, until, epoch) SELECT $1, NULL, 0, 0"
            " WHERE NOT EXISTS (SELECT 1 FROM leases WHERE name = $1 AND epoch = $2)",
            (self.name, self.epoch),
        )


class FencedDatabase:
    """A database that takes changes only while a lease is held: each transaction checks its epoch.

    A process that was stopped for a while and goes on then changes nothing that another one has taken over.
    """

    def __init__(self, database: Database, lease: Lease) -> None:
        self._database = database
        self._lease = lease

    @property
    def shared(self) -> bool:
        """Whether other machines use the database as well."""
        return self._database.shared

    @property
    def available(self) -> bool:
        """Whether the database answers, as far as is known."""
        return self._database.available

    async def read(self, sql: str, *values: Value) -> list[Row]:
        return await self._database.read(sql, *values)

    async def find(self, sql: str, *values: Value) -> list[Row]:
        return await self._database.find(sql, *values)

    async def scan(self, sql: str, *values: Value) -> list[Row]:
        return await self._database.scan(sql, *values)

    async def write(self, *statements: Statement) -> list[list[Row]]:
        """Run the statements as one transaction. Raises LostLease, and then nothing is written."""
        try:
            results = await self._database.write(self._lease.guard, *statements)
        except ConstraintViolation:
            held = "SELECT 1 FROM leases WHERE name = $1 AND epoch = $2"
            if await self._database.read(held, self._lease.name, self._lease.epoch):
                raise  # a statement's own
            raise LostLease(self._lease.name) from None
        return results[1:]

    async def close(self) -> None:
        """Do nothing: the database belongs to others as well."""


class Leases:
    """The table of leases, judged by the database's clock: that of this machine counts where the database is a file."""

    def __init__(self, database: Database, holder: str = "") -> None:
        """`holder` names a process that takes over at once what one of the same name held which was killed."""
        self._database = database
        self._holder = holder or f"{os.getpid()}-{secrets.token_hex(8)}"

    async def elsewhere(self, beginning: str, now: float) -> bool:
        """Return whether another process has a lease whose name begins so. `now` is the time of this machine."""
        rows = await self._database.read(
            "SELECT 1 FROM leases WHERE substr(name, 1, $1) = $2 AND holder <> $3 AND until > current_seconds($4)",
            len(beginning), beginning, self._holder, now,
        )  # fmt: skip
        return bool(rows)

    async def take(self, name: str, now: float, seconds: float) -> Lease | None:
        """Take a lease, or renew one that this process has; return None while another process has it.

        `now` is the time of this machine.
        """
        _, rows = await self._database.write(
            ("UPDATE counters SET value = value + 1 WHERE name = 'lease epoch'", ()),
            (
                "INSERT INTO leases (name, holder, until, epoch)"
                " SELECT $1, $2, current_seconds($3) + $4, value FROM counters WHERE name = 'lease epoch'"
                " ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, until = excluded.until,"
                " epoch = CASE WHEN leases.holder = excluded.holder THEN leases.epoch ELSE excluded.epoch END"
                " WHERE leases.until <= current_seconds($3) OR leases.holder = excluded.holder RETURNING epoch",
                (name, self._holder, now, seconds),
            ),
        )
        return Lease(name, self._holder, rows[0][0]) if rows else None

    async def renew(self, lease: Lease, now: float, seconds: float) -> bool:
        """Renew a lease; return False when another process has taken it, or it was given back.

        One that has ended meanwhile, and that no one has taken, goes on.
        """
        (rows,) = await self._database.write(
            (
                "UPDATE leases SET until = current_seconds($3) + $4 WHERE name = $1 AND epoch = $2 RETURNING epoch",
                (lease.name, lease.epoch, now, seconds),
            )
        )
        return bool(rows)

    async def give_back(self, name: str) -> None:
        """Release a lease that this process has."""
        await self._database.write(("DELETE FROM leases WHERE name = $1 AND holder = $2", (name, self._holder)))

    async def held_names(self, beginning: str, now: float) -> list[str]:
        """Return the names of all leases that some process has, of those that begin in this way."""
        rows = await self._database.read(
            "SELECT name FROM leases WHERE name LIKE $1 AND until > current_seconds($2) ORDER BY name",
            f"{beginning}%", now,
        )  # fmt: skip
        return [name for (name,) in rows]

    async def now(self, machine: float) -> float:
        """Return the database's time, in seconds since the epoch; where it is a file, that of this machine."""
        ((seconds,),) = await self._database.read("SELECT current_seconds($1)", machine)
        return float(seconds)

    async def run(
        self,
        name: str,
        clock: Callable[[], float],
        seconds: float,
        work: Callable[[Lease], Awaitable[T]],
        *,
        keep: bool = False,
    ) -> T | None:
        """Return the result of work under a lease, which is renewed; None while another process has the lease.

        `keep`: after work that succeeds, no other process takes it for as long again. Raises LostLease, and cancels the
        work, once another process has taken the lease.
        """
        lease = await self.take(name, clock(), seconds)
        if lease is None:
            return None
        working = asyncio.ensure_future(work(lease))
        keeping = asyncio.create_task(self._keep(lease, clock, seconds))
        kept = False
        try:
            await asyncio.wait({working, keeping}, return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                raise LostLease(name)
            result = await working
            kept = keep and await self.renew(lease, clock(), seconds)
            return result
        finally:
            working.cancel()
            keeping.cancel()
            await asyncio.gather(working, keeping, return_exceptions=True)
            if not kept:
                with suppress(StorageError):  # it ends by itself
                    await self.give_back(name)

    @asynccontextmanager
    async def held(self, name: str, clock: Callable[[], float], seconds: float) -> AsyncIterator[Lease | None]:
        """Hold a lease for the length of the block, renewed in time; yield None while another process has it."""
        lease = await self.take(name, clock(), seconds)
        if lease is None:
            yield None
            return
        renewing = asyncio.create_task(self._keep(lease, clock, seconds))
        try:
            yield lease
        finally:
            renewing.cancel()
            await asyncio.gather(renewing, return_exceptions=True)
            await self.give_back(name)

    async def _keep(self, lease: Lease, clock: Callable[[], float], seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds / 3)
            try:
                if not await self.renew(lease, clock(), seconds):
                    logger.error("The lease %s has gone to another process, which goes on with its work.", lease.name)
                    return
            except Exception:
                logger.exception("could not renew the lease %s; it is tried again", lease.name)
