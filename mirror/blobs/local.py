"""Blobs as files of a directory tree: `blobs/ab/abcdef…`, with `incoming/` beside it on the same file system.

The surprise: reads try the page cache on the event loop first (`RWF_NOWAIT` never waits for a disk) and hop to a
thread only when the disk is needed; for a warm file that is several times cheaper than a hop for each chunk.
"""

import asyncio
import ctypes
import hashlib
import os
import secrets
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import TypeVar

import msgspec

from mirror.blobs import Part, StoredBlob, checked, http_date, storage_errors
from mirror.blobs.room import Room
from mirror.errors import MissingBlob

CHUNK = 256 * 1024
"""Bytes of one read: long enough to be worth a thread, short enough that the loop stays smooth."""

WORTH_SYNCFS = 32
"""Files from which one sync of the whole file system is quicker than one for each of them."""

_EMPTY = hashlib.sha256().hexdigest()
_NOWAIT = getattr(os, "RWF_NOWAIT", None)
_threads = ThreadPoolExecutor(max_workers=8, thread_name_prefix="blobs")
_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""syncfs(2) of Linux, which os does not have."""

T = TypeVar("T")


async def off_loop(work: Callable[[], T]) -> T:
    """Run blocking work on files in the store's own threads, which no slow name resolution can use up."""
    return await asyncio.get_running_loop().run_in_executor(_threads, work)


async def read_at(fd: int, offset: int, size: int) -> bytes:
    """Up to `size` bytes from `offset` of an open file; fewer only at its end (or at the end of what is cached)."""
    if _NOWAIT is not None:
        buffer = bytearray(size)
        try:
            count = os.preadv(fd, [buffer], offset, _NOWAIT)
        except OSError:
            pass  # not in the page cache, or a file system that cannot tell
        else:
            if count:
                del buffer[count:]
                return bytes(buffer)
    return await off_loop(lambda: os.pread(fd, size, offset))


class LocalBody(msgspec.Struct, frozen=True):
    """A held blob in a local file."""

    size: int
    digest: str
    modified: str | None
    path: Path | None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises MissingBlob when the blob went away or is shorter than it was."""
        stop = self.size if stop is None else min(stop, self.size)
        if start >= stop or self.path is None:
            return
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            raise MissingBlob(self.digest) from None
        try:
            while start < stop:
                chunk = await read_at(fd, start, min(CHUNK, stop - start))
                if not chunk:
                    raise MissingBlob(self.digest)
                start += len(chunk)
                yield chunk
        finally:
            os.close(fd)


class LocalBlobs:
    """A BlobStore in `data_dir`: `blobs/`, `incoming/` and `outgoing/`, made when they are not there."""

    def __init__(self, data_dir: Path) -> None:
        self.root = data_dir / "blobs"
        self.incoming = data_dir / "incoming"
        self._prefix = f"{self.root}/"
        self.outgoing = data_dir / "outgoing"
        self.damaged = data_dir / "damaged"
        for directory in (self.root, self.incoming, self.outgoing):
            directory.mkdir(parents=True, exist_ok=True)
        self.room = Room(data_dir)
        self._shards: set[str] = set()
        """Directories below `root` that `store_all` need not make any more."""

    async def open(self, digest: str) -> LocalBody:
        path = f"{self._prefix}{checked(digest)[:2]}/{digest}"  # no Path before there is something: making one is slow
        try:
            found = os.stat(path)  # on the loop: cheaper than a hop to a thread
        except (FileNotFoundError, NotADirectoryError):
            raise MissingBlob(digest) from None
        if found.st_size == 0 and digest != _EMPTY:
            raise MissingBlob(digest)  # what some file systems leave behind when the power fails
        return LocalBody(found.st_size, digest, http_date(found.st_mtime), Path(path))

    async def adopt(self, path: Path, digest: str) -> StoredBlob:
        return await off_loop(lambda: self._adopt(path, digest))

    async def write(self, content: bytes) -> StoredBlob:
        return await off_loop(lambda: self._write(content))

    async def delete(self, digest: str) -> None:
        path = self._path(digest)
        await off_loop(lambda: path.unlink(missing_ok=True))

    async def withdraw(self, digest: str) -> None:
        await off_loop(lambda: _moved(self._path(digest), self.outgoing / checked(digest)))

    async def restore(self, digest: str) -> None:
        path, target = self.outgoing / checked(digest), self._path(digest)
        await off_loop(lambda: path.unlink(missing_ok=True) if target.exists() else _moved(path, target))

    async def discard(self, digest: str) -> None:
        path = self.outgoing / checked(digest)
        await off_loop(lambda: path.unlink(missing_ok=True))

    async def withdrawn(self) -> list[str]:
        return await off_loop(lambda: [path.name for path in self.outgoing.iterdir()])

    async def set_aside(self, digest: str) -> None:
        def move() -> None:
            self.damaged.mkdir(exist_ok=True)
            _moved(self._path(digest), self.damaged / checked(digest))

        await off_loop(move)

    async def walk(self) -> AsyncIterator[StoredBlob]:
        for shard in await off_loop(lambda: sorted(self.root.iterdir())):
            for held in await off_loop(lambda shard=shard: _blobs_of(shard)):  # type: ignore[misc]
                yield held

    async def clean_incoming(self) -> int:
        return await off_loop(lambda: sum(_removed(path) for path in self.incoming.iterdir()))

    def _path(self, digest: str) -> Path:
        return self.root / checked(digest)[:2] / digest

    def _adopt(self, path: Path, digest: str) -> StoredBlob:
        target = self._path(digest)
        with storage_errors():
            try:
                _sync(path, os.O_RDWR)
                if not target.parent.is_dir():
                    target.parent.mkdir(exist_ok=True)
                    _sync(self.root, os.O_RDONLY | os.O_DIRECTORY)
                os.replace(path, target)
            except FileNotFoundError:
                if not target.is_file():  # otherwise it has been adopted before
                    raise MissingBlob(digest) from None
            _sync(target.parent, os.O_RDONLY | os.O_DIRECTORY)
        found = target.stat()
        return StoredBlob(digest=digest, size=found.st_size, stored=found.st_ctime)

    def _write(self, content: bytes) -> StoredBlob:
        self.room.check(len(content))
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

    async def store_all(self, parts: Sequence[Part]) -> list[StoredBlob]:
        """All are written before any is synced, and all renamed before any directory is: two syncs for many files."""
        self.room.check(sum(len(part.content) for part in parts))
        incoming = f"{self.incoming}/{secrets.token_hex(16)}"
        moves: list[tuple[str, str]] = []
        with storage_errors():
            try:
                for digest, part in {checked(part.digest): part for part in parts}.items():
                    target = f"{self._prefix}{digest[:2]}/{digest}"
                    if not _is_whole(target, len(part.content)):
                        moves.append((f"{incoming}-{len(moves)}.part", target))
                        _write_new(moves[-1][0], part)
                shards = {target[: -len("/") - 64] for _, target in moves}
                for shard in shards - self._shards:
                    os.makedirs(shard, exist_ok=True)
                self._shards |= shards
                await off_loop(lambda: _sync_all([path for path, _ in moves], self.root))
                for path, target in moves:
                    os.replace(path, target)
                await off_loop(lambda: _sync_all([*shards, str(self.root)], self.root))
            except BaseException:
                for path, _ in moves:
                    Path(path).unlink(missing_ok=True)
                raise
        now = time.time()
        return [StoredBlob(digest=part.digest, size=len(part.content), stored=now) for part in parts]


def _is_whole(path: str, size: int) -> bool:
    # As a rule it is not there, and to hear that as an exception costs more than all the rest.
    return os.access(path, os.F_OK) and os.stat(path).st_size == size


def _write_new(path: str, part: Part) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_at(fd, part.content, 0)
        if part.date is not None:
            os.utime(fd, (part.date, part.date))
    finally:
        os.close(fd)


def _sync_all(paths: Sequence[str], root: Path) -> None:
    """Make files and directories durable: many with one call for the whole file system, where that exists."""
    if _syncfs is None or len(paths) < WORTH_SYNCFS:
        for path in paths:
            _sync(Path(path), os.O_RDONLY)
        return
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)


def write_at(fd: int, chunk: bytes, offset: int) -> None:
    """Write all of `chunk`; a full disk may take a part of it before it says so."""
    left = memoryview(chunk)
    while left:
        count = os.pwrite(fd, left, offset)
        left, offset = left[count:], offset + count


def _sync(path: Path, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _blobs_of(shard: Path) -> list[StoredBlob]:
    found = []
    if shard.is_dir():
        with os.scandir(shard) as entries:
            for entry in entries:
                try:
                    digest, stat = checked(entry.name), entry.stat(follow_symlinks=False)
                except (MissingBlob, FileNotFoundError):
                    continue  # not ours, or just deleted
                found.append(StoredBlob(digest=digest, size=stat.st_size, stored=stat.st_ctime))
    return found


def _moved(path: Path, target: Path) -> None:
    with suppress(FileNotFoundError):
        path.rename(target)


def _removed(path: Path) -> bool:
    try:
        path.unlink(missing_ok=True)
    except IsADirectoryError:
        return False
    return True
