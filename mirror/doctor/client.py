"""An HTTP client that shows responses as they are: nothing is followed, decompressed or retried, and all is limited.

Credentials are sent to the host for which they were given and to no other.

The surprise: no header is sent that the caller does not set, so that "no Accept" and "no Accept-Encoding" can be tried.
"""

import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Literal

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mirror import __version__
from mirror.errors import TooLarge, UpstreamProtocolError, UpstreamUnavailable
from mirror.upstream import HEADER_LINE_BYTES, Outgoing

RESPONSE_SECONDS = 120.0
"""Time for a whole response."""
EXAMINE_SECONDS = 600.0
"""Time for one examination."""
SILENCE_SECONDS = 15.0
"""Time without a byte after which pip gives up, and so does the doctor."""
BODY_BYTES = 32 << 20
"""The longest body that is read, unless the caller sets another limit."""
MOST_REQUESTS = 300
"""The most requests of one examination."""
MOST_REDIRECTS = 5

Method = Literal["GET", "HEAD", "POST"]
Data = aiohttp.FormData | bytes | None


class WireResponse(msgspec.Struct, frozen=True, kw_only=True):
    """A response as it was received."""

    url: URL
    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    body: bytes
    cut: bool = False
    """Whether the rest of the body was left unread."""

    def header(self, name: str) -> str:
        """Return the header's value; empty where there is none."""
        return self.headers.get(name, "")

    def display(self, name: str) -> str:
        """Return the header's value for people; `absent` where there is none."""
        return self.headers.get(name) or "absent"

    @property
    def media_type(self) -> str:
        """The media type of Content-Type, in lower case; empty where there is none."""
        return self.header("Content-Type").partition(";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """Content-Length; None where it is not a number."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def phrase(self) -> str:
        """The status and its reason phrase, for people."""
        return f"{self.status} {self.reason}".strip()

    @property
    def excerpt(self) -> str:
        """The status with the beginning of the body, for people."""
        return f"{self.phrase}: {self.body[:200].decode('utf-8', 'replace').strip()}"

    def identity(self, most: int = BODY_BYTES) -> bytes:
        """Return the body, unpacked where it is gzip. Raises UpstreamProtocolError, or TooLarge above `most` bytes."""
        if self.header("Content-Encoding").lower() != "gzip":
            return self.body
        return gunzip(self.body, most)


def gunzip(body: bytes, most: int = BODY_BYTES) -> bytes:
    """Return the content of a gzip stream. Raises UpstreamProtocolError, or TooLarge above `most` bytes."""
    unpack = zlib.decompressobj(wbits=31)
    try:
        content = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise UpstreamProtocolError("A response with the encoding gzip is not gzip.") from error
    if len(content) > most:
        raise TooLarge(f"A response unpacks to more than {most} bytes, too many to be examined.")
    if not unpack.eof:
        raise UpstreamProtocolError("A response in gzip ends too early.")
    return content


class Login(msgspec.Struct, frozen=True):
    """Credentials, and the one origin to which they may be sent."""

    origin: URL
    authorization: str
    """The value of the header Authorization."""


class IndexClient:
    """Sends requests to one index, within the limits of one examination."""

    def __init__(self, session: "WireSession", login: Login | None = None) -> None:
        self._session = session
        self._login = login
        self._left = MOST_REQUESTS
        self._end = time.monotonic() + EXAMINE_SECONDS

    @property
    def has_login(self) -> bool:
        """Whether requests have credentials."""
        return self._login is not None

    async def get(self, url: URL, *, most: int = BODY_BYTES, part: bool = False, **headers: str) -> WireResponse:
        """Send a GET; header names are written with `_` for `-`. With `part`, bytes beyond `most` are left unread.

        Raises UpstreamUnavailable, UpstreamProtocolError (a response that ends too early), TooLarge.
        """
        return await self.send("GET", url, _named(headers), most=most, part=part)

    async def head(self, url: URL, **headers: str) -> WireResponse:
        """Send a HEAD; see `get`."""
        return await self.send("HEAD", url, _named(headers))

    async def follow(self, url: URL, *, most: int = BODY_BYTES, part: bool = False, **headers: str) -> WireResponse:
        """Send a GET and follow redirects, as every client does; the response has the last URL."""
        reply = await self.get(url, most=most, part=part, **headers)
        for _ in range(MOST_REDIRECTS):
            target = redirect_target(reply)
            if target is None:
                break
            reply = await self.get(target, most=most, part=part, **headers)
        return reply

    async def send(
        self,
        method: Method,
        url: URL,
        headers: Mapping[str, str],
        data: Data = None,
        *,
        most: int = BODY_BYTES,
        part: bool = False,
    ) -> WireResponse:
        """Send one request. An `Authorization` among the headers replaces the login; an empty one removes it."""
        if self._left <= 0:
            raise TooLarge(f"The index needs more than {MOST_REQUESTS} requests to be examined.")
        if time.monotonic() > self._end:
            raise UpstreamUnavailable(f"The index is too slow to be examined in {EXAMINE_SECONDS / 60:.0f} minutes.")
        self._left -= 1
        sent = CIMultiDict(headers)
        if "Authorization" not in sent and self._login is not None and url.origin() == self._login.origin:
            sent["Authorization"] = self._login.authorization
        if not sent.get("Authorization", "-"):
            del sent["Authorization"]
        sent.setdefault("User-Agent", f"mirror-doctor/{__version__}")
        what = f"{method} {url.with_user(None)}"
        try:
            async with self._session.request(method, url, sent, data) as response:
                body, cut = await _read(response, most, part, what)
                if cut:
                    response.close()
                return WireResponse(
                    url=url,
                    status=response.status,
                    reason=response.reason or "",
                    headers=response.headers,
                    body=body,
                    cut=cut,
                )
        except aiohttp.ClientPayloadError as error:
            raise UpstreamProtocolError(f"The response to {what} ends too early.") from error
        except TimeoutError as error:
            raise UpstreamUnavailable(f"{what} was not answered in time.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"{what} failed: {str(error) or type(error).__name__}.") from error


def url_of(text: str) -> URL:
    """Parse a URL of an index, without any normalisation. Raises UpstreamProtocolError."""
    try:
        url = URL(text, encoded=True)
        url.origin()
    except ValueError as error:
        raise UpstreamProtocolError(f"{text[:200]!r} is not the URL of a file.") from error
    return url


def redirect_target(reply: WireResponse) -> URL | None:
    """Return the target of a redirect, or None when it is not one that a client would follow."""
    location = reply.header("Location")
    if reply.status not in {301, 302, 303, 307, 308} or not location or len(location) > 8192:
        return None
    try:
        target = reply.url.join(URL(location, encoded=True))
    except ValueError:
        return None
    return target if target.scheme in {"http", "https"} and target.host else None


async def _read(response: aiohttp.ClientResponse, most: int, part: bool, what: str) -> tuple[bytes, bool]:
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            if not part:
                raise TooLarge(f"The response to {what} is longer than {most} bytes, too long to be examined.")
            return b"".join(chunks)[:most], True
    return b"".join(chunks), False


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


class WireSession:
    """A session of aiohttp, and how its connections leave."""

    def __init__(self, session: aiohttp.ClientSession, outgoing: Outgoing | None) -> None:
        """`outgoing` None: everything is asked over the session's own connector."""
        self._session = session
        self._outgoing = outgoing

    def request(
        self, method: Method, url: URL, headers: Mapping[str, str], data: Data
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Send a request, through the proxy that is meant for its URL. Raises ForbiddenAddress."""
        proxy = self._outgoing.proxy_for(url) if self._outgoing else None
        return self._session.request(method, url, headers=headers, data=data, allow_redirects=False, proxy=proxy)


@asynccontextmanager
async def open_session(way: Outgoing | aiohttp.BaseConnector) -> AsyncIterator[WireSession]:
    """Open a session for `IndexClient`: to an index as the mirror itself reaches it, or over a connector of its own."""
    outgoing = None if isinstance(way, aiohttp.BaseConnector) else way
    timeout = aiohttp.ClientTimeout(total=RESPONSE_SECONDS, sock_connect=10, sock_read=SILENCE_SECONDS)
    async with aiohttp.ClientSession(
        connector=way if isinstance(way, aiohttp.BaseConnector) else way.connector(),
        timeout=timeout,
        auto_decompress=False,
        skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent"],
        cookie_jar=aiohttp.DummyCookieJar(),
        max_line_size=HEADER_LINE_BYTES,
        max_field_size=HEADER_LINE_BYTES,
    ) as session:
        yield WireSession(session, outgoing)
