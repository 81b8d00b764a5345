"""Sending bodies that are not in memory.

A file that lies whole on the disk leaves by `sendfile`, in steps and in a thread, so that neither a slow disk nor a
fast client blocks the event loop. Any other body is written as it can be read. When bytes are missing at the end, the
connection is aborted, so that no client takes a part for the whole.
"""

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

from aiohttp import web

from mirror.blobs.local import off_loop
from mirror.errors import MirrorError
from mirror.model import Body
from mirror.server.connection import finish_head

logger = logging.getLogger(__name__)

SENDFILE_STEP_BYTES = 1 << 20
"""Bytes of one sendfile call: short enough that small responses get their turn."""
STALL_SECONDS = 120
"""Seconds for which a client may take nothing before its connection is given up."""


async def stream(
    request: web.BaseRequest, status: int, head: bytes, body: Body, start: int, stop: int
) -> web.StreamResponse:
    """Send the bytes [start, stop) of a body as they can be read. Raises what reading the first of them raises."""
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


async def sendfile(
    request: web.BaseRequest, status: int, head: bytes, path: Path, start: int, stop: int
) -> web.StreamResponse:
    """Send the bytes [start, stop) of a local file. Raises FileNotFoundError."""
    transport = request.transport
    assert transport is not None
    while transport.get_write_buffer_size():  # noqa: ASYNC110  # rare: an earlier response is still being sent
        await asyncio.sleep(0.001)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    # A duplicate of the socket: the event loop lets no one wait for a descriptor that its transport owns.
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    position = start
    try:
        await _send_bytes(sock, finish_head(head, request))
        while position < stop:
            step = min(SENDFILE_STEP_BYTES, stop - position)
            try:
                count = await off_loop(partial(os.sendfile, sock.fileno(), file, position, step))
            except BlockingIOError:
                await _writable(sock)
                continue
            if count == 0:
                logger.error("the stored file %s is shorter than it was", path.name)
                break
            position += count
            if count < step:  # the socket is full: asking a thread once more would only show that
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
    writable = asyncio.Event()
    loop.add_writer(sock.fileno(), writable.set)
    try:
        await asyncio.wait_for(writable.wait(), STALL_SECONDS)
    except TimeoutError:
        raise ConnectionResetError("the client has stopped reading") from None
    finally:
        loop.remove_writer(sock.fileno())


class SentResponse(web.StreamResponse):
    """A response that has been sent already, for a handler to return."""

    def __init__(self, status: int, length: int, keep_alive: bool) -> None:
        super().__init__(status=status)
        self._length = length
        self._keep_alive = keep_alive

    @property
    def body_length(self) -> int:
        return self._length

    async def prepare(self, request: web.BaseRequest) -> None:
        """Nothing is left to write."""

    async def write_eof(self, data: bytes = b"") -> None:
        """Nothing is left to write."""


def _ended(request: web.BaseRequest, status: int, sent: int, length: int) -> SentResponse:
    """Return what a handler returns once writing has ended; where bytes are missing, abort the connection."""
    if sent == length:
        return SentResponse(status, sent, request.keep_alive)
    _abort(request)
    return SentResponse(status, sent, False)


def _abort(request: web.BaseRequest) -> None:
    if request.transport is not None:
        request.transport.abort()
