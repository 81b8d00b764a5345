"""All connections of the process: how many there may be, and which of them are closed.

`Connections` checks all of them every few seconds, instead of one timer for each: idle connections cost nothing. When
there are too many, the one that has been idle longest is closed, so that a new client is served although ten thousand
others only wait.

The same look closes the connections that have been idle for too long: one that is served by replays alone is unknown to
aiohttp, whose own timer is set so that it never ends one.
"""

import logging
import time
from collections.abc import Callable
from enum import IntEnum
from itertools import islice
from typing import Protocol

import msgspec

logger = logging.getLogger(__name__)

LOOKED_AT = 64
"""How many connections of a client are looked at to find one that it can spare."""
CHECK_SECONDS = 2.0
"""Seconds between two checks of all connections for slow clients."""
WARNING_SECONDS = 60.0
"""Seconds between two warnings about closed connections."""


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits on the number of connections, and on how slow their clients may be."""

    connections: int = 20_000
    client_connections: int = 5_000
    """Of one client, which is an address or an IPv6 network of /64."""
    headers: int = 65_536
    """Bytes of the head of a request."""
    head_time: float = 20.0
    """Seconds from the first byte of a head to its last."""
    body_rate: float = 1000.0
    """Bytes in a second at which a body has to arrive."""
    idle: float = 75.0
    """Seconds for which a connection stays open without a request."""
    stall: float = 120.0
    """Seconds for which a client may neither send what it has announced nor take what it has asked for."""


class Standing(IntEnum):
    """A connection by what is lost with it, the least first."""

    IDLE = 0
    """No request has begun."""
    SENDING = 1
    """The client has not sent all of a request yet."""
    WAITING = 2
    """The client waits for news, and can ask for them again."""
    SERVED = 3
    """The client is about to get a response."""


class ClientConnection(Protocol):
    """One connection, as `Connections` needs it."""

    network: str
    """The client to which its place is counted; empty for a trusted proxy, which may have all places."""

    used: bool
    """Whether a replay was sent since the last look at it."""

    def stall_reason(self, now: float) -> str:
        """Return why the client is too slow, as half a sentence; an empty string while it keeps up."""

    def standing(self) -> Standing:
        """Return what would be lost with it."""

    def close_if_idle(self, before: float) -> None:
        """Close it if its last request ended before this time of its clock, and none has begun."""

    def abort(self) -> None:
        """Close the connection at once."""


class Connections:
    """All client connections of the process, within limits."""

    def __init__(self, limits: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self.limits = limits
        self.clock = clock
        self.refused = 0
        """How many were closed because there were too many, or because their client was too slow."""
        self._all: dict[ClientConnection, None] = {}
        self.idle: dict[ClientConnection, None] = {}
        """Those without a request, the one that has been idle longest first; each connection keeps its own place."""
        self._of_client: dict[str, dict[ClientConnection, None]] = {}
        self._warned = float("-inf")

    def __len__(self) -> int:
        return len(self._all)

    def add(self, connection: ClientConnection) -> bool:
        """Add a new, idle connection; return False when it has to be closed because there are too many.

        Before that, the connection that has been idle longest is closed in its place. A client that has its share of
        all connections loses one of its own instead, whatever others do.
        """
        own = self._of_client.get(connection.network, {}) if connection.network else {}
        if len(own) >= self.limits.client_connections:
            self._count_refused("one client has %d connections, which is its share", len(own))
            dispensable = _dispensable(own)
            if dispensable is None:
                return False
            self.remove(dispensable)
            dispensable.abort()
        if len(self._all) >= self.limits.connections:
            oldest = self._longest_idle()
            self._count_refused("there are %d connections, which is the limit", len(self._all))
            if oldest is None:
                return False
            self.remove(oldest)
            oldest.abort()
        self._all[connection] = self.idle[connection] = None
        if connection.network:
            self._of_client.setdefault(connection.network, {})[connection] = None
        return True

    def remove(self, connection: ClientConnection) -> None:
        """Remove a connection that has ended; nothing happens when it is unknown."""
        self._all.pop(connection, None)
        self.idle.pop(connection, None)
        if (own := self._of_client.get(connection.network)) is not None:
            own.pop(connection, None)
            if not own:
                del self._of_client[connection.network]

    def _longest_idle(self) -> ClientConnection | None:
        # A replay does not mark its connection as used just now, to cost nothing: it gets a second chance here.
        for _ in range(len(self.idle)):
            connection = next(iter(self.idle))
            if not connection.used:
                return connection
            connection.used = False
            del self.idle[connection]
            self.idle[connection] = None
        return next(iter(self.idle), None)

    def close_slow(self) -> None:
        """Close the connections whose clients are too slow, or have been silent between requests for too long."""
        now = self.clock()
        for connection in list(self._all):
            if reason := connection.stall_reason(now):
                self._count_refused("a client was too slow: %s", reason)
                self.remove(connection)
                connection.abort()
        for connection in list(self.idle):
            connection.close_if_idle(now - self.limits.idle)

    def _count_refused(self, reason: str, fact: object) -> None:
        self.refused += 1
        now = self.clock()
        if now - self._warned >= WARNING_SECONDS:
            self._warned = now
            logger.warning("a connection is closed: " + reason + " (%d so far)", fact, self.refused)


def _dispensable(own: dict[ClientConnection, None]) -> ClientConnection | None:
    """Return the connection of a client with which least is lost, of the first few; None when all are served.

    Those that were looked at go to the end, so that the next look is at others.
    """
    first = list(islice(own, LOOKED_AT))
    for connection in first:
        del own[connection]
        own[connection] = None
    best = min(first, key=lambda one: (one.standing(), one.used))
    return None if best.standing() is Standing.SERVED else best
