"""Immutable bytes named by their SHA-256: the interface of every blob store.

A store knows nothing of projects, files or repositories: the catalog does. Nor does it verify what it adopts; the
caller that puts a file into `incoming` has compared its digest first.

The surprise: `adopt` makes the bytes durable (it syncs the file itself), so that no caller can forget to. After a loss
of power there is either the whole blob or, when `adopt` had not returned, perhaps none.
"""

import hashlib
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import msgspec

from mirror.model import Body

if TYPE_CHECKING:
    from mirror.blobs.local import DiskSpace

PART_BLOBS = 4_000
"""Blobs that are looked at together, or a few more."""
_DIGITS = "0123456789abcdef"


def beginnings(blobs: int) -> Sequence[str]:
    """Return what digests begin with, so that each beginning is a part of so many blobs that is small enough."""
    if blobs <= PART_BLOBS:
        return ("",)
    if blobs <= PART_BLOBS * len(_DIGITS):
        return tuple(_DIGITS)
    return tuple(first + second for first in _DIGITS for second in _DIGITS)


async def parts_of(store: "BlobStore", known: int) -> Sequence[str]:
    """Return `beginnings` for a store that should have `known` blobs, and may have more."""
    sample = len(await store.digests("00"))
    return beginnings(max(known, sample * len(_DIGITS) ** 2))


class StoredBlob(msgspec.Struct, frozen=True, kw_only=True):
    """One blob of a store."""

    digest: str
    size: int
    """Bytes."""
    stored: float
    """When it was stored, in seconds since the epoch; not the file's own date."""


class MemoryBody(msgspec.Struct, frozen=True):
    """A Body in memory, for small content."""

    content: bytes
    digest: str
    modified: str | None = None
    path: Path | None = None
    location: str | None = None

    @classmethod
    def of(cls, content: bytes) -> "MemoryBody":
        """Return bytes as a Body."""
        return cls(content, hashlib.sha256(content).hexdigest())

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop)."""
        yield self.content[start:stop]


class SmallBlob(msgspec.Struct, frozen=True, kw_only=True):
    """Small content to be stored with `store_all`."""

    content: bytes
    digest: str
    """The SHA-256 of the content, computed by the caller."""
    date: int | None = None
    """For Last-Modified, in seconds since the epoch; None: now."""
    label: tuple[str, ...] = ()
    """As for `BlobStore.label`."""


class StoreState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of a store for monitors. Counters count since the start of the process."""

    missing: int = 0
    """How often a blob was missing that had to be there, such as an upload."""
    reachable: bool = True
    """Whether the store is asked at this moment."""
    requests: Mapping[str, int] = {}
    """Operation → requests to an object store."""
    errors: int = 0
    """How many of them failed."""
    damaged: int = 0
    """Objects that did not have the right bytes."""
    evicted: int = 0
    """Blobs that had to leave the cache."""


class Numbers(Protocol):
    """The numbers of a catalog, by name: what a store that is not in the data directory recognises it by."""

    async def get(self, name: str) -> int | None:
        """Return a number; None when there is none of that name."""

    async def settle(self, name: str, value: int) -> int:
        """Give a number its value unless it has one; return the value that it has."""


class GrowingBlob(Protocol):
    """A blob that a store receives while its bytes still come in."""

    def grow(self, size: int) -> None:
        """Let the first `size` bytes of its file be sent to where the store is."""

    async def finish(self) -> StoredBlob:
        """Store it, once its file is whole and verified; the file stays where it is. Raises StorageError."""

    def abandon(self) -> None:
        """Have what was sent forgotten, unless the blob is stored."""


class BlobStore(Protocol):
    """The store of the bytes of files. All methods may be called concurrently, also by several processes."""

    incoming: Path
    """A local directory for files that are being written; `adopt` takes them from here."""
    disk_space: "DiskSpace"
    """The free space there, checked before something large is written."""
    orphan_seconds: float
    """Age from which a blob that nothing refers to is an orphan: before, something may be about to refer to it."""
    is_shared: bool
    """Whether it outlives this machine, so that other nodes count on what this one has stored."""

    async def find(self, digest: str) -> Body | None:
        """Return the blob with a digest. Cheap: it is called for every answer with a held file.

        None when it is missing, or empty where it must not be, or `digest` is not a SHA-256.
        """

    def may_hold(self, digest: str) -> bool:
        """Return whether there may be a blob with a digest, as far as that is known without asking another machine."""

    async def open(self, digest: str) -> Body:
        """Return the blob with a digest. Raises MissingBlob where `find` returns None."""

    async def open_stored(self, digest: str) -> Body:
        """Return a blob as it is stored, past every cache and unverified: for verification. Raises MissingBlob."""

    async def adopt(self, path: Path, digest: str) -> StoredBlob:
        """Make the finished file at `path` the blob with a digest: durable first, then visible as a whole.

        The file is moved away from `path`. Idempotent, also for a blob that is held already. Raises StorageFull, and
        then leaves the file where it was; MissingBlob when there is neither file nor blob.
        """

    def begin(self, path: Path, digest: str, size: int, date: int) -> GrowingBlob | None:
        """Begin to store the file at `path`, which still grows to `size` bytes; None where only `adopt` can store it.

        `date` is that of the file, in seconds since the epoch. Raises MissingBlob when it is no digest.
        """

    async def keep_copy(self, path: Path, digest: str) -> None:
        """Move a file away from `path` that has the bytes of a stored blob, for this machine to read; or leave it."""

    async def write(self, content: bytes) -> StoredBlob:
        """Store small content. Raises StorageFull."""

    async def store_all(self, blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
        """Store many small blobs together, far cheaper than one after the other; all are durable when this returns.

        Raises StorageFull or OSError; then none of them is stored.
        """

    async def label(self, digest: str, *label: str) -> None:
        """Label a blob with texts that outlive the catalog, as far as the store can; no error when it is missing."""

    async def is_labelled(self, digest: str, *label: str) -> bool:
        """Return whether there is a blob with that label. Cheap."""

    async def delete(self, digest: str) -> None:
        """Delete a blob; no error when it is missing. Readers that have begun may finish."""

    async def withdraw(self, digest: str) -> None:
        """Move a blob out of the store so that it can be restored; no error when it is missing.

        This process no longer finds it. One that stores it anew from here on keeps it, whatever becomes of this one.
        """

    async def restore(self, digest: str) -> None:
        """Move a withdrawn blob back, unless the store has got it again meanwhile."""

    async def discard(self, digest: str) -> None:
        """Delete a withdrawn blob."""

    async def withdrawn(self) -> list[str]:
        """Return the digests that were neither restored nor discarded, for example by a process that was killed."""

    async def set_aside(self, digest: str) -> None:
        """Move a damaged blob out of the store, to where an administrator can inspect it."""

    async def digests(self, beginning: str) -> list[str]:
        """Return the digests of all blobs that begin with up to two hexadecimal digits: a part of the store."""

    async def listed(self, beginning: str) -> list[StoredBlob]:
        """Return all blobs that begin with up to two hexadecimal digits: a part of the store."""

    async def stored(self, digests: Collection[str]) -> list[StoredBlob]:
        """Return those of these blobs that are here. They are few: it may cost a request for each."""

    def walk(self) -> AsyncIterator[StoredBlob]:
        """Yield every blob, unordered; blobs that are added or deleted meanwhile may be missing."""

    async def clean_incoming(self) -> int:
        """Delete unfinished files of an earlier process; return their number. Only before anything is written."""

    def state(self) -> StoreState:
        """Return the state of the store."""

    async def claim(self) -> None:
        """Make sure, at the start, that the store is that of this mirror's catalog and can be written.

        Raises ConfigError, and then nothing has changed. Where it was not called, the first change begins with it.
        """

    async def close(self) -> None:
        """Finish what runs in the background."""
