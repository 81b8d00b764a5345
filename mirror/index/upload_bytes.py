"""The bytes of files that are published: many small ones are made durable together, which costs one wait for the disk.

Where they are on disk already, they are read there.
"""

import asyncio
import hashlib
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore, SmallBlob
from mirror.errors import Conflict
from mirror.model import Body

SMALL_BYTES = 1 << 20
"""Bytes up to which the files of a batch are held in memory and stored together."""


class UploadBytes(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to be stored, with its sidecar."""

    path: Path
    """Where it is, in the store's directory for incoming files."""
    digest: str
    size: int
    sidecar: bytes
    stays: bool = False
    """Whether the file stays at `path`, where it is not ours: for small ones."""


async def store_bytes(blobs: BlobStore, files: Sequence[UploadBytes]) -> list[str]:
    """Store files and sidecars, all of which are durable when this returns; return the digests of the sidecars.

    Raises Conflict, StorageError or OSError; then some may be stored, which nothing refers to.
    """
    together = [one for one in files if one.stays or one.size <= SMALL_BYTES]
    small = await asyncio.to_thread(lambda: [*map(_content, together), *map(_sidecar, files)])
    await blobs.store_all(small)
    for one in files:
        if not one.stays and one.size > SMALL_BYTES:
            await blobs.adopt(one.path, one.digest)
    return [one.digest for one in small[len(together) :]]


def _sidecar(one: UploadBytes) -> SmallBlob:
    return SmallBlob(content=one.sidecar, digest=hashlib.sha256(one.sidecar).hexdigest())


def _content(one: UploadBytes) -> SmallBlob:
    content = one.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != one.digest:
        raise Conflict(f"{one.path} has changed while it was being added: add it again.")
    return SmallBlob(content=content, digest=one.digest)


@asynccontextmanager
async def on_disk(body: Body, incoming: Path) -> AsyncIterator[Path]:
    """Provide a path with the bytes of a blob; a temporary copy where the store has no local files."""
    if body.path is not None:
        yield body.path
        return
    with tempfile.NamedTemporaryFile(dir=incoming) as copy:
        async for chunk in body.read():
            await asyncio.to_thread(copy.write, chunk)
        copy.flush()
        yield Path(copy.name)
