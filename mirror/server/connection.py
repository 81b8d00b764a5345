"""One connection of a client: what it is sent without parsing, and whether its client keeps up.

`ConnectionProtocol` stands between the transport and aiohttp's protocol. It answers what `replay` knows without parsing
the request, forwards everything else to aiohttp, and records when its client last made progress, for `connections`.
What is to be noted of each response is collected by its `ConnectionGroup`, and noted for many at once a moment later.

Replaying is limited to connections that have sent nothing but whole requests of the kind that can be replayed, one at
a time: only then is it certain that aiohttp would see the same request boundaries (RFC 9112 section 11.2).
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from email.utils import formatdate
from typing import Any, cast

from aiohttp import web
from aiohttp.abc import AbstractAccessLogger

from mirror.index.cache import CacheEntry
from mirror.index.change_counter import COUNTER_BYTES
from mirror.server.connections import Connections, Standing
from mirror.server.facts import FACTS, RequestFacts, ResponseRecord, facts_of
from mirror.server.negotiate import requested_freshness
from mirror.server.proxies import network_of
from mirror.server.replay import REPLAY_BODY_BYTES, REPLAY_BYTES, REPLAY_REQUEST_BYTES, Replay, ReplayCache
from mirror.server.slices import DENSE_BYTES, SLICE_BYTES, Slices

MAX_UNSENT_BYTES = 64 << 10
"""Bytes waiting to be written from which on a connection gets no replays, but waits in aiohttp for its client."""
BODY_SECONDS = 30.0
"""Seconds over which the rate is measured at which a body arrives."""
JOINED_WRITE_BYTES = 16 << 10
"""Bytes of a replay's body up to which copying it behind its head costs less than a second buffer."""
RECORD_SECONDS = 0.1
"""Seconds after which responses are recorded …"""
RECORDS_AT_ONCE = 200
"""… or this many of them: recording delays whatever else the event loop has to do."""
QUIET_SECONDS = 0.25
"""Seconds without a request after which a connection counts as not in use."""


class ConnectionGroup:
    """The connections of one server, which are drained together, and what they share."""

    def __init__(
        self,
        connections: Connections,
        replays: ReplayCache,
        keepalive: float,
        process: Callable[[Sequence[ResponseRecord]], None],
        guards: Callable[[str], bool] = lambda address: False,
        client_of: Callable[[str], str] = network_of,
    ) -> None:
        """`keepalive` is aiohttp's, in seconds; `process` is called with the records of responses a moment later.

        `client_of` returns the client to which a connection from an address is counted; empty for a trusted proxy.
        `guards`: whether a connection to this local address may only use the names of loopback for the mirror.
        """
        self.connections = connections
        self.replays = replays
        self.guarded_replays = replays.beside()
        """Those of guarded connections: others may be answered under any name."""
        self.guards = guards
        self.client_of = client_of
        self._process = process
        self._records: list[ResponseRecord] = []
        self.parse_within = keepalive / 2
        """Seconds after which aiohttp has to see a connection's next request, to restart its keep-alive timer."""
        self.draining = False
        """Whether each response is the last one of its connection."""
        self.open: set[ConnectionProtocol] = set()
        self.lost = asyncio.Event()
        """Set whenever one of them has ended."""

    def request_factory(self, make_request: Callable[..., web.BaseRequest]) -> Callable[..., web.BaseRequest]:
        """Return a factory of requests for aiohttp, around its own one, that attaches their facts."""

        def start_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
            inner = protocol.transport.get_protocol() if protocol.transport is not None else None
            connection = inner if isinstance(inner, ConnectionProtocol) else None
            if connection is not None:
                connection.request_started(payload, message.chunked)
            if self.draining:
                message = message._replace(should_close=True)
            request = make_request(message, payload, protocol, writer, task)
            headers = request.headers
            request[FACTS] = RequestFacts(
                request.method,
                request.path_qs,
                headers.get("User-Agent", ""),
                requested_freshness(headers.get("Cache-Control"), headers.get("Pragma")),
                request.remote or "",
                connection is not None and connection.guarded,
            )
            return request

        return start_request

    def record(self, record: ResponseRecord) -> None:
        """Let a response be recorded a moment later."""
        self._records.append(record)
        if len(self._records) == 1:
            asyncio.get_running_loop().call_later(RECORD_SECONDS, self.process_records)
        elif len(self._records) == RECORDS_AT_ONCE:
            asyncio.get_running_loop().call_soon(self.process_records)

    def process_records(self) -> None:
        """Record now what waits for it."""
        records, self._records = self._records, []
        if records:
            self._process(records)

    def access_logger(self) -> type[AbstractAccessLogger]:
        """Return the class whose instance aiohttp calls for each response once its last byte is written."""
        group = self

        class Logger(AbstractAccessLogger):
            enabled = True

            def log(self, request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> None:
                if (connection := connection_of(request)) is not None:
                    connection.response_finished()
                facts = facts_of(request)
                sent = _sent(request, response)
                group.record(ResponseRecord(time.time(), facts, facts.client, response.status, sent, seconds))

        return Logger


def _sent(request: web.BaseRequest, response: web.StreamResponse) -> int:
    """Return the bytes of the body that were sent; aiohttp counts the head of its own responses among them."""
    if isinstance(response, web.Response):
        return 0 if request.method == "HEAD" else response.content_length or 0
    return response.body_length


class ConnectionProtocol(asyncio.Protocol):
    """One connection: sends replays, leaves all other requests to aiohttp, and notices when its client stalls."""

    def __init__(self, inner: asyncio.Protocol, group: ConnectionGroup) -> None:
        """`inner` is aiohttp's protocol."""
        self._inner = inner
        self._group = group
        self._replays = group.replays
        self._connections = group.connections
        self._transport: asyncio.Transport | None = None
        self._client = ""
        self.network = ""
        """The client to which its place is counted."""
        self.waiting = False
        """Whether the client waits for news, which may be long in coming."""
        self.guarded = False
        """Whether the client may only use the names of loopback for the mirror."""
        # Replaying:
        self._all_replayable = True  # every request so far could be replayed
        self._request: bytes | None = None  # the one that aiohttp is answering, when it can be replayed
        self._running = 0  # how many requests aiohttp is answering
        self._parse_at, self.used = 0.0, False  # when aiohttp has to see a request again, for its keep-alive timer
        # How the client keeps up:
        self._head_bytes, self._head_end = 0, b""  # of a head that is incomplete: how many, and the last ones
        self._in_request = False  # aiohttp has a complete head
        self._payload: Any = None  # the body of the request that is being answered
        self._plain_body = False  # which is one of a known length
        self._unread_body = False  # it was answered before all of its body had come
        self._progress_at = 0.0  # when the client last made progress
        self._slices = Slices(self._forward, inner)
        self._received = self._received_before = 0  # bytes in all: now, and at `_progress_at`
        self._unsent = 0  # bytes that the client has not taken, while writing is paused

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        peer = transport.get_extra_info("peername")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._slices.transport = self._transport
        self.network = self._group.client_of(self._client)
        own = transport.get_extra_info("sockname")
        self.guarded = isinstance(own, tuple) and self._group.guards(str(own[0]))
        self._replays = self._group.guarded_replays if self.guarded else self._group.replays
        self._progress_at = self._connections.clock()
        self._group.open.add(self)
        accepted = self._connections.add(self)
        self._inner.connection_made(transport)
        if not accepted:
            self._refuse(b"503 Service Unavailable", b"There are too many connections: come back in a moment.\n")

    def data_received(self, data: bytes) -> None:
        if self._all_replayable:
            if not self._running and (entry := self._replays.get(data)) is not None and self._replay(entry):
                return
            self._all_replayable = is_replayable(data)
            self._request = data if self._all_replayable and not self._running else None
            self._running += 1
        if self._plain_body:  # of a known length: how many lines it has costs nothing
            self._forward(self._slices.take() + data if self._slices else data)
        elif self._slices or (len(data) > SLICE_BYTES and data.count(b"\n") * DENSE_BYTES > len(data)):
            self._slices.add(data)
        else:
            self._forward(data)

    def _forward(self, data: bytes) -> None:
        self._received += len(data)
        if not self._in_request and not self._count_head(data):
            self._refuse(b"431 Request Header Fields Too Large", b"The headers of the request are too large.\n")
            return
        self._inner.data_received(data)
        if self._unread_body and self._payload.is_eof():
            self._end_request()

    def _count_head(self, data: bytes) -> bool:
        """Count bytes before the end of a head; return False when the head is too long."""
        if not self._head_bytes:
            self._progress_at = self._connections.clock()
            self._connections.idle.pop(self, None)
        end = (self._head_end + data).find(b"\r\n\r\n") if self._head_end else data.find(b"\r\n\r\n")
        length = self._head_bytes + (len(data) if end < 0 else end)
        if length > self._connections.limits.headers:
            return False
        complete = self._in_request = end >= 0
        self._head_bytes, self._head_end = (0, b"") if complete else (length, (self._head_end + data)[-3:])
        return True

    def _replay(self, entry: CacheEntry[Replay]) -> bool:
        """Send a replay and return True; False when it is no longer valid, or aiohttp has to see the request."""
        transport, replay, now = self._transport, entry.value, self._replays.clock()
        assert transport is not None, "data comes over a transport"
        validity, kept = replay.validity, None if replay.shared is None else replay.shared()
        if now >= validity.until or not (validity.of or validity).live or (kept is None and replay.shared is not None):
            self._replays.forget(entry.key)
            return False
        changes = self._replays.changes  # where others have changed something, the middleware looks at it
        if now >= self._parse_at or self._group.draining or changes.memory[:COUNTER_BYTES] != changes.seen:
            return False
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            return False
        entry.used = self.used = True
        head, body = replay.head + date_line(), replay.content if kept is None else kept.content
        if replay.size <= JOINED_WRITE_BYTES:
            transport.write(head + body)
        else:
            transport.writelines((head, body))
        self._group.record(ResponseRecord(time.time(), replay.facts, self._client, replay.status, replay.size, 0.0))
        return True

    def _refuse(self, status: bytes, sentence: bytes) -> None:
        assert self._transport is not None, "called with a transport"
        head = b"HTTP/1.1 %b\r\nContent-Length: %d\r\nConnection: close\r\nRetry-After: 10" % (status, len(sentence))
        self._transport.write(head + date_line() + sentence)
        self._transport.close()

    def request_started(self, payload: Any, chunked: bool) -> None:
        """Record that aiohttp has begun to answer a request with this body, and whether that comes in chunks."""
        self._plain_body = not (chunked or payload.is_eof())
        self._head_bytes, self._head_end, self._in_request = 0, b"", True
        self._payload, self._unread_body = payload, False
        self._progress_at, self._received_before = self._connections.clock(), self._received
        self._connections.idle.pop(self, None)

    def response_finished(self) -> None:
        """Record that aiohttp has answered a request.

        Where there is more of the request's body, aiohttp goes on to read it, as long as that may take: a client that
        is still sending would not see the response otherwise.
        """
        self._running -= 1
        self._request = None
        self._progress_at = self._connections.clock()
        self._unread_body = self._payload is not None and not self._payload.is_eof()
        if not self._unread_body:
            self._end_request()
        self._parse_at = self._replays.clock() + self._group.parse_within

    def _end_request(self) -> None:
        self._payload, self._unread_body, self._in_request, self._plain_body = None, False, False, False
        self._progress_at = self._connections.clock()
        if self in self._group.open:
            self._connections.idle[self] = None
        if self._group.draining and self._transport is not None:
            self._transport.close()

    def remember(self, replay: Replay) -> None:
        """Keep the response to the request that is being answered, unless it or its request is too large."""
        request = self._request
        if request is not None and len(request) <= REPLAY_REQUEST_BYTES and replay.size <= REPLAY_BODY_BYTES:
            facts = len(replay.facts.path) + len(replay.facts.agent)
            weight = REPLAY_BYTES + len(request) + len(replay.head) + len(replay.content) + facts
            self._replays.put(request, replay, weight)

    def stall_reason(self, now: float) -> str:
        """Return why the client is too slow, as half a sentence; an empty string while it keeps up."""
        limits = self._connections.limits
        if self._head_bytes:
            late = now - self._progress_at > limits.head_time
            return f"no whole request within {limits.head_time:.0f} s" if late else ""
        if self._unsent:
            return self._unsent_reason(now)
        if self._payload is None or self._payload.is_eof() or self._transport is None:
            return ""
        seconds = min(limits.stall, BODY_SECONDS)
        if not self._transport.is_reading() or self._received - self._received_before >= limits.body_rate * seconds:
            # Either we are the slow side, or the client does send.
            self._progress_at, self._received_before = now, self._received
            return ""
        if now - self._progress_at <= seconds:
            return ""
        return f"less than {limits.body_rate:.0f} bytes of a body in a second, for {seconds:.0f} s"

    def _unsent_reason(self, now: float) -> str:
        assert self._transport is not None, "writing was paused"
        unsent = self._transport.get_write_buffer_size()
        if unsent != self._unsent:
            self._unsent, self._progress_at = unsent, now
        stall = self._connections.limits.stall
        return f"nothing of a response taken within {stall:.0f} s" if now - self._progress_at > stall else ""

    def in_use(self, now: float) -> bool:
        """Return whether the client may well send a request just now."""
        used, self.used = self.used, False
        return used or bool(self._head_bytes) or (not self._in_request and now - self._progress_at < QUIET_SECONDS)

    def standing(self) -> Standing:
        """Return what would be lost with the connection."""
        if self._head_bytes or (self._payload is not None and not self._payload.is_eof()):
            return Standing.SENDING
        if not self._in_request:
            return Standing.IDLE
        return Standing.WAITING if self.waiting else Standing.SERVED

    def close_idle(self) -> None:
        """Close the connection unless a request is being answered."""
        if not self._in_request and self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._group.open.discard(self)
        self._group.lost.set()
        self._connections.remove(self)
        self._inner.connection_lost(exc)
        self._payload, self._unread_body = None, False

    def pause_writing(self) -> None:
        assert self._transport is not None, "writing goes over a transport"
        self._unsent, self._progress_at = self._transport.get_write_buffer_size(), self._connections.clock()
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._unsent, self._progress_at = 0, self._connections.clock()
        self._inner.resume_writing()


def connection_of(request: web.BaseRequest) -> ConnectionProtocol | None:
    """Return the connection of a request; None on a server whose connections are plain aiohttp ones."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, ConnectionProtocol) else None


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
