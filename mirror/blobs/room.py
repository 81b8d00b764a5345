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
        self._claimed = 0

    def check(self, size: int = 0) -> None:
        """Raises StorageFull when there is no room for so many bytes."""
        if not self._fits(size):
            self.refused(size)
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")

    def claim(self, size: int) -> None:
        """As `check`, for bytes that come little by little: until they are settled, nobody else is given their room."""
        self.check(size)
        self._claimed += size

    def settle(self, size: int) -> None:
        """So many claimed bytes are written, or will not come."""
        self._claimed -= size

    def refused(self, size: int) -> None:
        """Take down that so many bytes could not be kept."""
        self._refused = size, self._clock()

    def full(self) -> bool:
        """Whether there is none, or not enough for what could not be kept just now (if that was not much of a disk)."""
        size, at = self._refused
        found = self._found()
        most = 0 if found is None or self._clock() - at >= REMEMBERED else found[1] // 10
        return not self._fits(min(size, most))

    def free(self) -> int | None:
        """Bytes; None when it cannot be told."""
        found = self._found()
        return None if found is None else found[0]

    def _fits(self, size: int) -> bool:
        found = self._found()
        if found is None:
            return True  # writing tells
        free, total = found
        return free - self._claimed - size >= min(RESERVE, total // 20)

    def _found(self) -> tuple[int, int] | None:
        try:
            about = os.statvfs(self._directory)
        except OSError:
            return None
        return about.f_bavail * about.f_frsize, about.f_blocks * about.f_frsize
