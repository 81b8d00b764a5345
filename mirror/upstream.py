"""The HTTP client of one upstream: conditional GET, streams, ranges, retries, limits and a circuit breaker.

It knows no format: pages are bytes to it. It does not cache, it does not verify digests, and it never follows
a growing file; `mirror.transfer` does.

The surprise: there is one breaker for each host that the upstream sends us to, so that a dead file host does not
close the way to a healthy index, nor one absurd URL in a page.
"""

import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Literal

import msgspec
from yarl import URL

from mirror.model import Answer, Ask, Body, File


class Credentials(msgspec.Struct, frozen=True):
    """A user name and password for an upstream; never printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"


class UpstreamOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to treat one upstream. All times in seconds."""

    connect_timeout: float = 3.0
    """For name resolution, connection and TLS together."""
    read_timeout: float = 20.0
    """Between two pieces of an answer; a longer silence is a stall."""
    page_timeout: float = 30.0
    """For a whole page, its retries included; and for a file until its first byte."""
    retries: int = 2
    """How often a page, or the begin of a file, is asked for again."""
    connections: int = 20
    """At once, counted apart for pages and for files: a page never waits behind a large file."""
    breaker_failures: int = 3
    """So many failures in a row and the upstream is left alone …"""
    breaker_seconds: float = 30.0
    """… for so long; then one request is let through to see."""
    user_agent: str = "mirror"
    auth: Credentials | None = None
    ca_file: Path | None = None
    """Certificates to trust instead of the system's."""
    proxy: str | None = None
    redirects: int = 5


class RawAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer as it came: what a format needs that follows a page by ranges."""

    url: str
    status: int
    """200, 206, 304 or 416; everything else is raised."""
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class UpstreamState(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as people and monitors see it."""

    name: str
    url: str
    """Without credentials."""
    breaker: Literal["closed", "open", "half-open"]
    retry_in: float
    """Seconds until it is asked again; 0 when it may be asked."""
    last_error: str | None
    requests: int
    errors: int
    bytes: int
    """Received, as they came (pages: after decompression)."""
    seconds: float
    """Spent waiting for the head of an answer, summed up."""


class Stream:
    """The bytes of a file as they come from an upstream."""

    status: int
    """200 or 206."""
    start: int
    """The offset of the first byte; 0 when the upstream ignored or refused the range."""
    size: int | None
    """Of the whole file, when the upstream says so."""
    etag: str | None
    last_modified: str | None

    def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives, as it arrives. Raises UpstreamUnavailable when the upstream stalls or hangs up."""
        raise NotImplementedError


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
        self.name = name
        self.url = url.with_user(None)

    async def get(self, ask: Ask, *, etag: str | None = None, last_modified: str | None = None) -> Answer | None:
        """Ask for a page; None when the validators given still hold (304).

        Raises NotFound (404, 410), UpstreamRefused (401, 403), UpstreamUnavailable (no connection, too slow, 429,
        5xx, open breaker) and UpstreamProtocolError (too large, empty, a bad redirect, any other status).
        """
        raise NotImplementedError

    async def range_get(self, ask: Ask, headers: Mapping[str, str]) -> RawAnswer:
        """Ask for a page with headers of one's own (Range, If-None-Match, Accept-Encoding); statuses 200, 206, 304
        and 416 come back as they are. Bounded, retried and raising like `get`.
        """
        raise NotImplementedError

    def fetch(
        self, url: URL, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[Stream]:
        """Open a file, from `start` on, identity-encoded. Leaving the block early closes the connection.

        With `start` or `stop` a range is asked for; see `Stream.start` for what came. `if_range` is a strong ETag
        or a Last-Modified. Raises like `get`; inside the block `chunks` raises UpstreamUnavailable.
        """
        raise NotImplementedError

    async def open_ranges(self, file: File) -> Body:
        """A remote file as a Body that asks for no more than what is read, plus its tail.

        Its digest is what the index promises (empty when nothing) and is not verified.
        Raises UpstreamError when the upstream does not serve ranges, and like `get`.
        """
        raise NotImplementedError

    def pause(self, url: URL) -> float:
        """Seconds for which calls to that URL's host would fail at once; 0 when it may be asked."""
        raise NotImplementedError

    def state(self) -> UpstreamState:
        """How the upstream does, for status and metrics."""
        raise NotImplementedError

    async def close(self) -> None:
        """Close the connections. Streams in use break off."""
        raise NotImplementedError
