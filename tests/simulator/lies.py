"""Faults of the whole answer or of several: ends cut cleanly, long heads, redirects elsewhere, limits of a rate."""

import gzip
import sys
import time
import zlib
from collections import deque
from dataclasses import dataclass, field

from .faults import Fault, Status
from .wire import SimulatedResponse

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd


@dataclass(frozen=True)
class CutCompression(Fault):
    """A compressed body that ends `missing` bytes before its end, under a Content-Length that agrees."""

    encoding: str = "gzip"
    """gzip, zstd, deflate, or `raw deflate`, which some servers call deflate."""
    missing: int = 20

    def spoil(self, answer: SimulatedResponse) -> None:
        if answer.status == 200:
            answer.headers["Content-Encoding"] = self.encoding.removeprefix("raw ")
            compressed = compress(answer.whole, self.encoding)
            answer.body = compressed[: len(compressed) - self.missing]


@dataclass(frozen=True)
class HangUp(Fault):
    """No length and no chunks; the connection is closed after `keep` bytes of the body, None for all of it."""

    keep: int | None = None

    def spoil(self, answer: SimulatedResponse) -> None:
        if answer.status == 200:
            answer.headers.popall("Content-Encoding", None)
            answer.until_close = True
            answer.body = answer.whole[: self.keep]


@dataclass(frozen=True)
class LongHeader(Fault):
    """A header line of `size` bytes, as policies and cookies make them."""

    size: int

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.headers["Content-Security-Policy"] = "a" * self.size


@dataclass(frozen=True)
class Redirect(Fault):
    """A redirect to this URL, whatever there is."""

    location: str

    def spoil(self, answer: SimulatedResponse) -> None:
        Status(302).spoil(answer)
        answer.headers["Location"] = self.location


@dataclass(frozen=True)
class RateLimit(Fault):
    """429 for what comes after `requests` answers within `seconds`, with a Retry-After or without."""

    requests: int
    seconds: float = 1.0
    retry_after: int | None = None
    answered: "deque[float]" = field(default_factory=deque)

    def spoil(self, answer: SimulatedResponse) -> None:
        now = time.monotonic()
        while self.answered and now - self.answered[0] >= self.seconds:
            self.answered.popleft()
        if len(self.answered) < self.requests:
            self.answered.append(now)
        else:
            Status(429, self.retry_after).spoil(answer)


def compress(body: bytes, encoding: str) -> bytes:
    """Compress a body for a Content-Encoding."""
    match encoding:
        case "gzip":
            return gzip.compress(body, mtime=0)
        case "zstd":
            return zstd.compress(body)
        case "deflate":
            return zlib.compress(body)
        case "raw deflate":
            return zlib.compress(body, wbits=-15)
    raise ValueError(encoding)
