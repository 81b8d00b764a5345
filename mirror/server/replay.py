"""Replaying responses: a request whose exact bytes have been answered before is answered without being parsed.

Clients repeat themselves: the same client asks for the same page with the same bytes. So a response that is in memory
is kept under the raw request for as long as it is valid; the next one costs a look-up and a write. A request with
credentials is never replayed: whether they are still valid is checked each time.

`mirror.server.connection` looks replays up and sends them, without a call of anything here.
"""

import time
import weakref
from collections.abc import Callable

import msgspec

from mirror.index.cache import BoundedCache, MemoryBudget, Validity
from mirror.index.change_counter import ChangeCounter
from mirror.server.facts import RequestFacts

REPLAY_REQUEST_BYTES = 4096
"""Bytes of a request up to which its response is kept."""
REPLAY_BODY_BYTES = 16 << 20
"""Bytes of a response's body up to which it is kept. What waits for a slow client is no copy, but these bytes."""
REPLAY_BYTES = 1200
"""Bytes that a replay takes in memory, without request, head and body (measured)."""


class SharedBytes(msgspec.Struct, weakref=True, eq=False):
    """Bytes that a cache keeps and counts; replays refer to them weakly, and end when the cache lets go of them."""

    content: bytes


class Replay(msgspec.Struct, frozen=True):
    """A whole response, and the facts of the request that it answered first."""

    validity: Validity
    status: int
    head: bytes
    size: int
    """Bytes of the body."""
    facts: RequestFacts
    content: bytes = b""
    """The body, unless another cache keeps it."""
    shared: weakref.ReferenceType[SharedBytes] | None = None
    """The body in the cache that keeps it; once that has let go of it, the replay ends."""


class ReplayCache(BoundedCache[bytes, Replay]):
    """The responses that can be replayed, by raw request."""

    __slots__ = ("changes", "clock")

    def __init__(
        self, memory: MemoryBudget, clock: Callable[[], float] = time.time, changes: ChangeCounter | None = None
    ) -> None:
        """`changes`: while they differ from what this process has seen, nothing is replayed."""
        super().__init__(memory)
        self.clock = clock
        self.changes = changes or ChangeCounter()

    def beside(self) -> "ReplayCache":
        """Return another one with the same budget and clock."""
        return ReplayCache(self._budget, self.clock, self.changes)
