"""Writing blobs as objects, also while their bytes still come in.

A large blob is sent in parts as its file grows, and becomes an object by the last request alone, once its bytes were
verified: at the end of a file little is left to wait for. What is not verified is aborted, and no one ever sees it.

The surprise: a blob that is there already may be about to go, or to stay. That is looked at behind the last part, right
before an object is made of them.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from mirror.blobs import StoredBlob
from mirror.blobs.local import check_digest, off_loop
from mirror.blobs.objects_client import (
    ANSWER_SECONDS,
    CREATE_BYTES,
    PART_BYTES,
    SLOWEST_BYTES_PER_SECOND,
    UPLOADS_AT_ONCE,
    ObjectClient,
)
from mirror.blobs.objects_owner import BLOBS
from mirror.blobs.objects_reading import BlobFacts
from mirror.errors import MirrorError, StorageUnavailable

GROWING_AT_ONCE = UPLOADS_AT_ONCE // 2
"""Uploads at once of files that still grow: slow ones leave room for those that are whole."""
TOMBSTONE_SECONDS = 60.0
"""How long a blob that is about to go is waited for; then its tombstone is one that a sweep has left behind."""
TOMBSTONE_PAUSE_SECONDS = 0.25
"""Time between two looks at a tombstone."""
CLOSE_SECONDS = 2.0
"""How long uploads that are not finished may take to be aborted at the end of the process."""

logger = logging.getLogger(__name__)


class AbandonedUpload(Exception):
    """An upload in parts that is not to become an object."""


class ObjectWriter:
    """Writes the blobs of one object store."""

    def __init__(
        self, client: ObjectClient, claim: Callable[[], Awaitable[None]], remember: Callable[[BlobFacts], object]
    ) -> None:
        """`claim` is called before anything is written, `remember` with each blob whose file was stored."""
        self.client = client
        self.claim = claim
        self.remember = remember
        self._sending: set[asyncio.Task[bool]] = set()

    async def write(self, facts: BlobFacts, content: bytes | Path) -> None:
        """Store a blob unless it is there, whole, and stays. Raises StorageUnavailable."""
        await self.claim()
        attributes = attributes_of(facts)
        if facts.size <= CREATE_BYTES and await self.client.create(facts.key, content, attributes):
            return
        if not await self.stays(facts):
            await self.client.replace(facts.key, content, facts.size, attributes)

    async def stays(self, facts: BlobFacts) -> bool:
        """Return whether a blob is there with its size, once it is decided whether it goes."""
        waited = 0.0
        tombstone = tombstone_of(facts.digest)
        while True:
            found = await self.client.head(facts.key)
            if found is None or found.size != facts.size:
                return False
            if await self.client.head(tombstone) is None:
                return True
            if waited >= TOMBSTONE_SECONDS:
                await self.client.delete([tombstone])
                return True
            await asyncio.sleep(TOMBSTONE_PAUSE_SECONDS)
            waited += TOMBSTONE_PAUSE_SECONDS

    def send(self, growing: "GrowingObject") -> asyncio.Task[bool] | None:
        """Begin to send a blob that still grows; None while too many others are being sent."""
        if len(self._sending) >= GROWING_AT_ONCE:
            return None
        task = asyncio.create_task(growing.send(), name=f"upload of blob {growing.facts.digest}")
        self._sending.add(task)
        task.add_done_callback(self._sending.discard)
        return task

    async def close(self) -> None:
        """Wait until the uploads that were abandoned are aborted, and stop all others."""
        if self._sending:
            await asyncio.wait(self._sending, timeout=CLOSE_SECONDS)
        for task in self._sending:
            task.cancel()
        await asyncio.gather(*self._sending, return_exceptions=True)


class GrowingObject:
    """One blob whose file grows, as a `GrowingBlob`: an async iterator over the parts that may be sent.

    No more than one part is read ahead of those that the client has on their way.
    """

    def __init__(self, writer: ObjectWriter, path: Path, facts: BlobFacts, clock: Callable[[], float]) -> None:
        self.facts = facts
        self._writer = writer
        self._path = path
        self._clock = clock
        self._size = self._offset = 0
        """Bytes of the file that may be sent, and those that are."""
        self._is_whole = self._is_abandoned = False
        self._changed = asyncio.Event()
        self._sending: asyncio.Task[bool] | None = None

    def grow(self, size: int) -> None:
        """See `GrowingBlob`."""
        self._size = size
        if self._sending is None and size >= PART_BYTES and self.facts.size > CREATE_BYTES:
            self._sending = self._writer.send(self)
        self._changed.set()

    async def finish(self) -> StoredBlob:
        """See `GrowingBlob`."""
        self._is_whole = True
        self._changed.set()
        if not await self._was_sent():
            await self._writer.write(self.facts, self._path)
        self._writer.remember(self.facts)
        return StoredBlob(digest=self.facts.digest, size=self.facts.size, stored=self._clock())

    def abandon(self) -> None:
        """See `GrowingBlob`."""
        self._is_abandoned = True
        self._changed.set()

    async def _was_sent(self) -> bool:
        """Wait for the end of the upload, if there is one, and return whether the blob is stored."""
        if self._sending is None:
            return False
        limit = ANSWER_SECONDS + self.facts.size / SLOWEST_BYTES_PER_SECOND
        done, _ = await asyncio.wait([self._sending], timeout=limit)
        if not done:
            self._sending.cancel()
            raise StorageUnavailable("The object store takes too long for the end of a file.")
        return self._sending.result()

    async def send(self) -> bool:
        """Send the file as it grows, and return whether the blob is stored; never raises."""
        try:
            await self._writer.claim()
            await self._writer.client.replace_growing(self.facts.key, self, attributes_of(self.facts))
        except AbandonedUpload:
            if self._is_abandoned:
                return False
        except MirrorError as error:
            logger.info("blob %s could not be sent while it came: %s", self.facts.digest, error)
            return False
        return True

    def __aiter__(self) -> "GrowingObject":
        return self

    async def __anext__(self) -> bytes:
        """Return the next part once it has come. Raises AbandonedUpload where none of this is to become an object."""
        while not (self._is_abandoned or self._is_whole or self._size - self._offset >= PART_BYTES):
            self._changed.clear()
            await self._changed.wait()
        if not self._is_abandoned and self._offset == self.facts.size:
            if not await self._writer.stays(self.facts):
                raise StopAsyncIteration
            raise AbandonedUpload  # another node has stored it meanwhile
        try:
            part = b"" if self._is_abandoned else await off_loop(partial(_read_part, self._path, self._offset))
        except OSError:
            part = b""
        if not part:
            self._is_abandoned = True
            raise AbandonedUpload
        self._offset += len(part)
        return part


def key_of(digest: str) -> str:
    """Return the name of a blob's object. Raises MissingBlob when it is no digest."""
    return f"{BLOBS}/{check_digest(digest)[:2]}/{digest}"


def tombstone_of(digest: str) -> str:
    """Return the name of the object that tells that a blob is about to go."""
    return f"withdrawn/{check_digest(digest)}"


def attributes_of(facts: BlobFacts) -> dict[str, str]:
    """Return what is stored with a blob's object."""
    return {"date": str(facts.date)}


def _read_part(path: Path, offset: int) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, PART_BYTES, offset)
    finally:
        os.close(fd)
