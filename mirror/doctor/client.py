"""An HTTP client that sees answers as they are: nothing is followed, decompressed or retried, and all is bounded.

Credentials go to the host that they were given for and to no other. The surprise: no header is sent that was not asked
for, so that "no Accept" and "no Accept-Encoding" can be tried.
"""

import time
import zlib
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Literal

import aiohttp
import msgspec
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mirror import __version__
from mirror.errors import TooLarge, UpstreamProtocolError, UpstreamUnavailable

PATIENCE = 120.0
"""Seconds for a whole answer."""
LONGEST = 600.0
"""Seconds for one examination."""
SILENCE = 15.0
"""Seconds without a byte after which pip gives up, and so does the doctor."""
MOST = 32 << 20
"""The longest answer that is read, in bytes, unless a caller says another."""
REQUESTS = 300
"""Of one examination; no index is worth more."""
REDIRECTS = 5

Method = Literal["GET", "HEAD", "POST"]
Data = aiohttp.FormData | bytes | None


class WireResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came over the wire."""

    url: URL
    status: int
    reason: str
    headers: CIMultiDictProxy[str]
    body: bytes
    cut: bool = False
    """Whether there was more that was left unread."""

    def header(self, name: str) -> str:
        """The header's value; empty where there is none."""
        return self.headers.get(name, "")

    def display(self, name: str) -> str:
        """The same for people."""
        return self.headers.get(name) or "absent"

    @property
    def media_type(self) -> str:
        return self.header("Content-Type").partition(";")[0].strip().lower()

    @property
    def length(self) -> int | None:
        """Content-Length, where it is a number."""
        text = self.header("Content-Length")
        return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None

    @property
    def phrase(self) -> str:
        """The status line, for people."""
        return f"{self.status} {self.reason}".strip()

    @property
    def excerpt(self) -> str:
        """The same with how the body begins."""
        return f"{self.phrase}: {self.body[:200].decode('utf-8', 'replace').strip()}"

    def identity(self, most: int = MOST) -> bytes:
        """The body without gzip. Raises UpstreamProtocolError when it is not what Content-Encoding says, TooLarge."""
        if self.header("Content-Encoding").lower() != "gzip":
            return self.body
        return gunzip(self.body, most)


def gunzip(body: bytes, most: int = MOST) -> bytes:
    """What a gzip stream holds. Raises UpstreamProtocolError when it is none, TooLarge above `most` bytes."""
    unpack = zlib.decompressobj(wbits=31)
    try:
        content = unpack.decompress(body, most + 1)
    except zlib.error as error:
        raise UpstreamProtocolError("An answer that should be gzip is not.") from error
    if len(content) > most:
        raise TooLarge(f"An answer unpacks to more than {most} bytes, too many to look at.")
    if not unpack.eof:
        raise UpstreamProtocolError("An answer in gzip ends too early.")
    return content


class Login(msgspec.Struct, frozen=True):
    """Credentials, and the one place that may see them."""

    origin: URL
    authorization: str
    """The value of the header."""


class IndexClient:
    """Asks one index."""

    def __init__(self, session: aiohttp.ClientSession, login: Login | None = None) -> None:
        self._session = session
        self._login = login
        self._left = REQUESTS
        self._end = time.monotonic() + LONGEST

    @property
    def has_login(self) -> bool:
        """Whether requests carry credentials."""
        return self._login is not None

    async def get(self, url: URL, *, most: int = MOST, part: bool = False, **headers: str) -> WireResponse:
        """GET; header names are written with `_` for `-`. With `part`, what goes beyond `most` is left unread.

        Raises UpstreamUnavailable, UpstreamProtocolError (an answer that ends too early), TooLarge.
        """
        return await self.ask("GET", url, _named(headers), most=most, part=part)

    async def head(self, url: URL, **headers: str) -> WireResponse:
        """HEAD; the same."""
        return await self.ask("HEAD", url, _named(headers))

    async def follow(self, url: URL, *, most: int = MOST, part: bool = False, **headers: str) -> WireResponse:
        """GET that goes where redirects lead, as every client does; `url` of the reply is the last one."""
        reply = await self.get(url, most=most, part=part, **headers)
        for _ in range(REDIRECTS):
            target = redirect_target(reply)
            if target is None:
                break
            reply = await self.get(target, most=most, part=part, **headers)
        return reply

    async def ask(
        self,
        method: Method,
        url: URL,
        headers: Mapping[str, str],
        data: Data = None,
        *,
        most: int = MOST,
        part: bool = False,
    ) -> WireResponse:
        """One request. An `Authorization` among the headers takes the place of the login; an empty one means none."""
        if self._left <= 0:
            raise TooLarge(f"The index would need more than {REQUESTS} requests to be looked at.")
        if time.monotonic() > self._end:
            raise UpstreamUnavailable(f"The index is too slow to be looked at in {LONGEST / 60:.0f} minutes.")
        self._left -= 1
        sent = CIMultiDict(headers)
        if "Authorization" not in sent and self._login is not None and url.origin() == self._login.origin:
            sent["Authorization"] = self._login.authorization
        if not sent.get("Authorization", "-"):
            del sent["Authorization"]
        sent.setdefault("User-Agent", f"mirror-doctor/{__version__}")
        what = f"{method} {url.with_user(None)}"
        try:
            async with self._session.request(method, url, headers=sent, data=data, allow_redirects=False) as answer:
                body, cut = await _read(answer, most, part, what)
                if cut:
                    answer.close()
                return WireResponse(
                    url=url,
                    status=answer.status,
                    reason=answer.reason or "",
                    headers=answer.headers,
                    body=body,
                    cut=cut,
                )
        except aiohttp.ClientPayloadError as error:
            raise UpstreamProtocolError(f"The answer to {what} ends too early.") from error
        except TimeoutError as error:
            raise UpstreamUnavailable(f"{what} was not answered in time.") from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise UpstreamUnavailable(f"{what} failed: {str(error) or type(error).__name__}.") from error


def url_of(text: str) -> URL:
    """A URL that an index has written, as it stands. Raises UpstreamProtocolError when it is none."""
    try:
        url = URL(text, encoded=True)
        url.origin()
    except ValueError as error:
        raise UpstreamProtocolError(f"{text[:200]!r} is no URL of a file.") from error
    return url


def redirect_target(reply: WireResponse) -> URL | None:
    """Where a redirect leads, or None when it is none that a client would follow."""
    location = reply.header("Location")
    if reply.status not in {301, 302, 303, 307, 308} or not location or len(location) > 8192:
        return None
    try:
        target = reply.url.join(URL(location, encoded=True))
    except ValueError:
        return None
    return target if target.scheme in {"http", "https"} and target.host else None


async def _read(answer: aiohttp.ClientResponse, most: int, part: bool, what: str) -> tuple[bytes, bool]:
    chunks: list[bytes] = []
    size = 0
    async for chunk in answer.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > most:
            if not part:
                raise TooLarge(f"The answer to {what} is longer than {most} bytes, too long to look at.")
            return b"".join(chunks)[:most], True
    return b"".join(chunks), False


def _named(headers: Mapping[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@asynccontextmanager
async def open_session(
    connector: aiohttp.BaseConnector | None = None, proxy: str | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session for `IndexClient`; with a `connector`, the proxies of the environment do not count."""
    timeout = aiohttp.ClientTimeout(total=PATIENCE, sock_connect=10, sock_read=SILENCE)
    async with aiohttp.ClientSession(
        connector=connector,
        timeout=timeout,
        auto_decompress=False,
        skip_auto_headers=["Accept", "Accept-Encoding", "User-Agent"],
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy,
        trust_env=connector is None,  # the proxies of this machine's clients
    ) as session:
        yield session
