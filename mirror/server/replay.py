"""Replaying responses: a request whose exact bytes have been answered before is answered without being parsed.

Clients repeat themselves: the same client asks for the same page with the same bytes. So a response that is in memory
is kept under the raw request for as long as it is valid; the next one costs a look-up and a write. A request with
credentials is never replayed: whether they are still valid is checked each time.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate

from aiohttp import web

from mirror.index.cache import Validity
from mirror.server.facts import RequestFacts

REPLAY_REQUEST_BYTES = 4096
"""Bytes of a request up to which its response is kept."""
REPLAY_BODY_BYTES = 16 << 20
"""Bytes of a response's body up to which it is kept. What waits for a slow client is no copy, but these bytes."""
REPLAY_MEMORY_BYTES = 64 << 20
"""Bytes of all kept requests, and of the bodies that nothing else keeps."""
JOINED_WRITE_BYTES = 16 << 10
"""Bytes of a body up to which copying it behind its head costs less than a second buffer."""


class Replay:
    """A whole response, and the facts of the request that it answered first."""

    __slots__ = ("body", "facts", "head", "status", "validity")

    def __init__(self, validity: Validity, status: int, head: bytes, body: bytes, facts: RequestFacts) -> None:
        self.validity = validity
        self.status = status
        self.head = head
        self.body = body
        self.facts = facts


class ReplayCache:
    """The responses that can be replayed, by raw request."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._known: dict[bytes, Replay] = {}
        self._weight = 0

    def get(self, request: bytes) -> Replay | None:
        """Return the response to a raw request, if there is one that is still valid."""
        replay = self._known.get(request)
        if replay is None:
            return None
        if replay.validity.holds(self.clock()):
            return replay
        self._forget(request, replay)
        return None

    def put(self, request: bytes, replay: Replay) -> None:
        """Keep a response unless it or its request is too large; drop the oldest ones when there are too many."""
        if len(request) > REPLAY_REQUEST_BYTES or len(replay.body) > REPLAY_BODY_BYTES:
            return
        if (known := self._known.get(request)) is not None:
            self._forget(request, known)
        self._known[request] = replay
        self._weight += _weight(request, replay)
        while self._weight > REPLAY_MEMORY_BYTES:
            oldest = next(iter(self._known))
            self._forget(oldest, self._known[oldest])

    def _forget(self, request: bytes, replay: Replay) -> None:
        del self._known[request]
        self._weight -= _weight(request, replay)


def _weight(request: bytes, replay: Replay) -> int:
    # Large bodies are pages, which `PageCache` keeps and counts; small ones may be files, which nothing else keeps.
    return 512 + len(request) + (len(replay.body) if len(replay.body) <= 64 << 10 else 0)


def write_replay(transport: asyncio.WriteTransport, replay: Replay) -> None:
    """Write a whole response: in one packet where that is possible, and without a copy of what is large."""
    head, body = replay.head + date_line(), replay.body
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
