"""A cache on disk: records by key in a few large files, of which the oldest goes when there is no more room.

A segment is a file that only grows, with another one beside it that lists its records. What is where is kept in memory:
a look-up costs no call, and a read one system call, which never waits. What the kernel does not have in memory is read
in a thread, since a cold disk may take longer than all that the event loop does meanwhile.

Everything here can be made again, so nothing is ever waited for or repaired: a record that is cut or damaged is one
that is not there, and the directory may be deleted at any time. One process has it, by a lock; others do without.
"""

import asyncio
import fcntl
import logging
import os
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import msgspec

from mirror.server.segments import ENTRY, HEAD, Record, RecordHead, RecordReader, Segment, pack

logger = logging.getLogger(__name__)

SEGMENTS = 16
"""Segments in which the cache is kept, so that a sixteenth of it goes at a time."""
SMALLEST_SEGMENT_BYTES, LARGEST_SEGMENT_BYTES = 1 << 20, 1 << 30
RECORD_BYTES = 150
"""Bytes that the place of a record takes in memory (measured)."""
FREE_SHARE = 10
"""The cache takes at most this part of what would be free on its disk without it: a tenth."""
FIRST_READ_BYTES = 64 << 10
"""Bytes that are read of a record at once; of a longer one, only the part that is asked for is read after that."""


class DiskCache:
    """The records of one directory."""

    def __init__(self, directory: Path, version: str) -> None:
        """Open nothing yet. Records of another `version` of what they mean are deleted when it is opened."""
        self.limit_bytes = 0
        """Bytes that it may take on disk; 0 until it is opened."""
        self.most_records = 0
        self.places: dict[int, int] = {}
        """Key → where its record is; to be looked up, not to be changed."""
        self._directory = directory
        self._current = directory / version
        self._segments: dict[int, Segment] = {}  # by number, oldest first
        self._lock = -1
        self._wanted = (0, 0)
        self._writing = asyncio.Lock()

    @property
    def is_open(self) -> bool:
        """Whether anything may be kept."""
        return self.limit_bytes > 0

    @property
    def size(self) -> int:
        """Bytes that it takes on disk."""
        return sum(segment.size + ENTRY.size * len(segment.keys) for segment in self._segments.values())

    async def resize(self, limit_bytes: int, most_records: int) -> None:
        """Let it take so many bytes on disk and records in memory from now on; with 0 bytes it is emptied."""
        self._wanted = limit_bytes, most_records
        async with self._writing:
            if limit_bytes and not self.is_open:
                try:
                    for segment, entries in await asyncio.to_thread(self._open):
                        self._segments[segment.number] = segment
                        self._list(segment, entries)
                except BlockingIOError:
                    return  # another process has it; `trim` tries again
                except OSError as error:
                    logger.warning("rendered pages are not kept in %s: %s", self._directory, error.strerror)
                    return
            self.limit_bytes, self.most_records = limit_bytes, most_records
            if not limit_bytes and not self._segments:
                await asyncio.to_thread(shutil.rmtree, self._directory, ignore_errors=True)
        await self.trim()

    def _open(self) -> list[tuple[Segment, list[tuple[int, int, int]]]]:
        self._current.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._directory.chmod(0o700)
        if self._lock < 0:
            self._lock = _locked(self._directory)
        for other in self._directory.iterdir():
            if other != self._current and other.is_dir():
                shutil.rmtree(other, ignore_errors=True)
        numbers = sorted(int(path.stem) for path in self._current.glob("*.pages") if path.stem.isdigit())
        segments = [Segment(self._current / f"{number}.pages", number) for number in numbers]
        return [(segment, segment.entries()) for segment in segments]

    def _list(self, segment: Segment, entries: Sequence[tuple[int, int, int]]) -> None:
        for key, offset, length in entries:
            self.places[key] = segment.number << 64 | offset << 32 | length

    # Reading

    async def find(self, key: int) -> RecordReader | None:
        """Return a record; None where there is none, or it is damaged."""
        place = self.places.get(key)
        if place is None:
            return None
        segment = self._segments[place >> 64]
        offset, length = place >> 32 & 0xFFFFFFFF, place & 0xFFFFFFFF
        content = await self._read(segment, offset, min(length, FIRST_READ_BYTES))
        try:
            head_length, checksum = HEAD.unpack_from(content)
            start = HEAD.size + head_length
            head = content[HEAD.size : start]
            if zlib.crc32(head) != checksum:
                raise ValueError("damaged")
            return RecordReader(segment, offset + start, _DECODER.decode(head), bytes(content[start:]))
        except (struct.error, ValueError, msgspec.MsgspecError):
            self.forget(key)
            return None

    async def read_part(self, record: RecordReader, name: str) -> bytes | None:
        """Return a part of a record; None where it is damaged, or gone by now."""
        if (part := record.part(name)) is not None:
            return part
        start, (length, checksum) = record.place(name)
        part = bytes(await self._read(record.segment, record.start + start, length))
        return part if len(part) == length and zlib.crc32(part) == checksum else None

    async def _read(self, segment: Segment, offset: int, length: int) -> bytes | bytearray:
        if segment.descriptor < 0:
            return b""
        content: bytes | bytearray | None
        try:
            content = segment.read_now(offset, length)
            if content is None:
                with segment:
                    content = await asyncio.to_thread(segment.read, offset, length)
        except OSError as error:
            logger.warning("a rendered page cannot be read from %s: %s", segment.path, error.strerror)
            return b""
        return content

    def forget(self, key: int) -> None:
        """Let a record be one that is not there."""
        self.places.pop(key, None)

    # Writing

    async def write(self, records: Sequence[Record]) -> Sequence[RecordReader]:
        """Write records, each in the place of an older one, and return where they are.

        On a full disk none are written, and older ones go.
        """
        async with self._writing:
            if not records or not self.is_open:
                return ()
            packed = [pack(record) for record in records]
            try:
                segment = await self._newest()
                with segment:
                    entries = await asyncio.to_thread(segment.append, [(one.key, one.content) for one in packed])
            except OSError as error:
                logger.info("rendered pages are not kept: %s", error.strerror)
                await self._drop_oldest(len(self._segments))
                return ()
            segment.size += sum(len(one.content) for one in packed)
            segment.keys.extend(one.key for one in packed)
            if segment.number in self._segments:
                self._list(segment, entries)
        await self.trim()
        return [
            RecordReader(segment, offset + one.start, one.head, b"")
            for one, (_, offset, _) in zip(packed, entries, strict=True)
        ]

    async def _newest(self) -> Segment:
        """Return the segment to write to, a new one where there is none that has room."""
        number = max(self._segments, default=0)
        least = min(max(self.limit_bytes // SEGMENTS, SMALLEST_SEGMENT_BYTES), LARGEST_SEGMENT_BYTES)
        newest = self._segments.get(number)
        records = max(self.most_records // SEGMENTS, 1)
        if newest is not None and newest.size < least and len(newest.keys) < records:
            return newest
        segment = await asyncio.to_thread(self._make_segment, number + 1)
        self._segments[segment.number] = segment
        return segment

    def _make_segment(self, number: int) -> Segment:
        self._current.mkdir(mode=0o700, parents=True, exist_ok=True)  # someone may have deleted it
        return Segment(self._current / f"{number}.pages", number)

    async def trim(self) -> None:
        """Drop the oldest records beyond the limits, all where the disk is full, and those whose file was deleted."""
        if self._wanted[0] and not self.is_open:
            await self.resize(*self._wanted)
        async with self._writing:
            if not self._segments:
                return
            free, lost = await asyncio.to_thread(self._look)
            for number in lost:
                await self._drop(self._segments[number])
            allowed = min(self.limit_bytes, (free + self.size) // FREE_SHARE)
            while self._segments and (self.size > allowed or self._count() > self.most_records):
                await self._drop_oldest(1)

    def _count(self) -> int:
        return sum(len(segment.keys) for segment in self._segments.values())

    def _look(self) -> tuple[int, list[int]]:
        """Return the bytes that are free on the disk, and the segments whose files are gone."""
        try:
            found = os.statvfs(self._directory)
        except OSError:  # deleted, with all that was in it
            return 0, list(self._segments)
        lost = [number for number, segment in self._segments.items() if not segment.path.exists()]
        return found.f_bavail * found.f_frsize, lost

    async def _drop_oldest(self, count: int) -> None:
        for segment in list(self._segments.values())[:count]:
            await self._drop(segment)

    async def _drop(self, segment: Segment) -> None:
        del self._segments[segment.number]
        for key in segment.keys:
            if self.places.get(key, 0) >> 64 == segment.number:
                self.forget(key)
        segment.drop()
        await asyncio.to_thread(segment.remove)

    async def close(self) -> None:
        """Close the files."""
        async with self._writing:
            self.limit_bytes, self._wanted = 0, (0, 0)
            self.places.clear()
            for segment in self._segments.values():
                segment.drop()
            self._segments.clear()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1


def _locked(directory: Path) -> int:
    """Return a descriptor that holds the lock of a directory. Raises BlockingIOError where another process has it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


_DECODER = msgspec.msgpack.Decoder(RecordHead)
