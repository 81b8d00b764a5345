"""Whether there is room for more: the last part of a disk is left to the catalog, which needs it to go on.

A disk that is full to the last byte can still be read, but not even be swept in good order. So what is only passed on
stops being kept a little earlier. Others may fill the disk all the same: who writes expects StorageFull, too.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from mirror.errors import StorageFull

RESERVE = 64 << 20
"""Bytes that are left to the catalog; on a small disk a twentieth of it."""
REMEMBERED = 600.0
"""Seconds for which a file that had no room says that the disk is full for files of its size."""


class Room:
    """What is free on the file system of a directory."""

    def __init__(self, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._directory = directory
        self._clock = clock
        self._refused = (0, -REMEMBERED)

    def check(self, size: int = 0) -> None:
        """Raises StorageFull when there is no room for so many bytes."""
        if not self._fits(size):
            self.refused(size)
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")

    def refused(self, size: int) -> None:
        """Take down that so many bytes could not be kept."""
        self._refused = size, self._clock()

    def full(self) -> bool:
        """Whether there is none, or not enough for what could not be kept just now."""
        size, at = self._refused
        return not self._fits(size if self._clock() - at < REMEMBERED else 0)

    def free(self) -> int | None:
        """Bytes; None when it cannot be told."""
        found = self._found()
        return None if found is None else found[0]

    def _fits(self, size: int) -> bool:
        found = self._found()
        if found is None:
            return True  # writing tells
        free, total = found
        return free - size >= min(RESERVE, total // 20)

    def _found(self) -> tuple[int, int] | None:
        try:
            about = os.statvfs(self._directory)
        except OSError:
            return None
        return about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
