"""The part of an object store's blobs that lies in a local directory: the least recently used goes first.

The directory itself is the truth about what is cached, because several processes may share it: how much it holds is
counted again after a part of the limit has been added. The surprise: when a blob was used last is the access time of
its file, set here, since most file systems record that once a day or never.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

from mirror.blobs import BlobStore, SmallBlob
from mirror.blobs.local import off_loop
from mirror.errors import MirrorError, StorageFull
from mirror.model import Body

TRIM_TO = 0.9
"""The part of the limit that is left when something has to go, so that it need not go one by one."""
COUNT_AGAIN = 1 / 16
"""The part of the limit after whose addition the directory is counted again: other processes add to it, too."""
USE_SECONDS = 60.0
"""How exactly the time of the last use is recorded."""
MOST_USES = 10_000
"""Blobs whose use is remembered as recorded."""

logger = logging.getLogger(__name__)


class BlobCache:
    """Copies of blobs in a directory, up to a limit."""

    def __init__(self, local: BlobStore, directory: Path, limit: int, clock: Callable[[], float] = time.time) -> None:
        """`directory` is where `local` has its blobs as files; `limit` is in bytes."""
        self.local = local
        self._root = directory
        self.limit = limit
        self.evicted = 0
        """How many blobs had to go since the start."""
        self._clock = clock
        self._size: int | None = None
        """Bytes, as far as known; None before they were counted."""
        self._added = 0
        self._reserved = 0
        """Bytes of what is on its way in, which the directory does not show."""
        self._used: set[str] = set()
        self._used_since = clock()
        self._trimming = asyncio.Lock()

    async def find(self, digest: str) -> Body | None:
        """Return the copy of a blob, and record its use; None when there is none. Cheap."""
        body = await self.local.find(digest)
        if body is not None and digest not in self._used and body.path is not None:
            await self._record_use(digest, body.path)
        return body

    async def _record_use(self, digest: str, path: Path) -> None:
        now = self._clock()
        if now - self._used_since > USE_SECONDS or len(self._used) >= MOST_USES:
            self._used.clear()
            self._used_since = now
        self._used.add(digest)
        with suppress(OSError):  # it went just now
            await off_loop(partial(_set_access_time, path, now))

    async def reserve(self, size: int) -> bool:
        """Count so many bytes as held, removing what was not used for long; return whether there is room for them."""
        if size > self.limit or not self.local.disk_space.fits(size):
            return False
        async with self._trimming:
            if self._size is None or self._added > self.limit * COUNT_AGAIN:
                self._size, self._added = await off_loop(partial(_count, self._root)) + self._reserved, 0
            if self._size + size > self.limit:
                most = max(0, min(int(self.limit * TRIM_TO), self.limit - size) - self._reserved)
                freed, count = await off_loop(partial(_remove_oldest, self._root, most))
                self._size -= freed
                self.evicted += count
                logger.info("%d blobs that were not used for long have left the cache, %d bytes", count, freed)
            if self._size + size > self.limit:
                return False
            self._size += size
            self._added += size
            self._reserved += size
        return True

    def release(self, size: int) -> None:
        """End a reservation of bytes that have not come."""
        self._reserved -= size
        self._size = None if self._size is None else self._size - size

    async def keep(self, path: Path, digest: str, size: int) -> None:
        """Move a file in as the copy of a blob, for whose `size` there is a reservation, which ends. Raises OSError."""
        # It has the date of its upstream, by which it would be the oldest.
        await off_loop(partial(_set_access_time, path, self._clock()))
        await self.local.adopt(path, digest)
        self._reserved -= size

    async def add(self, path: Path, digest: str, size: int) -> None:
        """Move a file in as the copy of a blob if there is room for it; else delete it."""
        if await self.reserve(size):
            try:
                await self.keep(path, digest, size)
            except (OSError, MirrorError) as error:
                self.release(size)
                logger.warning("blob %s is not cached: %s", digest, error)
        await off_loop(partial(path.unlink, missing_ok=True))

    async def write(self, blob: SmallBlob) -> None:
        """Keep a copy of small content if there is room for it."""
        size = len(blob.content)
        if await self.reserve(size):
            try:
                await self.local.store_all([blob])
                path = self._root / blob.digest[:2] / blob.digest
                await off_loop(partial(_set_access_time, path, self._clock()))
            except (OSError, StorageFull):
                self.release(size)
            else:
                self._reserved -= size

    async def drop(self, digest: str) -> None:
        """Delete the copy of a blob; no error when there is none."""
        await self.local.delete(digest)


def _set_access_time(path: Path, now: float) -> None:
    os.utime(path, ns=(int(now * 1e9), os.stat(path).st_mtime_ns))


def _scan(root: Path) -> list[tuple[float, int, str]]:
    """Return (time of the last use, size, path) of every file."""
    found = []
    for shard in sorted(os.listdir(root)):
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / shard) as entries:
            for entry in entries:
                with suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_atime, about.st_size, entry.path))
    return found


def _count(root: Path) -> int:
    return sum(size for _, size, _ in _scan(root))


def _remove_oldest(root: Path, most: int) -> tuple[int, int]:
    """Remove files, the least recently used first, until there are at most so many bytes; return bytes and files."""
    files = sorted(_scan(root))
    size = sum(size for _, size, _ in files)
    freed = count = 0
    for _, each, path in files:
        if size - freed <= most:
            break
        with suppress(FileNotFoundError):
            os.unlink(path)
        freed, count = freed + each, count + 1
    return freed, count
