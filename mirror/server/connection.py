"""One connection of a client: what it is sent without a handler, and what is left to aiohttp.

`ConnectionProtocol` stands between the transport and aiohttp's protocol. Where `replay` has the response to what a
request means, it sends that; everything else it forwards to aiohttp, whose protocol is made when it is first needed.
On the way it records how far its client has come, for `progress`, and each response, for the group to note.

Replaying is limited to connections that have sent nothing but whole requests without a body, one at a time: only then
is it certain that aiohttp would see the same request boundaries (RFC 9112 section 11.2). Where a request ends, and what
it holds, is decided by aiohttp's own parser, of which the group has one more for this.
"""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from itertools import chain
from typing import Any, cast

from aiohttp import EMPTY_PAYLOAD, web
from aiohttp.abc import AbstractAccessLogger
from aiohttp.http import HttpVersion11
from aiohttp.http_exceptions import HttpProcessingError

from mirror.errors import Invalid
from mirror.index.change_counter import COUNTER_BYTES
from mirror.index.other_nodes import EVERYWHERE
from mirror.server.facts import FACTS, RequestFacts, ResponseRecord, facts_of
from mirror.server.group import RECORD_SECONDS, RECORDS_AT_ONCE, ConnectionGroup
from mirror.server.negotiate import requested_freshness
from mirror.server.progress import ClientProgress
from mirror.server.proxies import FORWARDED_HEADERS
from mirror.server.replay import (
    FORWARDED,
    PERSONAL,
    PRIVATE_KEY,
    REPLAY_BODY_BYTES,
    REPLAY_REQUEST_BYTES,
    ROLES,
    HeaderRole,
    Replay,
    RequestHead,
    credentials_in,
)
from mirror.server.slices import DENSE_BYTES, SLICE_BYTES, Slices

MAX_UNSENT_BYTES = 64 << 10
"""Bytes waiting to be written from which on a connection gets no replays, but waits in aiohttp for its client."""
JOINED_WRITE_BYTES = 16 << 10
"""Bytes of a replay's body up to which copying it behind its head costs less than a second buffer."""

UNUSUAL_REQUESTS = 8
"""Requests that no replay can answer, as those in HTTP/1.0, after which none of a connection is looked at: all would be
parsed twice. Over a proxy's connection come those of many."""


class ConnectionProtocol(ClientProgress, asyncio.Protocol):
    """One connection: sends replays, leaves all other requests to aiohttp, and notes when its client stalls."""

    def __init__(self, make_inner: Callable[[], asyncio.Protocol], group: ConnectionGroup) -> None:
        """`make_inner` returns aiohttp's protocol."""
        super().__init__(group.connections.limits)
        self._make_inner = make_inner
        self._inner: asyncio.Protocol | None = None
        self._group = group
        self._replays = group.replays
        self._connections = group.connections
        self._client = ""
        self.network = ""
        """The client to which its place is counted."""
        self.guarded = False
        """Whether the client may only use the names of loopback for the mirror."""
        # Replaying:
        self._trusted = False  # the client is a proxy whose headers count
        self._scheme = "http"
        self._whole = True  # all that was sent so far was whole requests without a body
        self._key = b""  # of the request that is being answered, when its response can be replayed
        self._running = 0  # how many requests aiohttp is answering
        self._unusual = 0  # how many of them no replay can answer
        # How the client keeps up, beside what `ClientProgress` has:
        self._head_end = b""  # the last bytes of a head that is incomplete
        self._plain_body = False  # the body of the request that is being answered has a known length
        self._unread_body = False  # it was answered before all of its body had come
        self._slices: Slices | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        group = self._group
        self._transport = cast(asyncio.Transport, transport)
        peer, own = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        self._client = str(peer[0]) if isinstance(peer, tuple) else ""
        self._trusted = group.proxies.trusts(self._client)
        if self._trusted and transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self.network = group.proxies.client_of(self._client)
        self.guarded = isinstance(own, tuple) and group.guards(str(own[0]))
        if self.guarded:
            self._replays = group.guarded_replays
        self._progress_at = self._connections.clock()
        group.open.add(self)
        if not self._connections.add(self):
            self._refuse(b"503 Service Unavailable", b"There are too many connections: come back in a moment.\n")

    def data_received(self, data: bytes) -> None:
        if self._whole:
            entry = self._group.heads.get(data)
            head = read_head(data, self._group) if entry is None else entry.value
            self._key = b""
            if head is None:
                self._whole = False
            elif not head.key:
                self._unusual += 1
                self._whole = self._trusted or self._unusual < UNUSUAL_REQUESTS
            elif not self._running:
                if entry is not None:
                    entry.used = True
                if self._replay(head):
                    if entry is None and head.repeats:
                        self._group.heads.keep(data, head)
                    return
            self._running += 1
        if self._plain_body:  # of a known length: how many lines it has costs nothing
            self._forward(self._slices.take() + data if self._slices else data)
        elif self._slices or (len(data) > SLICE_BYTES and data.count(b"\n") * DENSE_BYTES > len(data)):
            if self._slices is None:
                self._slices = Slices(self._forward, self._aiohttp(), self._transport)
            self._slices.add(data)
        else:
            self._forward(data)

    def _aiohttp(self) -> asyncio.Protocol:
        """Return aiohttp's protocol, made when it is needed for the first time."""
        if self._inner is None:
            assert self._transport is not None, "data comes over a transport"
            self._inner = self._make_inner()
            self._inner.connection_made(self._transport)
            if self._unsent:
                self._inner.pause_writing()
        return self._inner

    def _forward(self, data: bytes) -> None:
        self._received += len(data)
        if not self._in_request and not self._count_head(data):
            self._refuse(b"431 Request Header Fields Too Large", b"The headers of the request are too large.\n")
            return
        self._aiohttp().data_received(data)
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

    def _replay(self, head: RequestHead) -> bool:
        """Send the response that is kept for what a request means, and return True; False to leave it to aiohttp."""
        group, replays, key, client = self._group, self._replays, head.key, self._client
        if self._trusted and head.forwarded is not None:
            try:
                report = group.proxies.report(client, self._scheme, head.host, head.forwarded)
            except Invalid:
                return False
            if report is not None:
                key, client = report.key + key, report.client or client
        self._key = key
        entry = replays.get(key)
        if entry is None:  # what everyone may read would be there
            rights = group.rights(head.credentials) if head.credentials else group.anonymous_rights
            if not rights or (entry := replays.get(PRIVATE_KEY % (rights, key))) is None:
                return False
        replay, transport, now = entry.value, self._transport, replays.clock()
        validity = replay.validity
        if now >= validity.until or not (validity.of or validity).live:
            replays.forget(entry.key)
            return False
        assert transport is not None, "data comes over a transport"
        changes = replays.changes  # where others have changed something, the middleware looks at it
        if changes.memory[:COUNTER_BYTES] != changes.seen or group.draining or transport.is_closing():
            return False
        if changes.others is not None and changes.others.concern(
            EVERYWHERE if replay.facts.kind == "index" else replay.facts.repository, bool(head.credentials)
        ):
            return False
        if transport.get_write_buffer_size() > MAX_UNSENT_BYTES:
            return False
        body = replay.content if replay.shared is None else replay.body()
        if body is None:
            replays.forget(entry.key)
            return False
        entry.used = self.used = True
        self._progress_at = self._connections.clock()
        line = date_line() if head.keep_alive else b"\r\nConnection: close" + date_line()
        if replay.size <= JOINED_WRITE_BYTES:
            transport.write(replay.head + line + body)
        else:
            transport.writelines((replay.head + line, body))
        if not head.keep_alive:
            transport.close()
        request_id = head.request_id if self._trusted else ""
        who = client, head.agent, request_id
        record_response(group, ResponseRecord(now, replay.facts, *who, replay.status, replay.size, 0.0))
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
        self._key = b""
        self._progress_at = self._connections.clock()
        self._unread_body = self._payload is not None and not self._payload.is_eof()
        if not self._unread_body:
            self._end_request()

    def _end_request(self) -> None:
        self._payload, self._unread_body, self._in_request, self._plain_body = None, False, False, False
        self._progress_at = self._connections.clock()
        if self in self._group.open:
            self._connections.idle[self] = None
        if self._group.draining and self._transport is not None:
            self._transport.close()

    @property
    def keeps_replay(self) -> bool:
        """Whether the response to the request that is being answered may be kept."""
        return bool(self._key)

    def remember(self, replay: Replay) -> None:
        """Keep the response to the request that is being answered, unless it is too large or depends on more."""
        key, facts = self._key, replay.facts
        if not key or replay.size > REPLAY_BODY_BYTES or (facts.private and not facts.rights):
            return
        if facts.private:
            key = PRIVATE_KEY % (facts.rights, key)
        self._replays.put(key, replay, len(key) + replay.weight, replay.worth)

    def eof_received(self) -> bool | None:
        return None if self._inner is None else self._inner.eof_received()

    def connection_lost(self, exc: Exception | None) -> None:
        self._group.open.discard(self)
        self._group.lost.set()
        self._connections.remove(self)
        if self._inner is not None:
            self._inner.connection_lost(exc)
        self._payload, self._unread_body = None, False

    def pause_writing(self) -> None:
        assert self._transport is not None, "writing goes over a transport"
        self._unsent, self._progress_at = self._transport.get_write_buffer_size(), self._connections.clock()
        if self._inner is not None:
            self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._unsent, self._progress_at = 0, self._connections.clock()
        if self._inner is not None:
            self._inner.resume_writing()


def read_head(data: bytes, group: ConnectionGroup) -> RequestHead | None:
    """Return what a request asks for; without a key when it is to be left to aiohttp.

    None when these bytes are anything but one whole request without a body, or too many.
    """
    # The parser would keep the beginning of a second request for the next call, which is another client's.
    if len(data) > REPLAY_REQUEST_BYTES or not (data.startswith((b"GET ", b"HEAD ")) and data.endswith(b"\r\n\r\n")):
        return None
    try:
        messages, upgraded, rest = group.parser.feed_data(data)
        ((message, payload),) = messages
    except (HttpProcessingError, ValueError):  # no request, or not one of them
        group.renew_parser()
        return None
    if message.should_close or upgraded or rest or payload is not EMPTY_PAYLOAD:
        group.renew_parser()
        if upgraded or rest or payload is not EMPTY_PAYLOAD:
            return None
    aside: dict[bytes, bytes] = {}
    kept: dict[bytes, bytes] = {}
    for name, value in message.raw_headers:
        name = name.lower()
        role = ROLES.get(name)
        if role is None and name not in kept:
            kept[name] = value
        elif role is HeaderRole.SET_ASIDE and name not in aside:
            aside[name] = value
        elif role is not HeaderRole.IGNORED:
            return RequestHead()
    host, connection, headers = aside.get(b"host"), aside.get(b"connection"), message.headers
    usual = connection is None or connection.lower() in (b"keep-alive", b"close")
    credentials = b"" if (impersonal := PERSONAL.isdisjoint(aside)) else credentials_in(aside)
    if host is None or not usual or credentials is None or message.version != HttpVersion11:
        return RequestHead()
    target = message.path.encode(errors="surrogateescape")
    return RequestHead(
        b"\n".join((message.method.encode(), target, host, *chain.from_iterable(sorted(kept.items())))),
        headers["Host"],
        headers.get("User-Agent", ""),
        credentials,
        None if FORWARDED.isdisjoint(aside) else tuple(map(headers.get, FORWARDED_HEADERS)),  # type: ignore[arg-type]
        headers["X-Request-ID"] if b"x-request-id" in aside else "",
        not message.should_close,
        impersonal and b"x-request-id" not in aside,
    )


def request_factory(
    group: ConnectionGroup, make_request: Callable[..., web.BaseRequest]
) -> Callable[..., web.BaseRequest]:
    """Return a factory of requests for aiohttp, around its own one, that attaches their facts."""

    def start_request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
        inner = protocol.transport.get_protocol() if protocol.transport is not None else None
        connection = inner if isinstance(inner, ConnectionProtocol) else None
        if connection is not None:
            connection.request_started(payload, message.chunked)
        if group.draining:
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


def access_logger(group: ConnectionGroup) -> type[AbstractAccessLogger]:
    """Return the class whose instance aiohttp calls for each response once its last byte is written."""

    class Logger(AbstractAccessLogger):
        enabled = True

        def log(self, request: web.BaseRequest, response: web.StreamResponse, seconds: float) -> None:
            if (connection := connection_of(request)) is not None:
                connection.response_finished()
            facts, sent = facts_of(request), response.body_length
            if isinstance(response, web.Response):  # whose length is counted with its head
                sent = 0 if request.method == "HEAD" else response.content_length or 0
            who = facts.client, facts.agent, facts.request_id
            record_response(group, ResponseRecord(time.time(), facts, *who, response.status, sent, seconds))

    return Logger


def record_response(group: ConnectionGroup, record: ResponseRecord) -> None:
    """Let a response be recorded a moment later."""
    group.records.append(record)
    if not group.recording:
        group.recording = True
        asyncio.get_running_loop().call_later(RECORD_SECONDS, group.process_last_records)
    if len(group.records) == RECORDS_AT_ONCE:
        asyncio.get_running_loop().call_soon(group.process_records)


def connection_of(request: web.BaseRequest) -> ConnectionProtocol | None:
    """Return the connection of a request; None on a server whose connections are plain aiohttp ones."""
    protocol = request.transport.get_protocol() if request.transport is not None else None
    return protocol if isinstance(protocol, ConnectionProtocol) else None


_date = (0, b"")


def date_line() -> bytes:
    """Return the Date header of this second, with the end of the head."""
    global _date
    now = int(time.time())
    if _date[0] != now:
        _date = now, b"\r\nDate: " + formatdate(now, usegmt=True).encode() + b"\r\n\r\n"
    return _date[1]
