"""Free disk space: the last part of a disk is reserved for the catalog, which needs it to work.

A disk that is full to the last byte can still be read, but not even be evicted properly. So files that can be passed on
without being stored stop being stored a little earlier. Other programs may still fill the disk: writers expect
StorageFull, too.
"""

import os
import time
from collections.abc import Callable
from pathlib import Path

from mirror.errors import StorageFull

RESERVED_BYTES = 64 << 20
"""The space reserved for the catalog; on a small disk a twentieth of it."""
REFUSAL_SECONDS = 600.0
"""The time for which the disk counts as full for files of the size of one that was refused."""


class DiskSpace:
    """The free space on the file system of a directory."""

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

    def claim(self, size: int) -> None:
        """Reserve space for bytes that are written little by little, until `release`. Raises StorageFull."""
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
