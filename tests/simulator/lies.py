"""Faults of bodies and heads that look whole: ends that are cut cleanly, and lines of the head that are long."""

import gzip
import sys
import zlib
from dataclasses import dataclass

from .faults import Fault
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
