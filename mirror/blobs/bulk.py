"""Writing many small blobs together, for a sync and for small files that are requested at the same time.

Files are written before any is synced, and renamed before directories are: two syncs for all of them.
"""

import ctypes
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from mirror.blobs import SmallBlob, StoredBlob
from mirror.blobs.local import add_label, check_digest, storage_errors, sync, write_at

SYNCFS_FILES = 4
"""Files from which one sync of the whole file system is many times quicker than one for each of them, unless …"""
DIRTY_BYTES = 256 << 20
"""… more bytes than that, of whomever, wait to be written: it waits for them too, and is quicker only from …"""
MANY_FILES = 32
"""… so many files on."""

_syncfs = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
"""syncfs(2) of Linux, which the module os lacks."""


def store_all(root: Path, incoming_dir: Path, known_shards: set[str], blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
    """Store blobs below `root`, all or none; they are durable then. Blocks.

    `known_shards` are directories that exist; new ones are added. Raises StorageFull or OSError.
    """
    incoming = f"{incoming_dir}/{secrets.token_hex(16)}"
    moves: list[tuple[str, str]] = []
    many = sync_together(len(blobs), dirty_bytes)
    unsynced: list[int] = []
    with storage_errors():
        try:
            for digest, blob in {check_digest(blob.digest): blob for blob in blobs}.items():
                target = f"{root}/{digest[:2]}/{digest}"
                if not _is_whole(target, len(blob.content)):
                    moves.append((f"{incoming}-{len(moves)}.part", target))
                    unsynced.append(_write_new(moves[-1][0], blob))
                    if many:
                        os.close(unsynced.pop())
                elif blob.label:
                    add_label(target, blob.label)
            shards = {target[: -len("/") - 64] for _, target in moves}
            new_shards = shards - known_shards
            for shard in new_shards:
                os.makedirs(shard, mode=0o700, exist_ok=True)
            if many:
                _sync_file_system(root)
            for fd in unsynced:
                os.fsync(fd)
            for path, target in moves:
                os.replace(path, target)
            _sync_directories(root, [*shards, str(root)] if new_shards else [*shards], many)
            known_shards |= shards
        except BaseException:
            for path, _ in moves:
                Path(path).unlink(missing_ok=True)
            raise
        finally:
            for fd in unsynced:
                os.close(fd)
    now = time.time()
    return [StoredBlob(digest=blob.digest, size=len(blob.content), stored=now) for blob in blobs]


def sync_all(paths: Sequence[str], root: Path) -> None:
    """Make files or directories on the file system of `root` durable. Blocks."""
    if sync_together(len(paths), dirty_bytes):
        _sync_file_system(root)
    else:
        for path in paths:
            sync(path, os.O_RDONLY)


def sync_together(files: int, dirty: Callable[[], float]) -> bool:
    """Return whether to sync the whole file system for so many files; `dirty` returns the bytes that wait for that."""
    if _syncfs is None or files < SYNCFS_FILES:
        return False
    return files >= MANY_FILES or dirty() <= DIRTY_BYTES


def dirty_bytes() -> float:
    """Return how many bytes the system has yet to write to disks; infinity where it does not say."""
    try:
        with open("/proc/meminfo", "rb") as file:
            found = re.search(rb"^Dirty: +(\d+) kB$", file.read(), re.MULTILINE)
    except OSError:
        return math.inf
    return math.inf if found is None else int(found[1]) * 1024


def _sync_directories(root: Path, directories: Sequence[str], many: bool) -> None:
    if many:
        _sync_file_system(root)
    else:
        for directory in directories:
            sync(directory, os.O_RDONLY)


def _is_whole(path: str, size: int) -> bool:
    # As a rule it is missing, and an exception for that costs more than everything else here.
    return os.access(path, os.F_OK) and os.stat(path).st_size == size


def _write_new(path: str, blob: SmallBlob) -> int:
    """Write a file, and return its descriptor."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_at(fd, blob.content, 0)
        if blob.label:
            add_label(fd, blob.label, is_first=True)
        if blob.date is not None:
            os.utime(fd, (blob.date, blob.date))
    except BaseException:
        os.close(fd)
        raise
    return fd


def _sync_file_system(root: Path) -> None:
    """Make everything durable on the file system of a directory."""
    assert _syncfs is not None
    fd = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _syncfs(fd) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
    finally:
        os.close(fd)
