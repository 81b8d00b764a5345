"""A file as it comes from an upstream, whole or a part: what its head says, then its bytes."""

import re
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import parsedate_to_datetime

import aiohttp

from mirror.errors import UpstreamProtocolError
from mirror.upstream.addresses import place

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.ASCII)


class Stream:
    """The bytes of a file as they come from an upstream."""

    def __init__(self, response: aiohttp.ClientResponse, read: Callable[[], Awaitable[bytes]]) -> None:
        """`read` gives what has arrived of the body, and nothing at its end. Raises UpstreamProtocolError."""
        self._read = read
        self.status = response.status
        """200 or 206."""
        self.start = 0
        """The offset of the first byte: 0 when the upstream ignored or refused the range."""
        self.size = response.content_length
        """Of the whole file in bytes, when the upstream says so."""
        self.etag = response.headers.get("ETag")
        self.last_modified = response.headers.get("Last-Modified")
        if self.status == 206:
            match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None:
                raise UpstreamProtocolError(f"{place(response.url)} sent a part without saying which.")
            self.start = int(match[1])
            self.size = None if match[3] == "*" else int(match[3])

    @property
    def validator(self) -> str | None:
        """What may stand in If-Range (RFC 9110, section 13.1.5: a weak ETag may not)."""
        if self.etag and not self.etag.startswith("W/"):
            return self.etag
        return self.last_modified

    @property
    def modified(self) -> int | None:
        """Last-Modified in seconds since the epoch."""
        return moment(self.last_modified)

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield what arrives, as it arrives. Raises UpstreamUnavailable when the upstream stalls or hangs up."""
        while chunk := await self._read():
            yield chunk


def moment(header: str | None) -> int | None:
    """The date of a header in seconds since the epoch; None when it is none."""
    try:
        return int(parsedate_to_datetime(header or "").timestamp())
    except (ValueError, OverflowError):
        return None
