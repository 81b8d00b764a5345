"""Blobs as files of a directory tree: `blobs/ab/abcdef…`, with `incoming/` beside it on the same file system.

The surprise: reads try the page cache on the event loop first (`RWF_NOWAIT` never waits for a disk) and use a thread
only when the disk is needed; for a warm file that is several times cheaper than a thread for each chunk.
"""

import asyncio
import errno
import hashlib
import os
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeVar

import msgspec

from mirror.blobs import SmallBlob, StoredBlob, StoreState
from mirror.blobs.listing import blobs_in, digests_in, move_if_there, remove_files, stored_in
from mirror.errors import ConfigError, MissingBlob, StorageFull

CHUNK_BYTES = 256 * 1024
"""The size of one read: large enough to be worth a thread, small enough not to delay the event loop."""

RESERVED_BYTES = 64 << 20
"""The space reserved for the catalog; on a small disk a twentieth of it."""
ORPHAN_SECONDS = 3600.0
"""Age from which a blob that nothing refers to is an orphan."""
UNFINISHED_MOVE = "unfinished-move"
"""A file beside `blobs` while `mirror move` fills it; it contains the identity of what is moved."""
REFUSAL_SECONDS = 600.0
"""The time for which the disk counts as full for files of the size of one that was refused."""

_SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_EMPTY = hashlib.sha256().hexdigest()
_NOWAIT = getattr(os, "RWF_NOWAIT", None)
_LABELS, _MOST_LABELS = "user.mirror.labels", 60  # some file systems have 4 KB for all attributes of a file
_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="blobs")

T = TypeVar("T")


async def off_loop(work: Callable[[], T]) -> T:
    """Run blocking file operations in the store's own threads, which slow name resolution cannot occupy."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


async def read_at(fd: int, offset: int, size: int) -> bytes:
    """Read up to `size` bytes from `offset` of an open file; fewer only at its end (or that of the cached part)."""
    if _NOWAIT is not None:
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, _NOWAIT)
        except OSError:
            pass  # not in the page cache, or not supported by the file system
        else:
            if count:
                del buffer[count:]
                return bytes(buffer)
    return await off_loop(lambda: os.pread(fd, size, offset))


class DiskSpace:
    """The free space on the file system of a directory.

    The last part of a disk is reserved for the catalog, which needs it to work: a disk that is full to the last byte
    can still be read, but not even be evicted properly. So files that can be passed on without being stored stop being
    stored a little earlier. Other programs may still fill the disk: writers expect StorageFull, too.
    """

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._refused = (0, -REFUSAL_SECONDS)
        self._claimed = 0

    def check(self, size: int = 0) -> None:
        """Raise StorageFull unless so many bytes fit."""
        if not self._fits(size):
            self.record_refusal(size)
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")

    def fits(self, size: int) -> bool:
        """Return whether so many bytes would fit; unlike `check`, a promised size that does not leaves no trace."""
        return self._fits(size)

    def reserve(self, promised: int) -> int:
        """Reserve space for a size that is only promised: all of it or nothing; return how much, until `release`.

        All promises together get at most half of what is free, so that none of them keeps others from being stored.
        """
        free = self.free()
        reserved = promised if free is None or self._claimed + promised <= free // 2 else 0
        self._claimed += reserved
        return reserved

    def claim(self, size: int) -> None:
        """Reserve space for bytes that are about to be written, until `release`. Raises StorageFull."""
        self.check(size)
        self._claimed += size

    def release(self, size: int) -> None:
        """End the reservation of bytes that are written, or will not be."""
        self._claimed -= size

    def record_refusal(self, size: int) -> None:
        """Record that so many bytes could not be stored."""
        self._refused = size, self._clock()

    def is_full(self) -> bool:
        """Return whether the disk is full, or too full for what was refused recently (at most a tenth of the disk)."""
        size, at = self._refused
        found = self._measure()
        most = 0 if found is None or self._clock() - at >= REFUSAL_SECONDS else found[1] // 10
        return not self._fits(min(size, most))

    def free(self) -> int | None:
        """Return the free bytes, None when they are unknown."""
        found = self._measure()
        return None if found is None else found[0]

    def _fits(self, size: int) -> bool:
        found = self._measure()
        if found is None:
            return True  # unknown: writing will show it
        free, total = found
        return free - self._claimed - size >= min(RESERVED_BYTES, total // 20)

    def _measure(self) -> tuple[int, int] | None:
        try:
            about = os.statvfs(self._directory)
        except OSError:
            return None
        return about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize


class LocalBody(msgspec.Struct, frozen=True):
    """A held blob in a local file."""

    size: int
    digest: str
    modified: str | None
    path: Path | None
    location: str | None = None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises MissingBlob when the blob was deleted or is shorter than it was."""
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop or self.path is None:
            return
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingBlob(self.digest) from None
        try:
            while start < stop:
                chunk = await read_at(fd, start, min(CHUNK_BYTES, stop - start))
                if not chunk:
                    raise MissingBlob(self.digest)
                start += len(chunk)
                yield chunk
        finally:
            os.close(fd)


class LocalBlobs:
    """A BlobStore in the directories `blobs`, `incoming` and `outgoing` of `data_dir`, which are made if missing."""

    orphan_seconds, is_shared = ORPHAN_SECONDS, False

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "blobs"
        self.incoming = data_dir / "incoming"
        self._prefix = f"{self.root}/"
        self.outgoing, self.damaged = data_dir / "outgoing", data_dir / "damaged"
        for directory in (self.root, self.incoming, self.outgoing):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.disk_space = DiskSpace(data_dir)
        self._missing = 0
        self._shards: set[str] = set()
        """Directories below `root` that exist, so that `store_all` need not make them."""

    async def find(self, digest: str) -> LocalBody | None:
        if not _SHA256.fullmatch(digest):
            return None
        path = f"{self._prefix}{digest[:2]}/{digest}"  # no Path before it exists: making one is slow
        try:
            found = os.stat(path)  # on the event loop: cheaper than a thread
        except (FileNotFoundError, NotADirectoryError):
            return None
        if found.st_size == 0 and digest != _EMPTY:
            return None  # what some file systems leave after a loss of power
        return LocalBody(found.st_size, digest, http_date(found.st_mtime), Path(path))

    def may_hold(self, digest: str) -> bool:
        return _SHA256.fullmatch(digest) is not None and os.access(f"{self._prefix}{digest[:2]}/{digest}", os.F_OK)

    async def open(self, digest: str) -> LocalBody:
        body = await self.find(digest)
        if body is None:
            self._missing += 1
            raise MissingBlob(digest[:64])
        return body

    async def open_stored(self, digest: str) -> LocalBody:
        return await self.open(digest)

    async def adopt(self, path: Path, digest: str) -> StoredBlob:
        return await off_loop(lambda: self._adopt(path, digest))

    def begin(self, path: Path, digest: str, size: int, date: int) -> None:
        """Return None: what is here need not be sent anywhere."""

    async def keep_copy(self, path: Path, digest: str) -> None:
        """Do nothing: what is here is no copy."""

    async def write(self, content: bytes) -> StoredBlob:
        return await off_loop(lambda: self._write(content))

    async def label(self, digest: str, *label: str) -> None:
        path = f"{self._prefix}{check_digest(digest)[:2]}/{digest}"
        if _short(label) not in _labels(path):
            await off_loop(lambda: add_label(path, label))

    async def is_labelled(self, digest: str, *label: str) -> bool:
        return self.may_hold(digest) and _short(label) in _labels(f"{self._prefix}{digest[:2]}/{digest}")

    async def delete(self, digest: str) -> None:
        path = self._path(digest)
        await off_loop(lambda: path.unlink(missing_ok=True))

    async def withdraw(self, digest: str) -> None:
        await off_loop(lambda: move_if_there(self._path(digest), self.outgoing / check_digest(digest)))

    async def restore(self, digest: str) -> None:
        path, target = self.outgoing / check_digest(digest), self._path(digest)
        await off_loop(lambda: path.unlink(missing_ok=True) if target.exists() else move_if_there(path, target))

    async def discard(self, digest: str) -> None:
        path = self.outgoing / check_digest(digest)
        await off_loop(lambda: path.unlink(missing_ok=True))

    async def withdrawn(self) -> list[str]:
        return await off_loop(lambda: [path.name for path in self.outgoing.iterdir()])

    async def set_aside(self, digest: str) -> None:
        def move() -> None:
            self.damaged.mkdir(mode=0o700, exist_ok=True)
            move_if_there(self._path(digest), self.damaged / check_digest(digest))

        await off_loop(move)

    async def digests(self, beginning: str) -> list[str]:
        return await off_loop(lambda: digests_in(self.root, beginning))

    async def listed(self, beginning: str) -> list[StoredBlob]:
        return await self.stored(await self.digests(beginning))

    async def stored(self, digests: Collection[str]) -> list[StoredBlob]:
        return await off_loop(lambda: stored_in([self._path(digest) for digest in digests]))

    async def walk(self) -> AsyncIterator[StoredBlob]:
        for shard in await off_loop(lambda: sorted(self.root.iterdir())):
            for held in await off_loop(partial(blobs_in, shard)):
                yield held

    async def clean_incoming(self) -> int:
        return await off_loop(partial(remove_files, self.incoming))

    def state(self) -> StoreState:
        return StoreState(missing=self._missing)

    async def claim(self) -> None:
        """Raise ConfigError where a move has not ended; else a directory has one catalog, and one process its lock."""
        if (self.incoming.parent / UNFINISHED_MOVE).exists():
            raise ConfigError("data_dir: `mirror move` has not copied all files there: run it again.")

    async def close(self) -> None:
        """Do nothing: nothing runs in the background."""

    def _path(self, digest: str) -> Path:
        return self.root / check_digest(digest)[:2] / digest

    def _adopt(self, path: Path, digest: str) -> StoredBlob:
        target = self._path(digest)
        with storage_errors():
            try:
                sync(path, os.O_RDWR)
                if not target.parent.is_dir():
                    target.parent.mkdir(mode=0o700, exist_ok=True)
                    sync(self.root, os.O_RDONLY | os.O_DIRECTORY)
                os.replace(path, target)
            except FileNotFoundError:
                if not target.is_file():  # else it was adopted before
                    raise MissingBlob(digest) from None
            sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        found = target.stat()
        return StoredBlob(digest=digest, size=found.st_size, stored=found.st_ctime)

    def _write(self, content: bytes) -> StoredBlob:
        self.disk_space.check(len(content))
        digest = hashlib.sha256(content).hexdigest()
        with storage_errors():
            fd, name = tempfile.mkstemp(dir=self.incoming)
            path = Path(name)
            try:
                with open(fd, "wb") as file:
                    file.write(content)
                return self._adopt(path, digest)
            finally:
                path.unlink(missing_ok=True)

    async def store_all(self, blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
        """See `BlobStore`."""
        from mirror.blobs.bulk import store_all  # which uses this module

        self.disk_space.check(sum(len(blob.content) for blob in blobs))
        return await off_loop(lambda: store_all(self.root, self.incoming, self._shards, blobs))


def write_at(fd: int, chunk: bytes, offset: int) -> None:
    """Write all of `chunk`; a full disk may take a part of it before it reports the error."""
    left = memoryview(chunk)
    while left:
        count = os.pwrite(fd, left, offset)
        left, offset = left[count:], offset + count


def create_part(path: Path) -> int:
    """Create a file for what is on its way in, and return its descriptor. Raises StorageFull."""
    with storage_errors():
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


def finish_part(fd: int, size: int, date: int) -> None:
    """Give a file that has come in its size and its date, in seconds since the epoch."""
    os.ftruncate(fd, size)  # a restart may have left a longer end
    os.utime(fd, (date, date))  # so that Last-Modified is the same from now on


def sync(path: str | Path, flags: int) -> None:
    """Make a file or directory durable."""
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def add_label(target: int | str | Path, label: Sequence[str], is_first: bool = False) -> None:
    """Label a file, given its path or descriptor, if it can have attributes; with `is_first` it has no label yet."""
    known = [] if is_first else _labels(target)
    if _short(label) not in known and len(known) < _MOST_LABELS:
        with suppress(OSError, AttributeError):
            os.setxattr(target, _LABELS, b"\n".join((*known, _short(label))))


def _labels(target: int | str | Path) -> list[bytes]:
    with suppress(OSError, AttributeError):  # only Linux has the function
        return os.getxattr(target, _LABELS).split(b"\n")
    return []


def _short(label: Sequence[str]) -> bytes:
    return hashlib.sha256("\0".join(label).encode()).hexdigest()[:32].encode()


def check_digest(digest: str) -> str:
    """Return the digest if it is a SHA-256, since it becomes part of a path. Raises MissingBlob."""
    if not _SHA256.fullmatch(digest):
        raise MissingBlob(digest[:64])
    return digest


def http_date(seconds: float) -> str:
    """Return seconds since the epoch as the date of an HTTP header."""
    return _date_of_second(int(seconds))


@lru_cache(maxsize=1024)
def _date_of_second(second: int) -> str:
    return formatdate(second, usegmt=True)


@contextmanager
def storage_errors() -> Iterator[None]:
    """Convert the errors of a full disk or quota into StorageFull."""
    try:
        yield
    except OSError as error:
        if error.errno in _DISK_FULL:
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.") from error
        raise
