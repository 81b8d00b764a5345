"""What comes from an upstream as bytes: files as they arrive (`Stream`), their digests, and files read by ranges.

The surprise: `RangeBody`, a remote file as a Body for the metadata of a file that is not held, gets the end of the file
with its size in the first request, and keeps it in memory: that is where archives have their directory, so that a
member of a wheel costs two requests in all.
"""

import asyncio
import hashlib
import re
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Protocol, Self

import msgspec
from yarl import URL

from mirror.errors import DigestMismatch, UpstreamProtocolError
from mirror.model import File
from mirror.upstream.failures import SlowBody
from mirror.upstream.values import HttpResponse, as_written, describe, parse_http_date

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

TAIL_BYTES = 64 * 1024
"""Bytes of a remote file's end that are fetched with its size."""
RATE_WINDOW_SECONDS = 10.0
"""Seconds spent waiting for an upstream's bytes after which their rate is looked at."""
_PLAIN = re.compile("[!-~]*")
"""What a URL consists of that needs no encoding."""
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


class RateLimit(msgspec.Struct):
    """The smallest rate at which a body may arrive. Pure: times are arguments.

    Only the time spent waiting for the upstream counts, so that a slow reader or disk is not its fault.
    """

    bytes_per_second: int
    """0 for no limit."""
    _bytes: int = 0
    _seconds: float = 0.0

    def undercut(self, size: int, waited: float) -> bool:
        """Count a chunk and the seconds waited for it; return whether the last RATE_WINDOW_SECONDS were too slow."""
        self._bytes += size
        self._seconds += waited
        if self._seconds < RATE_WINDOW_SECONDS:
            return False
        slow = self._bytes < self.bytes_per_second * self._seconds
        self._bytes, self._seconds = 0, 0.0
        return slow


class Stream:
    """The bytes of a file, or of a part of it, as they arrive from an upstream."""

    def __init__(self, response: HttpResponse, read: Callable[[], Awaitable[bytes]], minimum_rate: int = 0) -> None:
        """`read` returns what has arrived of the body, empty at its end; `minimum_rate` is in bytes per second.

        Raises UpstreamProtocolError.
        """
        self._read = read
        self._minimum_rate = minimum_rate
        self._host = response.url.host
        self.status = response.status
        """200 or 206."""
        self.start = 0
        """The offset of the first byte: 0 when the upstream ignored or refused the range."""
        self.size = response.content_length
        """Of the whole file in bytes, None when the upstream does not report it."""
        self.etag = response.headers.get("ETag")
        self.last_modified = response.headers.get("Last-Modified")
        if self.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None:
                raise UpstreamProtocolError(f"{describe(response.url)} sent a part without a Content-Range.")
            self.start = int(match[1])
            self.size = None if match[3] == "*" else int(match[3])

    @property
    def validator(self) -> str | None:
        """The value for If-Range (RFC 9110, section 13.1.5: not a weak ETag), or None."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    @property
    def modified(self) -> int | None:
        """Last-Modified in seconds since the epoch."""
        return parse_http_date(self.last_modified)

    def date(self, uploaded: datetime | None) -> int:
        """Return the file's date in seconds since the epoch, limited to what a file system can store."""
        now = int(time.time())
        date = int(uploaded.timestamp()) if uploaded else self.modified
        return now if date is None else min(max(0, date), now)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield bytes as they arrive. Raises UpstreamUnavailable when the upstream stalls or hangs up, SlowBody too."""
        clock, limit = asyncio.get_running_loop().time, RateLimit(self._minimum_rate)
        began = clock()
        while chunk := await self._read():
            if limit.undercut(len(chunk), clock() - began):
                raise SlowBody(f"{self._host} sends less than {self._minimum_rate} bytes per second.", 10)
            yield chunk
            began = clock()


class Decoder(Protocol):
    """Decompression of one member of a compressed body."""

    @property
    def eof(self) -> bool:
        """Whether the end of the member has come."""

    @property
    def unused_data(self) -> bytes:
        """The bytes that were given after that end."""

    def decompress(self, data: bytes, /) -> bytes: ...


DECODERS: Mapping[str, Callable[[], Decoder]] = {
    "gzip": partial(zlib.decompressobj, wbits=31),
    "x-gzip": partial(zlib.decompressobj, wbits=31),
    "deflate": zlib.decompressobj,
    "raw deflate": partial(zlib.decompressobj, wbits=-15),
    "zstd": partial(zstd.ZstdDecompressor, options={zstd.DecompressionParameter.window_log_max: 23}),
}
"""By Content-Encoding; "raw deflate" is what some servers call deflate. RFC 9659 limits the window of zstd to 8 MiB."""


DECODING_ERRORS = (zlib.error, zstd.ZstdError)


def ends_visibly(content_type: str, body: bytes | bytearray) -> bool:
    """Return whether a body shows by itself that it is whole, where neither length nor chunks did.

    A connection that is closed too early looks the same as one that is closed at the end (RFC 9112, section 8).
    """
    kind = content_type.partition(";")[0].strip().lower()
    if "html" in kind or body[:512].lstrip()[:1] == b"<":
        return b"</html" in body[-1024:].lower()
    return not kind.startswith("text/")  # others do not parse when they are cut


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...
    def hexdigest(self) -> str: ...


_ALGORITHMS: Mapping[str, Callable[[], _Hash]] = {
    "sha256": hashlib.sha256,
    "sha224": hashlib.sha224,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "md5": partial(hashlib.md5, usedforsecurity=False),
    "blake2b_256": partial(hashlib.blake2b, digest_size=32),
}
"""By the names that indexes use; a digest of any other algorithm cannot be checked, and is ignored."""


def checkable(file: File) -> bool:
    """Return whether any of the digests that an index lists of a file can be compared.

    MD5 and SHA-1 count: they show damage, and an index that forges bytes for them could as well list other digests.
    """
    return all(not _ALGORITHMS.keys().isdisjoint(listed) for listed in file.alternatives or (file.digests,))


class Digests:
    """SHA-256, and all promised digests, of bytes that arrive in chunks."""

    def __init__(self, promised: Mapping[str, str], alternatives: Sequence[Mapping[str, str]] = ()) -> None:
        """With `alternatives`, all digests of any one of them have to match."""
        self._promised = alternatives or (promised,)
        self.restart()

    def restart(self) -> None:
        """Forget all bytes."""
        names = {"sha256"}.union(*self._promised) & _ALGORITHMS.keys()
        self._hashes = {name: _ALGORITHMS[name]() for name in names}

    def update(self, chunk: bytes) -> None:
        """Add the next bytes. Blocks: for a thread, one call at a time."""
        for hasher in self._hashes.values():
            hasher.update(chunk)

    def verified(self, filename: str) -> str:
        """Return the SHA-256 of all bytes. Raises DigestMismatch unless every promised digest matches."""
        found = {name: hasher.hexdigest() for name, hasher in self._hashes.items()}
        wrong = [
            [name for name in found if promised.get(name) not in (None, found[name])] for promised in self._promised
        ]
        if all(wrong):
            name = wrong[0][0]
            raise DigestMismatch(filename, name, self._promised[0][name], found[name])
        return found["sha256"]


class RangeFetcher(Protocol):
    """The part of an Upstream that a RangeBody uses."""

    def stream_range(self, url: URL, byte_range: str) -> AbstractAsyncContextManager[Stream]: ...

    def fetch(
        self, url: URL, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[Stream]: ...


class RangeBody:
    """A remote file as a Body, made by `Upstream.open_ranges`.

    `digest` is what the index promises, empty when it promises none; it is not verified.
    """

    modified: str | None = None
    path: Path | None = None
    location: str | None = None

    def __init__(
        self, upstream: RangeFetcher, url: URL, file: File, size: int, validator: str | None, tail: bytes
    ) -> None:
        self._upstream = upstream
        self._url = url
        self._validator = validator
        self._tail = tail
        self.size = size
        self.digest = file.sha256 or ""

    @classmethod
    async def open(cls, upstream: RangeFetcher, url: URL, file: File) -> Self:
        """Request the end of a remote file. Raises UpstreamError, also when the upstream does not serve ranges."""
        # A plain range where the size is known: more servers understand it than a suffix.
        byte_range = f"bytes=-{TAIL_BYTES}" if file.size is None else f"bytes={max(0, file.size - TAIL_BYTES)}-"
        async with upstream.stream_range(url, byte_range) as stream:
            if stream.status != 206 or stream.size is None or stream.size - stream.start > TAIL_BYTES:
                raise UpstreamProtocolError(f"{describe(url)} does not serve parts of files.")
            if file.size not in (None, stream.size):
                raise UpstreamProtocolError(f"{describe(url)} has {stream.size} bytes, its index promises {file.size}.")
            tail = b"".join([chunk async for chunk in stream.chunks()])
            if stream.start + len(tail) != stream.size:
                raise UpstreamProtocolError(f"{describe(url)} sent another part than the requested one.")
            return cls(upstream, url, file, stream.size, stream.validator, tail)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), in one request or none. Raises UpstreamError."""
        stop = self.size if stop is None else min(stop, self.size)
        held_from = self.size - len(self._tail)
        end = min(stop, held_from)
        if start < end:
            async with self._upstream.fetch(self._url, start=start, stop=end, if_range=self._validator) as stream:
                if stream.status != 206 or stream.start != start or stream.size != self.size:
                    raise UpstreamProtocolError(f"{describe(self._url)} changed while it was being read.")
                async for chunk in stream.chunks():
                    start += len(chunk)
                    if start > end:
                        break
                    yield chunk
            if start != end:
                raise UpstreamProtocolError(f"{describe(self._url)} sent another part than the requested one.")
        if start < stop:
            yield self._tail[start - held_from : stop - held_from]


def parse_url(text: str) -> URL:
    """Return the URL of a file as an index gives it. Raises UpstreamProtocolError unless it is http or https."""
    try:
        url = URL(text, encoded=True) if _PLAIN.fullmatch(text) else as_written(text)
        if url.scheme in ("http", "https") and url.host and url.port:
            return url
    except ValueError:
        pass
    raise UpstreamProtocolError(f"{text[:80]!r} is not a web address.")
