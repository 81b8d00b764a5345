"""The files of a cache on disk: segments that only grow, and the records in them.

A segment is a file with another one beside it that lists its records. What was written to it once stays at its place
until the segment is dropped, so that a part of a record can be read from there for as long as that is open.
"""

import errno
import os
import struct
import zlib
from array import array
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

ENTRY = struct.Struct(">QQQ")
"""In the list of a segment: key, offset, length."""
HEAD = struct.Struct(">II")
"""Before each record: length and CRC of its head."""
_NOWAIT = getattr(os, "RWF_NOWAIT", 0)
_WOULD_WAIT = (errno.EAGAIN, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class RecordHead(msgspec.Struct, frozen=True, array_like=True):
    """The beginning of a record, before its parts."""

    about: bytes
    parts: dict[str, tuple[int, int]]
    """Name → length and CRC of each part, in the order in which they follow."""


class Record(msgspec.Struct, frozen=True):
    """A record to be written."""

    key: int
    """64 bits: the reader of a record has to check that it is the one that was meant."""
    about: bytes
    parts: Mapping[str, bytes]


class StoredPart(msgspec.Struct, eq=False):
    """The place of a part of a record on disk; none until it is written."""

    segment: "Segment | None" = None
    offset: int = 0
    length: int = 0
    checksum: int = 0

    def move(self, other: "StoredPart") -> None:
        """Let it be where another one is."""
        self.segment, self.offset, self.length, self.checksum = (
            other.segment,
            other.offset,
            other.length,
            other.checksum,
        )

    def read_now(self) -> bytearray | None:
        """Return its bytes if the kernel has them in memory, and they are not damaged; else None."""
        if self.segment is None or self.segment.descriptor < 0:
            return None
        try:
            content = self.segment.read_now(self.offset, self.length)
        except OSError:
            return None
        return None if content is None or zlib.crc32(content) != self.checksum else content


class RecordReader(msgspec.Struct, frozen=True, eq=False):
    """A record as it was found or written."""

    segment: "Segment"
    start: int
    """Where in the segment its parts begin."""
    head: RecordHead
    content: bytes
    """Its parts, as far as they were read at once."""

    def part(self, name: str) -> bytes | None:
        """Return a part that was read at once; None where it has to be read by `DiskCache.read_part`."""
        start, (length, checksum) = self.place(name)
        part = self.content[start : start + length]
        return part if len(part) == length and zlib.crc32(part) == checksum else None

    def place(self, name: str) -> tuple[int, tuple[int, int]]:
        """Return where a part begins among the parts, and its length and CRC."""
        start = 0
        for other, (length, checksum) in self.head.parts.items():
            if other == name:
                return start, (length, checksum)
            start += length
        raise KeyError(name)

    def stored(self, name: str) -> StoredPart:
        """Return where a part is on disk."""
        start, (length, checksum) = self.place(name)
        return StoredPart(self.segment, self.start + start, length, checksum)


class Segment:
    """One file of records, and the list of them."""

    def __init__(self, path: Path, number: int) -> None:
        """Open it, made as needed. Raises OSError."""
        self.path = path
        self.number = number
        self.keys = array("Q")
        """The keys of the records that were written to it; another segment may have newer ones by now."""
        self.listed = path.with_suffix(".index")
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self.descriptor = os.open(path, flags, 0o600)
        self._list = -1
        try:
            self._list = os.open(self.listed, flags, 0o600)
            self.size = os.fstat(self.descriptor).st_size
        except OSError:
            self._close()
            raise
        self._users = 0
        self._gone = False

    def entries(self) -> list[tuple[int, int, int]]:
        """Return key, offset and length of the records that are whole, and cut the list behind its last whole line."""
        content = os.pread(self._list, os.fstat(self._list).st_size, 0)
        whole = content[: len(content) // ENTRY.size * ENTRY.size]
        os.ftruncate(self._list, len(whole))
        found = [entry for entry in ENTRY.iter_unpack(whole) if entry[1] + entry[2] <= self.size]
        self.keys.extend(key for key, _, _ in found)
        return found

    def append(self, records: Sequence[tuple[int, bytes]]) -> list[tuple[int, int, int]]:
        """Write records, given with their keys, and return key, offset and length of each. Raises OSError."""
        entries, offset = [], self.size
        for key, content in records:
            entries.append((key, offset, len(content)))
            offset += len(content)
        _write(self.descriptor, b"".join(content for _, content in records))
        _write(self._list, b"".join(ENTRY.pack(*entry) for entry in entries))
        return entries

    def read(self, offset: int, length: int) -> bytes:
        """Return bytes of the file, fewer where it is shorter. Raises OSError."""
        return os.pread(self.descriptor, length, offset)

    def read_now(self, offset: int, length: int) -> bytearray | None:
        """Return bytes of the file if the kernel has them in memory; else None. Raises OSError."""
        if not _NOWAIT:
            return None
        content = bytearray(length)
        try:
            count = os.preadv(self.descriptor, [content], offset, _NOWAIT)
        except OSError as error:
            if error.errno in _WOULD_WAIT:
                return None
            raise
        return content if count == length else None

    def __enter__(self) -> "Segment":
        """Use it in another thread: it stays open until the end of the block."""
        self._users += 1
        return self

    def __exit__(self, *_: object) -> None:
        self._users -= 1
        self._close_unused()

    def drop(self) -> None:
        """Close it once no other thread uses it."""
        self._gone = True
        self._close_unused()

    def _close_unused(self) -> None:
        if self._gone and not self._users:
            self._close()

    def _close(self) -> None:
        for descriptor in (self.descriptor, self._list):
            if descriptor >= 0:
                os.close(descriptor)
        self.descriptor = self._list = -1

    def remove(self) -> None:
        """Delete both files. Blocking."""
        for path in (self.listed, self.path):
            with suppress(OSError):
                path.unlink()


class PackedRecord(msgspec.Struct, frozen=True):
    """A record as it is written."""

    key: int
    head: RecordHead
    start: int
    """Where its parts begin."""
    content: bytes


def pack(record: Record) -> PackedRecord:
    """Return a record as it is written."""
    parts = {name: (len(part), zlib.crc32(part)) for name, part in record.parts.items()}
    head = RecordHead(record.about, parts)
    packed = msgspec.msgpack.encode(head)
    content = b"".join((HEAD.pack(len(packed), zlib.crc32(packed)), packed, *record.parts.values()))
    return PackedRecord(record.key, head, HEAD.size + len(packed), content)


def _write(descriptor: int, content: bytes) -> None:
    """Write all of it. Raises OSError."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
