"""Immutable bytes named by their SHA-256: what every blob store promises.

A store knows nothing of projects, files or repositories: the catalog does. It never verifies what it adopts
either; whoever puts a file into `incoming` has compared its digest first.

The surprise: `adopt` makes the bytes durable (it syncs the file itself), so that nobody can forget to; once it
has returned, a loss of power leaves either the whole blob or, when it never returned, none.
"""

import errno
import hashlib
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import Protocol

import msgspec

from mirror.blobs.room import Room
from mirror.errors import MissingBlob, StorageFull
from mirror.model import Body

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


class StoredBlob(msgspec.Struct, frozen=True, kw_only=True):
    """One blob that a store has."""

    digest: str
    size: int
    """Bytes."""
    stored: float
    """When the store took it, in seconds since the epoch; not the file's own date."""


class MemoryBody(msgspec.Struct, frozen=True):
    """Something small that there is no room to store."""

    content: bytes
    digest: str
    modified: None = None
    path: None = None

    @classmethod
    def of(cls, content: bytes) -> "MemoryBody":
        """These bytes as a Body."""
        return cls(content, hashlib.sha256(content).hexdigest())

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop)."""
        yield self.content[start:stop]


class Part(msgspec.Struct, frozen=True, kw_only=True):
    """Something small to be stored."""

    content: bytes
    digest: str
    """Of the content; whoever hands it over has compared it."""
    date: int | None = None
    """For Last-Modified, in seconds since the epoch; None: now."""


class BlobStore(Protocol):
    """Where the bytes of files live. All methods may be called at once, by several processes too."""

    incoming: Path
    """A local directory for files that are being written; `adopt` takes them from here."""
    room: Room
    """What is free where that is: asked before something large is written."""

    async def open(self, digest: str) -> Body:
        """The blob of that digest. Cheap: it stands before every answer with a held file.

        Raises MissingBlob when it is not there, or is empty where it must not be, or `digest` is no SHA-256.
        """

    async def adopt(self, path: Path, digest: str) -> StoredBlob:
        """Make the finished file at `path` the blob of that digest: durable first, then visible at once and whole.

        Takes the file away from `path`. Idempotent: again, or for a blob already held, changes nothing.
        Raises StorageFull, and then leaves the file where it was; MissingBlob when there is neither file nor blob.
        """

    async def write(self, content: bytes) -> StoredBlob:
        """Store something small that is in memory. Raises StorageFull."""

    async def store_all(self, parts: Sequence[Part]) -> list[StoredBlob]:
        """Store many small things together, far cheaper than one after the other; each is durable when this returns.

        Blocks for as long as writing takes, for a process that does nothing else; only making it durable happens off
        the event loop. Raises StorageFull or OSError, and has then stored none of them.
        """

    async def delete(self, digest: str) -> None:
        """Forget the blob; no error when it is not there. Readers that have begun may finish."""

    async def withdraw(self, digest: str) -> None:
        """Take a blob out of the store, so that it can be put back; no error when it is not there."""

    async def restore(self, digest: str) -> None:
        """Put a withdrawn blob back, unless another one has taken its place."""

    async def discard(self, digest: str) -> None:
        """Remove a withdrawn blob for good."""

    async def withdrawn(self) -> list[str]:
        """What was withdrawn and neither restored nor discarded, perhaps by a process that was killed."""

    async def set_aside(self, digest: str) -> None:
        """Move a damaged blob to where a person can look at it, and nobody is served it."""

    def walk(self) -> AsyncIterator[StoredBlob]:
        """Every blob, in no order; one that comes or goes meanwhile may be left out."""

    async def clean_incoming(self) -> int:
        """Remove what an earlier process left unfinished; says how many. Only at start, before anything is written."""


def checked(digest: str) -> str:
    """The digest, when it is one: nothing else may become part of a path or an object's key. Raises MissingBlob."""
    if not _SHA256.fullmatch(digest):
        raise MissingBlob(digest[:64])
    return digest


def http_date(seconds: float) -> str:
    """Seconds since the epoch as the date of an HTTP header."""
    return formatdate(int(seconds), usegmt=True)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Turns the errors of a full disk or quota into StorageFull; the others pass."""
    try:
        yield
    except OSError as error:
        if error.errno in _NO_ROOM:
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.") from error
        raise
