"""The client of one upstream: requests, redirects, retries, limits and the breakers of its hosts."""

import asyncio
import itertools
import random
import re
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import aiohttp
from yarl import URL

from mirror.errors import GoneForGood, NotFound, UpstreamError, UpstreamProtocolError, UpstreamRefused
from mirror.model import Body, File, UpstreamRequest, UpstreamResponse
from mirror.upstream.body import TAIL_BYTES, RangeBody, Stream
from mirror.upstream.breaker import Breaker, retry_after
from mirror.upstream.outgoing import Outgoing
from mirror.upstream.values import (
    FAILURES,
    BreakerOpen,
    Credentials,
    RawResponse,
    ResponseTimeout,
    ServerFailure,
    TemporaryFailure,
    UpstreamHealth,
    UpstreamOptions,
    as_written,
    basic_authorization,
    describe,
    failure_text,
    origin,
    redirect_target,
    storable,
)  # fmt: skip

_IDENTITY = {"Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_TEMPORARY = frozenset({429, 502, 503, 504})
"""Statuses that may be different a moment later."""
_MOST_BREAKERS = 64
"""The most hosts with a breaker at once; the least recently used one goes first."""
_PLAIN = re.compile("[!-~]*")
"""What a URL consists of that needs no encoding."""
_SCHEMES = ("http", "https")
_READ_AHEAD_BYTES = 256 * 1024
"""Bytes of an answer that are read ahead; a chunk has up to twice as many."""

T = TypeVar("T")


class Upstream:
    """One upstream. Connections are opened on first use and kept open."""

    def __init__(
        self,
        name: str,
        url: URL,
        options: UpstreamOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Credentials in `url` are used when the options have none. `clock` is monotonic, in seconds."""
        self.name = name
        self.url = url.with_user(None)
        self.options = options or UpstreamOptions()
        auth = self.options.auth or (Credentials(url.user, url.password or "") if url.user else None)
        self.authorization = basic_authorization(auth) if auth else None
        """The value of the header Authorization, sent to the origin of `url` alone."""
        self.outgoing = Outgoing(
            self.url,
            ca_file=self.options.ca_file,
            proxy=self.options.proxy,
            allow_hosts=self.options.allow_hosts,
            connect_timeout=self.options.connect_timeout,
        )
        self._own_connector = self.outgoing.own_connector()
        self._clock = clock
        self._sessions: dict[bool, aiohttp.ClientSession] = {}
        """By whether they are for the index's own host."""
        self._page_slots = asyncio.Semaphore(self.options.connections)
        self._file_slots = asyncio.Semaphore(self.options.connections)
        self._breakers: OrderedDict[tuple[str | None, int | None], Breaker] = OrderedDict()
        self._last_error: str | None = None
        self._requests = self._bytes = 0
        self._causes: Counter[str] = Counter()
        self._last_cause: str | None = None
        self._seconds = 0.0

    # Pages

    async def get(
        self, request: UpstreamRequest, *, etag: str | None = None, last_modified: str | None = None
    ) -> UpstreamResponse | None:
        """Request a page; return None when the given validators still match (304).

        Raises NotFound (404, 410), UpstreamRefused (401, 403), UpstreamUnavailable (no connection, too slow, 429,
        5xx, open breaker) and UpstreamProtocolError (too large, empty, a bad redirect, any other status).
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
            url=raw.url,
            content_type=storable(raw.headers.get("Content-Type")) or "",
            body=raw.body,
            etag=storable(raw.headers.get("ETag")),
            last_modified=storable(raw.headers.get("Last-Modified")),
            serial=int(serial) if serial.isascii() and serial.isdigit() and len(serial) < 19 else None,
        )

    async def get_raw(self, request: UpstreamRequest, headers: Mapping[str, str]) -> RawResponse:
        """Request a page with additional headers (Range, If-None-Match, Accept-Encoding).

        Return the answer where its status is 200, 206, 304 or 416. Size limit, retries and errors are those of `get`.
        """
        headers = {"Accept": request.accept, **headers}

        async def once() -> RawResponse:
            response = await self._request(request.url, headers, decompress=True)
            try:
                body = await self._read_whole(response, request.limit)
            finally:
                response.close()  # after the whole body this only returns the connection to the pool
            return RawResponse(url=str(response.url), status=response.status, headers=response.headers, body=body)

        async with self._page_slots:
            return await self._retrying(request.url, once, request.timeout)

    async def _read_whole(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        if (response.content_length or 0) > limit:
            raise UpstreamProtocolError(f"{describe(response.url)} is larger than {limit} bytes.")
        body = bytearray()
        while chunk := await self._read_chunk(response):
            body += chunk
            if len(body) > limit:
                raise UpstreamProtocolError(f"{describe(response.url)} is larger than {limit} bytes.")
        return bytes(body)

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
        return self._stream(url, byte_range, if_range, self._file_slots if stop is None else self._page_slots)

    @asynccontextmanager
    async def _stream(
        self, url: URL, byte_range: str | None, if_range: str | None, slots: asyncio.Semaphore
    ) -> AsyncIterator[Stream]:
        headers = dict(_IDENTITY)
        if byte_range:
            headers["Range"] = byte_range
            if if_range:
                headers["If-Range"] = if_range
        async with slots:
            response = await self._retrying(url, lambda: self._request(url, headers, decompress=False))
            try:
                if response.status not in (200, 206):
                    raise UpstreamProtocolError(f"{describe(url)} answered {response.status} to a request for a file.")
                yield Stream(response, lambda: self._read_chunk(response), self.options.minimum_rate)
            except UpstreamError as error:
                self.record_error(error)
                raise
            finally:
                response.close()  # an answer of 200 to a small range is not read to its end

    async def open_ranges(self, file: File) -> Body:
        """Return a remote file as a Body that requests only what is read, plus its tail (64 KiB, kept in memory).

        Raises UpstreamError when the upstream does not serve ranges, and like `get`.
        """
        url = parse_url(file.url)
        # A plain range where the size is known: more servers understand it than a suffix.
        byte_range = f"bytes=-{TAIL_BYTES}" if file.size is None else f"bytes={max(0, file.size - TAIL_BYTES)}-"
        async with self._stream(url, byte_range, None, self._page_slots) as stream:
            if stream.status != 206 or stream.size is None or stream.size - stream.start > TAIL_BYTES:
                raise UpstreamProtocolError(f"{describe(url)} does not serve parts of files.")
            if file.size not in (None, stream.size):
                raise UpstreamProtocolError(f"{describe(url)} has {stream.size} bytes, its index promises {file.size}.")
            tail = b"".join([chunk async for chunk in stream.chunks()])
            if stream.start + len(tail) != stream.size:
                raise UpstreamProtocolError(f"{describe(url)} sent another part than the requested one.")
            return RangeBody(self, url, file, stream.size, stream.validator, tail)

    # One request

    async def _retrying(self, url: URL, once: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """Return the result of `once`, repeated after temporary failures, within `timeout` or `page_timeout` in all."""
        try:
            async with asyncio.timeout(max(timeout or 0, self.options.page_timeout)) as limit:
                for attempt in itertools.count():
                    try:
                        return await once()
                    except TemporaryFailure as error:
                        pause = error.wait or 0.25 * 2**attempt * random.uniform(0.5, 1.5)
                        left = (limit.when() or 0.0) - asyncio.get_running_loop().time()
                        if attempt == self.options.retries or max(pause, self.pause(error.url)) > left:
                            if error.wait:
                                self._breaker(error.url).hold(self._clock() + error.wait)
                            raise
                        await asyncio.sleep(pause)
            raise AssertionError("unreachable")
        except UpstreamError as error:
            self.record_error(error)
            raise
        except TimeoutError:
            self._breaker(url).failed(self._clock())
            timeout_error = ResponseTimeout(f"{url.host} took too long to answer.", self._retry_in(url))
            self.record_error(timeout_error)
            raise timeout_error from None

    async def _request(self, url: URL, headers: Mapping[str, str], *, decompress: bool) -> aiohttp.ClientResponse:
        """Return the final answer once its head is here; its status is 200, 206, 304 or 416. The caller closes it."""
        for _ in range(self.options.redirects + 1):
            response = await self._send(url, headers, decompress)
            try:
                if response.status not in _REDIRECTS:
                    self._check_status(response.status, response.url, response.headers)
                    return response
                url = redirect_target(response.url, response.headers.get("Location"))
            except BaseException:
                response.close()
                raise
            response.close()
        raise UpstreamProtocolError(f"{describe(url)} was redirected too often.")

    async def _send(self, url: URL, headers: Mapping[str, str], decompress: bool) -> aiohttp.ClientResponse:
        if url.scheme not in _SCHEMES or not url.host:
            raise UpstreamProtocolError(f"{str(url)[:80]!r} is not a web address.")
        if "@" in url.raw_authority:
            url = url.with_user(None)  # credentials in the links of a page are not sent
        breaker = self._breaker(url)
        began = self._clock()
        if breaker.troubled and (wait := breaker.admit(began)):
            raise BreakerOpen(f"{url.host} {breaker.reason}; trying again in {wait:.0f} s.", wait)
        if (authorization := self._authorization_for(url)) is not None:
            headers = {**headers, "Authorization": authorization}
        self._requests += 1
        try:
            return await self._open_session(url).get(
                url,
                headers=headers,
                allow_redirects=False,
                auto_decompress=decompress,
                proxy=self.outgoing.proxy_for(url) if self.outgoing.has_proxies else None,
            )
        except FAILURES as error:
            raise self._failure(url, error, silent=True) from None
        finally:
            self._seconds += self._clock() - began

    def _authorization_for(self, url: URL) -> str | None:
        """Return the Authorization to send: to the origin of the index alone."""
        return self.authorization if self.authorization and origin(url) == origin(self.url) else None

    def _check_status(self, status: int, url: URL, headers: Mapping[str, str]) -> None:
        """Raise for every status that the callers cannot use."""
        breaker, now = self._breaker(url), self._clock()
        if status == 429 or status >= 500:
            breaker.failed(now)
            wait = retry_after(headers.get("Retry-After", ""), time.time())
            message = f"{url.host} answered {status}."
            if status in _TEMPORARY:
                failure = TemporaryFailure(message, wait or self._retry_in(url), url, wait)
                failure.cause = "status"
                raise failure
            raise ServerFailure(message, self._retry_in(url))
        if breaker.troubled:
            breaker.succeeded()
        if status in (404, 410):
            raise (NotFound if status == 404 else GoneForGood)(f"{describe(url)} does not exist.")
        if status in (401, 403):
            raise UpstreamRefused(f"{describe(url)} answered {status}: check the credentials set for {self.name}.")
        if status not in (200, 206, 304, 416):
            raise UpstreamProtocolError(f"{describe(url)} answered {status}.")

    async def _read_chunk(self, response: aiohttp.ClientResponse) -> bytes:
        """Return what has arrived of the body, empty at its end."""
        try:
            chunk = await response.content.readany()
        except FAILURES as error:
            raise self._failure(response.url, error) from None
        self._bytes += len(chunk)
        return chunk

    def _failure(self, url: URL, error: Exception, silent: bool = False) -> UpstreamError:
        """Return a network error as one of the mirror's, without IP addresses or secrets in its text."""
        match error:
            case TimeoutError():
                self._breaker(url).failed(self._clock(), silent)
                return ResponseTimeout(f"{url.host} took too long to answer.", self._retry_in(url))
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                return UpstreamProtocolError(f"{describe(url)} did not answer in HTTP.")
            case _:
                self._breaker(url).failed(self._clock())
                return TemporaryFailure(f"{url.host} {failure_text(error)}.", self._retry_in(url), url)

    def _breaker(self, url: URL) -> Breaker:
        key = url.host, url.port
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(self.options.breaker_failures, self.options.breaker_seconds)
            if len(self._breakers) > _MOST_BREAKERS:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(key)
        return breaker

    def _retry_in(self, url: URL) -> float:
        """Return the seconds after which a client may try again."""
        return self.pause(url) or 5.0

    def record_error(self, error: UpstreamError) -> None:
        """Count an error, found here or by a reader of the answer."""
        self._causes[error.cause] += 1
        self._last_cause = error.cause
        self._last_error = str(error)

    def _open_session(self, url: URL) -> aiohttp.ClientSession:
        own = url.raw_host == self.url.raw_host
        if own not in self._sessions or self._sessions[own].closed:
            options = self.options
            self._sessions[own] = aiohttp.ClientSession(
                connector=self._own_connector() if own else self.outgoing.connector(),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=options.connect_timeout,
                    sock_connect=options.connect_timeout,
                    sock_read=options.read_timeout,
                ),
                headers={"User-Agent": options.user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_READ_AHEAD_BYTES,
            )
        return self._sessions[own]

    # State

    def pause(self, url: URL) -> float:
        """Return the seconds for which requests to the URL's host would fail at once; 0 when it may be asked."""
        return self._breaker(url).wait(self._clock())

    def health(self) -> UpstreamHealth:
        """Return the health of the upstream, for people and metrics."""
        now = self._clock()
        worst = max(self._breakers.values(), key=lambda breaker: breaker.severity(now), default=None)
        return UpstreamHealth(
            name=self.name,
            url=str(self.url),
            breaker=worst.state(now) if worst else "closed",
            retry_in=worst.wait(now) if worst else 0.0,
            last_error=self._last_error,
            last_cause=self._last_cause,
            requests=self._requests,
            errors=self._causes.total(),
            causes=dict(self._causes),
            bytes=self._bytes,
            seconds=self._seconds,
        )

    async def close(self) -> None:
        """Close all connections. Streams in use break off."""
        for session in self._sessions.values():
            await session.close()


def parse_url(text: str) -> URL:
    """Return the URL of a file as an index gives it. Raises UpstreamProtocolError unless it is http or https."""
    try:
        url = URL(text, encoded=True) if _PLAIN.fullmatch(text) else as_written(text)
        if url.scheme in _SCHEMES and url.host and url.port:
            return url
    except ValueError:
        pass
    raise UpstreamProtocolError(f"{text[:80]!r} is not a web address.")
