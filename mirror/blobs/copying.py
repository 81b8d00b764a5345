"""Copying the blobs of one store into another one, each compared with its digest on the way.

What the other store has already is not copied again, so that a copy that was broken off goes on. Small blobs are read
and stored many at a time; a large one goes through a file in the other store's `incoming`.
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from email.utils import parsedate_to_datetime
from functools import partial
from pathlib import Path

from mirror.blobs import BlobStore, SmallBlob, StoredBlob
from mirror.blobs.local import create_part, finish_part, off_loop, storage_errors, write_at
from mirror.errors import MissingBlob
from mirror.model import Body

SMALL_BYTES = 1 << 20
"""Bytes up to which a blob is in memory as a whole."""
BATCH_BYTES = 16 << 20
"""Bytes of the small blobs that are in memory together."""
BATCH_BLOBS = 256
"""The most small blobs that are stored together."""
READS_AT_ONCE = 16
"""Small blobs that are read at the same time."""

Labels = Callable[[Sequence[str]], Awaitable[Mapping[str, Sequence[tuple[str, ...]]]]]
"""Returns the labels of blobs, by their digests."""


class BlobCopier:
    """The copy of a store into another one."""

    def __init__(
        self, source: BlobStore, target: BlobStore, labels: Labels, on_blobs: Callable[[int, int], None]
    ) -> None:
        """`on_blobs` gets the number of further blobs and bytes in the other store, copied now or before."""
        self._source = source
        self._target = target
        self._labels = labels
        self._on_blobs = on_blobs
        self.faults: list[str] = []
        """The digests of blobs that are not copied, because their bytes are damaged or went meanwhile."""

    async def copy(self, beginning: str) -> None:
        """Copy the blobs whose digests begin with up to two hexadecimal digits. Raises StorageError and OSError."""
        present = {blob.digest: blob.size for blob in await self._target.listed(beginning)}
        small: list[StoredBlob] = []
        for blob in await self._source.listed(beginning):
            if present.get(blob.digest) == blob.size:
                self._on_blobs(1, blob.size)
            elif blob.size > SMALL_BYTES:
                await self._copy_large(blob)
            else:
                small.append(blob)
                if len(small) == BATCH_BLOBS or sum(one.size for one in small) > BATCH_BYTES:
                    await self._copy_small(small)
                    small = []
        if small:
            await self._copy_small(small)

    async def is_whole(self, digest: str) -> bool:
        """Return whether the other store has a blob, with its bytes, all of which are read."""
        hasher = hashlib.sha256()
        try:
            body = await self._target.open_stored(digest)
            async for chunk in body.read():
                await off_loop(partial(hasher.update, chunk))
        except MissingBlob:
            return False
        return hasher.hexdigest() == digest

    async def _copy_small(self, blobs: Sequence[StoredBlob]) -> None:
        slots = asyncio.Semaphore(READS_AT_ONCE)
        labels = await self._labels([blob.digest for blob in blobs])

        async def read(blob: StoredBlob) -> SmallBlob | None:
            async with slots:
                try:
                    body = await self._source.open_stored(blob.digest)
                    content = b"".join([chunk async for chunk in body.read()])
                except MissingBlob:
                    return None
                if await off_loop(lambda: hashlib.sha256(content).hexdigest()) != blob.digest:
                    return None
                first = (*labels.get(blob.digest, ()), ())[0]
                return SmallBlob(content=content, digest=blob.digest, date=_date(body), label=first)

        read_blobs = await asyncio.gather(*map(read, blobs))
        whole = [one for one in read_blobs if one is not None]
        self.faults += [blob.digest for blob, one in zip(blobs, read_blobs, strict=True) if one is None]
        await self._target.store_all(whole)
        for one in whole:
            await self._label(one.digest, labels.get(one.digest, ())[1:])
        self._on_blobs(len(whole), sum(len(one.content) for one in whole))

    async def _copy_large(self, blob: StoredBlob) -> None:
        hasher = hashlib.sha256()
        part = self._target.incoming / f"{secrets.token_hex(16)}.part"
        try:
            try:
                body = await self._source.open_stored(blob.digest)
                await self._receive(body, part, hasher.update)
            except MissingBlob:
                self.faults.append(blob.digest)
                return
            if hasher.hexdigest() != blob.digest:
                self.faults.append(blob.digest)
                return
            await self._target.adopt(part, blob.digest)
        finally:
            part.unlink(missing_ok=True)
        await self._label(blob.digest, (await self._labels([blob.digest])).get(blob.digest, ()))
        self._on_blobs(1, blob.size)

    async def _receive(self, body: Body, part: Path, hashed: Callable[[bytes], None]) -> None:
        """Write a blob to a new file, with its date."""
        fd, size = create_part(part), 0
        try:
            with storage_errors():
                async for chunk in body.read():
                    await off_loop(partial(_take, fd, chunk, size, hashed))
                    size += len(chunk)
                if (date := _date(body)) is not None:
                    finish_part(fd, size, date)
        finally:
            os.close(fd)

    async def _label(self, digest: str, labels: Sequence[tuple[str, ...]]) -> None:
        for label in labels:
            await self._target.label(digest, *label)


def _take(fd: int, chunk: bytes, offset: int, hashed: Callable[[bytes], None]) -> None:
    hashed(chunk)
    write_at(fd, chunk, offset)


def _date(body: Body) -> int | None:
    """Return the date of a blob in seconds since the epoch, for Last-Modified; None without one."""
    return None if body.modified is None else int(parsedate_to_datetime(body.modified).timestamp())
