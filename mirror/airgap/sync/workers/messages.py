"""What is said between the hand of a worker and the process that gives the orders, and how it is put on the wire."""

import asyncio
import struct
from collections.abc import Mapping

import msgspec

from mirror.blobs import BlobStore
from mirror.model import File, Format
from mirror.upstream import Upstream

LENGTH = struct.Struct(">Q")
"""Stands before each message: the first to a hand is a Kit, as a pickle; after that all are MessagePack."""


HANDS = 2
"""Of each worker: while the one waits for the disk, the other fetches."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What a hand works with: the first message to it."""

    formats: Mapping[str, Format]
    """By their names."""
    upstreams: Mapping[str, Upstream]
    """By the names of their sources."""
    blobs: BlobStore
    connections: int
    """Of one hand."""


class Job(msgspec.Struct, frozen=True):
    """One file to bring in; its index promises size and SHA-256."""

    format: str
    file: File


class JobResult(msgspec.Struct, frozen=True):
    """A file or sidecar that is verified and stored."""

    filename: str
    kind: str
    """`file` or `sidecar`."""
    digest: str
    size: int


ENCODER = msgspec.msgpack.Encoder()
ORDERS = msgspec.msgpack.Decoder(list[Job])
ANSWERS = msgspec.msgpack.Decoder(list[list[JobResult]])
"""One list for each order, in their order."""


def send(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Put a message on the wire; to be drained."""
    writer.writelines((LENGTH.pack(len(message)), message))


async def receive(reader: asyncio.StreamReader) -> bytes:
    """The next message. Raises IncompleteReadError and OSError when there will be none."""
    (size,) = LENGTH.unpack(await reader.readexactly(LENGTH.size))
    return await reader.readexactly(size)
