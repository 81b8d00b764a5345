"""The HTTP/1.1 client of a worker: it fetches small files with as little work for each as possible.

A general client spends several times more on a small file than the network and the parser together. This one knows the
usual case alone: a complete answer, on a connection that is kept open. Everything else is an error, which leaves the
file to the ordinary client of the mirror, and an origin that keeps failing is not asked again. Answers are parsed by
llhttp, which Node.js uses.
"""

import asyncio
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import cast

import httptools
import msgspec
from multidict import CIMultiDict
from yarl import URL

from mirror.airgap.sync.workers.messages import WorkerUpstream
from mirror.errors import ConfigError, UpstreamProtocolError, UpstreamUnavailable
from mirror.upstream import Origin, Outgoing, origin, redirect_target

HEAD_BYTES = 64 << 10
"""The most bytes of an answer's head, together with what surrounds the chunks of its body; and of an error's body."""
REDIRECTS = 5
FAILURES_IN_A_ROW = 3
"""After so many failures an origin is left to the ordinary client, which has retries and a circuit breaker."""

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class SmallFileResponse(msgspec.Struct, frozen=True):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class SmallFileClient:
    """Fetches small files of one upstream, over as many connections as there are calls at once."""

    def __init__(self, upstream: WorkerUpstream) -> None:
        self._upstream = upstream
        self._origin = origin(URL(upstream.url))
        self._constant = f"User-Agent: {upstream.user_agent}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
        self._outgoing = Outgoing(
            URL(upstream.url),
            ca_file=Path(upstream.ca_file) if upstream.ca_file else None,
            allow_hosts=upstream.allow_hosts,
            connect_timeout=upstream.connect_timeout,
        )
        self._idle: dict[Origin, list[_Connection]] = {}
        self._failures: Counter[Origin] = Counter()

    async def get(self, url: URL, limit: int) -> SmallFileResponse:
        """Return the answer to a GET, whose status is 200 and whose body has at most `limit` bytes.

        Raises UpstreamUnavailable, and UpstreamProtocolError for an address to which the upstream may not lead.
        """
        for _ in range(REDIRECTS + 1):
            response = await self._get(url, limit)
            if response.status == 200:
                return response
            if response.status not in _REDIRECT_STATUSES:
                raise UpstreamUnavailable(f"{url.host} answered {response.status}.")
            url = redirect_target(url, response.headers.get("Location"))
        raise UpstreamProtocolError(f"{url.host} redirected too often.")

    async def _get(self, url: URL, limit: int) -> SmallFileResponse:
        """Return the answer, whatever its status. Raises UpstreamUnavailable."""
        key = origin(url)
        if self._outgoing.has_proxies and self._outgoing.proxy_for(url) is not None:
            raise UpstreamUnavailable(f"{url.host} is reached through a proxy, which this client does not know.")
        if self._failures[key] >= FAILURES_IN_A_ROW:
            raise UpstreamUnavailable(f"{url.host} has failed too often.")
        try:
            response = await self._exchange(key, self._request(key, url), limit)
        except (OSError, ConfigError, _UnreadableError) as error:
            # A silence is not tried again: each takes long.
            self._failures[key] += FAILURES_IN_A_ROW if isinstance(error, TimeoutError) else 1
            raise UpstreamUnavailable(f"{url.host} did not answer as expected.") from error
        self._failures[key] = self._failures[key] + 1 if response.status == 429 or response.status >= 500 else 0
        return response

    def _request(self, key: Origin, url: URL) -> bytes:
        shown = self._upstream.authorization if key == self._origin else None
        credentials = f"Authorization: {shown}\r\n" if shown else ""
        head = f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n"
        return f"{head}{self._constant}{credentials}\r\n".encode("latin-1")

    async def _exchange(self, key: Origin, request: bytes, limit: int) -> SmallFileResponse:
        """Send a request over an idle or a new connection. Raises OSError and _UnreadableError."""
        idle = self._idle.setdefault(key, [])
        while True:
            kept = idle.pop() if idle else None
            connection = kept or await self._connect(key)
            try:
                return await connection.exchange(request, limit)
            except ConnectionError:
                if kept is None or connection.received:
                    raise
                continue  # closed just before the request came, as servers do with idle connections
            finally:
                if connection.reusable:
                    idle.append(connection)
                else:
                    connection.abort()

    async def _connect(self, key: Origin) -> "_Connection":
        scheme, host, port = key
        assert host  # as every URL here has it
        assert port
        loop, tls = asyncio.get_running_loop(), self._outgoing.tls_context() if scheme == "https" else None
        async with asyncio.timeout(self._upstream.connect_timeout):
            *others, last = await self._outgoing.addresses(host, port)
            for address in (*others, last):
                try:
                    _, connection = await loop.create_connection(
                        lambda: _Connection(self._upstream.read_timeout), address, port,
                        ssl=tls, server_hostname=host if tls else None,
                    )  # fmt: skip
                except OSError:
                    if address == last:
                        raise
                else:
                    break
        return connection

    def close(self) -> None:
        """Close the idle connections."""
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()


class _UnreadableError(Exception):
    """An answer that this client cannot read."""


class _Connection(asyncio.Protocol):
    """One connection, with one request at a time."""

    _transport: asyncio.Transport

    def __init__(self, read_timeout: float) -> None:
        self.received = False
        """Whether any byte came since the last request."""
        self.reusable = False
        """Whether another request may be sent."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._body: list[bytes] = []
        self._read_timeout = read_timeout
        self._status: asyncio.Future[int] | None = None
        """Of the answer that is awaited; done when all of it is here."""
        self._limit = 0
        self._body_left = 0
        """Bytes that the body may still have …"""
        self._bytes_left = 0
        """… and the whole answer."""
        self._active = 0.0
        """When anything was last sent or received, on the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None

    async def exchange(self, request: bytes, limit: int) -> SmallFileResponse:
        """Send a request and return the whole answer. Raises OSError (TimeoutError too) and _UnreadableError."""
        self.reusable = self.received = False
        self._limit = limit
        self._bytes_left = HEAD_BYTES + max(HEAD_BYTES, 2 * limit)
        self._reset()
        if self._transport.is_closing():
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._status = loop.create_future()
        self._active = loop.time()
        if self._timer is None:
            self._timer = loop.call_at(self._active + self._read_timeout, self._check_silence)
        self._transport.write(request)
        try:
            status = await self._status
        finally:
            self._status = None
        return SmallFileResponse(status, self._headers, b"".join(self._body))

    def _reset(self) -> None:
        self._headers = CIMultiDict()
        self._body = []

    def _check_silence(self) -> None:
        """Fail after too long a silence. One timer serves many answers, because setting one for each costs too much."""
        loop = asyncio.get_running_loop()
        self._timer = None
        if self._status is None:
            return  # the next request sets it again
        if loop.time() < self._active + self._read_timeout:
            self._timer = loop.call_at(self._active + self._read_timeout, self._check_silence)
        else:
            self._fail(TimeoutError())

    def _fail(self, error: Exception) -> None:
        if self._status is not None and not self._status.done():
            self._status.set_exception(error)
        self.abort()

    def abort(self) -> None:
        """Close the connection at once."""
        self.reusable = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._transport.abort()

    # Called by the event loop

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is not a subclass

    def data_received(self, data: bytes) -> None:
        self.received = True
        self._bytes_left -= len(data)
        if self._status is None or self._status.done() or self._bytes_left < 0:
            self._fail(_UnreadableError())  # not requested, or more than was requested
            return
        self._active = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._fail(_UnreadableError())

    def connection_lost(self, exc: Exception | None) -> None:
        self._fail(ConnectionResetError())

    # Called by the parser

    def on_message_begin(self) -> None:
        if self._status is None or self._status.done():
            raise _UnreadableError  # a second answer to one request

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_headers_complete(self) -> None:
        self._body_left = self._limit if self._parser.get_status_code() == 200 else HEAD_BYTES

    def on_body(self, body: bytes) -> None:
        self._body_left -= len(body)
        if self._body_left < 0:
            raise _UnreadableError
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._reset()  # as 103: the final answer is yet to come
        elif self._status is not None:
            self.reusable = self._parser.should_keep_alive()
            self._status.set_result(status)
