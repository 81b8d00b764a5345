"""Requests to an object store, by obstore: one interface for S3, Google Cloud Storage and Azure.

What goes wrong becomes StorageUnavailable, with a breaker: a store that fails several times in a row is left alone for
a while, so that what can do without it does not wait. Messages of the library can contain signed URLs, so they are
never shown or logged whole.
"""

import asyncio
import logging
import re
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from mirror.errors import MirrorError, StorageUnavailable

if TYPE_CHECKING:
    from obstore.store import AzureStore, GCSStore, S3Store

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 20.0
"""Time for a request without a large body, with its repetitions."""
SLOWEST_BYTES_PER_SECOND = 256 * 1024
"""Bytes per second with which a body may travel at least, besides ANSWER_SECONDS."""
SILENCE_SECONDS = 20
"""The longest silence within a response."""
BREAKER_FAILURES = 3
"""Failures in a row after which the store is not asked for a while."""
BREAKER_SECONDS = 10.0
"""How long it is not asked; then one request finds out whether it is back."""
PART_BYTES = 5 << 20
"""Bytes of a part of a large upload: the least that S3 allows."""
PARTS_AT_ONCE = 3
"""Parts that are sent at once, all of which are in memory."""
CREATE_BYTES = PART_BYTES
"""Bytes up to which an object is written in one request, which fails where there is one already."""
CREATES_AT_ONCE = 16
"""Such requests at once, all of whose bodies are in memory."""
UPLOADS_AT_ONCE = 8
"""Large uploads at once, each with PARTS_AT_ONCE parts in memory."""
CHUNK_BYTES = 1 << 20
"""The least bytes that are taken from a response at once."""
PAGE_OBJECTS = 1000
"""Objects that are listed with one request."""

_NO_BUCKET = re.compile(r"NoSuchBucket|ContainerNotFound|bucket does not exist", re.IGNORECASE)
_STATUS = re.compile(r"status code: (\d{3}[A-Za-z ]*)")


class MissingObject(MirrorError):
    """There is no such object, or not even a bucket."""

    def __init__(self, no_bucket: bool) -> None:
        super().__init__("There is no such bucket." if no_bucket else "There is no such object.")
        self.no_bucket = no_bucket


class StorageRefused(StorageUnavailable):
    """The object store does not let us do it: the credentials are wrong, or lack a right."""


class StoredObject(msgspec.Struct, frozen=True, kw_only=True):
    """An object, without its bytes."""

    key: str
    size: int
    """Bytes."""
    modified: float
    """When it was written, in seconds since the epoch."""
    attributes: dict[str, str] = {}
    """What was stored with it; empty in listings."""


class Breaker:
    """Whether a store is asked at all."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._failures = 0
        self._until = 0.0

    @property
    def is_open(self) -> bool:
        """Whether the store is not asked at this moment."""
        return self._clock() < self._until

    def check(self) -> None:
        """Raise StorageUnavailable when the store is not to be asked; else let one request find out."""
        if self.is_open:
            raise StorageUnavailable("The object store does not answer; it is asked again in some seconds.")
        if self._failures >= BREAKER_FAILURES:
            self._until = self._clock() + BREAKER_SECONDS  # for the others, until this one has an answer

    def record(self, success: bool) -> None:
        """Record what became of a request."""
        self._failures = 0 if success else self._failures + 1
        if success:
            self._until = 0.0
        elif self._failures >= BREAKER_FAILURES:
            self._until = self._clock() + BREAKER_SECONDS


class ObjectClient:
    """The objects below one prefix of one bucket. All methods but `sign` raise StorageUnavailable."""

    def __init__(self, store: "S3Store | GCSStore | AzureStore", clock: Callable[[], float] = time.monotonic) -> None:
        """`store`: see `connect`."""
        self.requests: Counter[str] = Counter()
        """How many requests there were, by operation."""
        self.errors = 0
        """How many of them failed."""
        self.breaker = Breaker(clock)
        self._store = store
        self._creating = asyncio.Semaphore(CREATES_AT_ONCE)
        self._uploading = asyncio.Semaphore(UPLOADS_AT_ONCE)

    async def head(self, key: str) -> StoredObject | None:
        """Return what is known of an object; None when there is none."""
        with suppress(MissingObject), self._request("head"):
            async with asyncio.timeout(ANSWER_SECONDS):
                found = await self._store.get_async(key, options={"head": True})
            return StoredObject(
                key=key,
                size=found.meta["size"],
                modified=found.meta["last_modified"].timestamp(),
                attributes=dict(found.attributes),
            )
        return None

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        """Yield the bytes [start, stop) of an object. Raises MissingObject."""
        with self._request("get"):
            async with asyncio.timeout(ANSWER_SECONDS):
                if stop is not None:
                    found = await self._store.get_async(key, options={"range": (start, stop)})
                else:
                    found = await self._store.get_async(key, options={"range": {"offset": start}} if start else None)
            chunks = found.stream(min_chunk_size=CHUNK_BYTES).__aiter__()

        async def next_chunk() -> bytes:
            with self._request(""):
                async with asyncio.timeout(ANSWER_SECONDS + SILENCE_SECONDS):
                    return await anext(chunks, b"")

        # One chunk ahead: else nothing is received while the last one is hashed, written and sent.
        ahead = asyncio.create_task(next_chunk())
        try:
            while chunk := await ahead:
                ahead = asyncio.create_task(next_chunk())
                yield chunk
        finally:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)

    async def content(self, key: str) -> bytes | None:
        """Return a small object; None when there is none."""
        with suppress(MissingObject):
            return b"".join([chunk async for chunk in self.read(key)])
        return None

    async def create(self, key: str, content: bytes | Path, attributes: dict[str, str] | None = None) -> bool:
        """Write an object of up to CREATE_BYTES; return false, and change nothing, when there is one.

        Raises MissingObject when there is no such bucket.
        """
        from obstore.exceptions import AlreadyExistsError, PreconditionError

        size = content.stat().st_size if isinstance(content, Path) else len(content)
        async with self._creating:
            with suppress(AlreadyExistsError, PreconditionError), self._request("put"):
                async with asyncio.timeout(ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND):
                    await self._store.put_async(key, content, mode="create", attributes=attributes or {})
                return True
        return False

    async def replace(
        self, key: str, content: bytes | Path, size: int, attributes: dict[str, str] | None = None
    ) -> None:
        """Write an object of any size, in place of one that is there; a large one in parts, but whole or not at all."""
        async with self._uploading:
            with self._request("put"):
                async with asyncio.timeout(ANSWER_SECONDS + size / SLOWEST_BYTES_PER_SECOND):
                    await self._store.put_async(
                        key, content, attributes=attributes or {}, use_multipart=size > PART_BYTES,
                        chunk_size=PART_BYTES, max_concurrency=PARTS_AT_ONCE,
                    )  # fmt: skip

    async def replace_growing(self, key: str, parts: AsyncIterator[bytes], attributes: dict[str, str]) -> None:
        """Write an object out of parts as they come, in place of one that is there; it appears at their end.

        `parts` takes the time that it needs. What it raises is raised here, and there is no object.
        """
        async with self._uploading:
            with self._request("put"):
                await self._store.put_async(
                    key, parts, attributes=attributes, use_multipart=True, chunk_size=PART_BYTES,
                    max_concurrency=PARTS_AT_ONCE,
                )  # fmt: skip

    async def copy(self, key: str, target: str) -> None:
        """Copy an object within the store. Raises MissingObject."""
        with self._request("copy"):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._store.copy_async(key, target)

    async def delete(self, keys: Sequence[str]) -> None:
        """Delete objects; no error when one is missing."""
        if keys:
            with suppress(MissingObject), self._request("delete"):
                async with asyncio.timeout(ANSWER_SECONDS):
                    await self._store.delete_async(list(keys) if len(keys) > 1 else keys[0])

    async def walk(self, prefix: str) -> AsyncIterator[list[StoredObject]]:
        """Yield all objects below a prefix, in pages."""
        pages = self._store.list(prefix, chunk_size=PAGE_OBJECTS).__aiter__()
        while True:
            with self._request("list"):
                async with asyncio.timeout(ANSWER_SECONDS):
                    page = await anext(pages, None)
            if page is None:
                return
            yield [
                StoredObject(key=one["path"], size=one["size"], modified=one["last_modified"].timestamp())
                for one in page
            ]

    async def sign(self, key: str, seconds: float) -> str:
        """Return a URL by which anyone may GET an object for some time. Raises StorageUnavailable."""
        import obstore

        with self._request(""):  # computed here, as a rule without a request
            async with asyncio.timeout(ANSWER_SECONDS):
                return await obstore.sign_async(self._store, "GET", key, timedelta(seconds=seconds))

    @contextmanager
    def _request(self, operation: str) -> Iterator[None]:
        """Count a request, or a part of one, and translate what goes wrong."""
        from obstore.exceptions import (
            AlreadyExistsError,
            BaseError,
            PermissionDeniedError,
            PreconditionError,
            UnauthenticatedError,
        )

        if operation:
            self.breaker.check()
            self.requests[operation] += 1
        try:
            yield
        except FileNotFoundError as error:
            self.breaker.record(True)
            raise MissingObject(no_bucket=_NO_BUCKET.search(str(error)) is not None) from None
        except (AlreadyExistsError, PreconditionError):
            self.breaker.record(True)
            raise
        except (PermissionDeniedError, UnauthenticatedError):
            self.errors += 1
            self.breaker.record(True)
            logger.warning("the object store refuses a request (%s)", operation or "get")
            raise StorageRefused("The object store refuses our credentials, or they lack a right.") from None
        except (BaseError, OSError) as error:  # TimeoutError is one
            self.errors += 1
            self.breaker.record(False)
            reason = _reason(error)
            logger.warning("the object store failed a request (%s): %s", operation or "get", reason)
            raise StorageUnavailable(f"The object store cannot be used at this moment: {reason}.") from None
        else:
            self.breaker.record(True)


def _reason(error: Exception) -> str:
    """Return why a request failed, without anything that could be a secret."""
    if isinstance(error, TimeoutError):
        return "it took too long"
    if status := _STATUS.search(str(error)):
        return f"it answered {status[1].strip()}"
    return "it cannot be reached"
