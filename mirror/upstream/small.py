"""Small files by the thousand, over connections of their own: HTTP/1.1 with no more work than it needs.

A client for every case spends several times more on a small file than the network and the parser together. This one
knows only the usual case: an answer of known length, whole, on a connection that is kept. Where anything else comes it
says that it has no answer, and leaves that origin to the client for every case from then on. Answers are parsed by
llhttp, which Node.js uses.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import cache
from typing import cast

import httptools
from multidict import CIMultiDict
from yarl import URL

from mirror.upstream.addresses import origin
from mirror.upstream.values import RawAnswer, UpstreamOptions

HEAD = 64 << 10
"""Bytes that the head of an answer may have, together with what surrounds the chunks of its body."""
_REDIRECTS = range(300, 400)

Origin = tuple[str, str | None, int | None]


class SmallFiles:
    """Asks for small files. Made without touching the network; as many connections as there are callers at once."""

    def __init__(self, trust: Callable[[], ssl.SSLContext], options: UpstreamOptions) -> None:
        """`trust` is asked once, when there is a connection by TLS: to make what it gives takes long."""
        self._trust = cache(trust)
        self._options = options
        self._always = f"User-Agent: {options.user_agent}\r\nAccept: */*\r\nAccept-Encoding: identity\r\n"
        self._idle: dict[Origin, list[_Connection]] = {}
        self._left_alone: set[Origin] = set()

    async def get(self, url: URL, limit: int, authorization: str | None = None) -> RawAnswer | None:
        """The answer, whatever its status but a redirect, its body of `limit` bytes at most as it was sent.

        None where it takes more to get one. Raises TimeoutError when nothing comes.
        """
        key = origin(url)
        if key in self._left_alone:
            return None
        try:
            answer = await self._ask(key, url, self._request(url, authorization), limit)
            if answer.status not in _REDIRECTS:
                return answer
        except TimeoutError:
            raise
        except (OSError, _Unusual):
            pass
        self._left_alone.add(key)
        return None

    def _request(self, url: URL, authorization: str | None) -> bytes:
        shown = f"Authorization: {authorization}\r\n" if authorization else ""
        return (
            f"GET {url.raw_path_qs} HTTP/1.1\r\nHost: {url.host_port_subcomponent}\r\n{self._always}{shown}\r\n"
        ).encode("latin-1")  # fmt: skip

    async def _ask(self, key: Origin, url: URL, request: bytes, limit: int) -> RawAnswer:
        """Raises OSError and _Unusual."""
        idle = self._idle.setdefault(key, [])
        while True:
            kept = idle.pop() if idle else None
            connection = kept or await self._connected(key)
            try:
                return await connection.ask(url, request, limit)
            except ConnectionError:
                if kept is None or connection.heard:
                    raise
                continue  # it was closed just before the request came, as servers do with idle ones
            finally:
                if connection.reusable:
                    idle.append(connection)
                else:
                    connection.abort()

    async def _connected(self, key: Origin) -> "_Connection":
        scheme, host, port = key
        assert host  # as every web address has it
        assert port
        secure = self._trust() if scheme == "https" else None
        async with asyncio.timeout(self._options.connect_timeout):
            _, connection = await asyncio.get_running_loop().create_connection(
                lambda: _Connection(self._options.read_timeout), host, port, ssl=secure
            )
        return connection

    def close(self) -> None:
        """Close what is idle."""
        for idle in self._idle.values():
            for connection in idle:
                connection.abort()
        self._idle.clear()


class _Unusual(Exception):
    """An answer that this client does not know how to read."""


class _Connection(asyncio.Protocol):
    """One connection: a question after the other, each when the one before is answered."""

    _transport: asyncio.Transport

    def __init__(self, patience: float) -> None:
        """`patience` is how many seconds of silence there may be."""
        self.heard = False
        """Whether anything came since the last question."""
        self.reusable = False
        """Whether another question may be asked."""
        self._parser = httptools.HttpResponseParser(self)
        self._headers: CIMultiDict[str] = CIMultiDict()
        self._body: list[bytes] = []
        self._patience = patience
        self._answer: asyncio.Future[int] | None = None
        """The status, once all of it is here."""
        self._allowed = 0
        """Bytes that the body may still have …"""
        self._room = 0
        """… and all that is sent."""
        self._last = 0.0
        """When something was sent or came."""
        self._alarm: asyncio.TimerHandle | None = None

    async def ask(self, url: URL, request: bytes, limit: int) -> RawAnswer:
        """The whole answer. Raises ConnectionError, TimeoutError, _Unusual."""
        self.reusable = self.heard = False
        self._allowed = limit
        self._room = HEAD + 2 * limit
        self._forget()
        if self._transport.is_closing():
            raise ConnectionResetError
        loop = asyncio.get_running_loop()
        self._answer = loop.create_future()
        self._last = loop.time()
        if self._alarm is None:
            self._alarm = loop.call_at(self._last + self._patience, self._ring)
        self._transport.write(request)
        try:
            status = await self._answer
        finally:
            self._answer = None
        return RawAnswer(url=str(url), status=status, headers=self._headers, body=b"".join(self._body))

    def _forget(self) -> None:
        self._headers = CIMultiDict()
        self._body = []

    def _ring(self) -> None:
        """One alarm for many answers: one for each would cost more than all else here."""
        loop = asyncio.get_running_loop()
        self._alarm = None
        if self._answer is None:
            return  # the next question sets it again
        if loop.time() < self._last + self._patience:
            self._alarm = loop.call_at(self._last + self._patience, self._ring)
        else:
            self._failed(TimeoutError())

    def _failed(self, error: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(error)
        self.abort()

    def abort(self) -> None:
        """Break off."""
        self.reusable = False
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._transport.abort()

    # What the network tells

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # a uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self.heard = True
        self._room -= len(data)
        if self._answer is None or self._answer.done() or self._room < 0:
            self._failed(_Unusual())  # nobody asked, or for less
            return
        self._last = asyncio.get_running_loop().time()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._failed(_Unusual())

    def connection_lost(self, exc: Exception | None) -> None:
        self._failed(ConnectionResetError())

    # What the parser tells

    def on_message_begin(self) -> None:
        if self._answer is None or self._answer.done():
            raise _Unusual  # a second answer to one question

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers.add(name.decode("latin-1"), value.decode("latin-1"))

    def on_body(self, body: bytes) -> None:
        self._allowed -= len(body)
        if self._allowed < 0:
            raise _Unusual
        self._body.append(body)

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:
            self._forget()  # as 103: the answer is yet to come
        elif self._answer is not None:
            self.reusable = self._parser.should_keep_alive()
            self._answer.set_result(status)
