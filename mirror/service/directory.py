"""The data directory: which process has it, and where that process answers.

The process that works as the mirror holds an exclusive lock on the file `lock` in it, and writes its URLs there once it
listens, so that a command that is given the same directory finds it.
"""

import fcntl
import logging
import os
from collections.abc import Sequence
from pathlib import Path

from mirror.errors import ConfigError

logger = logging.getLogger(__name__)

LOCK = "lock"
"""The file's name."""
URLS_BYTES = 65_536
"""The most that is read of it."""


def lock(data_dir: Path) -> int:
    """Take the data directory for this process, until the returned descriptor is closed. Raises ConfigError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"data_dir: {data_dir} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"data_dir: another mirror is serving from {data_dir}; stop it or choose another.") from None
    os.ftruncate(descriptor, 0)  # a process before this one may have left its URLs
    return descriptor


def publish_urls(descriptor: int, urls: Sequence[str]) -> None:
    """Write the URLs of this process into its lock, for commands that are given the same data directory."""
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, "".join(f"{url}\n" for url in urls).encode(), 0)
    except OSError as error:
        logger.warning("commands cannot find this mirror by its data directory: %s", error.strerror)


def served_at(data_dir: Path) -> list[str] | None:
    """Return the URLs of the mirror that serves from a data directory: none while it starts, None without a mirror."""
    try:
        descriptor = os.open(data_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return os.pread(descriptor, URLS_BYTES, 0).decode(errors="replace").split()
    finally:
        os.close(descriptor)
    return None
