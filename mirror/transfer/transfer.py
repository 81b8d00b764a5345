"""One transfer: fetch a file, verify and store it, and let readers follow."""

import asyncio
import logging
import os
import secrets
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from mirror.blobs import BlobStore
from mirror.blobs.local import (
    CHUNK_BYTES,
    Reservation,
    create_part,
    finish_part,
    http_date,
    off_loop,
    read_at,
    storage_errors,
    write_at,
)
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    NotFound,
    StorageError,
    StorageFull,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.model import File
from mirror.transfer.archives import END_BYTES, ArchiveCheck
from mirror.transfer.interruptions import Interruptions, OnHeld, Origin
from mirror.upstream import Digests, Stream, Upstream, checkable, parse_url

TAIL_BYTES = 64 * 1024
"""The end of a file that is not readable before it is verified; a file no larger than that is fetched whole first."""
WINDOW_BYTES = 1024 * 1024
"""The newest part, which is kept in memory so that readers that are up to date need no disk."""
READER_WAIT_SECONDS = 30.0
"""The time for which a transfer that cannot be stored waits for its slowest reader (or for any)."""
TRANSFER_SECONDS = 24 * 3600.0
"""The longest time for a transfer, because an upstream may send a byte now and then for ever."""

logger = logging.getLogger(__name__)


class Transfer:
    """One file that is being fetched: a Body once `wait_open` has returned."""

    def __init__(
        self, file: File, upstream: Upstream, blobs: BlobStore, limit: int, keeps_unverified: bool = True
    ) -> None:
        """`limit`: bytes of the largest accepted file; `keeps_unverified`: store files that no digest verifies."""
        self.file = file
        self.upstream = upstream
        self.listeners: dict[tuple[str, str], OnHeld] = {}
        """Called once the blob is held; by source and file name, those of the source that has delivered it."""
        self.interruptions = Interruptions()
        self._source = file.source
        self.storing = True
        """False from the moment that the disk is full."""
        self._reserved: Reservation | None = None
        """Disk space for what is still to come."""
        self.began = time.monotonic()
        self._blobs = blobs
        self._limit = limit
        self._url = parse_url(file.url)
        self._size = file.size
        self.digest = file.digests.get("sha256") or ""
        self.modified: str | None = None
        self.path: Path | None = None
        self._digests = Digests(file.digests, file.alternatives)
        self._checkable = checkable(file)
        self._check = None if self._checkable else ArchiveCheck(file.filename, self._url.host or "")
        self._keeps_unverified = keeps_unverified
        self._read_to = 0  # the furthest that any reader has got
        self._part = blobs.incoming / f"{secrets.token_hex(16)}.part"
        self._fd = -1
        self.received = 0
        """Bytes so far."""
        self._on_disk = 0
        self._window: deque[tuple[int, bytes]] = deque()
        self._window_size = 0
        self.readers: dict[object, int] = {}
        """Those that follow it, with the offset that each has reached."""
        self._changed = asyncio.Event()
        self._reader_moved = asyncio.Event()
        self._date = 0
        self._validator: str | None = None
        self._started = self._verified = False
        self._error: MirrorError | None = None

    # The Body

    location: str | None = None

    @property
    def size(self) -> int:
        return self._size or 0  # known once `wait_open` has returned

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), each as soon as it may be read. Raises the transfer's error."""
        reader = object()
        self.readers[reader] = start
        try:
            while start < self._end_of(stop):
                if self._error:
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
        end = self._limit + 1 if self._size is None else self._size
        return end if stop is None else min(stop, end)

    @property
    def _readable_end(self) -> int:
        if self._verified:
            return self.size
        # The last bytes are held back, also where no one knows yet which they will be.
        return min(self.received, self.size - TAIL_BYTES) if self.is_sized else self.received - TAIL_BYTES

    @property
    def is_sized(self) -> bool:
        """Whether the size is known: by the index, the upstream, or because everything has come."""
        return self._size is not None

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
            raise UpstreamUnavailable(f"{self.file.filename} could not be stored for a slow reader: the disk is full.")
        return chunk

    # For the server

    async def wait_open(self, early: bool = False) -> None:
        """Wait until size and digest are known and the first bytes are about to arrive. Raises the transfer's error.

        With `early`, a large file counts as open as soon as it arrives, though its size or digest may not be known.
        """
        while not (self._verified or self._is_open(early)):
            if self._error:
                raise self._error.with_traceback(None)
            await self._changed.wait()

    def _is_open(self, early: bool) -> bool:
        if not self._started or (self._unsure and not early):
            return False
        return (self.received if self._unsure else self.size) > TAIL_BYTES

    @property
    def joinable(self) -> bool:
        """Whether a new reader can get the whole file from this transfer."""
        return self.storing and self._error is None

    @property
    def _unsure(self) -> bool:
        """Whether digest or size are unknown before the end."""
        return not self.file.digests.get("sha256") or self._size is None

    # Fetching

    async def run(self) -> None:
        """Fetch the file. Never raises: readers get the error."""
        try:
            await self._create()
            async with asyncio.timeout(TRANSFER_SECONDS):
                await self._receive()
            await self._finish()
        except TimeoutError:
            self._fail(UpstreamUnavailable(f"{self.file.filename} took longer than a day to be fetched."))
        except DigestMismatch as error:
            self.upstream.record_error(error)
            self._fail(error)
        except MirrorError as error:
            self._fail(error)
        except Exception:
            logger.exception("fetching %s failed", self.file.filename)
            self._fail(UpstreamUnavailable(f"{self.file.filename} could not be fetched."))
        finally:
            self._release()
            self._part.unlink(missing_ok=True)
            self._notify()

    def abandon(self) -> None:
        """Fail for the readers, because the mirror is being stopped."""
        self._fail(UpstreamUnavailable("The mirror is being stopped."))
        self._notify()

    async def _receive(self) -> None:
        """Read to the end of the file, over as many connections as necessary, perhaps from another origin."""
        while True:
            before = self.received
            try:
                async with self.upstream.fetch(self._url, start=before, if_range=self._validator) as stream:
                    self._check_head(stream)
                    await self._read_stream(stream)
                if self._size in (None, self.received):
                    return
                error: MirrorError = UpstreamUnavailable(f"{self._url.host} ended {self.file.filename} before its end.")
            except UpstreamUnavailable as interruption:
                if self._started and self._size == self.received:
                    return
                error = interruption
            except (UpstreamError, NotFound) as refusal:
                error = refusal
            if not self._started:
                raise error
            blocked = self.upstream.pause(self._url)
            origin = await self.interruptions.recover(error, self.received > before, blocked, READER_WAIT_SECONDS)
            if origin is not None:
                self._go_on_at(origin)
            logger.info("%s continues at byte %d: %s", self.file.filename, self.received, error)

    def _go_on_at(self, origin: Origin) -> None:
        self._url = parse_url(origin.file.url)
        if origin.upstream is not self.upstream:
            self.upstream, self._source = origin.upstream, origin.file.source
            self._validator = None  # the digest shows whether both halves belong together
            self.listeners[origin.file.source, origin.file.filename] = origin.record

    def _check_head(self, stream: Stream) -> None:
        """Take size, date and validator from the head of a response. Raises UpstreamProtocolError."""
        name = self.file.filename
        if stream.size is not None and self._size not in (None, stream.size):
            raise UpstreamProtocolError(f"{name} has {stream.size} bytes, but {self._size} are promised.")
        if (stream.size or 0) > self._limit:
            raise UpstreamProtocolError(f"{name} is larger than the {self._limit} bytes that are accepted.")
        if stream.start > self.received:
            raise UpstreamProtocolError(f"{self._url.host} sent another part of {name} than the requested one.")
        if stream.start < self.received and not self._checkable:
            self._restart(stream)  # nothing would show whether both halves belong to one file
        if not self._started or stream.start == self.received == 0:
            self._size = self._size if stream.size is None else stream.size
            self._validator = stream.validator
            self._date = stream.date(self.file.uploaded)
            self.modified = http_date(self._date)
        elif stream.validator != self._validator and not self._checkable:
            raise UpstreamProtocolError(f"{name} has changed at {self._url.host} while it was fetched.")
        self._started = True
        self._notify()

    async def _read_stream(self, stream: Stream) -> None:
        skip = self.received - stream.start
        async for chunk in stream.chunks():
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            fresh = chunk[skip:] if skip else chunk
            skip = 0
            if self.received + len(fresh) > (self._limit if self._size is None else self._size):
                raise UpstreamProtocolError(f"{self._url.host} sends more of {self.file.filename} than is promised.")
            if self._check is not None:
                self._check.begin(fresh)
            await self._add(fresh)

    # Storing, or passing on without storing

    async def _create(self) -> None:
        try:
            # Without a digest it cannot be passed on without being stored, so storing is tried anyway.
            if self.file.digests.get("sha256") and not self._blobs.disk_space.fits(self.file.size or 0):
                raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")
            self._reserved = self._blobs.disk_space.reserve(self.file.size)
            self._fd = await off_loop(partial(create_part, self._part))
        except StorageFull:
            self.storing = False
        else:
            weakref.finalize(self, os.close, self._fd)  # open for as long as there may be readers

    def _release(self, size: int | None = None) -> None:
        if self._reserved is not None:
            self._reserved.release(size)

    async def _add(self, chunk: bytes) -> None:
        """Hash, store and show one chunk. One at a time: meanwhile the connection reads ahead."""
        left = self._limit if self._size is None else self._size - self.received
        room = self.storing and self._reserved is not None and self._reserved.extend(len(chunk), left)
        stored = await off_loop(partial(self._digest_and_store, chunk, room))
        if stored:
            self._on_disk += len(chunk)
            self._release(len(chunk))
        elif self._unsure and not self.readers:
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")
        elif self.storing:
            logger.error("the disk is full: %s is passed on without being stored", self.file.filename)
            self._release()
            self.storing = False
        self._window.append((self.received, chunk))
        self._window_size += len(chunk)
        self.received += len(chunk)
        self._notify()
        while self._window_size > WINDOW_BYTES:
            if not self.storing:
                await self._wait_for_readers()
            self._window_size -= len(self._window.popleft()[1])

    def _digest_and_store(self, chunk: bytes, room: bool) -> bool:
        self._digests.update(chunk)
        if self._check is not None and not self.is_sized:
            self._check.follow(chunk)
        if not room:
            return False
        try:
            with storage_errors():
                write_at(self._fd, chunk, self.received)
        except StorageFull:
            return False
        return True

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
                raise StorageFull(f"{self.file.filename} cannot be stored: the disk is full.") from None

    def _restart(self, stream: Stream) -> None:
        if self._read_to:
            raise UpstreamUnavailable(f"{self._url.host} broke off {self.file.filename}, and cannot go on with it.")
        if self._check is not None:
            self._check.restart()
        self.received = self._on_disk = self._window_size = 0
        self._window.clear()
        self._digests.restart()

    # Finishing

    async def _finish(self) -> None:
        unsure = self._unsure
        if self._check is not None:
            self._check.finish(b"".join(chunk for _, chunk in self._window)[-END_BYTES:])
        self.digest = self._digests.verified(self.file.filename)
        self._size = self.received
        if self.storing and self._check is not None and not self._keeps_unverified:
            logger.warning("%s is not kept, because nothing verifies it", self.file.filename)
        elif self.storing:
            try:
                await self._store()
            except StorageError as error:
                if unsure and not self.readers:
                    raise
                logger.error("%s is passed on without being stored: %s", self.file.filename, error)
        else:
            self._blobs.disk_space.record_refusal(self.received)  # a file that is real and does not fit
        self._verified = True

    async def _store(self) -> None:
        await off_loop(partial(finish_part, self._fd, self.received, self._date))
        held = await self._blobs.adopt(self._part, self.digest)
        called: set[tuple[str, str]] = set()
        # More may be added while one is called. A source has the files that it has delivered to their end.
        while waiting := {key for key in self.listeners if key[0] == self._source} - called:
            for key in waiting:
                called.add(key)
                try:
                    await self.listeners[key](held)
                except Exception:  # the bytes are right: readers get them
                    logger.exception("%s is stored, but could not be recorded in the catalog", self.file.filename)
        found = await self._blobs.find(self.digest)  # a sweep may have withdrawn it just now: it comes back
        self.path = found.path if found else None

    def _fail(self, error: MirrorError) -> None:
        self._error = error
        if self._started:
            # As text: a stored log record keeps no file open.
            logger.warning("%s was not fetched: %s", self.file.filename, str(error))

    def _notify(self) -> None:
        """Wake all that wait for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()
