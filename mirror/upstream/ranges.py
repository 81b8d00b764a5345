"""A remote file as a Body: what is read is asked for, and no more. For the metadata of a file that is not held.

The surprise: the end of the file comes with its size, in the first request, and is kept in memory: that is where
archives have their directory, so that a member of a wheel costs two requests in all.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Protocol

from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.model import File
from mirror.upstream.addresses import address, place
from mirror.upstream.stream import Stream

TAIL = 64 * 1024
"""Bytes of a remote file's end that are fetched with its size."""


class Fetching(Protocol):
    """What is needed of an upstream."""

    def fetch(
        self, url: URL, *, start: int = 0, stop: int | None = None, if_range: str | None = None
    ) -> AbstractAsyncContextManager[Stream]: ...


class RangeBody:
    """Made by `Upstream.open_ranges`.

    `digest` is what the index promises (empty when nothing) and is not verified.
    """

    modified: str | None = None
    path: Path | None = None

    def __init__(self, upstream: Fetching, file: File, size: int, validator: str | None, tail: bytes) -> None:
        self._upstream = upstream
        self._url = address(file.url)
        self._validator = validator
        self._tail = tail
        self.size = size
        self.digest = file.sha256 or ""

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), in one request or none. Raises UpstreamError."""
        stop = self.size if stop is None else min(stop, self.size)
        held_from = self.size - len(self._tail)
        end = min(stop, held_from)
        if start < end:
            async with self._upstream.fetch(self._url, start=start, stop=end, if_range=self._validator) as stream:
                if stream.status != 206 or stream.start != start or stream.size != self.size:
                    raise UpstreamProtocolError(f"{place(self._url)} changed while it was being read.")
                async for chunk in stream.chunks():
                    start += len(chunk)
                    if start > end:
                        break
                    yield chunk
            if start != end:
                raise UpstreamProtocolError(f"{place(self._url)} sent another part than the one asked for.")
        if start < stop:
            yield self._tail[start - held_from : stop - held_from]
