"""Sending bytes: ranges, conditions and HEAD for every kind of body, once.

A body that lies whole in a local file leaves by `sendfile`, in pieces and in a thread, so that neither a cold disk nor
a fast client holds up the event loop. Any other body is written as it can be read; when it breaks off, the connection
is aborted, so that no client takes a part for the whole.
"""

import asyncio
import contextlib
import functools
import logging
import os
import re
import socket
from collections.abc import Awaitable, Callable, Iterable
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from aiohttp import web

from mirror.blobs.local import off_loop
from mirror.errors import MirrorError, MissingBlob
from mirror.index.cache import Validity
from mirror.model import Body
from mirror.server.connection import connection_of
from mirror.server.facts import facts_of
from mirror.server.replay import Replay, date_line

logger = logging.getLogger(__name__)

SENDFILE_FROM = 256 << 10
"""Bytes from which a file leaves by sendfile; below, one read and one write cost less."""
REMEMBERED = 64 << 10
"""Bytes up to which a file's answer stays in memory while it is asked for."""
AT_ONCE = 256 << 10
"""Bytes that are handed over for one client before it has taken some of them."""
TRIES = 4
"""How often a request is handled whose file goes away each time …"""
PAUSE = 0.02
"""… and seconds longer each time before that: a transfer whose file has gone again needs a moment to end."""
STALL = 120
"""Seconds for which a client may take nothing before its connection is given up."""
PIECE = 1 << 20
"""Bytes of one sendfile call: short enough that small answers get their turn."""

R = TypeVar("R")
Handler = Callable[[R, web.Request], Awaitable[web.StreamResponse]]

_RANGE = re.compile(r"bytes=(\d*)-(\d*)")
_REASONS = {
    200: "OK",
    206: "Partial Content",
    304: "Not Modified",
    416: "Range Not Satisfiable",
}


class PreparedResponse(web.StreamResponse):
    """An answer whose head is already bytes: what is served from memory costs one write."""

    def __init__(self, status: int, head: bytes, body: bytes = b"", validity: Validity | None = None) -> None:
        """With a `validity`, the same bytes answer the same request for as long as that holds."""
        super().__init__(status=status)
        self._validity = validity
        self._head = head
        self._content = body
        self._sent = False

    @property
    def body_length(self) -> int:
        return len(self._content)

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write everything. Called by aiohttp after the handler has returned."""
        if self._sent:
            return
        self._sent = True
        self._keep_alive = request.keep_alive
        if self._validity is not None and request.keep_alive and (connection := connection_of(request)) is not None:
            connection.remember(Replay(self._validity, self.status, self._head, self._content, facts_of(request)))
        head = finish_head(self._head, request)
        if len(self._content) <= AT_ONCE:
            await request.writer.write(b"".join((head, self._content)))
            return
        # In pieces, as the client takes them: a hundred slow readers of a large page must not each hold a copy.
        await request.writer.write(head)
        content = memoryview(self._content)
        for start in range(0, len(content), AT_ONCE):
            await request.writer.write(content[start : start + AT_ONCE])

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


class SentResponse(PreparedResponse):
    """What a handler returns that has written its answer already."""

    def __init__(self, status: int, length: int, keep_alive: bool) -> None:
        super().__init__(status, b"")
        self._sent = True
        self._length = length
        self._keep_alive = keep_alive

    @property
    def body_length(self) -> int:
        return self._length


def make_head(status: int, headers: Iterable[tuple[str, str]]) -> bytes:
    """Status line and header lines, without Date and the empty line at the end."""
    lines = [f"HTTP/1.1 {status} {_REASONS[status]}"]
    for name, value in headers:
        if "\r" in value or "\n" in value:
            raise ValueError(f"a line break in the header {name}")
        lines.append(f"{name}: {value}")
    return "\r\n".join(lines).encode("latin-1", "replace")


def http_date(moment: datetime) -> str:
    """A moment as Last-Modified spells it (RFC 9110 section 5.6.7)."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def finish_head(head: bytes, request: web.BaseRequest) -> bytes:
    """A head with what depends on the moment and the connection."""
    return head + date_line() if request.keep_alive else head + b"\r\nConnection: close" + date_line()


def parse_range(header: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a Range header asks for; None when it is to be ignored (RFC 9110 section 14.2).

    A range that no byte satisfies is (size, size). Several ranges at once are ignored: no client here sends them.
    """
    match = _RANGE.fullmatch(header.replace(" ", "").lower())
    if not match or match[1] == match[2] == "":
        return None
    first, last = match[1], match[2]
    if len(first) > 19 or len(last) > 19:
        return None
    if first == "":  # the last N bytes
        count = int(last)
        return (max(0, size - count), size) if count else (size, size)
    start = int(first)
    if last and int(last) < start:
        return None
    stop = min(size, int(last) + 1) if last else size
    return (start, stop) if start < size else (size, size)


def matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names this ETag (given with its quotes); weak comparison.

    A bare value without quotes counts too: bundler 2.5.0 to 2.5.4 send it so.
    """
    if header.strip() == "*":
        return True
    bare = etag.strip('"')
    return any(part.strip().removeprefix("W/").strip('"') == bare for part in header.split(","))


def _range_applies(request: web.BaseRequest, etag: str, modified: str | None) -> bool:
    """Whether If-Range lets the Range header count: only for the very same bytes (RFC 9110 section 13.1.5)."""
    condition = request.headers.get("If-Range")
    return condition is None or condition == etag or (modified is not None and condition == modified)


def _unmodified(request: web.BaseRequest, etag: str, modified: str | None) -> bool:
    condition = request.headers.get("If-None-Match")
    if condition is not None:
        return matches(condition, etag)
    since = request.headers.get("If-Modified-Since")
    if since is None or modified is None:
        return False
    try:
        return parsedate_to_datetime(modified) <= parsedate_to_datetime(since)
    except (TypeError, ValueError):
        return False


def retry_if_evicted(handler: Handler[R]) -> Handler[R]:
    """Handle a request again when its file went away between being found and being opened, as when it is evicted.

    Until then nothing has been sent. With a store that is far too small the same can happen to the file that is fetched
    anew.
    """

    @functools.wraps(handler)
    async def handle(routes: R, request: web.Request) -> web.StreamResponse:
        for number in range(TRIES - 1):
            with contextlib.suppress(MissingBlob):
                return await handler(routes, request)
            await asyncio.sleep(number * PAUSE)
        return await handler(routes, request)

    return handle


async def send(
    request: web.BaseRequest,
    body: Body,
    *,
    content_type: str,
    headers: Iterable[tuple[str, str]] = (),
    modified: str | None = None,
    shared: bool = True,
    validity: Validity | None = None,
) -> web.StreamResponse:
    """Answer a GET or HEAD with a body, or the part of it that is asked for.

    The ETag is the SHA-256; `modified` stands in for the body's own Last-Modified. Unless `shared`, no cache between
    us and the client may keep it: it is not for everyone. A small body is remembered for as long as `validity` holds.
    """
    etag = f'"{body.digest}"'
    modified = modified or body.modified
    common = [
        ("ETag", etag),
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", f"{'public' if shared else 'private'}, max-age=31536000, immutable"),
        *([("Last-Modified", modified)] if modified else []),
        *headers,
    ]
    if _unmodified(request, etag, modified):
        return PreparedResponse(304, make_head(304, common))
    start, stop, status = 0, body.size, 200
    wanted = request.headers.get("Range")
    if wanted is not None and _range_applies(request, etag, modified):
        part = parse_range(wanted, body.size)
        if part is not None:
            (start, stop), status = part, 206
            if start >= body.size:
                common.append(("Content-Range", f"bytes */{body.size}"))
                return PreparedResponse(416, make_head(416, [*common, ("Content-Length", "0")]))
            common.append(("Content-Range", f"bytes {start}-{stop - 1}/{body.size}"))
    head = make_head(status, [("Content-Type", content_type), ("Content-Length", str(stop - start)), *common])
    if request.method == "HEAD" or start == stop:
        return PreparedResponse(status, head)
    if body.path is not None and stop - start < SENDFILE_FROM:
        content = b"".join([chunk async for chunk in body.read(start, stop)])
        return PreparedResponse(status, head, content, validity if len(content) <= REMEMBERED else None)
    if body.path is not None and request.transport is not None and not request.secure:
        # A transfer that has just ended can still read a file which has gone again; a held blob cannot.
        with contextlib.suppress(FileNotFoundError):
            return await _sendfile(request, status, head, body.path, start, stop)
    return await _stream(request, status, head, body, start, stop)


async def _stream(
    request: web.BaseRequest, status: int, head: bytes, body: Body, start: int, stop: int
) -> web.StreamResponse:
    chunks = body.read(start, stop)
    # The head waits for the first chunk, so that what fails before it is still an error with a status.
    first = await anext(chunks, b"")
    sent = 0
    try:
        await request.writer.write(finish_head(head, request) + first)
        sent = len(first)
        async for chunk in chunks:
            await request.writer.write(chunk)
            sent += len(chunk)
    except (MirrorError, ConnectionError):
        pass  # what broke off is logged where it did; a client that left is no news
    finally:
        await chunks.aclose()  # type: ignore[attr-defined]  # every body reads by a generator
    return _ended(request, status, sent, stop - start)


async def _sendfile(
    request: web.BaseRequest, status: int, head: bytes, path: Path, start: int, stop: int
) -> web.StreamResponse:
    transport = request.transport
    assert transport is not None
    while transport.get_write_buffer_size():  # noqa: ASYNC110  # rare: an earlier answer still on its way out
        await asyncio.sleep(0.001)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    # A duplicate of the socket: the event loop lets nobody wait on a descriptor that its transport owns.
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    position = start
    try:
        await _send_bytes(sock, finish_head(head, request))
        while position < stop:
            wanted = min(PIECE, stop - position)
            try:
                count = await off_loop(partial(os.sendfile, sock.fileno(), file, position, wanted))
            except BlockingIOError:
                await _writable(sock)
                continue
            if count == 0:
                logger.error("the stored file %s is shorter than it was", path.name)
                break
            position += count
            if count < wanted:  # the socket is full: to ask a thread once more would only say so
                await _writable(sock)
    except ConnectionError:
        pass  # the client has left
    except BaseException:
        _abort(request)
        raise
    finally:
        os.close(file)
        sock.close()
    return _ended(request, status, position - start, stop - start)


async def _send_bytes(sock: socket.socket, content: bytes) -> None:
    while content:
        try:
            content = content[sock.send(content, socket.MSG_MORE) :]
        except BlockingIOError:
            await _writable(sock)


async def _writable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_writer(sock.fileno(), ready.set)
    try:
        await asyncio.wait_for(ready.wait(), STALL)
    except TimeoutError:
        raise ConnectionResetError("the client has stopped reading") from None
    finally:
        loop.remove_writer(sock.fileno())


def _ended(request: web.BaseRequest, status: int, sent: int, wanted: int) -> SentResponse:
    """What to return once writing has ended; where bytes are missing, the connection is aborted."""
    if sent == wanted:
        return SentResponse(status, sent, request.keep_alive)
    _abort(request)
    return SentResponse(status, sent, False)


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
