"""Small files: fetched whole into memory and verified, without a task, a file and readers of their own."""

import msgspec

from mirror.blobs import MemoryBody
from mirror.blobs.local import http_date
from mirror.errors import UpstreamProtocolError, UpstreamUnavailable
from mirror.model import File
from mirror.upstream import Digests, Upstream, parse_url


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
    """Return a small file; None where it breaks off, so that only a transfer, which resumes, may get it.

    Raises NotFound, UpstreamError; DigestMismatch too.
    """
    async with upstream.fetch(parse_url(file.url), small=True) as stream:
        if stream.status != 200 or stream.size not in (None, file.size):
            raise UpstreamProtocolError(f"{file.filename} has {stream.size} bytes, but {file.size} are promised.")
        chunks: list[bytes] = []
        size = 0
        try:
            async for chunk in stream.chunks():
                chunks.append(chunk)
                size += len(chunk)
                if size > (file.size or 0):
                    raise UpstreamProtocolError(f"{upstream.name} sends more of {file.filename} than is promised.")
        except UpstreamUnavailable:
            return None
        if size != file.size:
            return None
        content = b"".join(chunks)
        digests = Digests(file.digests)
        digests.update(content)
        return SmallFile(content, digests.verified(file.filename), stream.date(file.uploaded))
