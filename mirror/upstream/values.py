"""What an upstream is told about itself, and what it tells: frozen values, no behaviour."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from mirror.upstream.breaker import BreakerState


class Credentials(msgspec.Struct, frozen=True):
    """A user name and password for an upstream; never printed."""

    username: str
    password: str

    def __repr__(self) -> str:
        return "Credentials(…)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        return []


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
    breaker_failures: int = 5
    """After so many failures in a row (or one silence) a host is left alone …"""
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
    """The final one, after redirects."""
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
    breaker: BreakerState
    """Of the worst of its hosts."""
    retry_in: float
    """Seconds until that host is asked again; 0 when it may be asked."""
    last_error: str | None
    last_cause: str | None
    """The same in one word of ours, which names nothing."""
    requests: int
    errors: int
    causes: Mapping[str, int]
    """The errors by their cause, see `UpstreamError.cause`."""
    bytes: int
    """Received: pages after decompression, files as they came."""
    seconds: float
    """Spent waiting for the head of an answer, summed up."""
