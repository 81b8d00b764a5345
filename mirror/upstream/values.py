"""Values of the upstream client: options, answers, state; and pure functions on URLs and dates."""

import base64
import re
from collections import Counter
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

import msgspec
from yarl import URL

from mirror.errors import UpstreamError, UpstreamProtocolError
from mirror.model import UrlClass
from mirror.upstream.pacing import BreakerState

Origin = tuple[str, str | None, int | None]
"""Scheme, host and port."""

_PLAIN = re.compile("[!-~]*")
_NOT_PLAIN = re.compile("[^!-~]+")
_CONTROL = re.compile("[\x00-\x1f\x7f]")
_AUTHORITY = re.compile(r"\A(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*")

HEADER_LINE_BYTES = 64 << 10
"""The longest header line of an upstream's answer that every client of ours reads."""


class Credentials(msgspec.Struct, frozen=True):
    """A user name and password for an upstream; never printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return []


class UpstreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of one upstream. All times are in seconds."""

    connect_timeout: float = 10.0
    """For name resolution, connection and TLS together."""
    stale_timeout: float = 3.0
    """How long a client waits for the answer where a stored one can be served instead."""
    read_timeout: float = 20.0
    """The longest silence within an answer; a longer one is a stall."""
    minimum_rate: int = 1024
    """Bytes per second of waiting below which a file is too slow; 0 for no limit."""
    page_timeout: float = 30.0
    """For a whole page including its retries, and for a file until its first byte."""
    retries: int = 2
    """The most repetitions of a request for a page, or for the beginning of a file."""
    connections: int = 20
    """The most at once, for pages and files separately: a page never waits behind a large file."""
    breaker_failures: int = 5
    """After so many failures in a row an address, a class of URLs or a host is not asked …"""
    breaker_seconds: float = 30.0
    """… for so long."""
    api_rate: float = 10.0
    """The most requests per second to a host's JSON API; 0 for no limit."""
    user_agent: str = "mirror"
    auth: Credentials | None = None
    read_login: Callable[[], tuple[str, str] | None] | None = None
    """Reads user name and password again, where they may have changed. Blocking. Raises ValueError."""
    forbidden_means_missing: bool = False
    """Whether a 403 is the answer for what is not there, as from a bucket that may not be listed."""
    allow_page_redirects: tuple[str, ...] = ()
    """Other hosts, or patterns of them, to which pages of projects may be redirected."""
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    proxy: str | None = None
    """Used instead of those of the environment."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts and networks inside this network to which it may lead."""
    redirects: int = 5


class RawResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came, for an index that is followed by ranges."""

    url: str
    """The final URL, after redirects."""
    status: int
    """200, 206, 304 or 416; everything else is an error."""
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class HttpResponse(Protocol):
    """An answer whose head is here, and whose body is read as it comes."""

    @property
    def url(self) -> URL: ...

    @property
    def status(self) -> int: ...

    @property
    def headers(self) -> Mapping[str, str]:
        """Case-insensitive."""

    @property
    def content_length(self) -> int | None:
        """Of the body in bytes, None when that is not known."""

    async def next_chunk(self) -> bytes:
        """Return what has come of the body, empty at its end. Raises what `failures.FAILURES` has."""

    def end(self, *, connection: bool = False) -> None:
        """Keep the connection for the next request if all of the answer has come, unless it is to be closed too."""


class UpstreamHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The health of an upstream, for people and monitors."""

    name: str
    url: str
    """Without credentials."""
    breaker: BreakerState
    """Of its worst host; open also where a host's pages or files pause."""
    retry_in: float
    """Seconds until that host is asked again, 0 when it may be asked."""
    paused: tuple[UrlClass, ...] = ()
    """The classes of URLs that pause at any of its hosts."""
    paused_addresses: int = 0
    """How many single URLs pause."""
    last_error: str | None
    last_cause: str | None
    """The kind of that error, in one word without names: see `UpstreamError.cause`."""
    requests: int
    errors: int
    causes: Mapping[str, int]
    """The errors by their cause."""
    bytes: int
    """Received: pages after decompression, files as sent."""
    seconds: float
    """The total time spent waiting for the heads of answers."""


class Traffic(msgspec.Struct):
    """The counts of requests to an upstream, and of what became of them."""

    requests: int = 0
    bytes: int = 0
    seconds: float = 0.0
    causes: Counter[str] = msgspec.field(default_factory=Counter)
    last_error: str | None = None
    last_cause: str | None = None

    def record_error(self, error: UpstreamError) -> None:
        """Count an error; what an upstream did last is why it is not asked."""
        self.causes[error.cause] += 1
        if error.cause == "paused" and self.last_error is not None:
            return
        self.last_cause = error.cause
        self.last_error = str(error)

    def health(
        self, name: str, url: str, breaker: BreakerState, retry_in: float, paused: tuple[UrlClass, ...], addresses: int
    ) -> UpstreamHealth:
        """Return it as the health of the upstream, whose hosts are in that state."""
        return UpstreamHealth(
            name=name,
            url=url,
            breaker=breaker,
            retry_in=retry_in,
            paused=paused,
            paused_addresses=addresses,
            last_error=self.last_error,
            last_cause=self.last_cause,
            requests=self.requests,
            errors=self.causes.total(),
            causes=dict(self.causes),
            bytes=self.bytes,
            seconds=self.seconds,
        )


def describe(url: URL) -> str:
    """Return a URL for a message: without user and query, which may contain secrets, and not too long."""
    return f"{url.host}{url.path[:200]}"


def as_written(text: str) -> URL:
    """Return a URL or a relative link whose path and query are sent byte for byte, as some servers sign them.

    Only what may not stand in a request is percent-encoded: spaces and what is not ASCII. Raises ValueError, also for
    control characters, which parsers of URLs disagree about.
    """
    if _PLAIN.fullmatch(text):
        url = URL(text, encoded=True)
        url.port  # noqa: B018  # yarl reads host and port when they are asked for, and refuses bad ones then
        return url
    if _CONTROL.search(text):
        raise ValueError("has a control character")
    found = _AUTHORITY.match(text)
    head, rest = (found[0], text[found.end() :]) if found else ("", text)
    if not head.isascii():
        scheme, _, authority = head.partition("//")
        head = f"{scheme}//{URL(f'http://{authority}/').raw_authority}"  # IDNA (RFC 5891)
    rest = _NOT_PLAIN.sub(lambda found: quote(found[0], safe="", errors="surrogateescape"), rest)
    return URL(f"{head}{rest}", encoded=True)


def redirect_target(url: URL, location: str | None) -> URL:
    """Return where an answer with this Location redirects to. Raises UpstreamProtocolError for a bad redirect."""
    try:
        if location is None:
            raise ValueError
        target = url.join(as_written(location))
    except ValueError:
        raise UpstreamProtocolError(f"{describe(url)} is redirected to nowhere.") from None
    if url.scheme == "https" and target.scheme != "https":
        raise UpstreamProtocolError(f"{describe(url)} is redirected from https to {target.scheme}, which is refused.")
    return target


def basic_authorization(auth: Credentials) -> str:
    """Return the value of an Authorization header (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()


def origin(url: URL) -> Origin:
    """Return the origin of a URL, to which credentials are limited."""
    return url.scheme, url.host, url.port  # not URL.origin(), to which :80 and no port are different


def parse_http_date(header: str | None) -> int | None:
    """Return the date of a header in seconds since the epoch; None when it is not a date."""
    try:
        return int(parsedate_to_datetime(header or "").timestamp())
    except (ValueError, OverflowError):
        return None
