"""The fast lane: a request whose bytes have been answered before is answered without being parsed.

Clients repeat themselves: the same client asks for the same page with the same bytes. So an answer that is in memory is
remembered under the raw request, with what it stays valid by; the next one costs a look-up and a write. A request with
credentials is never remembered: whether they still count is asked each time.

The lane stands between the transport and aiohttp's protocol, and hands on everything that it does not know. Only a
connection that has sent nothing but whole requests of that kind, one at a time, is looked at: it can never come to
another opinion about where a request begins than aiohttp has (RFC 9112 section 11.2).
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any, cast

from aiohttp import web

from mirror.memory import Validity

LONGEST = 4096
"""Bytes of a request that is remembered."""
LARGEST = 16 << 20
"""Bytes of an answer that is remembered."""
MOST_BYTES = 64 << 20
"""Bytes of all remembered requests, and of the answers that nothing else keeps."""
TOGETHER = 16 << 10
"""Bytes of a body up to which a copy costs less than a second buffer."""
PATIENCE = 64 << 10
"""Bytes waiting to be written above which a connection has to take its time."""


class Ready:
    """A whole answer, and what is noted of it."""

    __slots__ = ("body", "head", "notes", "status", "validity")

    def __init__(self, validity: Validity, status: int, head: bytes, body: bytes, notes: Any) -> None:
        self.validity = validity
        self.status = status
        self.head = head
        self.body = body
        self.notes = notes


Observe = Callable[[Ready, str], None]
"""Told of each answer that the lane gives, with the client's address."""


class Lanes:
    """What all connections have in common: the remembered answers."""

    def __init__(self, observe: Observe, keepalive: float, clock: Callable[[], float] = time.time) -> None:
        self.observe = observe
        self.detour_after = keepalive / 2
        """Seconds after which a connection's next request goes through aiohttp, for its keep-alive timer to see it."""
        self.clock = clock
        self._known: dict[bytes, Ready] = {}
        self._weight = 0

    def get(self, request: bytes) -> Ready | None:
        """The answer to a raw request, while it is valid."""
        ready = self._known.get(request)
        if ready is None:
            return None
        if ready.validity.holds(self.clock()):
            return ready
        self._forget(request, ready)
        return None

    def put(self, request: bytes, ready: Ready) -> None:
        """Remember an answer; the oldest ones go when there are too many."""
        if (known := self._known.get(request)) is not None:
            self._forget(request, known)
        self._known[request] = ready
        self._weight += _weight(request, ready)
        while self._weight > MOST_BYTES:
            oldest = next(iter(self._known))
            self._forget(oldest, self._known[oldest])

    def _forget(self, request: bytes, ready: Ready) -> None:
        del self._known[request]
        self._weight -= _weight(request, ready)


def _weight(request: bytes, ready: Ready) -> int:
    # Large bodies are pages, which `Answers` keeps and counts; small ones may be files, which nothing else keeps.
    return 512 + len(request) + (len(ready.body) if len(ready.body) <= PATIENCE else 0)


class Lane(asyncio.Protocol):
    """One connection: answers what is known, and hands the rest to aiohttp's protocol."""

    def __init__(self, inner: asyncio.Protocol, lanes: Lanes) -> None:
        self._inner = inner
        self._lanes = lanes
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._whole = True  # so far, only requests that the lane understands
        self._asked: bytes | None = None  # the request that aiohttp is answering
        self._running = 0  # how many it is answering
        self._detour_at = 0.0  # aiohttp has to see a request before its timers run

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._inner.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._whole:
            if not self._running and (ready := self._lanes.get(data)) is not None and self._may_write():
                assert self._transport is not None, "data comes over a transport"
                write(self._transport, ready.head + date(), ready.body)
                self._lanes.observe(ready, self._client)
                return
            self._whole = _is_whole(data)
            self._asked = data if self._whole and not self._running else None
            self._running += 1
        self._inner.data_received(data)

    def _may_write(self) -> bool:
        assert self._transport is not None, "data comes over a transport"
        return self._lanes.clock() < self._detour_at and self._transport.get_write_buffer_size() <= PATIENCE

    def answered(self) -> None:
        """aiohttp has answered a request."""
        self._running -= 1
        self._asked = None
        self._detour_at = self._lanes.clock() + self._lanes.detour_after

    def offer(self, ready: Ready) -> None:
        """This is what was answered to the request that is being answered: remember it, if that is possible."""
        if self._asked is not None and len(self._asked) <= LONGEST and len(ready.body) <= LARGEST:
            self._lanes.put(self._asked, ready)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._inner.connection_lost(exc)

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()


def write(transport: asyncio.WriteTransport, head: bytes, body: bytes) -> None:
    """Write a whole answer: in one packet where that is possible, and without a copy of what is large."""
    if len(body) <= TOGETHER:
        transport.write(head + body)
    else:
        transport.writelines((head, body))


_NOT_REPEATED = (
    b"\ncontent-length",
    b"\ntransfer-encoding",
    b"\nupgrade",
    b"\nexpect",
    b"\nauthorization",
    b"\ncookie",
)


def _is_whole(data: bytes) -> bool:
    """Whether these bytes are one whole request, without a body and without credentials."""
    if not data.startswith((b"GET /", b"HEAD /")) or data.find(b"\r\n\r\n") != len(data) - 4:
        return False
    head = data.lower()
    return not any(name in head for name in _NOT_REPEATED)


def lane_of(request: web.BaseRequest) -> Lane | None:
    """The lane of a request's connection, where it has one."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, Lane) else None


class LaneRunner(web.AppRunner):
    """An AppRunner whose connections have lanes."""

    def __init__(self, app: web.Application, lanes: Lanes, **options: Any) -> None:
        super().__init__(app, **options)
        self._lanes = lanes

    @property
    def server(self) -> Any:
        """What sites make connections with."""
        inner = super().server
        return None if inner is None else lambda: Lane(inner(), self._lanes)


_date = (0, b"")


def date() -> bytes:
    """The Date header of this second, with the end of the head."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"\r\nDate: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
    return _date[1]
