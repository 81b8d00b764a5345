"""Connections to upstreams that are kept open, over which pages and files come with as little work as possible.

A general client spends several times more on a small answer than the network and the parser together. This one knows
GET over HTTP/1.1 without a proxy and nothing else. Answers are parsed by llhttp, which aiohttp uses too, and with the
same tolerance.

The surprise: bytes are read ahead into memory only up to a bound; then the connection is not read until its reader is.
"""

import asyncio
import re
from collections.abc import Mapping
from typing import cast

import httptools
from multidict import CIMultiDict
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.upstream import outgoing as way_out
from mirror.upstream.failures import InvalidResponse
from mirror.upstream.outgoing import READ_AHEAD_BYTES, Outgoing
from mirror.upstream.values import HEADER_LINE_BYTES, Origin, describe

HEAD_BYTES = 2 * HEADER_LINE_BYTES
"""The most bytes of an answer's head."""
OVERHEAD_BYTES = 1 << 20
"""The most bytes that surround the chunks of a body (their sizes, extensions and trailers), apart from …"""
OVERHEAD_FACTOR = 8
"""… so many for each of its bytes."""
MOST_HEADERS = 128
"""The most header lines of an answer."""

_HEADER_LINES = re.compile(r"(?:[^\r\n\0]+\r\n)+\r\n")


class ConnectionPool:
    """The connections of one client, kept by origin; each has one request at a time."""

    def __init__(self, outgoing: Outgoing, user_agent: str, read_timeout: float) -> None:
        """`read_timeout` is the longest silence within an answer, in seconds."""
        self._outgoing = outgoing
        self._user_agent = user_agent
        self._read_timeout = read_timeout
        self._open: set[PooledConnection] = set()
        self._idle: dict[Origin, list[tuple[float, PooledConnection]]] = {}
        """With the moment since when each is idle, in seconds of the event loop; the newest is the last."""
        self._timer: asyncio.TimerHandle | None = None

    async def get(self, url: URL, headers: Mapping[str, str]) -> "PooledResponse":
        """Send a GET, and return the answer once its head is here. The caller ends it.

        Raises OSError (TimeoutError and ConnectFailure too), InvalidResponse and UpstreamError.
        """
        key, request = (url.scheme, url.host, url.port), self._request(url, headers)
        while True:
            kept = self._take(key)
            connection = kept or await self._connect(key)
            response = PooledResponse(url, self, key, connection)
            try:
                await connection.send(request, response)
            except ConnectionError:
                connection.abort()
                if kept is None or connection.received:
                    raise
                continue  # closed just before the request came, as servers do with idle connections
            except BaseException:
                connection.abort()
                raise
            return response

    def _request(self, url: URL, headers: Mapping[str, str]) -> bytes:
        lines = [f"GET {url.raw_path_qs} HTTP/1.1", f"Host: {url.host_port_subcomponent}"]
        lines.append(f"User-Agent: {self._user_agent}")
        if "Accept" not in headers:
            lines.append("Accept: */*")
        lines += [f"{name}: {value}" for name, value in headers.items()]
        head = "\r\n".join([*lines, "", ""])
        if not _HEADER_LINES.fullmatch(head) or head.count("\n") != len(lines) + 1:
            raise UpstreamProtocolError(f"{describe(url)} cannot be asked for: a header would have a line break.")
        return head.encode()

    # Connections

    def _take(self, key: Origin) -> "PooledConnection | None":
        """Return an idle connection that may still be used, the one that was used last."""
        idle = self._idle.get(key)
        oldest = asyncio.get_running_loop().time() - way_out.IDLE_SECONDS if idle else 0.0
        while idle:
            since, connection = idle.pop()
            if since >= oldest and connection.reusable:
                return connection
            connection.abort()
        return None

    def give_back(self, key: Origin, connection: "PooledConnection") -> None:
        """Keep a connection for the next request."""
        loop = asyncio.get_running_loop()
        self._idle.setdefault(key, []).append((loop.time(), connection))
        if self._timer is None:
            self._timer = loop.call_later(way_out.IDLE_SECONDS, self._close_idle)

    def _close_idle(self) -> None:
        """Close what has been idle for too long. One timer serves all, because setting one for each costs too much."""
        loop = asyncio.get_running_loop()
        self._timer, oldest = None, loop.time() - way_out.IDLE_SECONDS
        for key, idle in list(self._idle.items()):
            kept = [(since, one) for since, one in idle if since > oldest and one.reusable]
            for since, connection in idle:
                if since <= oldest:
                    connection.abort()
            self._idle[key] = kept
            if not kept:
                del self._idle[key]
        if self._idle:
            first = min(idle[0][0] for idle in self._idle.values())
            self._timer = loop.call_at(first + way_out.IDLE_SECONDS, self._close_idle)

    async def _connect(self, key: Origin) -> "PooledConnection":
        """Open a connection. Raises ConnectFailure, ConnectionTimeoutError and UpstreamError."""
        scheme, host, port = key
        assert host  # as every URL here has it
        assert port
        return await self._outgoing.open_connection(
            lambda: PooledConnection(self._read_timeout, self._open), host, port, tls=scheme == "https"
        )

    def close(self) -> None:
        """Close all connections. Answers that are being read break off."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        for connection in list(self._open):
            connection.abort()
        self._idle.clear()


class PooledResponse:
    """An answer whose head is here, and whose body is read as it comes."""

    def __init__(self, url: URL, pool: ConnectionPool, key: Origin, connection: "PooledConnection") -> None:
        self.url = url
        self.status = 0
        self.headers: CIMultiDict[str] = CIMultiDict()
        self.content_length: int | None = None
        """Of the body in bytes, None when that is not known."""
        self.complete = False
        """Whether all of the body has come."""
        self.paused = False
        """Whether the connection is not read, because the body is not."""
        self._pool = pool
        self._key = key
        self._connection: PooledConnection | None = connection
        self._chunks: list[bytes] = []
        self._bytes = 0
        self._error: Exception | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def next_chunk(self) -> bytes:
        """Return what has come of the body, empty at its end. Raises OSError when it breaks off."""
        while not self._chunks:
            if self.complete:
                return b""
            await self.wait()
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        self._chunks.clear()
        self._bytes = 0
        if self.paused and self._connection is not None:
            self.paused = False
            self._connection.resume()
        return data

    async def wait(self) -> None:
        """Wait until something comes. Raises what ended the connection."""
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    def end(self, *, connection: bool = False) -> None:
        """Keep the connection for the next request if all of the answer has come, unless it is to be closed too."""
        used, self._connection = self._connection, None
        if used is None:
            return
        if self.complete and used.reusable and not self.paused and not connection:
            self._pool.give_back(self._key, used)
        else:
            used.abort()

    # Called by the connection

    def wake(self) -> None:
        """Let the reader look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def fail(self, error: Exception) -> None:
        """Let the reader know that nothing more comes."""
        if not self.complete and self._error is None:
            self._error = error
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_exception(error)

    def add(self, chunk: bytes) -> bool:
        """Take a part of the body; return whether no more should be read for now."""
        self._chunks.append(chunk)
        self._bytes += len(chunk)
        return self._bytes > READ_AHEAD_BYTES


class PooledConnection(asyncio.Protocol):
    """One connection, with one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, read_timeout: float, opened: "set[PooledConnection]") -> None:
        """`opened` has all connections that are open."""
        self._opened = opened
        self.received = False
        """Whether any byte came since the last request."""
        self.reusable = False
        """Whether another request may be sent."""
        self._parser = self._new_parser()
        self._read_timeout = read_timeout
        self._response: PooledResponse | None = None
        """The answer that is awaited, until all of it is here."""
        self._headers: list[tuple[str, str]] = []
        self._has_head = False
        self._head_bytes = 0
        self._overhead_left = 0
        """Bytes that may still come without being part of the body."""
        self._until_end = False
        """Whether the body goes on until the connection ends."""
        self._plain_left = 0
        """Bytes that are still to come of a body whose length the head has."""
        self._active = 0.0
        """When anything was last sent or received, on the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        parser.set_dangerous_leniencies(  # those of aiohttp's client
            lenient_headers=True, lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        return parser

    async def send(self, request: bytes, response: PooledResponse) -> None:
        """Send a request, and wait for the head of its answer. Raises OSError (TimeoutError too), InvalidResponse."""
        self.reusable = self.received = self._has_head = self._until_end = False
        self._headers, self._head_bytes, self._overhead_left = [], 0, HEAD_BYTES + OVERHEAD_BYTES
        self._plain_left = 0
        if self._transport.is_closing():
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._response, self._active = response, loop.time()
        if self._timer is None:
            self._timer = loop.call_at(self._active + self._read_timeout, self._check_silence)
        self._transport.write(request)
        while not self._has_head:
            await response.wait()

    def _check_silence(self) -> None:
        """Fail after too long a silence. One timer serves many answers, because setting one for each costs too much."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._response is None:
            return  # the next request sets it again
        now = loop.time()
        if self._response.paused:
            self._active = now  # the reader's silence, not upstream's
        if now < self._active + self._read_timeout:
            self._timer = loop.call_at(self._active + self._read_timeout, self._check_silence)
        else:
            self.abort(TimeoutError())

    def resume(self) -> None:
        """Read on."""
        self._active = asyncio.get_running_loop().time()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def abort(self, error: Exception | None = None) -> None:
        """Close the connection at once; who reads its answer gets the error, or that the connection was reset."""
        self.reusable = False
        self._opened.discard(self)
        response, self._response = self._response, None
        if response is not None:
            response.fail(error or ConnectionResetError())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass
        self._opened.add(self)

    def data_received(self, data: bytes) -> None:
        self.received = True
        response = self._response
        if response is None:
            self.abort()  # not requested
            return
        self._active = asyncio.get_running_loop().time()
        if self._plain_left:
            self._take_plain(data, response)
            response.wake()
            return
        self._overhead_left -= len(data)
        try:
            self._parser.feed_data(data)
            if not self._has_head:
                self._head_bytes += len(data)
            if self._head_bytes > HEAD_BYTES or self._overhead_left < 0:
                raise InvalidResponse
        except (httptools.HttpParserError, httptools.HttpParserUpgrade, InvalidResponse):
            # What follows a complete answer is not wanted, and no matter of its reader.
            self.abort(None if self._has_head else InvalidResponse())
        response.wake()

    def _take_plain(self, data: bytes, response: PooledResponse) -> None:
        """Take more of a body whose length is known: the parser would do nothing but copy it."""
        surplus = len(data) - self._plain_left
        self._add(response, data[: self._plain_left] if surplus > 0 else data)
        if surplus >= 0:
            self._complete(response)
            self._parser = self._new_parser()  # the old one goes on to wait for the body
        if surplus > 0:
            self.abort()  # not requested

    def _add(self, response: PooledResponse, content: bytes) -> None:
        self._plain_left -= min(len(content), self._plain_left)
        if response.add(content) and not response.paused:
            response.paused = True
            self._transport.pause_reading()

    def _complete(self, response: PooledResponse) -> None:
        self.reusable = self._parser.should_keep_alive()
        response.complete, self._response = True, None

    def connection_lost(self, exc: Exception | None) -> None:
        response = self._response
        if response is not None and self._until_end and exc is None:
            response.complete, self._response = True, None
            response.wake()
        self.abort(exc if isinstance(exc, OSError) else ConnectionResetError())

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._response is None:
            raise InvalidResponse  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._has_head:
            return  # a trailer
        size = len(name) + len(value)
        self._head_bytes += size
        if size > HEADER_LINE_BYTES or self._head_bytes > HEAD_BYTES:
            raise InvalidResponse
        text = value.decode("utf-8", "surrogateescape").rstrip(" \t")
        if "\0" in text or len(self._headers) >= MOST_HEADERS:
            raise InvalidResponse
        self._headers.append((name.decode("utf-8", "surrogateescape"), text))

    def on_headers_complete(self) -> None:
        status, response = self._parser.get_status_code(), self._response
        if status < 200 or response is None:
            return
        headers: CIMultiDict[str] = CIMultiDict(self._headers)
        response.status, response.headers = status, headers
        length = headers.get("Content-Length")
        response.content_length = int(length) if length is not None and length.isdigit() else None
        coding = headers.get("Transfer-Encoding")
        chunked = coding is not None and coding.lower().rstrip().endswith("chunked")
        self._until_end = length is None and not chunked and status not in (204, 304)
        if coding is None and status not in (204, 304):
            self._plain_left = response.content_length or 0
        self._has_head = True

    def on_body(self, body: bytes) -> None:
        response = self._response
        if response is not None:
            self._overhead_left += (1 + OVERHEAD_FACTOR) * len(body)
            self._add(response, body)

    def on_message_complete(self) -> None:
        response = self._response
        if not self._has_head:
            self._headers = []  # as 103: the final answer is yet to come
        elif response is not None:
            self._complete(response)
