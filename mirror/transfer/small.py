"""Small files: fetched whole into memory and verified, without a task, a file and readers of their own."""

import asyncio

import msgspec

from mirror.blobs import MemoryBody
from mirror.blobs.local import http_date
from mirror.errors import UpstreamProtocolError, UpstreamUnavailable
from mirror.model import File
from mirror.transfer.growing import TAIL_BYTES
from mirror.upstream import Digests, Upstream, parse_url

SMALL_SECONDS = 3.0
"""After so long a transfer fetches what has not come whole, as that lets clients read what there is; where it would not
(TAIL_BYTES), there is no such limit."""


class SmallFile(msgspec.Struct, frozen=True):
    """The bytes of a small file, verified."""

    content: bytes
    digest: str
    date: int
    """For Last-Modified, in seconds since the epoch."""

    @property
    def body(self) -> MemoryBody:
        """The bytes as a Body."""
        return MemoryBody(self.content, self.digest, http_date(self.date))


async def fetch_small(file: File, upstream: Upstream) -> SmallFile | None:
    """Return a small file; None where it breaks off or is slow, so that it is one for a transfer.

    Raises NotFound, UpstreamError; DigestMismatch too.
    """
    async with upstream.fetch(parse_url(file.url)) as stream:
        if stream.status != 200 or stream.size not in (None, file.size):
            raise UpstreamProtocolError(f"{file.filename} has {stream.size} bytes, but {file.size} are promised.")
        chunks: list[bytes] = []
        size = 0
        try:
            async with asyncio.timeout(SMALL_SECONDS if (file.size or 0) > TAIL_BYTES else None):
                async for chunk in stream.chunks():
                    chunks.append(chunk)
                    size += len(chunk)
                    if size > (file.size or 0):
                        raise UpstreamProtocolError(f"{upstream.name} sends more of {file.filename} than is promised.")
        except (UpstreamUnavailable, TimeoutError):
            return None
        if size != file.size:
            return None
        content = b"".join(chunks)
        digests = Digests(file.digests)
        digests.update(content)
        return SmallFile(content, digests.verified(file.filename), stream.date(file.uploaded))
