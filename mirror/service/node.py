"""This process among the others of the mirror: where they reach it, and how it reaches them.

Workers of one machine are reached at any free port of loopback, with a secret that their supervisor makes in memory.
Nodes that share a catalog are reached where their settings say, with the secret that all of them have in a file.
"""

import asyncio
import errno
import hashlib
import hmac
import logging
import secrets
import socket

from mirror.catalog import Catalog
from mirror.catalog.flights import NodeRow, NodeTable
from mirror.config import Address, Settings
from mirror.config.node import address_of_node
from mirror.errors import ConfigError, StorageError
from mirror.server.inflight import InflightServer
from mirror.service.workers import WorkerContext
from mirror.transfer.flight_links import FlightLinks
from mirror.transfer.flights import FlightRegistry, Flights
from mirror.transfer.nodes import NodeClient, node_token

logger = logging.getLogger(__name__)

BACKLOG = 1024
"""Connections that wait to be taken."""


class Node:
    """This process, as the others of the mirror reach it."""

    def __init__(self, registry: FlightRegistry, listening: socket.socket, secret: bytes) -> None:
        """`listening` is where the others reach it, `secret` what proves that it is one of them."""
        host, port = listening.getsockname()[:2]
        self.address = f"http://{Address(host=host, port=port)}"
        self._listening = listening
        self._client = NodeClient(secret)
        self.flights = Flights(registry, self.address, self._client)
        self._server = InflightServer(self.flights, node_token(secret, self.address))
        self._table: NodeTable | None = None
        self._row = NodeRow(self.address, secrets.token_hex(8), _fingerprint(secret))
        self._out_of_reach: set[str] = set()
        """Addresses of other nodes that did not answer when they were last asked."""

    async def start(self) -> None:
        """Answer the other processes."""
        await self._server.start(self._listening)

    async def join(self, table: NodeTable) -> None:
        """Become one of the nodes of a database. Raises ConfigError where those have another secret."""
        for other in await table.alive():
            if other.address != self.address and other.secret != self._row.secret:
                raise ConfigError(
                    f"node.secret_file: the node at {other.address} has another secret; all nodes need the same."
                )
        await table.show(self._row, first=True)
        self._table = table

    async def show_life(self) -> None:
        """Show the other nodes that this one serves, and log which of them it does not reach."""
        if self._table is None:
            return
        if not await self._table.show(self._row):
            logger.error("another node has the address %s as well: give each an address of its own", self.address)
            await self._table.show(self._row, first=True)
        others = [row.address for row in await self._table.alive() if row.address != self.address]
        answers = await asyncio.gather(*(self._client.answers(address) for address in others))
        silent = {address for address, answered in zip(others, answers, strict=True) if not answered}
        for address in silent - self._out_of_reach:
            logger.warning("the node at %s does not answer this one, which fetches for itself meanwhile", address)
        self._out_of_reach = silent

    async def close(self) -> None:
        """Answer no more."""
        if self._table is not None:
            try:
                await self._table.leave(self._row)
            except StorageError as error:
                logger.info("the node stays in the list of nodes for a while: %s", error)
        await self._server.close()
        await self.flights.close()


async def open_node(settings: Settings, catalog: Catalog, worker: WorkerContext | None) -> Node | None:
    """Return this process as one of several, answering the others; None where it is alone. Raises ConfigError."""
    place = address_of_node(settings.node.address) if settings.node.address else None
    if place is not None:
        # A worker takes any port there, since the address has one only.
        listening = await asyncio.to_thread(_bind, place.host, place.port if worker is None else 0)
        node = Node(catalog.flights, listening, settings.node.secret())
    elif worker is not None:
        files = FlightLinks(settings.data_dir / "flights")
        if worker.first:
            files.clean()
        node = Node(files, _bind("127.0.0.1", 0), worker.node_secret)
    else:
        return None
    try:
        await node.start()
        if place is not None:
            await node.join(catalog.nodes)
    except BaseException:
        await node.close()
        raise
    return node


def _bind(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError."""
    place = Address(host=host, port=port)
    try:
        family, _, _, _, at = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        listening = socket.create_server(at[:2], family=family, backlog=BACKLOG)
    except socket.gaierror:
        raise ConfigError(f"node.address: no machine has the name {host}.") from None
    except OSError as error:
        match error.errno:
            case errno.EADDRNOTAVAIL:
                why = f"this machine does not have the address {host}; it is where the other nodes reach this one."
            case errno.EADDRINUSE:
                why = f"another process listens at {place}; give this node a port of its own."
            case _:
                why = f"cannot listen at {place}: {error.strerror}."
        raise ConfigError(f"node.address: {why}") from None
    listening.setblocking(False)
    return listening


def _fingerprint(secret: bytes) -> str:
    """Return what shows whether two secrets are the same, and tells nothing else about them."""
    return hmac.new(secret, b"fingerprint", hashlib.sha256).hexdigest()[:32]
