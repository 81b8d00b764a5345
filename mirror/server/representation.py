"""What a response represents: a file, a page or a log, as `mirror.server.respond` asks it for headers and bytes."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from mirror.model import Body
from mirror.server.replay import SharedBytes

Chunk = bytes | memoryview
HeadKey = tuple[int, str, str, bool]
"""Status, encoding, outcome, and whether it is for one client only."""


class Representation(Protocol):
    """The state of a resource at one moment, in one media type (RFC 9110 section 3.2)."""

    media_type: str
    modified: str | None = None
    """The Last-Modified date."""
    headers: Iterable[tuple[str, str]] = ()
    """Headers of its own, sent with every status."""
    size: int
    """Bytes, not encoded."""
    compressible: bool = False
    """Whether it is offered in content codings."""
    file: Body | None = None
    """What has to be read from elsewhere; None when all bytes are in memory."""
    sha256: bytes = b""
    """The digest of all bytes, not encoded, where the rules ask for it."""
    cached: bool = False
    """Whether a cache keeps it, so that there may be another response with it."""
    heads: Mapping[HeadKey, bytes] = {}
    """Heads of responses that were made for it and kept."""

    def keep_head(self, key: HeadKey, head: bytes) -> None:
        """Keep a head; called when it is `cached`."""
        return

    def etag_of(self, encoding: str) -> str:
        """Return the ETag in an encoding, without quotes; empty where the digest is not known yet."""

    async def encode(self, encoding: str) -> int:
        """Make it available in an encoding, and return its size in bytes."""

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        """Return the bytes [start, stop) in an encoding; not called when there is a `file`."""

    def shared(self, encoding: str) -> SharedBytes | None:
        """Return what keeps the whole in an encoding; called when it is `cached`."""
        return None
