"""Replaying responses: a request whose exact bytes have been answered before is answered without being parsed.

Clients repeat themselves: the same client asks for the same page with the same bytes. So a response that is in memory
is kept under the raw request for as long as it is valid; the next one costs a look-up and a write. A request with
credentials is never replayed: whether they are still valid is checked each time.
"""

import asyncio
import time
import weakref
from collections.abc import Callable
from email.utils import formatdate

from aiohttp import web

from mirror.index.cache import BoundedCache, MemoryBudget, Validity
from mirror.server.facts import RequestFacts

REPLAY_REQUEST_BYTES = 4096
"""Bytes of a request up to which its response is kept."""
REPLAY_BODY_BYTES = 16 << 20
"""Bytes of a response's body up to which it is kept. What waits for a slow client is no copy, but these bytes."""
REPLAY_BYTES = 1200
"""Bytes that a replay takes in memory, without request, head and body (measured)."""
JOINED_WRITE_BYTES = 16 << 10
"""Bytes of a body up to which copying it behind its head costs less than a second buffer."""


class SharedBytes:
    """Bytes that a cache keeps and counts; replays refer to them weakly, and end when the cache lets go of them."""

    __slots__ = ("__weakref__", "content")

    def __init__(self, content: bytes) -> None:
        self.content = content


class Replay:
    """A whole response, and the facts of the request that it answered first."""

    __slots__ = ("_content", "_shared", "facts", "head", "size", "status", "validity")

    def __init__(
        self,
        validity: Validity,
        status: int,
        head: bytes,
        body: bytes,
        facts: RequestFacts,
        shared: SharedBytes | None = None,
    ) -> None:
        """`shared` is what keeps the body, where something else does."""
        self.validity = validity
        self.status = status
        self.head = head
        self.facts = facts
        self.size = len(body)
        """Bytes of the body."""
        self._content = body if shared is None else b""
        self._shared = None if shared is None else weakref.ref(shared)

    @property
    def body(self) -> bytes | None:
        """The body; None when the cache that kept it has let go of it."""
        if self._shared is None:
            return self._content
        shared = self._shared()
        return None if shared is None else shared.content

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, without what others keep."""
        return REPLAY_BYTES + len(self.head) + len(self._content)


class ReplayCache:
    """The responses that can be replayed, by raw request."""

    def __init__(self, memory: MemoryBudget, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._replays: BoundedCache[bytes, Replay] = BoundedCache(memory)

    def get(self, request: bytes) -> Replay | None:
        """Return the response to a raw request, if there is one that is still valid."""
        entry = self._replays.find(request)
        if entry is None:
            return None
        replay = entry.value
        if replay.validity.holds(self.clock()) and replay.body is not None:
            self._replays.touch(entry)
            return replay
        self._replays.forget(request)
        return None

    def put(self, request: bytes, replay: Replay) -> None:
        """Keep a response, unless it or its request is too large."""
        if len(request) <= REPLAY_REQUEST_BYTES and replay.size <= REPLAY_BODY_BYTES:
            self._replays.put(request, replay, replay.weight + len(request))


def write_replay(transport: asyncio.WriteTransport, replay: Replay) -> None:
    """Write a whole response: in one packet where that is possible, and without a copy of what is large."""
    head, body = replay.head + date_line(), replay.body or b""
    if len(body) <= JOINED_WRITE_BYTES:
        transport.write(head + body)
    else:
        transport.writelines((head, body))


_NOT_REPLAYED = (
    b"\ncontent-length",
    b"\ntransfer-encoding",
    b"\nupgrade",
    b"\nexpect",
    b"\nauthorization",
    b"\ncookie",
    b"\nforwarded",  # names the client
    b"\nx-forwarded-",
    b"\nx-request-id",
)


def is_replayable(data: bytes) -> bool:
    """Return whether these bytes are one whole request, without a body and without credentials."""
    if not data.startswith((b"GET /", b"HEAD /")) or data.find(b"\r\n\r\n") != len(data) - 4:
        return False
    head = data.lower()
    return not any(name in head for name in _NOT_REPLAYED)


_date = (0, b"")


def date_line() -> bytes:
    """Return the Date header of this second, with the end of the head."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"\r\nDate: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
    return _date[1]


def finish_head(head: bytes, request: web.BaseRequest) -> bytes:
    """Return a head with what depends on the moment and the connection."""
    return head + date_line() if request.keep_alive else head + b"\r\nConnection: close" + date_line()
