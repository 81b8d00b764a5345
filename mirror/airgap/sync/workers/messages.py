"""The messages between workers and the process that employs them: plain values, as MessagePack behind a length.

The first message to a worker is a `WorkerConfig`; after that each batch of `Job`s is answered with one list of
`JobResult`s for each job.
"""

import asyncio
import struct
from collections.abc import Mapping

import msgspec

from mirror.model import File

BATCHES_AT_ONCE = 2
"""Batches that one process works on at once, each over a socket of its own: while one syncs the disk, one fetches."""

_LENGTH = struct.Struct(">Q")


class WorkerUpstream(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream as workers reach it. Times are in seconds."""

    url: str
    """Without credentials: `authorization` is sent to the origin of this URL alone."""
    authorization: str | None
    """The value of the header Authorization."""
    user_agent: str
    ca_file: str | None
    """Certificates to trust instead of the system's."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts and networks inside this network to which it may lead."""
    connect_timeout: float
    """For name resolution, connection and TLS together."""
    read_timeout: float
    """The longest silence within an answer."""

    def __repr__(self) -> str:
        return f"WorkerUpstream({self.url!r}, …)"


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a worker, before its first job. Objects are named by import paths, `package.module:NAME`."""

    formats: Mapping[str, str]
    """Name of a format → import path of a `Format`."""
    upstreams: Mapping[str, WorkerUpstream]
    """By the names of their sources."""
    blob_store: str
    """Import path of a function that makes a `BlobStore` of `data_dir`, and of `blob_settings` where there are any."""
    blob_settings: str = ""
    data_dir: str
    connections: int = 1
    """The most connections for one batch."""


class Job(msgspec.Struct, frozen=True):
    """One file to fetch; its index promises size and SHA-256."""

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
CONFIG_DECODER = msgspec.msgpack.Decoder(WorkerConfig)
JOBS_DECODER = msgspec.msgpack.Decoder(list[Job])
RESULTS_DECODER = msgspec.msgpack.Decoder(list[list[JobResult]])


def send(writer: asyncio.StreamWriter, message: bytes) -> None:
    """Write a message to the socket's buffer, which the caller drains."""
    writer.writelines((_LENGTH.pack(len(message)), message))


async def receive(reader: asyncio.StreamReader) -> bytes:
    """Read the next message. Raises IncompleteReadError or OSError when the other side is gone."""
    (size,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    return await reader.readexactly(size)
