"""Connections as a server bears them: so many and no more, and each only while its client keeps up.

What one connection is doing it says itself (`ClientConnection`); here is the crowd of them. When there are too many,
the one that has been idle longest makes room, so that a new client is served although ten thousand others only sit
there. Looked at every few seconds, not by a timer for each: idle connections shall cost nothing.

Not here on purpose: how long an idle connection stays, which aiohttp's keep-alive knows.
"""

import asyncio
import logging
import resource
import time
from collections.abc import Callable
from typing import Protocol

import msgspec

logger = logging.getLogger(__name__)

LOOK = 2.0
"""Seconds between two looks at all connections."""
RESERVED = 256
"""Descriptors that are kept for everything that is no client: files, upstreams, the catalog."""
BETWEEN_WARNINGS = 60.0


class ConnectionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What connections may take."""

    connections: int = 20_000
    headers: int = 65_536
    """Bytes of the head of a request."""
    head_time: float = 20.0
    """Seconds from the first byte of a head to its last."""
    stall: float = 120.0
    """Seconds for which a client may neither send what it has announced nor take what it has asked for."""


class ClientConnection(Protocol):
    """One connection, as the crowd sees it."""

    used: bool
    """Whether it has been answered since the crowd last looked."""

    def overdue(self, now: float) -> str:
        """Why its client has had its time (half a sentence); empty while it keeps up."""

    def abort(self) -> None:
        """Close it at once."""


class Connections:
    """All connections of the process."""

    def __init__(self, bounds: ConnectionLimits, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` is monotonic, in seconds."""
        self.bounds = bounds
        self.clock = clock
        self.refused = 0
        """How many were closed because there were too many, or too slow."""
        self._members: dict[ClientConnection, None] = {}
        self._idle: dict[ClientConnection, None] = {}  # in the order in which they became so
        self._warned = float("-inf")

    def __len__(self) -> int:
        return len(self._members)

    def enter(self, member: ClientConnection) -> bool:
        """A connection begins, idle. Where there are too many, another one goes for it; False: it has to go itself."""
        if len(self._members) >= self.bounds.connections:
            oldest = self._longest_idle()
            self._turned_away("there are %d connections, which is the limit", len(self._members))
            if oldest is None:
                return False
            self.leave(oldest)
            oldest.abort()
        self._members[member] = self._idle[member] = None
        return True

    def leave(self, member: ClientConnection) -> None:
        """A connection has ended; no error when it is not known."""
        self._members.pop(member, None)
        self._idle.pop(member, None)

    def busy(self, member: ClientConnection) -> None:
        """The client has begun to ask for something."""
        self._idle.pop(member, None)

    def idle(self, member: ClientConnection) -> None:
        """It has been answered."""
        if member in self._members:
            self._idle[member] = None

    def all(self) -> list[ClientConnection]:
        """Those that are open."""
        return list(self._members)

    def _longest_idle(self) -> ClientConnection | None:
        # Those that were answered on the fast lane did not say so, to cost nothing: they get a second chance.
        for _ in range(len(self._idle)):
            member = next(iter(self._idle))
            if not member.used:
                return member
            member.used = False
            del self._idle[member]
            self._idle[member] = None
        return next(iter(self._idle), None)

    async def watch(self, every: float = LOOK) -> None:
        """Close the connections of clients that do not keep up, until cancelled."""
        while True:
            await asyncio.sleep(every)
            self.look()

    def look(self) -> None:
        """Look once."""
        now = self.clock()
        for member in self.all():
            if why := member.overdue(now):
                self._turned_away("a client was too slow: %s", why)
                self.leave(member)
                member.abort()

    def _turned_away(self, why: str, fact: object) -> None:
        self.refused += 1
        now = self.clock()
        if now - self._warned >= BETWEEN_WARNINGS:
            self._warned = now
            logger.warning("a connection is closed: " + why + " (%d so far)", fact, self.refused)


def raise_open_files() -> int:
    """Let this process have as many open files as it may; how many that are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # an infinite limit that the kernel does not grant
            return soft
    return hard


def affordable(wanted: int, open_files: int) -> int:
    """How many connections there may be with so many open files: each may need more than one, while a file leaves."""
    return max(16, min(wanted, (open_files - RESERVED) * 3 // 4))
