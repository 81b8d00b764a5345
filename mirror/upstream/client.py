"""The client of one upstream: requests, redirects, retries and limits.

Whether an upstream may be asked is decided in `pacing`, which is entered only where something is wrong, or where
requests are always paced.
"""

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar, cast

import aiohttp
from yarl import URL

from mirror.errors import UpstreamError, UpstreamProtocolError
from mirror.model import Body, File, UpstreamRequest, UpstreamResponse, UrlClass
from mirror.upstream import failures, turns
from mirror.upstream.body import DECODERS, DECODING_ERRORS, Decoder, RangeBody, Stream, ends_visibly, parse_url
from mirror.upstream.connections import ConnectionPool
from mirror.upstream.failures import FAILURES, ResponseTimeout, TemporaryFailure
from mirror.upstream.outgoing import Outgoing
from mirror.upstream.pacing import HostPacing, Hosts, client_wait
from mirror.upstream.turns import address_of, wait_turn
from mirror.upstream.values import (
    HEADER_LINE_BYTES,
    Credentials,
    HttpResponse,
    RawResponse,
    Traffic,
    UpstreamHealth,
    UpstreamOptions,
    basic_authorization,
    describe,
    origin,
    redirect_target,
)

_ENCODINGS = "gzip, deflate, zstd"
_USABLE = frozenset({200, 206, 304, 416})
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_GATEWAY_ERRORS = frozenset({502, 503, 504})
_PIECE_BYTES = 1024
"""Bytes that are decompressed at a time, because each may become a thousand, and between which others have a turn."""

T = TypeVar("T")
_Clock = Callable[[], float]


class _Response(aiohttp.ClientResponse):
    """An answer of aiohttp as an `HttpResponse`, whose connection can be closed even when it is idle."""

    async def start(self, connection: aiohttp.connector.Connection) -> aiohttp.ClientResponse:
        self._transport = connection.transport
        return await super().start(connection)

    async def next_chunk(self) -> bytes:
        return await self.content.readany()

    def end(self, *, connection: bool = False) -> None:
        self.close()
        if connection and self._transport is not None:
            self._transport.close()


class Upstream:
    """One upstream. Connections are opened on first use and kept open."""

    def __init__(
        self, name: str, url: URL, options: UpstreamOptions | None = None, *, clock: _Clock = time.monotonic
    ) -> None:
        """Credentials in `url` are used when the options have none. `clock` is monotonic, in seconds."""
        self.name = name
        self.url = url.with_user(None)
        self.options = options or UpstreamOptions()
        auth = self.options.auth or (Credentials(url.user, url.password or "") if url.user else None)
        self.authorization = basic_authorization(auth) if auth else None
        """The value of the header Authorization, sent to the origin of `url` alone."""
        self.outgoing = Outgoing(
            self.url, ca_file=self.options.ca_file, proxy=self.options.proxy, allow_hosts=self.options.allow_hosts,
            connect_timeout=self.options.connect_timeout,
        )  # fmt: skip
        self._pool = ConnectionPool(self.outgoing, self.options.user_agent, self.options.read_timeout)
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether they are for the index's own host."""
        self._clock = clock
        self._page_slots = asyncio.Semaphore(self.options.connections)
        self._file_slots = asyncio.Semaphore(self.options.connections)
        self._api_slots = asyncio.Semaphore(self.options.connections)
        self._hosts = Hosts(self.options.breaker_failures, self.options.breaker_seconds, {"api": self.options.api_rate})
        self._host(self.url)
        self._traffic = Traffic()
        self.record_error = self._traffic.record_error
        """Counts an error, found here or by a reader of the answer."""

    # Pages

    async def get(
        self, request: UpstreamRequest, *, etag: str | None = None, last_modified: str | None = None
    ) -> UpstreamResponse | None:
        """Request a page; return None when the given validators still match (304).

        Raises NotFound (404, 410), UpstreamRefused (401, 403), UpstreamUnavailable (no connection, too slow, 429,
        5xx, a pause) and UpstreamProtocolError (too large, empty, a bad redirect, any other status).
        """
        headers = {}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        raw = await self.get_raw(request, headers)
        if raw.status == 304 and headers:
            return None
        if raw.status != 200 or not raw.body:
            raise UpstreamProtocolError(f"{describe(request.url)} sent no content (status {raw.status}).")
        serial = raw.headers.get("X-PyPI-Last-Serial", "")
        return UpstreamResponse(
            url=raw.url, content_type=storable(raw.headers.get("Content-Type")) or "", body=raw.body,
            etag=storable(raw.headers.get("ETag")),
            last_modified=storable(raw.headers.get("Last-Modified")),
            serial=int(serial) if serial.isascii() and serial.isdigit() and len(serial) < 19 else None,
        )  # fmt: skip

    async def get_raw(self, request: UpstreamRequest, headers: Mapping[str, str]) -> RawResponse:
        """Request a page with additional headers (Range, If-None-Match, Accept-Encoding).

        Return the answer where its status is 200, 206, 304 or 416. Size limit, retries and errors are those of `get`.
        """
        headers = {"Accept": request.accept, "Accept-Encoding": _ENCODINGS, **headers}

        async def once() -> RawResponse:
            response = await self._request(request.url, request.kind, headers, request.kind != "list")
            try:
                body = await self._read_whole(response, request)
            finally:
                response.end()  # after the whole body this only returns the connection to the pool
            return RawResponse(url=str(response.url), status=response.status, headers=response.headers, body=body)

        slots = self._api_slots if request.kind == "api" else self._page_slots
        raw = await self._retrying(request.url, request.kind, once, slots, request.timeout)
        slots.release()
        return raw

    async def _read_whole(self, response: HttpResponse, request: UpstreamRequest) -> bytes:
        """Return a body, decompressed. Raises TemporaryFailure when it was cut off, UpstreamProtocolError."""
        url, headers, body = response.url, response.headers, bytearray()
        # A part of compressed bytes cannot be decompressed; the caller sees that it is not the part that it requested.
        encoding = "" if response.status == 206 else headers.get("Content-Encoding", "").strip().lower()
        decoder: Decoder | None = None
        if (response.content_length or 0) > request.limit:
            raise UpstreamProtocolError(f"{describe(url)} is larger than {request.limit} bytes.")
        while chunk := await self._read_chunk(response, request.kind):
            if encoding == "deflate" and not body and chunk[0] & 0xF != 8:
                encoding = "raw deflate"
            if encoding in DECODERS:
                decoder = await self._decode(chunk, decoder, encoding, body, request)
            else:
                body += chunk
            if len(body) > request.limit:
                raise UpstreamProtocolError(f"{describe(url)} is larger than {request.limit} bytes.")
        if decoder is not None:
            whole = decoder.eof
        elif response.content_length is not None or "chunked" in headers.get("Transfer-Encoding", "").lower():
            whole = True  # or it would not have ended without an error
        else:
            whole = not body or ends_visibly(headers.get("Content-Type", ""), body)
        if not whole:
            raise TemporaryFailure(f"{describe(url)} ended without a sign that all of it had come.", client_wait(0))
        return bytes(body)

    async def _decode(
        self, chunk: bytes, decoder: Decoder | None, encoding: str, body: bytearray, request: UpstreamRequest
    ) -> Decoder | None:
        """Append what a chunk contains, until the body is too large; return what decompresses the next chunk."""
        for start in range(0, len(chunk), _PIECE_BYTES):
            piece, before = chunk[start : start + _PIECE_BYTES], len(body)
            try:
                while piece:
                    if decoder is None or decoder.eof:  # at the beginning, or where another member follows
                        decoder = DECODERS[encoding]()
                    body += decoder.decompress(piece)
                    piece = decoder.unused_data
            except DECODING_ERRORS:
                raise UpstreamProtocolError(f"{describe(request.url)} is not {encoding}, as it says.") from None
            if len(body) > request.limit:
                break
            if len(body) - before > 256 * _PIECE_BYTES:
                await asyncio.sleep(0)
        return decoder

    # Files

    def fetch(
        self, url: URL, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a file from `start` on, identity-encoded. Leaving the block early closes the connection.

        With `start` or `stop` a range is requested; `Stream.start` is where the answer begins. `if_range` is a strong
        ETag or a Last-Modified. Raises like `get`; inside the block `chunks` raises UpstreamUnavailable.
        """
        byte_range = f"bytes={start}-{'' if stop is None else stop - 1}" if start or stop is not None else None
        # A range of known length is short: like a page, it does not wait behind whole files.
        slots = self._file_slots if stop is None else self._page_slots
        return self._stream(url, byte_range, if_range, slots)

    def stream_range(self, url: URL, byte_range: str) -> AbstractAsyncContextManager[Stream]:
        """Open a short part of a file, as `fetch` does; `byte_range` is the value of a Range."""
        return self._stream(url, byte_range, None, self._page_slots)

    @asynccontextmanager
    async def _stream(
        self, url: URL, byte_range: str | None, if_range: str | None, slots: asyncio.Semaphore
    ) -> AsyncIterator[Stream]:
        headers = {"Accept-Encoding": "identity"}
        if byte_range:
            headers["Range"] = byte_range
            if if_range:
                headers["If-Range"] = if_range
        response = await self._retrying(url, "file", lambda: self._request(url, "file", headers, True), slots, None)
        try:
            if response.status not in (200, 206):
                raise UpstreamProtocolError(f"{describe(url)} answered {response.status} to a request for a file.")
            yield Stream(response, lambda: self._read_chunk(response, "file"), self.options.minimum_rate)
        except UpstreamError as error:
            self.record_error(error)
            raise
        finally:
            response.end()  # an answer of 200 to a small range is not read to its end
            slots.release()

    async def open_ranges(self, file: File) -> Body:
        """Return a remote file as a Body that requests only what is read, plus its tail (64 KiB, kept in memory).

        Raises UpstreamError when the upstream does not serve ranges, and like `get`.
        """
        return await RangeBody.open(self, parse_url(file.url), file)

    # One request

    async def _retrying(
        self, url: URL, kind: UrlClass, once: Callable[[], Awaitable[T]], slots: asyncio.Semaphore, limit: float | None
    ) -> T:
        """Return the result of `once`, holding a slot that the caller then releases.

        It is repeated after temporary failures, within `limit` or `page_timeout` in all, apart from the time in which
        all slots are taken. No slot is held while nothing is asked.
        """
        loop = asyncio.get_running_loop()
        deadline = loop.time() + max(limit or 0, self.options.page_timeout)
        for attempt in itertools.count():
            began = self._clock()
            try:
                if kind == "api" or self._host(url).troubled:
                    await wait_turn(self._host(url), url, kind, self._clock, deadline)
                queued = loop.time()
                await slots.acquire()
                deadline += loop.time() - queued
                try:
                    began = self._clock()
                    async with asyncio.timeout_at(deadline):
                        return await once()
                except BaseException:
                    slots.release()
                    raise
            except TemporaryFailure as error:
                left = deadline - loop.time()
                pause = error.wait or 0.25 * 2**attempt * random.uniform(0.5, 1.5)
                tries = self.options.retries * (2 if error.limited else 1)  # as a pace is kept by trying again
                if attempt >= tries or max(pause, self.pause(url, kind)) > left:
                    self.record_error(error)
                    raise
                await asyncio.sleep(pause)
            except UpstreamError as error:
                self.record_error(error)
                raise
            except TimeoutError:
                turns.note_timeout(self._host(url), url, kind, began, self._clock())
                timeout_error = ResponseTimeout(f"{url.host} took too long to answer.", client_wait(0))
                self.record_error(timeout_error)
                raise timeout_error from None
        raise AssertionError("unreachable")

    async def _request(self, url: URL, kind: UrlClass, headers: Mapping[str, str], lean: bool) -> HttpResponse:
        """Return the final answer once its head is here; its status is 200, 206, 304 or 416. The caller ends it.

        With `lean`, it comes by the client that has little work with each answer, unless there is a proxy.
        """
        asked_again = False
        for _ in range(self.options.redirects + 1):
            sent = self.authorization
            response = await self._send(url, kind, headers, lean)
            try:
                if response.status in _USABLE:
                    return response
                if response.status == 401 and not asked_again and await self._has_new_login(url, sent):
                    asked_again = True
                elif response.status in _REDIRECTS:
                    target = redirect_target(response.url, response.headers.get("Location"))
                    allowed = self.options.allow_page_redirects
                    if kind == "page" and (refused := failures.redirect_refusal(url, target, self.name, allowed)):
                        raise refused
                    url = target
                else:
                    missing = self.authorization is None and kind in ("file", "sidecar")
                    missing = missing or self.options.forbidden_means_missing
                    raise failures.refusal(response.status, response.url, self.name, missing)
            except BaseException:
                response.end()
                raise
            response.end()
        raise UpstreamProtocolError(f"{describe(url)} was redirected too often.")

    async def _send(self, url: URL, kind: UrlClass, headers: Mapping[str, str], lean: bool) -> HttpResponse:
        """Send one request and return its answer. Raises UpstreamError, for 429 and 5xx too."""
        if url.scheme not in ("http", "https") or not url.host:
            raise UpstreamProtocolError(f"{str(url)[:80]!r} is not a web address.")
        if "@" in url.raw_authority:
            url = url.with_user(None)  # credentials in the links of a page are not sent
        host, began = self._host(url), self._clock()
        if host.troubled and (hold := host.admit(address_of(url), kind, began)):
            raise turns.pause_error(url, hold)
        if self.authorization and origin(url) == origin(self.url):
            headers = {**headers, "Authorization": self.authorization}
        self._traffic.requests += 1
        try:
            proxy = self.outgoing.proxy_for(url) if self.outgoing.has_proxies else None
            if lean and proxy is None:
                response: HttpResponse = await self._pool.get(url, headers)
            else:
                own = url.raw_host == self.url.raw_host
                while (session := self._sessions.get(own)) is None or session.closed:
                    await self.outgoing.open_session(self._sessions, own, self.options, _Response)
                response = cast(_Response, await session.get(
                    url, headers=headers, allow_redirects=False, auto_decompress=False, proxy=proxy,
                    max_line_size=HEADER_LINE_BYTES, max_field_size=HEADER_LINE_BYTES,
                ))  # fmt: skip
        except FAILURES as error:
            turns.note_failure(host, url, kind, error, began, self._clock())
            raise failures.network_error(url, error, self.pause(url, kind)) from None
        finally:
            self._traffic.seconds += self._clock() - began
        host.answered = now = self._clock()
        if response.status == 429 or response.status >= 500:
            failure = failures.trouble(response.status, url, response.headers, time.time())
            turns.note_trouble(host, url, kind, failure, began, now)
            # After an error of a gateway the next try may reach another machine behind the name.
            response.end(connection=response.status in _GATEWAY_ERRORS)
            raise failure
        if host.troubled:
            host.succeeded(address_of(url), kind, began, now)
        return response

    async def _has_new_login(self, url: URL, sent: str | None) -> bool:
        """Return whether there are other credentials by now than those that an answer of 401 refuses."""
        if self.options.read_login is None or origin(url) != origin(self.url):
            return False
        if sent == self.authorization:
            self.authorization = await turns.read_again(self.options.read_login, sent)
        return sent != self.authorization

    async def _read_chunk(self, response: HttpResponse, kind: UrlClass) -> bytes:
        """Return what has arrived of the body, empty at its end."""
        try:
            chunk = await response.next_chunk()
        except FAILURES as error:
            self._host(response.url).failed(address_of(response.url), kind, self._clock())
            raise failures.network_error(response.url, error, self.pause(response.url, kind)) from None
        self._traffic.bytes += len(chunk)
        return chunk

    def _host(self, url: URL) -> HostPacing:
        key = url.host or "", url.port or 0
        return self._hosts.known.get(key) or self._hosts.add(key)

    def pause(self, url: URL, kind: UrlClass = "file") -> float:
        """Return the seconds for which requests for a URL would fail at once; 0 when it may be asked for."""
        host = self._host(url)
        hold = host.blocked(address_of(url), kind, self._clock()) if host.troubled else None
        return hold.seconds if hold else 0.0

    def health(self) -> UpstreamHealth:
        """Return the health of the upstream, for people and metrics."""
        now = self._clock()
        addresses = self._hosts.paused_addresses(now)
        return self._traffic.health(self.name, str(self.url), *self._hosts.worst_state(now), addresses)

    async def close(self) -> None:
        """Close all connections. Streams in use break off."""
        self._pool.close()
        for session in self._sessions.values():
            await session.close()


def storable(header: str | None) -> str | None:
    """Return a header that the catalog can keep and send back; None for one that is not plain text (RFC 9110)."""
    return header if header is not None and header.isascii() and header.isprintable() else None
