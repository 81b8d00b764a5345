"""One transfer: fetch a file, verify and store it, and let readers follow."""

import asyncio
import logging
import os
import random
import secrets
import time
import weakref
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore, StoredBlob
from mirror.blobs.local import CHUNK_BYTES, http_date, off_loop, read_at, storage_errors, write_at
from mirror.errors import DigestMismatch, MirrorError, StorageFull, UpstreamProtocolError, UpstreamUnavailable
from mirror.model import File
from mirror.upstream import Digests, Stream, Upstream, checkable, parse_url

OnHeld = Callable[[StoredBlob], Awaitable[None]]
"""Called once the blob is stored and before the last bytes are readable: the catalog writes its row here."""

TAIL_BYTES = 64 * 1024
"""The end of a file that is not readable before it is verified; a file no larger than that is fetched whole first."""
WINDOW_BYTES = 1024 * 1024
"""The newest part, which is kept in memory so that readers that are up to date need no disk."""
FRUITLESS_ATTEMPTS = 5
"""Interruptions in a row, without a byte between them, after which a transfer fails."""
SLOW_ATTEMPTS = 2
"""Connections on which an upstream may send too slowly: another one may be quicker."""
ATTEMPTS = 100
"""Interruptions in all after which a transfer fails."""
CLAIM_BYTES = 4 << 20
"""Disk space that is reserved ahead of the bytes that have come, where not all of it could be reserved."""
READER_WAIT_SECONDS = 30.0
"""The time for which a transfer that cannot be stored waits for its slowest reader (or for any)."""
TRANSFER_SECONDS = 24 * 3600.0
"""The longest time for a transfer, because an upstream may send a byte now and then for ever."""

logger = logging.getLogger(__name__)


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a transfer, for people and monitors."""

    filename: str
    source: str
    size: int | None
    received: int
    """Bytes so far."""
    readers: int
    seconds: float
    """Since its start."""
    stored: bool
    """False when the disk is full and the file is not stored."""


class Transfer:
    """One file that is being fetched: a Body once `wait_open` has returned."""

    def __init__(self, file: File, upstream: Upstream, blobs: BlobStore, limit: int) -> None:
        self.file = file
        self.upstream = upstream
        self.listeners: dict[tuple[str, str], OnHeld] = {}
        """Called once the blob is held; by source and file name."""
        self.storing = True
        """False from the moment that the disk is full."""
        self._claimed = 0  # bytes of disk space reserved for it
        self.began = time.monotonic()
        self._blobs = blobs
        self._limit = limit
        self._url = parse_url(file.url)
        self._size = file.size
        self.digest = file.digests.get("sha256") or ""
        self.modified: str | None = None
        self.path: Path | None = None
        self._digests = Digests(file.digests)
        self._checkable = checkable(file.digests)
        self._part = blobs.incoming / f"{secrets.token_hex(16)}.part"
        self._fd = -1
        self._received = 0
        self._on_disk = 0
        self._window: deque[tuple[int, bytes]] = deque()
        self._window_size = 0
        self._readers: dict[object, int] = {}  # reader → the offset that it has reached
        self._changed = asyncio.Event()
        self._reader_moved = asyncio.Event()
        self._date = 0
        self._validator: str | None = None
        self._started = self._verified = False
        self._error: MirrorError | None = None

    # The Body

    @property
    def size(self) -> int:
        return self._size or 0  # known once `wait_open` has returned

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), each as soon as it may be read. Raises the transfer's error."""
        stop = self.size if stop is None else min(stop, self.size)
        reader = object()
        self._readers[reader] = start
        try:
            while start < stop:
                if self._error:
                    raise self._error.with_traceback(None)
                end = min(stop, self._readable_end)
                if start >= end:
                    await self._changed.wait()
                    continue
                chunk = self._from_window(start, end) or await self._from_disk(start, end)
                start += len(chunk)
                self._readers[reader] = start
                self._reader_moved.set()
                yield chunk
        finally:
            del self._readers[reader]
            self._reader_moved.set()

    @property
    def _readable_end(self) -> int:
        return self.size if self._verified else min(self._received, self.size - TAIL_BYTES)

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
            raise UpstreamUnavailable(
                f"{self.file.filename} could not be stored for a slow reader: the disk is full.", 5
            )
        return chunk

    # For the server

    async def wait_open(self) -> None:
        """Wait until size and digest are known and the first bytes are about to arrive. Raises the transfer's error."""
        while not (self._verified or (self._started and not self._spooled and self.size > TAIL_BYTES)):
            if self._error:
                raise self._error.with_traceback(None)
            await self._changed.wait()

    @property
    def joinable(self) -> bool:
        """Whether a new reader can get the whole file from this transfer."""
        return self.storing and self._error is None

    def state(self) -> TransferState:
        return TransferState(
            filename=self.file.filename,
            source=self.file.source,
            size=self._size,
            received=self._received,
            readers=len(self._readers),
            seconds=time.monotonic() - self.began,
            stored=self.storing,
        )

    @property
    def _spooled(self) -> bool:
        """Whether the file must be fetched whole before it can be a Body, because its digest or size is unknown."""
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
            self._fail(UpstreamUnavailable(f"{self.file.filename} could not be fetched.", 5))
        finally:
            self._release(self._claimed)
            self._part.unlink(missing_ok=True)
            self._notify()

    def abandon(self) -> None:
        """Fail for the readers, because the mirror is being stopped."""
        self._fail(UpstreamUnavailable("The mirror is being stopped.", 5))
        self._notify()

    async def _receive(self) -> None:
        """Read the upstream to the end of the file, over as many connections as necessary."""
        fruitless = attempts = slow = 0
        while True:
            before = self._received
            try:
                async with self.upstream.fetch(self._url, start=before, if_range=self._validator) as stream:
                    self._check_head(stream)
                    await self._read_stream(stream)
                if self._size in (None, self._received):
                    return
                error = UpstreamUnavailable(f"{self._url.host} ended {self.file.filename} before its end.", 5)
            except UpstreamUnavailable as interruption:
                if not self._started:
                    raise
                if self._size == self._received:
                    return
                slow += interruption.cause == "slow"
                if slow > SLOW_ATTEMPTS:
                    raise
                error = interruption
            fruitless = 1 if self._received > before else fruitless + 1
            attempts += 1
            pause = max(random.uniform(0.1, 0.2) * 2**fruitless, self.upstream.pause(self._url))
            if fruitless > FRUITLESS_ATTEMPTS or attempts > ATTEMPTS or pause > READER_WAIT_SECONDS:
                raise error
            logger.info("%s continues at byte %d: %s", self.file.filename, self._received, error)
            await asyncio.sleep(pause)

    def _check_head(self, stream: Stream) -> None:
        """Take size, date and validator from the head of a response. Raises UpstreamProtocolError."""
        name = self.file.filename
        if stream.size is not None and self._size not in (None, stream.size):
            raise UpstreamProtocolError(f"{name} has {stream.size} bytes, but {self._size} are promised.")
        if (stream.size or 0) > self._limit:
            raise UpstreamProtocolError(f"{name} is larger than the {self._limit} bytes that are accepted.")
        if stream.start > self._received:
            raise UpstreamProtocolError(f"{self._url.host} sent another part of {name} than the requested one.")
        if stream.start < self._received and not self._checkable:
            self._restart()  # nothing would show whether both halves belong to one file
        if not self._started or stream.start == self._received == 0:
            self._size = self._size if stream.size is None else stream.size
            self._validator = stream.validator
            self._date = self._dated(stream)
            self.modified = http_date(self._date)
        elif stream.validator != self._validator and not self._checkable:
            raise UpstreamProtocolError(f"{name} has changed at {self._url.host} while it was fetched.")
        self._started = True
        self._notify()

    def _dated(self, stream: Stream) -> int:
        """Return the file's date in seconds since the epoch, limited to what a file system can store."""
        now = int(time.time())
        date = int(self.file.uploaded.timestamp()) if self.file.uploaded else stream.modified
        return now if date is None else min(max(0, date), now)

    async def _read_stream(self, stream: Stream) -> None:
        skip = self._received - stream.start
        async for chunk in stream.chunks():
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            fresh = chunk[skip:] if skip else chunk
            skip = 0
            if self._received + len(fresh) > (self._limit if self._size is None else self._size):
                raise UpstreamProtocolError(f"{self._url.host} sends more of {self.file.filename} than is promised.")
            await self._add(fresh)

    # Storing, or passing on without storing

    async def _create(self) -> None:
        try:
            # Without a digest it cannot be passed on without being stored, so storing is tried anyway.
            if self.file.digests.get("sha256") and not self._blobs.disk_space.fits(self.file.size or 0):
                raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")
            self._claimed = self._blobs.disk_space.reserve(self.file.size or 0)
            self._fd = await off_loop(partial(_create, self._part))
        except StorageFull:
            self.storing = False
        else:
            weakref.finalize(self, os.close, self._fd)  # open for as long as there may be readers

    def _claim(self, size: int) -> bool:
        """Reserve disk space for the bytes that come next, unless it is reserved; return whether there is any."""
        if self._claimed < size:
            left = CLAIM_BYTES if self._size is None else self._size - self._received
            more = max(size, min(left, CLAIM_BYTES))
            try:
                self._blobs.disk_space.claim(more)
            except StorageFull:
                return False
            self._claimed += more
        return True

    def _release(self, size: int) -> None:
        """Release a part of the reserved disk space."""
        released = min(size, self._claimed)
        self._claimed -= released
        self._blobs.disk_space.release(released)

    async def _add(self, chunk: bytes) -> None:
        """Hash, store and show one chunk. One at a time: meanwhile the connection reads ahead."""
        room = self.storing and self._claim(len(chunk))
        stored = await off_loop(partial(self._digest_and_store, chunk, room))
        if stored:
            self._on_disk += len(chunk)
            self._release(len(chunk))
        elif self._spooled:
            raise StorageFull("The disk of the mirror is full: free some space, or move data_dir.")
        elif self.storing:
            logger.error("the disk is full: %s is passed on without being stored", self.file.filename)
            self._release(self._claimed)
            self.storing = False
        self._window.append((self._received, chunk))
        self._window_size += len(chunk)
        self._received += len(chunk)
        self._notify()
        while self._window_size > WINDOW_BYTES:
            if not self.storing:
                await self._wait_for_readers()
            self._window_size -= len(self._window.popleft()[1])

    def _digest_and_store(self, chunk: bytes, room: bool) -> bool:
        self._digests.update(chunk)
        if not room:
            return False
        try:
            with storage_errors():
                write_at(self._fd, chunk, self._received)
        except StorageFull:
            return False
        return True

    async def _wait_for_readers(self) -> None:
        """Wait until all readers have the oldest chunk; slow ones lose it. Raises StorageFull without any."""
        offset, chunk = self._window[0]
        try:
            async with asyncio.timeout(READER_WAIT_SECONDS):
                while min(self._readers.values(), default=0) < offset + len(chunk):
                    self._reader_moved.clear()
                    await self._reader_moved.wait()
        except TimeoutError:
            if not self._readers:
                raise StorageFull(f"{self.file.filename} cannot be stored: the disk is full.") from None

    def _restart(self) -> None:
        assert self._spooled, "bytes that were read cannot be replaced"
        self._received = self._on_disk = self._window_size = 0
        self._window.clear()
        self._digests.restart()

    # Finishing

    async def _finish(self) -> None:
        self.digest = self._digests.verified(self.file.filename)
        self._size = self._received
        if self.storing:
            try:
                await self._store()
            except StorageFull as error:
                if self._spooled:
                    raise
                logger.error("%s is passed on without being stored: %s", self.file.filename, error)
        else:
            self._blobs.disk_space.record_refusal(self._received)  # a file that is real and does not fit
        self._verified = True

    async def _store(self) -> None:
        await off_loop(partial(_finish, self._fd, self._received, self._date))
        held = await self._blobs.adopt(self._part, self.digest)
        called: set[tuple[str, str]] = set()
        while waiting := self.listeners.keys() - called:  # more may be added while one is called
            for key in waiting:
                called.add(key)
                try:
                    await self.listeners[key](held)
                except Exception:  # the bytes are right: readers get them
                    logger.exception("%s is stored, but could not be recorded in the catalog", self.file.filename)
        self.path = (await self._blobs.open(self.digest)).path

    def _fail(self, error: MirrorError) -> None:
        self._error = error
        if self._started:
            # As text: a stored log record keeps no file open.
            logger.warning("%s was not fetched: %s", self.file.filename, str(error))

    def _notify(self) -> None:
        """Wake all that wait for a change."""
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


def _create(path: Path) -> int:
    with storage_errors():
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)


def _finish(fd: int, size: int, date: int) -> None:
    os.ftruncate(fd, size)  # a restart may have left a longer end
    os.utime(fd, (date, date))  # so that Last-Modified is the same from now on
