"""Sending files that lie whole on the disk: by `sendfile`, in steps and in a thread.

So neither a slow disk nor a fast client blocks the event loop.
"""

import asyncio
import logging
import os
import socket
from functools import partial
from pathlib import Path

from mirror.blobs.local import off_loop
from mirror.server import platform

logger = logging.getLogger(__name__)

SENDFILE_STEP_BYTES = 1 << 20
"""Bytes of one sendfile call: short enough that small responses get their turn."""
STALL_SECONDS = 120
"""Seconds for which a client may take nothing before its connection is given up."""


async def sendfile(transport: asyncio.Transport, head: bytes, path: Path, start: int, stop: int) -> int:
    """Send a head and the bytes [start, stop) of a local file; return how many of these. Raises FileNotFoundError.

    Fewer are sent when the client leaves, or when the file is shorter than it was. What else goes wrong ends the
    connection, and is raised.
    """
    while transport.get_write_buffer_size():  # noqa: ASYNC110  # rare: an earlier response is still being sent
        await asyncio.sleep(0.001)
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    # A duplicate of the socket: the event loop lets no one wait for a descriptor that its transport owns.
    sock = socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))
    sock.setblocking(False)
    position = start
    try:
        await _send_bytes(sock, head)
        while position < stop:
            step = min(SENDFILE_STEP_BYTES, stop - position)
            try:
                count = await off_loop(partial(platform.SEND_FILE, sock.fileno(), file, position, step))
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
        transport.abort()
        raise
    finally:
        os.close(file)
        sock.close()
    return position - start


async def _send_bytes(sock: socket.socket, content: bytes) -> None:
    while content:
        try:
            content = content[sock.send(content, platform.HEAD_FLAGS) :]
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
