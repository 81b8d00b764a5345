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

from mirror.index.cache import Validity
from mirror.server.connections import ConnectionLimits, Connections

LONGEST = 4096
"""Bytes of a request that is remembered."""
LARGEST = 16 << 20
"""Bytes of an answer that is remembered. What waits for a slow client is no copy, but the answer itself."""
MOST_BYTES = 64 << 20
"""Bytes of all remembered requests, and of the answers that nothing else keeps."""
TOGETHER = 16 << 10
"""Bytes of a body up to which a copy costs less than a second buffer."""
PATIENCE = 64 << 10
"""Bytes waiting to be written above which a connection has to take its time."""
LEAST = 1024
"""Bytes of a body that have to come within `ConnectionLimits.stall`, for the client to count as sending."""
GOODBYE = 1.0
"""Seconds at the end for which connections in use may be told, with an answer, that it is their last."""
QUIET = 0.25
"""Seconds of silence after which a connection counts as not in use."""
STEP = 0.05
"""Seconds between two looks whether connections are still in use."""


class Replay:
    """A whole answer, and what is noted of it."""

    __slots__ = ("body", "head", "notes", "status", "validity")

    def __init__(self, validity: Validity, status: int, head: bytes, body: bytes, notes: Any) -> None:
        self.validity = validity
        self.status = status
        self.head = head
        self.body = body
        self.notes = notes


Observe = Callable[[Replay, str], None]
"""Told of each answer that the lane gives, with the client's address."""


class ReplayCache:
    """What all connections have in common: the remembered answers."""

    def __init__(
        self,
        observe: Observe,
        keepalive: float,
        clock: Callable[[], float] = time.time,
        connections: Connections | None = None,
    ) -> None:
        self.observe = observe
        self.connections = Connections(ConnectionLimits()) if connections is None else connections
        self.closing = False
        """Whether each answer is the last one of its connection."""
        self.open: set[ConnectionProtocol] = set()
        """The connections."""
        self.gone = asyncio.Event()
        """Set when one of them has ended."""
        self.detour_after = keepalive / 2
        """Seconds after which a connection's next request goes through aiohttp, for its keep-alive timer to see it."""
        self.clock = clock
        self._known: dict[bytes, Replay] = {}
        self._weight = 0

    def get(self, request: bytes) -> Replay | None:
        """The answer to a raw request, while it is valid."""
        ready = self._known.get(request)
        if ready is None:
            return None
        if ready.validity.holds(self.clock()):
            return ready
        self._forget(request, ready)
        return None

    def put(self, request: bytes, ready: Replay) -> None:
        """Remember an answer; the oldest ones go when there are too many."""
        if (known := self._known.get(request)) is not None:
            self._forget(request, known)
        self._known[request] = ready
        self._weight += _weight(request, ready)
        while self._weight > MOST_BYTES:
            oldest = next(iter(self._known))
            self._forget(oldest, self._known[oldest])

    def _forget(self, request: bytes, ready: Replay) -> None:
        del self._known[request]
        self._weight -= _weight(request, ready)


def _weight(request: bytes, ready: Replay) -> int:
    # Large bodies are pages, which `Answers` keeps and counts; small ones may be files, which nothing else keeps.
    return 512 + len(request) + (len(ready.body) if len(ready.body) <= PATIENCE else 0)


class ConnectionProtocol(asyncio.Protocol):
    """One connection: answers what is known, hands on the rest to aiohttp, and knows how its client keeps up."""

    def __init__(self, inner: asyncio.Protocol, lanes: ReplayCache) -> None:
        self._inner = inner
        self._lanes = lanes
        self._crowd = lanes.connections
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self._whole = True  # so far, only requests that the lane understands
        self._asked: bytes | None = None  # the request that aiohttp is answering
        self._running = 0  # how many it is answering
        self._detour_at = 0.0  # aiohttp has to see a request before its timers run
        self.used = False
        # How the client keeps up:
        self._head = 0  # bytes of a head that is not complete
        self._tail = b""  # its last ones
        self._handed = False  # a complete head is with aiohttp
        self._payload: Any = None  # the body of the request that is being answered
        self._leftover = False  # it was answered before all of its body came
        self._since = 0.0  # when the client last got on with it
        self._received = self._marked = 0  # bytes in all, and when `_since` was set
        self._waiting = 0  # bytes that the client has not taken, while writing is paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._since = self._crowd.clock()
        self._lanes.open.add(self)
        welcome = self._crowd.enter(self)
        self._inner.connection_made(transport)
        if not welcome:
            self._refuse(b"503 Service Unavailable", b"There are too many connections: come back in a moment.\n")

    def data_received(self, data: bytes) -> None:
        if self._whole:
            if not self._running and (ready := self._lanes.get(data)) is not None and self._may_write():
                assert self._transport is not None, "data comes over a transport"
                write(self._transport, ready.head + date(), ready.body)
                self.used = True
                self._lanes.observe(ready, self._client)
                return
            self._whole = _is_whole(data)
            self._asked = data if self._whole and not self._running else None
            self._running += 1
        self._received += len(data)
        if not self._handed and not self._takes_head(data):
            self._refuse(b"431 Request Header Fields Too Large", b"The headers of the request are too large.\n")
            return
        self._inner.data_received(data)
        if self._leftover and self._payload.is_eof():
            self._rest()

    def _takes_head(self, data: bytes) -> bool:
        """Take note of bytes before the end of a head; False when the head is too long."""
        if not self._head:
            self._since = self._crowd.clock()
            self._crowd.busy(self)
        end = (self._tail + data).find(b"\r\n\r\n") if self._tail else data.find(b"\r\n\r\n")
        length = self._head + (len(data) if end < 0 else end)
        if length > self._crowd.bounds.headers:
            return False
        self._handed = end >= 0
        self._head, self._tail = (0, b"") if self._handed else (length, (self._tail + data)[-3:])
        return True

    def _may_write(self) -> bool:
        assert self._transport is not None, "data comes over a transport"
        if self._lanes.closing or self._transport.get_write_buffer_size() > PATIENCE:
            return False
        return self._lanes.clock() < self._detour_at

    def _refuse(self, status: bytes, sentence: bytes) -> None:
        assert self._transport is not None, "called with a transport"
        head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\nRetry-After: 5" % (status, len(sentence))
        self._transport.write(head + date() + sentence)
        self._transport.close()

    def begun(self, payload: Any) -> None:
        """aiohttp has begun to answer a request with this body."""
        self._head, self._tail, self._handed = 0, b"", True
        self._payload, self._leftover = payload, False
        self._since, self._marked = self._crowd.clock(), self._received
        self._crowd.busy(self)

    def answered(self) -> None:
        """aiohttp has answered a request. It goes on to read a body of which there is more, as long as that may take:
        who is still sending would not see the answer otherwise.
        """
        self._running -= 1
        self._asked = None
        self._since = self._crowd.clock()
        self._leftover = self._payload is not None and not self._payload.is_eof()
        if not self._leftover:
            self._rest()
        self._detour_at = self._lanes.clock() + self._lanes.detour_after

    def _rest(self) -> None:
        """There is nothing more of this request."""
        self._payload, self._leftover, self._handed = None, False, False
        self._since = self._crowd.clock()
        self._crowd.idle(self)
        if self._lanes.closing and self._transport is not None:
            self._transport.close()

    def offer(self, ready: Replay) -> None:
        """This is what was answered to the request that is being answered: remember it, if that is possible."""
        if self._asked is not None and len(self._asked) <= LONGEST and len(ready.body) <= LARGEST:
            self._lanes.put(self._asked, ready)

    def overdue(self, now: float) -> str:
        """Why the client has had its time (half a sentence); empty while it keeps up."""
        bounds = self._crowd.bounds
        if self._head:
            late = now - self._since > bounds.head_time
            return f"no whole request within {bounds.head_time:.0f} s" if late else ""
        if self._waiting:
            return self._takes_nothing(now)
        if self._payload is None or self._payload.is_eof() or self._transport is None:
            return ""
        if not self._transport.is_reading() or self._received - self._marked >= LEAST:
            self._since, self._marked = now, self._received  # we are the slow ones, or the client does send
            return ""
        return f"not {LEAST} bytes of a body within {bounds.stall:.0f} s" if now - self._since > bounds.stall else ""

    def _takes_nothing(self, now: float) -> str:
        assert self._transport is not None, "writing was paused"
        waiting = self._transport.get_write_buffer_size()
        if waiting != self._waiting:
            self._waiting, self._since = waiting, now
        stall = self._crowd.bounds.stall
        return f"nothing of an answer taken within {stall:.0f} s" if now - self._since > stall else ""

    def in_use(self, now: float) -> bool:
        """Whether the client is likely to send a request in this very moment."""
        used, self.used = self.used, False
        return used or bool(self._head) or (not self._handed and now - self._since < QUIET)

    def close_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if not self._handed and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._lanes.open.discard(self)
        self._lanes.gone.set()
        self._crowd.leave(self)
        self._inner.connection_lost(exc)
        self._payload, self._leftover = None, False

    def pause_writing(self) -> None:
        assert self._transport is not None, "writing goes over a transport"
        self._waiting, self._since = self._transport.get_write_buffer_size(), self._crowd.clock()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._waiting, self._since = 0, self._crowd.clock()
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
    b"\nforwarded",  # who asks is to be looked at
    b"\nx-forwarded-",
    b"\nx-request-id",
)


def _is_whole(data: bytes) -> bool:
    """Whether these bytes are one whole request, without a body and without credentials."""
    if not data.startswith((b"GET /", b"HEAD /")) or data.find(b"\r\n\r\n") != len(data) - 4:
        return False
    head = data.lower()
    return not any(name in head for name in _NOT_REPEATED)


def connection_of(request: web.BaseRequest) -> ConnectionProtocol | None:
    """The lane of a request's connection, where it has one."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, ConnectionProtocol) else None


class ConnectionRunner(web.AppRunner):
    """An AppRunner whose connections have lanes. It needs no sites: whoever accepts connections calls `connect`."""

    def __init__(self, app: web.Application, lanes: ReplayCache, **options: Any) -> None:
        super().__init__(app, **options)
        self._lanes = lanes

    @property
    def server(self) -> Any:
        """What sites make connections with."""
        return None if super().server is None else self.connect

    def connect(self) -> ConnectionProtocol:
        """The protocol of a new connection."""
        inner = super().server
        assert inner is not None, "set up"
        return ConnectionProtocol(inner(), self._lanes)

    async def setup(self) -> None:
        """As an AppRunner does; and let lanes know of each request that begins."""
        await super().setup()
        server = super().server
        assert server is not None, "set up"
        make = server.request_factory

        def begin(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            transport = protocol.transport
            lane = transport.get_protocol() if transport is not None else None
            if isinstance(lane, ConnectionProtocol):
                lane.begun(payload)
            if self._lanes.closing:
                message = message._replace(should_close=True)
            return make(message, payload, protocol, writer, task)

        server.request_factory = begin

    async def say_goodbye(self) -> None:
        """Let connections in use end with an answer that says so, instead of in the middle of a request (RFC 9112
        section 9.6). Takes no longer than GOODBYE; running answers are waited for by `cleanup`."""
        self._lanes.closing = True
        crowd = self._lanes.connections
        for _ in range(int(GOODBYE / STEP)):
            now = crowd.clock()
            if not any(lane.in_use(now) for lane in self._lanes.open):
                break
            await asyncio.sleep(STEP)

    async def retire(self) -> None:
        """Take no new requests, and wait until the running ones have been answered, however long that takes."""
        await self.say_goodbye()
        for lane in list(self._lanes.open):
            lane.close_idle()
        while self._lanes.open:
            self._lanes.gone.clear()
            await self._lanes.gone.wait()
        await self.cleanup()


_date = (0, b"")


def date() -> bytes:
    """The Date header of this second, with the end of the head."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"\r\nDate: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
    return _date[1]
