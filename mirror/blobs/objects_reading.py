"""Reading blobs of an object store: as a stream into the local cache and to every client that wants it, at once.

The last bytes (TAIL_BYTES) of a blob are not readable before its digest has been compared: what is damaged or cut in
the object store always ends short, and is never cached. What does not fit into the cache is read past it, whole blobs
verified likewise; a part of such a blob is passed on as the object store gives it.
"""

import asyncio
import hashlib
import logging
import os
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from pathlib import Path

import msgspec

from mirror.blobs.local import CHUNK_BYTES, create_part, finish_part, http_date, off_loop, read_at, write_at
from mirror.blobs.objects_cache import BlobCache
from mirror.blobs.objects_client import MissingObject, ObjectClient
from mirror.blobs.objects_ranges import ParallelReader
from mirror.errors import MirrorError, MissingBlob, StorageFull, StorageUnavailable
from mirror.model import Body

TAIL_BYTES = 64 * 1024
"""The end of a blob that is not readable before it is verified."""

logger = logging.getLogger(__name__)


class BlobFacts(msgspec.Struct, frozen=True, kw_only=True):
    """A blob in an object store, without its bytes."""

    digest: str
    key: str
    """The name of its object."""
    size: int
    """Bytes."""
    date: int
    """For Last-Modified, in seconds since the epoch."""


class NoRoom(StorageFull):
    """A blob does not fit into the cache."""


Doubt = Callable[[str], Awaitable[None]]
"""A function that is called with the digest of a blob whose object is missing, or does not have these bytes."""


class Download:
    """One blob on its way from the object store into the cache; any number of readers follow it."""

    def __init__(self, facts: BlobFacts, ranges: ParallelReader, cache: BlobCache, doubt: Doubt) -> None:
        self.facts = facts
        self._ranges = ranges
        self._cache = cache
        self._doubt = doubt
        self._part = cache.local.incoming / f"{secrets.token_hex(16)}.part"
        self._fd = -1
        self._received = 0
        self._newest = 0, b""
        """The newest chunk, so that readers who are up to date need not read it again."""
        self._verified = False
        self._error: MirrorError | None = None
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Read the object, and keep the blob in the cache. Never raises: readers get the error."""
        reserved = 0
        try:
            if not await self._cache.reserve(self.facts.size):
                raise NoRoom("The cache has no room for it.")
            reserved = self.facts.size
            await self._receive()
            self._verified = True
            self._notify()
            await off_loop(partial(finish_part, self._fd, self.facts.size, self.facts.date))
            await self._cache.keep(self._part, self.facts.digest, self.facts.size)
            reserved = 0
        except MissingObject:
            self._error = MissingBlob(self.facts.digest)
            await self._doubt(self.facts.digest)
        except MirrorError as error:
            self._error = error
        except OSError as error:
            logger.warning("blob %s could not be cached: %s", self.facts.digest, error)
            self._error = StorageUnavailable("A file could not be read from the object store.")
        except BaseException:
            self._error = StorageUnavailable("The mirror is being stopped.")
            raise
        finally:
            if reserved:
                self._cache.release(reserved)
            self._part.unlink(missing_ok=True)
            self._notify()

    async def _receive(self) -> None:
        """Read the object into the file. Raises MissingBlob when these are not the blob's bytes."""
        self._fd = await off_loop(partial(create_part, self._part))
        weakref.finalize(self, os.close, self._fd)  # open for as long as there may be readers
        hasher = hashlib.sha256()
        async with aclosing(self._ranges.read(self.facts.key, self.facts.size)) as chunks:
            async for chunk in chunks:
                if self._received + len(chunk) > self.facts.size:
                    break
                await off_loop(partial(self._take, hasher, chunk))
                self._newest = self._received, chunk
                self._received += len(chunk)
                self._notify()
        if hasher.hexdigest() != self.facts.digest:
            await self._doubt(self.facts.digest)
            raise MissingBlob(self.facts.digest)

    def _take(self, hasher: "hashlib._Hash", chunk: bytes) -> None:
        hasher.update(chunk)
        write_at(self._fd, chunk, self._received)

    def _notify(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop), each as soon as it may be read.

        Raises MissingBlob, StorageUnavailable; NoRoom before the first of them.
        """
        while start < stop:
            readable = self.facts.size if self._verified else min(self._received, self.facts.size - TAIL_BYTES)
            end = min(stop, readable)
            if start < end:
                offset, newest = self._newest
                if offset <= start < offset + len(newest):
                    chunk = newest[start - offset : end - offset]
                else:
                    chunk = await read_at(self._fd, start, min(CHUNK_BYTES, end - start))
                if not chunk:
                    raise MissingBlob(self.facts.digest)
                start += len(chunk)
                yield chunk
            elif self._error is not None:
                raise self._error.with_traceback(None)
            else:
                await self._changed.wait()


class ObjectReader:
    """Reads the blobs of one object store through one cache."""

    def __init__(self, client: ObjectClient, cache: BlobCache, doubt: Doubt) -> None:
        self._client = client
        self._ranges = ParallelReader(client)
        self._cache = cache
        self._doubt = doubt
        self._running: dict[str, Download] = {}
        """By digest."""
        self._tasks: set[asyncio.Task[None]] = set()

    async def read(self, facts: BlobFacts, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) of a blob. Raises MissingBlob, StorageUnavailable."""
        cached = await self._cache.find(facts.digest)
        if cached is not None and cached.size == facts.size:
            async for chunk in cached.read(start, stop):
                yield chunk
            return
        try:
            async for chunk in self._download(facts).read(start, stop):
                yield chunk
        except NoRoom:  # before anything was read
            past = self._verified(facts) if (start, stop) == (0, facts.size) else self._part(facts, start, stop)
            async for chunk in past:
                yield chunk

    def _download(self, facts: BlobFacts) -> Download:
        """Return the download of a blob, begun if it is not running."""
        running = self._running.get(facts.digest)
        if running is not None:
            return running
        download = self._running[facts.digest] = Download(facts, self._ranges, self._cache, self._doubt)

        def ended(task: asyncio.Task[None]) -> None:
            self._tasks.discard(task)
            del self._running[facts.digest]

        task = asyncio.create_task(download.run(), name=f"download of blob {facts.digest}")
        self._tasks.add(task)
        task.add_done_callback(ended)
        return download

    async def _verified(self, facts: BlobFacts) -> AsyncIterator[bytes]:
        """Yield a whole blob past the cache, its last bytes only once it is verified."""
        hasher, held, received = hashlib.sha256(), bytearray(), 0
        try:
            async for chunk in self._client.read(facts.key):
                received += len(chunk)
                await off_loop(partial(hasher.update, chunk))
                held += chunk
                if len(held) > TAIL_BYTES:
                    ready = bytes(held[:-TAIL_BYTES])
                    del held[:-TAIL_BYTES]
                    yield ready
        except MissingObject:
            await self._doubt(facts.digest)
            raise MissingBlob(facts.digest) from None
        if hasher.hexdigest() != facts.digest:
            await self._doubt(facts.digest)
            raise MissingBlob(facts.digest)
        yield bytes(held)

    async def _part(self, facts: BlobFacts, start: int, stop: int) -> AsyncIterator[bytes]:
        try:
            async for chunk in self._client.read(facts.key, start, stop):
                start += len(chunk)
                yield chunk
        except MissingObject:
            await self._doubt(facts.digest)
            raise MissingBlob(facts.digest) from None
        if start < stop:
            raise MissingBlob(facts.digest)

    async def close(self) -> None:
        """Stop all downloads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class ObjectBody(msgspec.Struct, frozen=True):
    """A blob of an object store that is not in the cache."""

    facts: BlobFacts
    reader: ObjectReader
    location: str | None = None
    """Where a client may fetch it itself."""
    path: Path | None = None

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def digest(self) -> str:
        return self.facts.digest

    @property
    def modified(self) -> str:
        return http_date(self.facts.date)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises MissingBlob, StorageUnavailable."""
        stop = self.size if stop is None else min(stop, self.size)
        if start < stop:
            async for chunk in self.reader.read(self.facts, start, stop):
                yield chunk


class CachedBody(msgspec.Struct, frozen=True):
    """A blob in the cache that clients may fetch from the object store themselves."""

    cached: Body
    location: str | None

    @property
    def size(self) -> int:
        return self.cached.size

    @property
    def digest(self) -> str:
        return self.cached.digest

    @property
    def modified(self) -> str | None:
        return self.cached.modified

    @property
    def path(self) -> Path | None:
        return self.cached.path

    def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises MissingBlob."""
        return self.cached.read(start, stop)


class StoredBody(msgspec.Struct, frozen=True):
    """A blob as the object store has it, past the cache and unverified: for verification."""

    facts: BlobFacts
    client: ObjectClient
    path: Path | None = None
    location: str | None = None

    @property
    def size(self) -> int:
        return self.facts.size

    @property
    def digest(self) -> str:
        return self.facts.digest

    @property
    def modified(self) -> str:
        return http_date(self.facts.date)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises MissingBlob, StorageUnavailable."""
        try:
            async for chunk in self.client.read(self.facts.key, start, stop):
                yield chunk
        except MissingObject:
            raise MissingBlob(self.digest) from None
