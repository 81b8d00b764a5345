"""What is asked and what is answered: conditional requests, ranges and gzip, once for both ecosystems.

`answer` is what a correct server would send for a `Representation`; faults then spoil it. No socket here.
"""

import gzip
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime

from multidict import CIMultiDict


@dataclass
class Request:
    """One request as it came in, and what became of it."""

    method: str
    path: str
    """As sent, still percent-encoded, without the query."""
    query: str
    headers: CIMultiDict[str]
    port: int
    """The port it came to: `simulator.port`, or `simulator.other_port`."""
    at: float
    """Seconds since the epoch."""
    status: int = 0
    """0 until the answer's headers were sent."""
    sent: int = 0
    """Bytes of the body that were handed to the socket so far."""
    finished: bool = False
    """The whole answer was sent, and the connection was not cut."""


@dataclass(frozen=True)
class Representation:
    """One representation that a URL has: the identity bytes with the headers that describe them."""

    body: bytes
    content_type: str
    etag: str | None = None
    """Quoted, as it stands in the header."""
    last_modified: str | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    ranges: bool = True
    """Range is understood."""
    refuse_ranges_past_end: bool = True
    """A range from beyond the end: 416, else 200 with everything."""
    gzip: bool = False
    """May be compressed when the client asks for it."""


@dataclass
class SimulatedResponse:
    """What will be sent, and how. Faults edit it in place."""

    status: int = 200
    headers: CIMultiDict[str] = field(default_factory=CIMultiDict)
    body: bytes | memoryview = b""
    start: int = 0
    """Where `body` starts within `whole`."""
    whole: bytes = b""
    """The complete identity body."""
    declared: int | None = None
    """Content-Length, when it is not to be that of `body`."""
    chunked: bool = False
    """No Content-Length: chunked transfer coding."""
    until_close: bool = False
    """Neither Content-Length nor chunks: the body ends where the connection does."""
    stall_before: bool = False
    """Send nothing, not even headers, until released."""
    stall_at: int | None = None
    """Stop after so many bytes of the body until released."""
    cut_at: int | None = None
    """Close the connection after so many bytes of the body."""
    reset: bool = False
    """Close it by an RST."""
    pace: tuple[int, float] | None = None
    """Send pieces of so many bytes with a pause of so many seconds before each."""


def plain(status: int, text: str = "", headers: Mapping[str, str] | None = None) -> SimulatedResponse:
    """A short text; an empty one for redirects and the like."""
    body = text.encode()
    combined = CIMultiDict({"Content-Type": "text/plain; charset=utf-8", **(headers or {})})
    return SimulatedResponse(status, combined, body, whole=body)


def redirect(location: str, status: int = 302) -> SimulatedResponse:
    return plain(status, "", {"Location": location})


def digest_etag(body: bytes, algorithm: str = "sha256") -> str:
    return f'"{hashlib.new(algorithm, body).hexdigest()}"'


def answer(request: Request, thing: Representation) -> SimulatedResponse:
    """What a correct server sends: 200, 206, 304 or 416 (RFC 9110, sections 13 and 14)."""
    headers = CIMultiDict({"Content-Type": thing.content_type, **thing.headers})
    if thing.etag:
        headers["ETag"] = thing.etag
    if thing.last_modified:
        headers["Last-Modified"] = thing.last_modified
    if thing.ranges:
        headers["Accept-Ranges"] = "bytes"
    if _not_modified(request, thing):
        return SimulatedResponse(304, headers, whole=thing.body)
    wanted = _range(request, thing)
    if wanted is not None:
        start, stop = wanted
        if start < stop:
            headers["Content-Range"] = f"bytes {start}-{stop - 1}/{len(thing.body)}"
            return SimulatedResponse(206, headers, memoryview(thing.body)[start:stop], start, thing.body)
        if thing.refuse_ranges_past_end:
            headers["Content-Range"] = f"bytes */{len(thing.body)}"
            return SimulatedResponse(416, headers, whole=thing.body)
    if thing.gzip and "gzip" in request.headers.get("Accept-Encoding", "") and "Range" not in request.headers:
        headers["Content-Encoding"] = "gzip"
        if thing.etag:
            headers["ETag"] = f"W/{thing.etag}"
        return SimulatedResponse(200, headers, gzip.compress(thing.body, mtime=0), whole=thing.body)
    return SimulatedResponse(200, headers, thing.body, whole=thing.body)


def _not_modified(request: Request, thing: Representation) -> bool:
    given = request.headers.get("If-None-Match")
    if given is not None:
        bare = {tag.strip().removeprefix("W/").strip('"') for tag in given.split(",")}
        return thing.etag is not None and bool(bare & {thing.etag.strip('"'), "*"})
    since = request.headers.get("If-Modified-Since")
    if since is None or thing.last_modified is None:
        return False
    return parsedate_to_datetime(thing.last_modified) <= parsedate_to_datetime(since)


def _range(request: Request, thing: Representation) -> tuple[int, int] | None:
    """[start, stop) as asked for, clipped to the body; None when the whole is to be sent."""
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
    if not thing.ranges or match is None or match.groups() == ("", ""):
        return None
    if request.headers.get("If-Range") not in (None, thing.etag, thing.last_modified):
        return None
    first, last = match.groups()
    size = len(thing.body)
    if not first:
        return max(0, size - int(last)), size if int(last) else 0
    return int(first), min(size, int(last) + 1) if last else size
