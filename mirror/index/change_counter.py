"""A number in shared memory that grows with each change that every process over a data directory must see at once.

An upload that one process has answered must be on the next page that any other one gives. Looking into the catalog for
each request would tell, and would cost more than the answer. So a process that changes something of that kind advances
the number once it is committed and before it is answered; a process that answers compares eight bytes first:

    if changes.memory[:8] != changes.seen:
        await journal.catch_up()

The memory is a file in the data directory, so that a command, too, has its changes noticed at once. What processes on
other machines change is in `others`.
"""

import fcntl
import mmap
import os
import struct
from pathlib import Path

from mirror.index.other_nodes import OtherNodes

COUNTER_BYTES = 8
"""Bytes of the number; they are written together."""
_NUMBER = struct.Struct("<Q")


class ChangeCounter:
    """The shared number, and the one up to which this process has looked."""

    def __init__(self) -> None:
        """Begin with a number of this process alone, until `open`."""
        self.memory = mmap.mmap(-1, mmap.PAGESIZE)
        self.seen = self.memory[:COUNTER_BYTES]
        """What `memory` began with when this process last looked; all that was changed before is known here."""
        self.others: OtherNodes | None = None
        """Where the catalog is shared with other machines: what they have changed."""
        self._descriptor = -1

    def open(self, path: Path) -> None:
        """Share the number with the other processes that open this file, made as needed. Raises OSError."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(descriptor).st_size < mmap.PAGESIZE:
                os.posix_fallocate(descriptor, 0, mmap.PAGESIZE)  # not sparse: memory without room behind it is fatal
            memory = mmap.mmap(descriptor, mmap.PAGESIZE)
        except BaseException:
            os.close(descriptor)
            raise
        self.close()
        self._descriptor, self.memory = descriptor, memory
        self.seen = memory[:COUNTER_BYTES]

    def advance(self) -> None:
        """Let all processes look again; only what is committed may be behind it."""
        if self._descriptor >= 0:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        try:
            before = self.memory[:COUNTER_BYTES]
            (number,) = _NUMBER.unpack(before)
            after = _NUMBER.pack((number + 1) % (1 << 64))
            self.memory[:COUNTER_BYTES] = after
        finally:
            if self._descriptor >= 0:
                fcntl.flock(self._descriptor, fcntl.LOCK_UN)
        if self.seen == before:
            self.seen = after  # a process knows its own changes

    def close(self) -> None:
        """Let go of the file; the number stays readable."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
