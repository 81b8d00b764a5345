"""Flights: what one of several processes is fetching for all of them; and the nodes that do so.

A flight ends with a row that its owner deletes. The surprise: it has no end in time, and nothing renews it. Whether its
owner is still at work, those who wait ask the owner itself (`mirror.transfer.nodes`), and take over from one that does
not answer. The token, another one each time, sees to it that only one of them does, and that a process that was
stopped for a while and goes on ends nothing that is no longer its own.
"""

import secrets
import time

import msgspec

from mirror.catalog.database import Database
from mirror.errors import StorageUnavailable

TAKE_ATTEMPTS = 10
"""Attempts to read who has a flight, each of which may find that it has just ended."""
FORGOTTEN_SECONDS = 2 * 86_400.0
"""Seconds after which a flight is forgotten whose owner has vanished, and that no one has asked for since."""
ALIVE_SECONDS = 60.0
"""Seconds since its last sign of life for which a node counts as one that serves."""


class Flight(msgspec.Struct, frozen=True):
    """The right of one process to fetch something for all."""

    name: str
    owner: str
    """The address at which that process is reached."""
    token: int
    mine: bool
    """Whether it was given to the caller."""


class NodeRow(msgspec.Struct, frozen=True):
    """A node that serves."""

    address: str
    instance: str
    """Another one each time that it is started."""
    secret: str
    """A fingerprint of its secret."""


class FlightTable:
    """The table of flights, for nodes that share a database."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def take(self, name: str, owner: str) -> Flight:
        """Take a flight, or return it as it is in the hands of another process."""
        token = secrets.randbits(62)
        insert = (
            "INSERT INTO flights (name, owner, token, since) VALUES ($1, $2, $3, current_seconds($4))"
            " ON CONFLICT (name) DO NOTHING RETURNING token"
        )
        for _ in range(TAKE_ATTEMPTS):
            (taken,) = await self._database.write((insert, (name, owner, token, time.time())))
            if taken:
                return Flight(name, owner, token, mine=True)
            rows = await self._database.read("SELECT owner, token FROM flights WHERE name = $1", name)
            if rows:
                ((owned_by, theirs),) = rows
                return Flight(name, owned_by, theirs, mine=False)
        raise StorageUnavailable("Too many flights of one name begin and end at the moment.")

    async def take_over(self, flight: Flight, owner: str) -> Flight:
        """Take a flight from its owner, who does not answer; or return it as another process has taken it since."""
        token = secrets.randbits(62)
        (rows,) = await self._database.write(
            (
                "UPDATE flights SET owner = $3, token = $4, since = current_seconds($5)"
                " WHERE name = $1 AND token = $2 RETURNING token",
                (flight.name, flight.token, owner, token, time.time()),
            )
        )
        return Flight(flight.name, owner, token, mine=True) if rows else await self.take(flight.name, owner)

    async def holds(self, flight: Flight) -> bool:
        """Return whether no other process has taken a flight over."""
        sql = "SELECT 1 FROM flights WHERE name = $1 AND token = $2"
        return bool(await self._database.read(sql, flight.name, flight.token))

    async def end(self, flight: Flight) -> None:
        """End a flight, unless another process has taken it over."""
        await self._database.write(("DELETE FROM flights WHERE name = $1 AND token = $2", (flight.name, flight.token)))

    async def forget_old(self) -> None:
        """Forget flights whose owners have vanished."""
        sql = "DELETE FROM flights WHERE since < current_seconds($1) - $2"
        await self._database.write((sql, (time.time(), FORGOTTEN_SECONDS)))


_SHOWING = (
    "INSERT INTO nodes (address, instance, secret, seen) VALUES ($1, $2, $3, current_seconds($4))"
    " ON CONFLICT (address) DO UPDATE SET instance = excluded.instance, secret = excluded.secret, seen = excluded.seen"
)
_TAKE_ADDRESS = f"{_SHOWING} RETURNING address"
_SHOW_LIFE = f"{_SHOWING} WHERE nodes.instance = excluded.instance RETURNING address"


class NodeTable:
    """The table of nodes, judged by the database's clock."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def alive(self) -> list[NodeRow]:
        """Return the nodes that have shown a sign of life within ALIVE_SECONDS."""
        sql = "SELECT address, instance, secret FROM nodes WHERE seen > current_seconds($1) - $2 ORDER BY address"
        return [NodeRow(*row) for row in await self._database.read(sql, time.time(), ALIVE_SECONDS)]

    async def show(self, node: NodeRow, first: bool = False) -> bool:
        """Record a sign of life; return whether the address is still this node's. With `first`, it takes it."""
        statement = _TAKE_ADDRESS if first else _SHOW_LIFE
        values = (node.address, node.instance, node.secret, time.time())
        (rows,) = await self._database.write((statement, values))
        return bool(rows)

    async def leave(self, node: NodeRow) -> None:
        """Remove a node that ends, and those that have not been seen for long."""
        await self._database.write(
            ("DELETE FROM nodes WHERE address = $1 AND instance = $2", (node.address, node.instance)),
            ("DELETE FROM nodes WHERE seen < current_seconds($1) - $2", (time.time(), FORGOTTEN_SECONDS)),
        )
