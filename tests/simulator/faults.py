"""What goes wrong on the way from an upstream: each fault is a value that spoils the answer to one request.

    wrong = simulator.inject("*.whl", Cut(after=1000), times=1)
    ...
    assert wrong.hits == 1

Several faults may match one request: they are applied in the order in which they were injected. A fault that
is not listed here can be any object with the same two methods.
"""

import asyncio
import gzip
import itertools
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from multidict import CIMultiDict

from .wire import Request, SimulatedResponse


class Fault:
    """Changes what the server understands of a request (`hide`), or what it answers (`spoil`)."""

    def hide(self, headers: CIMultiDict[str]) -> None:
        """Edit the request's headers before the answer is made; the log keeps the true ones."""

    def spoil(self, answer: SimulatedResponse) -> None:
        """Edit the answer."""


@dataclass
class Injection:
    """A fault at work: where it applies and how often it has."""

    pattern: str
    fault: Fault
    method: str | None = None
    times: int | None = None
    skip: int = 0
    hits: int = 0
    """How many answers it has spoiled."""
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Let everything that this fault stalls go on, now and from now on."""
        self.released.set()

    def takes(self, request: Request) -> bool:
        """Whether this request is to be spoiled; counts it."""
        if self.method not in (None, request.method) or not fnmatchcase(request.path, self.pattern):
            return False
        if self.skip > 0:
            self.skip -= 1
            return False
        if self.times is not None and self.hits >= self.times:
            return False
        self.hits += 1
        return True


@dataclass(frozen=True)
class Stall(Fault):
    """Stop until the injection is released: before the headers, or after `after` bytes of the body."""

    after: int | None = None

    def spoil(self, answer: SimulatedResponse) -> None:
        if self.after is None:
            answer.stall_before = True
        else:
            answer.stall_at = self.after


@dataclass(frozen=True)
class Cut(Fault):
    """Close the connection after `after` bytes of the body; 0 sends the headers only.

    With `reset` it is an RST, which may take bytes with it that were sent before.
    """

    after: int = 0
    reset: bool = False

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.cut_at = self.after
        answer.reset = self.reset


@dataclass(frozen=True)
class Corrupt(Fault):
    """Change the byte at `offset` of the whole body (negative: from its end), in whatever range it is sent."""

    offset: int = 0

    def spoil(self, answer: SimulatedResponse) -> None:
        place = self.offset % max(1, len(answer.whole)) - answer.start
        if 0 <= place < len(answer.body):
            body = bytearray(answer.body)
            body[place] ^= 0xFF
            answer.body = bytes(body)


@dataclass(frozen=True)
class Truncate(Fault):
    """A 200 that ends after `keep` bytes. Honest: Content-Length says so, and the end is clean. Otherwise
    Content-Length promises the whole, and the connection is closed."""

    keep: int
    honest: bool = True

    def spoil(self, answer: SimulatedResponse) -> None:
        if not self.honest:
            answer.declared = len(answer.body)
        answer.body = answer.body[: self.keep]


@dataclass(frozen=True)
class Status(Fault):
    """Another status, with a short text for a body: 404, 429, 500, 503 …; `retry_after` in seconds, or an HTTP date."""

    status: int = 500
    retry_after: str | int | None = None

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.status = self.status
        answer.headers = CIMultiDict({"Content-Type": "text/plain"})
        if self.retry_after is not None:
            answer.headers["Retry-After"] = str(self.retry_after)
        answer.body = answer.whole = b"" if self.status in (204, 304) else f"Injected {self.status}\n".encode()
        answer.start = 0


@dataclass(frozen=True)
class Drip(Fault):
    """Send `piece` bytes at a time, with a pause of `pause` seconds before each."""

    piece: int = 1024
    pause: float = 0.01

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.pace = (self.piece, self.pause)


@dataclass(frozen=True)
class RotateEtag(Fault):
    """Another ETag on every answer: no validator ever matches, no range is ever resumed."""

    numbers: "itertools.count[int]" = field(default_factory=itertools.count)

    def hide(self, headers: CIMultiDict[str]) -> None:
        headers.popall("If-None-Match", None)
        headers.popall("If-Modified-Since", None)
        if headers.popall("If-Range", None):
            headers.popall("Range", None)

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.headers["ETag"] = f'"rotated-{next(self.numbers)}"'


@dataclass(frozen=True)
class Headers(Fault):
    """Headers set (or, with None, left out): a wrong Content-Type, a lying ETag, no Content-Range."""

    changes: dict[str, str | None]

    def spoil(self, answer: SimulatedResponse) -> None:
        for name, value in self.changes.items():
            answer.headers.popall(name, None)
            if value is not None:
                answer.headers[name] = value


def wrong_content_type(value: str = "application/x-nonsense") -> Headers:
    return Headers({"Content-Type": value})


def no_digest() -> Headers:
    """A 206 (or 200) without Repr-Digest and Digest."""
    return Headers({"Repr-Digest": None, "Digest": None})


@dataclass(frozen=True)
class Body(Fault):
    """Another body under the same headers: an error page with status 200, half a JSON document."""

    content: bytes

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.body = self.content


@dataclass(frozen=True)
class EmptyPartial(Fault):
    """206 with no bytes in it."""

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.status, answer.body = 206, b""
        size = len(answer.whole)
        answer.headers["Content-Range"] = f"bytes {size}-{size - 1}/{size}"


@dataclass(frozen=True)
class RangeNotSatisfiable(Fault):
    """416 for any Range; a request without one is answered as usual."""

    def spoil(self, answer: SimulatedResponse) -> None:
        if answer.status == 206:
            answer.status, answer.body = 416, b""
            answer.headers["Content-Range"] = f"bytes */{len(answer.whole)}"


@dataclass(frozen=True)
class WrongOverlap(Fault):
    """The first byte of a 206 is not the byte that stands there."""

    def spoil(self, answer: SimulatedResponse) -> None:
        if answer.status == 206 and answer.body:
            answer.body = bytes([answer.body[0] ^ 1]) + bytes(answer.body[1:])


@dataclass(frozen=True)
class GzipDespiteRange(Fault):
    """A Range answered with compressed bytes: as 206 the same range of the gzip form, as 200 the whole of it."""

    status: int = 206

    def spoil(self, answer: SimulatedResponse) -> None:
        if answer.status != 206:
            return
        compressed = gzip.compress(answer.whole, mtime=0)
        answer.headers["Content-Encoding"] = "gzip"
        answer.status = self.status
        if self.status == 206:
            start = min(answer.start, len(compressed) - 1)
            answer.body = compressed[start:]
            answer.headers["Content-Range"] = f"bytes {start}-{len(compressed) - 1}/{len(compressed)}"
        else:
            answer.body = compressed
            answer.headers.popall("Content-Range", None)


@dataclass(frozen=True)
class IgnoreRange(Fault):
    """200 with everything, whatever range was asked for."""

    def hide(self, headers: CIMultiDict[str]) -> None:
        headers.popall("Range", None)


@dataclass(frozen=True)
class Chunked(Fault):
    """No Content-Length: the length is known when the end has come."""

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.chunked = True


@dataclass(frozen=True)
class Instead(Fault):
    """Another document with status 200, whatever there is: a login page, a portal, a maintenance page, nothing."""

    content: bytes
    content_type: str = "text/html; charset=utf-8"

    def spoil(self, answer: SimulatedResponse) -> None:
        answer.status = 200
        answer.headers = CIMultiDict({"Content-Type": self.content_type})
        answer.body = answer.whole = self.content
        answer.start = 0
