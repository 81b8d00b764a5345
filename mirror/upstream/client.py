"""One upstream over HTTP: requests, redirects, retries and limits. See the package for what it is for."""

import asyncio
import itertools
import random
import ssl
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import TypeVar

import aiohttp
import msgspec
from yarl import URL

from mirror.errors import (
    ConfigError,
    NotFound,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
)
from mirror.model import Body, File, UpstreamRequest, UpstreamResponse
from mirror.upstream.addresses import address, basic, checked, origin, place, redirected
from mirror.upstream.breaker import Breaker, retry_after
from mirror.upstream.failures import FAILURES, Failing, Late, Passing, Paused, what_happened
from mirror.upstream.ranges import TAIL, RangeBody
from mirror.upstream.small import SmallFiles
from mirror.upstream.stream import Stream
from mirror.upstream.values import Credentials, RawAnswer, UpstreamOptions, UpstreamState

_IDENTITY = {"Accept-Encoding": "identity"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_PASSING = frozenset({429, 502, 503, 504})
"""Statuses that may be different a moment later."""
_HOSTS = 64
"""So many hosts have a breaker at once; the one unused longest goes first."""
_BUFFER = 256 * 1024
"""Bytes of an answer that are read ahead; up to twice as many come as one chunk."""

T = TypeVar("T")


class Upstream:
    """One upstream. Made without touching the network; connections are opened on first use and kept."""

    def __init__(
        self,
        name: str,
        url: URL,
        options: UpstreamOptions | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Credentials in `url` count when the options have none. `clock` is monotonic, in seconds."""
        self.name = name
        self.url = url.with_user(None)
        self.options = options or UpstreamOptions()
        auth = self.options.auth or (Credentials(url.user, url.password or "") if url.user else None)
        self._auth = auth
        self._authorization = basic(auth) if auth else None
        self._clock = clock
        self._session: aiohttp.ClientSession | None = None
        self._small = SmallFiles(self._trust, self.options)
        self._page_slots = asyncio.Semaphore(self.options.connections)
        self._file_slots = asyncio.Semaphore(self.options.connections)
        self._breakers: OrderedDict[tuple[str | None, int | None], Breaker] = OrderedDict()
        self._last_error: str | None = None
        self._requests = self._bytes = 0
        self._causes: Counter[str] = Counter()
        self._last_cause: str | None = None
        self._seconds = 0.0

    def __reduce__(self) -> tuple[type["Upstream"], tuple[str, URL, UpstreamOptions]]:
        """Another process gets an upstream that is treated the same, with connections and breakers of its own."""
        return Upstream, (self.name, self.url, msgspec.structs.replace(self.options, auth=self._auth))

    # Pages

    async def get(
        self, ask: UpstreamRequest, *, etag: str | None = None, last_modified: str | None = None
    ) -> UpstreamResponse | None:
        """Ask for a page; None when the validators given still hold (304).

        Raises NotFound (404, 410), UpstreamRefused (401, 403), UpstreamUnavailable (no connection, too slow, 429,
        5xx, open breaker) and UpstreamProtocolError (too large, empty, a bad redirect, any other status).
        """
        headers = {}
        if etag:
            headers["If-None-Match"] = etag
        if last_modified:
            headers["If-Modified-Since"] = last_modified
        raw = await self.range_get(ask, headers)
        if raw.status == 304 and headers:
            return None
        if raw.status != 200 or not raw.body:
            raise UpstreamProtocolError(f"{place(ask.url)} sent no content (status {raw.status}).")
        serial = raw.headers.get("X-PyPI-Last-Serial", "")
        return UpstreamResponse(
            url=raw.url,
            content_type=raw.headers.get("Content-Type", ""),
            body=raw.body,
            etag=raw.headers.get("ETag"),
            last_modified=raw.headers.get("Last-Modified"),
            serial=int(serial) if serial.isascii() and serial.isdigit() and len(serial) < 19 else None,
        )

    async def range_get(self, ask: UpstreamRequest, headers: Mapping[str, str]) -> RawAnswer:
        """Ask for a page with headers of one's own (Range, If-None-Match, Accept-Encoding); statuses 200, 206, 304
        and 416 come back as they are. Bounded, retried and raising like `get`.
        """
        headers = {"Accept": ask.accept, **headers}

        async def once() -> RawAnswer:
            return await self._once(ask.url, headers, ask.limit, decompress=True)

        async with self._page_slots:
            return await self._retrying(ask.url, once, ask.timeout)

    async def _once(self, url: URL, headers: Mapping[str, str], limit: int, *, decompress: bool) -> RawAnswer:
        """An answer with all of its body, which may be `limit` bytes."""
        response = await self._begin(url, headers, decompress=decompress)
        try:
            body = await self._bounded(response, limit)
        finally:
            response.close()  # once the body has been read, this only gives the connection back
        return RawAnswer(url=str(response.url), status=response.status, headers=response.headers, body=body)

    async def _bounded(self, response: aiohttp.ClientResponse, limit: int) -> bytes:
        if (response.content_length or 0) > limit:
            raise UpstreamProtocolError(f"{place(response.url)} is larger than {limit} bytes.")
        body = bytearray()
        while chunk := await self._next(response):
            body += chunk
            if len(body) > limit:
                raise UpstreamProtocolError(f"{place(response.url)} is larger than {limit} bytes.")
        return bytes(body)

    # Files

    def fetch(
        self, url: URL, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a file, from `start` on, identity-encoded. Leaving the block early closes the connection.

        With `start` or `stop` a range is asked for; see `Stream.start` for what came. `if_range` is a strong ETag
        or a Last-Modified. Raises like `get`; inside the block `chunks` raises UpstreamUnavailable.
        """
        wanted = f"bytes={start}-{'' if stop is None else stop - 1}" if start or stop is not None else None
        # A part of known length is short: like a page, it does not wait behind whole files.
        return self._stream(url, wanted, if_range, self._file_slots if stop is None else self._page_slots)

    async def fetch_small(self, url: URL, size: int) -> RawAnswer:
        """A file at once, identity-encoded, of `size` bytes at most; for files that are no larger than a page.

        Raises like `get`, but asks only once, and gives up only on an upstream that says nothing for a while: for
        callers who ask for many, bound the whole of it, and know what to do about those that fail.
        """
        async with self._file_slots:
            raw = await self._small_file(checked(url), size) or await self._once(url, _IDENTITY, size, decompress=False)
        if raw.status != 200:
            raise UpstreamProtocolError(f"{place(url)} answered {raw.status} to a request for a file.")
        return raw

    async def _small_file(self, url: URL, limit: int) -> RawAnswer | None:
        """The same with much less work; None where it takes what `_once` does."""
        if self.options.proxy or self.pause(url):
            return None
        began = self._clock()
        try:
            raw = await self._small.get(url, limit, self._credentials(url))
        except TimeoutError as error:
            raise self._failure(url, error, silent=True) from None
        if raw is not None:
            self._requests += 1
            self._bytes += len(raw.body)
            self._seconds += self._clock() - began
            self._judge(raw.status, url, raw.headers)
        return raw

    @asynccontextmanager
    async def _stream(
        self, url: URL, wanted: str | None, if_range: str | None, slots: asyncio.Semaphore
    ) -> AsyncIterator[Stream]:
        headers = dict(_IDENTITY)
        if wanted:
            headers["Range"] = wanted
            if if_range:
                headers["If-Range"] = if_range
        async with slots:
            response = await self._retrying(url, lambda: self._begin(url, headers, decompress=False))
            try:
                if response.status not in (200, 206):
                    raise UpstreamProtocolError(f"{place(url)} answered {response.status} to a request for a file.")
                yield Stream(response, lambda: self._next(response))
            except UpstreamError as error:
                self.note(error)
                raise
            finally:
                response.close()  # an answer of 200 to a small range is not read to its end

    async def open_ranges(self, file: File) -> Body:
        """A remote file as a Body that asks for no more than what is read, plus its tail (64 KiB, kept in memory).

        Its digest is what the index promises (empty when nothing) and is not verified.
        Raises UpstreamError when the upstream does not serve ranges, and like `get`.
        """
        url = address(file.url)
        # Where the size is known, a plain range: more servers understand it than a suffix.
        wanted = f"bytes=-{TAIL}" if file.size is None else f"bytes={max(0, file.size - TAIL)}-"
        async with self._stream(url, wanted, None, self._page_slots) as stream:
            if stream.status != 206 or stream.size is None or stream.size - stream.start > TAIL:
                raise UpstreamProtocolError(f"{place(url)} does not serve parts of the file.")
            if file.size not in (None, stream.size):
                raise UpstreamProtocolError(f"{place(url)} has {stream.size} bytes, its index says {file.size}.")
            tail = b"".join([chunk async for chunk in stream.chunks()])
            if stream.start + len(tail) != stream.size:
                raise UpstreamProtocolError(f"{place(url)} sent another part than the one asked for.")
            return RangeBody(self, file, stream.size, stream.validator, tail)

    # One request

    async def _retrying(self, url: URL, once: Callable[[], Awaitable[T]], timeout: float | None = None) -> T:
        """The result of `once`, tried again after failures that pass; within `timeout` or `page_timeout` in all."""
        try:
            async with asyncio.timeout(max(timeout or 0, self.options.page_timeout)) as limit:
                for attempt in itertools.count():
                    try:
                        return await once()
                    except Passing as error:
                        pause = error.asked or 0.25 * 2**attempt * random.uniform(0.5, 1.5)
                        left = (limit.when() or 0.0) - asyncio.get_running_loop().time()
                        if attempt == self.options.retries or max(pause, self.pause(error.url)) > left:
                            if error.asked:
                                self._breaker(error.url).hold(self._clock() + error.asked)
                            raise
                        await asyncio.sleep(pause)
            raise AssertionError("unreachable")
        except UpstreamError as error:
            self.note(error)
            raise
        except TimeoutError:
            self._breaker(url).failed(self._clock())
            late = Late(f"{url.host} took too long to answer.", self._when(url))
            self.note(late)
            raise late from None

    async def _begin(self, url: URL, headers: Mapping[str, str], *, decompress: bool) -> aiohttp.ClientResponse:
        """The head of the final answer, redirects followed; its status is 200, 206, 304 or 416. To be closed."""
        for _ in range(self.options.redirects + 1):
            response = await self._hop(url, headers, decompress)
            try:
                if response.status not in _REDIRECTS:
                    self._judge(response.status, response.url, response.headers)
                    return response
                url = redirected(response)
            except BaseException:
                response.close()
                raise
            response.close()
        raise UpstreamProtocolError(f"{place(url)} was redirected too often.")

    async def _hop(self, url: URL, headers: Mapping[str, str], decompress: bool) -> aiohttp.ClientResponse:
        if "@" in checked(url).raw_authority:
            url = url.with_user(None)  # what a page writes into its links is not ours to send
        breaker = self._breaker(url)
        began = self._clock()
        wait = breaker.admit(began)
        if wait:
            raise Paused(f"{url.host} {breaker.reason}; trying again in {wait:.0f} s.", wait)
        if (shown := self._credentials(url)) is not None:
            headers = {**headers, "Authorization": shown}
        self._requests += 1
        try:
            return await self._connected().get(
                url, headers=headers, allow_redirects=False, auto_decompress=decompress, proxy=self.options.proxy
            )
        except FAILURES as error:
            raise self._failure(url, error, silent=True) from None
        finally:
            self._seconds += self._clock() - began

    def _credentials(self, url: URL) -> str | None:
        """What to show as Authorization: to the origin of the index alone."""
        return self._authorization if self._authorization and origin(url) == origin(self.url) else None

    def _judge(self, status: int, url: URL, headers: Mapping[str, str]) -> None:
        """Let pass what the callers know how to use, and raise for the rest."""
        breaker, now = self._breaker(url), self._clock()
        if status == 429 or status >= 500:
            breaker.failed(now)
            asked = retry_after(headers.get("Retry-After", ""), time.time())
            message = f"{url.host} answered {status}."
            if status in _PASSING:
                passing = Passing(message, asked or self._when(url), url, asked)
                passing.cause = "status"
                raise passing
            raise Failing(message, self._when(url))
        breaker.succeeded()
        if status in (404, 410):
            raise NotFound(f"{place(url)} does not exist.")
        if status in (401, 403):
            raise UpstreamRefused(f"{place(url)} answered {status}: check the credentials set for {self.name}.")
        if status not in (200, 206, 304, 416):
            raise UpstreamProtocolError(f"{place(url)} answered {status}.")

    async def _next(self, response: aiohttp.ClientResponse) -> bytes:
        """What has arrived of the body; empty at its end."""
        try:
            chunk = await response.content.readany()
        except FAILURES as error:
            raise self._failure(response.url, error) from None
        self._bytes += len(chunk)
        return chunk

    def _failure(self, url: URL, error: Exception, silent: bool = False) -> UpstreamError:
        """What the network does to us, as an error of ours, without addresses or secrets in it."""
        match error:
            case TimeoutError():
                self._breaker(url).failed(self._clock(), silent)
                return Late(f"{url.host} took too long to answer.", self._when(url))
            case aiohttp.ClientResponseError() | aiohttp.InvalidURL():
                return UpstreamProtocolError(f"{place(url)} did not answer in HTTP.")
            case _:
                self._breaker(url).failed(self._clock())
                return Passing(f"{url.host} {what_happened(error)}.", self._when(url), url)

    def _breaker(self, url: URL) -> Breaker:
        key = url.host, url.port
        breaker = self._breakers.get(key)
        if breaker is None:
            breaker = self._breakers[key] = Breaker(self.options.breaker_failures, self.options.breaker_seconds)
            if len(self._breakers) > _HOSTS:
                self._breakers.popitem(last=False)
        self._breakers.move_to_end(key)
        return breaker

    def _when(self, url: URL) -> float:
        """When a client may come again, in seconds."""
        return self.pause(url) or 5.0

    def note(self, error: UpstreamError) -> None:
        """Count an error: of ours, or found by whoever has read what was sent."""
        self._causes[error.cause] += 1
        self._last_cause = error.cause
        self._last_error = str(error)

    def _connected(self) -> aiohttp.ClientSession:
        if self._session is None or self._session.closed:
            options = self.options
            self._session = aiohttp.ClientSession(
                # The slots are the limit.
                connector=aiohttp.TCPConnector(limit=0, ssl=self._trust() if options.ca_file else True),
                timeout=aiohttp.ClientTimeout(
                    total=None,
                    connect=options.connect_timeout,
                    sock_connect=options.connect_timeout,
                    sock_read=options.read_timeout,
                ),
                headers={"User-Agent": options.user_agent},
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=_BUFFER,
            )
        return self._session

    def _trust(self) -> ssl.SSLContext:
        """Whom we believe. Raises ConfigError."""
        try:
            return ssl.create_default_context(cafile=self.options.ca_file)
        except OSError as error:
            raise ConfigError(f"The ca_file of {self.name} cannot be used: {error.strerror}.") from None

    # Life

    def pause(self, url: URL) -> float:
        """Seconds for which calls to that URL's host would fail at once; 0 when it may be asked."""
        return self._breaker(url).wait(self._clock())

    def state(self) -> UpstreamState:
        """How the upstream does, for status and metrics."""
        now = self._clock()
        worst = max(self._breakers.values(), key=lambda breaker: breaker.severity(now), default=None)
        return UpstreamState(
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
        """Close the connections. Streams in use break off."""
        self._small.close()
        if self._session is not None:
            await self._session.close()
