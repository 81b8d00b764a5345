"""Small files by the thousand, brought in whole by processes of their own: fetched, verified, looked into and stored.

One interpreter cannot do for thousands of small files what a plain client does that only fetches them: the requests
alone fill a core. So workers, one for each core, do everything about such a file but write it down, which stays with
the process that owns the catalog. A transfer is made for readers who follow a growing file, and costs a disk sync and
a commit of its own; here nobody reads yet, and a batch of files shares both.

What a worker cannot bring for any reason it leaves undone, without a word: the usual way tries again and says why.
The surprise: workers are given live objects (upstreams, formats, the store) through a pipe of our own, as pickles;
nothing that comes from outside is ever read that way but the bytes of strings.
"""

import asyncio
import logging
import os
import pickle
import signal
import socket
import struct
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress

import msgspec

from mirror.blobs import BlobStore
from mirror.model import File, Format
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

LENGTH = struct.Struct(">Q")
"""Stands before each message between us and a worker."""


class Kit(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker works with."""

    formats: Mapping[str, Format]
    """By their names."""
    upstreams: Mapping[str, Upstream]
    """By the names of their sources."""
    blobs: BlobStore
    connections: int
    """Of one worker."""


class Order(msgspec.Struct, frozen=True):
    """One file to bring in; its index promises size and SHA-256."""

    format: str
    file: File


class Brought(msgspec.Struct, frozen=True):
    """A file or sidecar that is verified and stored."""

    filename: str
    kind: str
    """`file` or `sidecar`."""
    digest: str
    size: int


class Worker:
    """One worker, as the process knows it that gives the orders."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self.turn = asyncio.Lock()
        """Held by whoever gives orders: one batch at a time."""

    async def bring(self, orders: Sequence[Order]) -> list[list[Brought]]:
        """What was brought for each order: the file first, then its sidecar; nothing for what is left to others.

        All of it is durable.
        """
        try:
            message = pickle.dumps(orders)
            self._writer.writelines((LENGTH.pack(len(message)), message))
            await self._writer.drain()
            (size,) = LENGTH.unpack(await self._reader.readexactly(LENGTH.size))
            answer: list[list[Brought]] = pickle.loads(await self._reader.readexactly(size))
        except (OSError, asyncio.IncompleteReadError):
            logger.warning("A process that fetches small files is gone; they come one by one.")
            return [[] for _ in orders]
        return answer


@asynccontextmanager
async def workers(kit: Kit, count: int) -> AsyncIterator[list[Worker]]:
    """So many workers, for the length of the block; what they are at is given up in the end."""
    pairs = [socket.socketpair() for _ in range(count)]
    theirs = [their.fileno() for _, their in pairs]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror.bulk.worker", *map(str, theirs),
        stdin=asyncio.subprocess.PIPE, pass_fds=theirs, start_new_session=True,
    )  # fmt: skip
    streams = []
    try:
        for ours, their in pairs:
            their.close()
            streams.append(await asyncio.open_connection(sock=ours))
        assert process.stdin is not None
        with suppress(OSError):
            process.stdin.write(pickle.dumps(kit))
            process.stdin.close()
        yield [Worker(reader, writer) for reader, writer in streams]
    finally:
        for _, writer in streams:
            writer.close()
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # the files they were writing are nobody's, and swept at the start
        await process.wait()
