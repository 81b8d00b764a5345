"""Files that are not held, as far as a HEAD or a short range needs them: nothing is kept, and no whole file is fetched.

What a page lists answers a HEAD. A part is passed through by a range of the upstream's; the end of a file, with which
clients begin that look into a wheel, is kept in memory for a moment, so that their next ranges are one request each.
"""

import logging
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec

from mirror.errors import UpstreamError, UpstreamRefused, UpstreamUnavailable
from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight
from mirror.model import Body, File
from mirror.upstream import Upstream, parse_url

logger = logging.getLogger(__name__)

REMOTE_SECONDS = 60.0
"""Time for which the end of a file stays in memory."""
REMOTE_BYTES = 70_000
"""Bytes that it takes there."""


class ListedBody(msgspec.Struct, frozen=True):
    """The size and digest of a listed file, as a Body of which no byte can be read: for a HEAD."""

    size: int
    digest: str
    modified: None = None
    path: Path | None = None
    location: str | None = None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Raise an error, because nothing has been fetched."""
        raise AssertionError("the bytes of a file that is only listed were read")
        yield b""


class RemoteFiles:
    """The files of one upstream, read where they are."""

    def __init__(self, upstream: Upstream, memory: MemoryBudget, clock: Callable[[], float] = time.monotonic) -> None:
        self._upstream = upstream
        self._clock = clock
        self._known: BoundedCache[str, tuple[Body, float]] = BoundedCache(memory)
        """By URL, with the time until which it is used."""
        self._opening: SingleFlight[str, Body] = SingleFlight()

    async def describe(self, file: File) -> Body | None:
        """Return what is known of a file, for a HEAD; None where only fetching it would tell. Raises as `open`."""
        if file.size is not None and file.sha256 is not None:
            return ListedBody(file.size, file.sha256)
        body = await self.open(file)
        if body is not None:
            return body
        async with self._upstream.fetch(parse_url(file.url)) as stream:  # left at once: only its head is read
            return None if stream.size is None else ListedBody(stream.size, file.sha256 or "")

    async def open(self, file: File) -> Body | None:
        """Return a file to be read by ranges; None where the upstream does not serve any.

        Raises NotFound, UpstreamRefused, UpstreamUnavailable.
        """
        known = self._known.value(file.url)
        if known is not None and self._clock() < known[1]:
            return known[0]
        try:
            body, _ = await self._opening.run(file.url, lambda: self._upstream.open_ranges(file))
        except (UpstreamUnavailable, UpstreamRefused):
            raise
        except UpstreamError as error:
            logger.info("%s: %s; it is fetched whole", file.filename, error)
            return None
        self._known.put(file.url, (body, self._clock() + REMOTE_SECONDS), REMOTE_BYTES)
        return body

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._opening.close()
