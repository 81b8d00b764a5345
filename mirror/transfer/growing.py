"""A file on its way in as a Body: hashed, written to the disk, readable while it grows, with its end held back.

The surprise: its bytes are on the disk, but not durable, before the store has adopted them; and where the disk is full
they are only in a small window in memory, which the slowest reader holds up.
"""

import asyncio
import logging
import os
import secrets
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from mirror.blobs import BlobStore
from mirror.blobs.local import (
    CHUNK_BYTES,
    DiskSpace,
    add_label,
    create_part,
    finish_part,
    off_loop,
    read_at,
    storage_errors,
    write_at,
)
from mirror.errors import MirrorError, StorageFull, UpstreamUnavailable
from mirror.model import File
from mirror.transfer.archives import END_BYTES, ArchiveCheck
from mirror.upstream import Digests, checkable

TAIL_BYTES = 64 * 1024
"""The end of a file that is not readable before it is verified."""
MORE_BYTES = 1024
"""What is shown of it at a time, once it is verified, while the store takes long."""
WINDOW_BYTES = 1024 * 1024
"""The newest part, which is kept in memory so that readers that are up to date need no disk."""
CLAIM_BYTES = 4 << 20
"""The space that is reserved ahead of the bytes that come, where not all of a file could be reserved."""
READER_WAIT_SECONDS = 30.0
"""The time for which a transfer that cannot be stored waits for its slowest reader (or for any)."""

logger = logging.getLogger(__name__)


class Reservation:
    """Disk space that is reserved for the bytes of one file that are still to come."""

    def __init__(self, space: DiskSpace, promised: int | None) -> None:
        """`promised` is the size of the file where it is known; it is reserved if it fits beside other promises."""
        self._space = space
        self._left = space.reserve(promised or 0)

    def extend(self, size: int, most: int) -> bool:
        """Reserve space for the next `size` bytes unless it is; return whether there is any.

        Up to `most` bytes, and no more than CLAIM_BYTES, are reserved at once.
        """
        if self._left < size:
            more = max(size, min(most, CLAIM_BYTES))
            try:
                self._space.claim(more)
            except StorageFull:
                return False
            self._left += more
        return True

    def release(self, size: int | None = None) -> None:
        """End the reservation of bytes that are written; without a size, of all that is left."""
        released = self._left if size is None else min(size, self._left)
        self._left -= released
        self._space.release(released)


class GrowingBody:
    """The bytes of one file so far: a Body once `wait_open` has returned. A transfer adds to it, one call at a time."""

    def __init__(self, file: File, host: str, blobs: BlobStore, limit: int) -> None:
        """`host` is who sends it, for messages; `limit`: bytes of the largest accepted file."""
        self._file = file
        self._limit = limit
        self._disk_space = blobs.disk_space
        self.known_size = file.size
        """Its bytes as far as they are known: by the index, the upstream, or because everything has come."""
        self.digest = file.digests.get("sha256") or ""
        self.modified: str | None = None
        self.validator: str | None = None
        """The value for If-Range at the upstream, where it has given one."""
        self.path: Path | None = None
        self.part = blobs.incoming / f"{secrets.token_hex(16)}.part"
        """Where its bytes are until the store adopts them."""
        self.storing = True
        """False from the moment that the disk is full."""
        self.received = 0
        """Bytes so far."""
        self.readers: dict[object, int] = {}
        """Those that follow it, with the offset that each has reached."""
        self.checkable = checkable(file)
        """Whether any digest shows in the end that the bytes are right."""
        self.check = None if self.checkable else ArchiveCheck(file.filename, host)
        self._digests = Digests(file.digests, file.alternatives)
        self._reserved: Reservation | None = None
        """Disk space for what is still to come."""
        self._fd = -1
        self._on_disk = 0
        self._window: deque[tuple[int, bytes]] = deque()
        self._window_bytes = 0
        self._read_to = 0  # the furthest that any reader has got
        self._changed = asyncio.Event()
        self._reader_moved = asyncio.Event()
        self.label = file.source, file.filename
        """The source that delivers it, and its name there; as for `BlobStore.label`."""
        self.date = 0
        """For Last-Modified, in seconds since the epoch."""
        self.started = self.verified = False
        self._held_back = TAIL_BYTES
        self._is_finished = False
        self._ended = False
        self._error: MirrorError | None = None

    # The Body

    location: str | None = None

    @property
    def size(self) -> int:
        return self.known_size or 0  # known once `wait_open` has returned

    @property
    def is_sized(self) -> bool:
        """Whether the size is known."""
        return self.known_size is not None

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), each as soon as it may be read. Raises the transfer's error."""
        reader = object()
        self.readers[reader] = start
        try:
            while start < self._end_of(stop):
                if self._error and not self.verified:
                    raise self._error.with_traceback(None)
                end = min(self._end_of(stop), self._readable_end)
                if start >= end:
                    await self._changed.wait()
                    continue
                chunk = self._from_window(start, end) or await self._from_disk(start, end)
                start += len(chunk)
                self.readers[reader] = start
                self._read_to = max(self._read_to, start)
                self._reader_moved.set()
                yield chunk
        finally:
            del self.readers[reader]
            self._reader_moved.set()

    def _end_of(self, stop: int | None) -> int:
        """Return where reading ends, as far as is known; where the size is not, beyond everything that has come."""
        end = self._limit + 1 if self.known_size is None else self.known_size
        return end if stop is None else min(stop, end)

    @property
    def _readable_end(self) -> int:
        if self.verified:
            return self.size
        # The last bytes are held back, also where no one knows yet which they will be.
        return min(self.received, self.size - self._held_back) if self.is_sized else self.received - TAIL_BYTES

    def _from_window(self, start: int, end: int) -> bytes | None:
        """Return bytes from `start` on out of the window: the same object for every reader that is up to date."""
        for offset, chunk in reversed(self._window):
            if offset <= start:
                return chunk[start - offset : end - offset] if start < offset + len(chunk) else None
        return None

    async def _from_disk(self, start: int, end: int) -> bytes:
        size = min(CHUNK_BYTES, end - start, self._on_disk - start)
        chunk = await read_at(self._fd, start, size) if size > 0 else b""
        if not chunk:  # only a transfer that is not stored loses bytes
            raise UpstreamUnavailable(f"{self._file.filename} could not be stored for a slow reader: the disk is full.")
        return chunk

    # For the server

    async def wait_open(self, early: bool = False) -> None:
        """Wait until size and digest are known and the first bytes are about to arrive. Raises the transfer's error.

        With `early`, a large file counts as open as soon as it arrives, though its size or digest may not be known.
        """
        while not (self.verified or self._is_open(early)):
            if self._error:
                raise self._error.with_traceback(None)
            await self._changed.wait()

    def _is_open(self, early: bool) -> bool:
        if not self.started or (self.unsure and not early):
            return False
        return (self.received if self.unsure else self.size) > TAIL_BYTES

    async def wait_kept(self) -> None:
        """Wait until the file is stored and recorded, if it can be. Raises the transfer's error."""
        while not (self._ended or self._error):
            await self._changed.wait()
        if self._error:
            raise self._error.with_traceback(None)

    @property
    def joinable(self) -> bool:
        """Whether a new reader can get the whole file from this transfer."""
        return self.storing and self._error is None

    @property
    def unsure(self) -> bool:
        """Whether digest or size are unknown before the end."""
        return not self._file.digests.get("sha256") or self.known_size is None

    # For the transfer: storing, or passing on without storing

    def reserve(self) -> None:
        """Reserve space for the file; where it does not fit, nothing will be stored."""
        # Without a digest it cannot be passed on without being stored, so storing is tried anyway.
        if self._file.digests.get("sha256") and not self._disk_space.fits(self._file.size or 0):
            self.storing = False
        else:
            self._reserved = Reservation(self._disk_space, self._file.size)

    def _release(self, size: int | None = None) -> None:
        if self._reserved is not None:
            self._reserved.release(size)

    async def add(self, chunk: bytes) -> None:
        """Hash, store and show one chunk. Raises StorageFull where it can neither be stored nor passed on."""
        left = self._limit if self.known_size is None else self.known_size - self.received
        room = self.storing and self._reserved is not None and self._reserved.extend(len(chunk), left)
        stored = await off_loop(partial(self._digest_and_store, chunk, room))
        if stored:
            self._on_disk += len(chunk)
            self._release(len(chunk))
        elif self.unsure and not self.readers:
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")
        elif self.storing:
            logger.error("the disk is full: %s is passed on without being stored", self._file.filename)
            self._release()
            self.storing = False
        self._window.append((self.received, chunk))
        self._window_bytes += len(chunk)
        self.received += len(chunk)
        self.notify()
        while self._window_bytes > WINDOW_BYTES:
            if not self.storing:
                await self._wait_for_readers()
            self._window_bytes -= len(self._window.popleft()[1])

    def _digest_and_store(self, chunk: bytes, room: bool) -> bool:
        self._digests.update(chunk)
        if self.check is not None and not self.is_sized:
            self.check.follow(chunk)
        if not room:
            return False
        try:
            with storage_errors():
                self._create()
                write_at(self._fd, chunk, self.received)
                if self.received + len(chunk) == self.known_size:
                    self._finish(self.known_size)
        except StorageFull:
            return False
        return True

    def _create(self) -> None:
        if self._fd < 0:
            self._fd = create_part(self.part)
            weakref.finalize(self, os.close, self._fd)  # open for as long as there may be readers

    def _finish(self, size: int) -> None:
        """Give the part its size, date and label, while the disk is at hand."""
        self._create()
        finish_part(self._fd, size, self.date)
        add_label(self._fd, self.label, is_first=True)
        self._is_finished = True

    async def _wait_for_readers(self) -> None:
        """Wait until all readers have the oldest chunk; slow ones lose it. Raises StorageFull without any."""
        offset, chunk = self._window[0]
        try:
            async with asyncio.timeout(READER_WAIT_SECONDS):
                while min(self.readers.values(), default=0) < offset + len(chunk):
                    self._reader_moved.clear()
                    await self._reader_moved.wait()
        except TimeoutError:
            if not self.readers:
                raise StorageFull(f"{self._file.filename} cannot be stored: the disk is full.") from None

    def restart(self, host: str | None) -> None:
        """Forget all bytes. Raises UpstreamUnavailable where some were read already."""
        if self._read_to:
            raise UpstreamUnavailable(f"{host} broke off {self._file.filename}, and cannot go on with it.")
        if self.check is not None:
            self.check.restart()
        self.received = self._on_disk = self._window_bytes = 0
        self._is_finished = False
        self._window.clear()
        self._digests.restart()

    def verify(self) -> None:
        """Compare the digests of all bytes. Raises DigestMismatch, and UpstreamProtocolError for what is no archive."""
        if self.check is not None:
            self.check.finish(b"".join(chunk for _, chunk in self._window)[-END_BYTES:])
        self.digest = self._digests.verified(self._file.filename)
        self.known_size = self.received

    def show_more(self) -> None:
        """Let some more of a verified file be read, but not all of it."""
        self._held_back = max(1, self._held_back - MORE_BYTES)
        self.notify()

    def show_end(self) -> None:
        """Let the last bytes be read, too."""
        self.verified = True
        self.notify()

    async def finish_part(self) -> None:
        """Complete the part, so that the store can adopt it. Raises StorageFull."""
        if not self._is_finished:
            with storage_errors():
                await off_loop(partial(self._finish, self.received))

    def fail(self, error: MirrorError) -> None:
        """Raise an error for all readers from now on, unless everything has come."""
        self._error = error

    def end(self) -> None:
        """Let go of what belongs to the transfer, which has ended."""
        self._release()
        self.part.unlink(missing_ok=True)
        self._ended = True
        self.notify()

    def notify(self) -> None:
        """Wake all that wait for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class KeptBody:
    """A growing Body whose last bytes can be read once the file is stored and recorded, if it can be.

    It is for those who count on the file being held when they have read it, such as a sync.
    """

    location: str | None = None

    def __init__(self, growing: GrowingBody) -> None:
        self._growing = growing

    @property
    def size(self) -> int:
        return self._growing.size

    @property
    def digest(self) -> str:
        return self._growing.digest

    @property
    def modified(self) -> str | None:
        return self._growing.modified

    @property
    def path(self) -> Path | None:
        return self._growing.path

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), each as soon as it may be read. Raises the transfer's error."""
        end = min(self.size, self.size if stop is None else stop)
        tail = max(start, self.size - TAIL_BYTES)
        async for chunk in self._growing.read(start, min(end, tail)):
            yield chunk
        if end > tail:
            await self._growing.wait_kept()
            async for chunk in self._growing.read(tail, end):
                yield chunk
