"""Blobs as objects of S3, Google Cloud Storage or Azure: `blobs/ab/abcdef…`, with a cache in the data directory.

The object is the truth: a blob is stored once its object is, and every node of a mirror finds it. What is in the cache
is served without asking; anything else is read into the cache and to the clients at once.

The surprise: a blob that goes is not moved away, because an object store can only copy. A tombstone is put beside it,
and a node that wants to store the same bytes meanwhile waits until the blob has gone or the tombstone has.
"""

import asyncio
import hashlib
import logging
import os
import sys
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterable, Sequence
from functools import partial
from pathlib import Path

from mirror.blobs import Numbers, SmallBlob, StoredBlob, StoreState, beginnings
from mirror.blobs.local import check_digest, off_loop
from mirror.blobs.objects_cache import BlobCache
from mirror.blobs.objects_client import MissingObject, ObjectClient, StoredObject
from mirror.blobs.objects_connect import connect
from mirror.blobs.objects_owner import BLOBS, claim
from mirror.blobs.objects_reading import BlobFacts, CachedBody, ObjectBody, ObjectReader, StoredBody
from mirror.blobs.objects_writing import GrowingObject, ObjectWriter, key_of, tombstone_of
from mirror.config.blobs import BlobsSettings
from mirror.errors import MirrorError, MissingBlob
from mirror.model import Body

KNOWN_BLOBS = 4096
"""Blobs outside the cache of which size and date stay in memory."""
KNOWN_SECONDS = 60.0
"""For how long: another node may delete one."""
LABELS_AT_ONCE = 8
"""Labels that are written at the same time, in the background."""
MOST_LABELS = 1000
"""Labels that may wait to be written."""
STORES_AT_ONCE = 16
"""Small blobs of one call that are stored at the same time."""
SIGNED_SECONDS = 900.0
"""How long a signed redirect is valid: enough for a client to begin."""
ORPHAN_SECONDS = 86_400.0
"""Age from which an object that nothing refers to is an orphan."""

_EMPTY = hashlib.sha256().hexdigest()

logger = logging.getLogger(__name__)


class ObjectBlobs:
    """A BlobStore over one prefix of one bucket, with its cache in `cache` of the data directory."""

    orphan_seconds = ORPHAN_SECONDS
    is_shared = True

    def __init__(
        self,
        data_dir: Path,
        cache: BlobCache,
        settings: BlobsSettings,
        numbers: Numbers | None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Ask nothing yet. Raises ConfigError.

        `numbers` are those of the catalog; None where another process has made sure whose objects these are.
        """
        self.client = ObjectClient(connect(settings))
        self.cache = cache
        self.incoming = self.cache.local.incoming
        self.disk_space = self.cache.local.disk_space
        self._damaged = self._missing = 0
        self._url = settings.url or ""
        self._data_dir = data_dir
        self._redirect = None if settings.redirect == "never" else settings.redirect
        self._clock = clock
        self._numbers = numbers
        self._is_claimed = numbers is None
        self._reader = ObjectReader(self.client, self.cache, self._judge)
        self._writer = ObjectWriter(self.client, self.claim, self._remember)
        self._known: OrderedDict[str, tuple[BlobFacts, float]] = OrderedDict()
        self._withdrawn: set[str] = set()
        self._has_labels = True
        """Whether an earlier catalog has used the objects, so that labels can tell something."""
        self._labelling = asyncio.Semaphore(LABELS_AT_ONCE)
        self._labels: set[asyncio.Task[None]] = set()

    async def claim(self) -> None:
        """See `BlobStore`."""
        if not self._is_claimed and self._numbers is not None:
            self._has_labels = await claim(self.client, self._url, self._data_dir, self._numbers, self._clock())
            self._is_claimed = True

    # Finding

    async def find(self, digest: str) -> Body | None:
        if len(digest) != 64 or digest in self._withdrawn:
            return None
        cached = await self.cache.find(digest)
        if cached is not None and (self._redirect is None or cached.size <= self._redirect):
            return cached
        facts = await self._facts(digest)
        if facts is None:
            return None
        location = None
        if self._redirect is not None and facts.size > self._redirect:
            location = await self.client.sign(facts.key, SIGNED_SECONDS)
        if cached is not None:
            return CachedBody(cached, location)
        return ObjectBody(facts, self._reader, location)

    def may_hold(self, digest: str) -> bool:
        return True

    async def open(self, digest: str) -> Body:
        body = await self.find(digest)
        if body is None:
            self._missing += 1
            raise MissingBlob(digest[:64])
        return body

    async def open_stored(self, digest: str) -> Body:
        facts = await self._facts(digest)
        if facts is None or digest in self._withdrawn:
            raise MissingBlob(digest[:64])
        return StoredBody(facts, self.client)

    async def _facts(self, digest: str) -> BlobFacts | None:
        """Return what is known of a blob, asking for its object unless that was done just now."""
        known = self._known.get(digest)
        if known is not None and self._clock() < known[1]:
            return known[0]
        try:
            key = key_of(digest)
        except MissingBlob:
            return None
        found = await self.client.head(key)
        if found is None or (found.size == 0 and digest != _EMPTY):
            self._known.pop(digest, None)
            return None
        return self._remember(BlobFacts(digest=digest, key=key, size=found.size, date=_date(found)))

    def _remember(self, facts: BlobFacts) -> BlobFacts:
        self._known[facts.digest] = facts, self._clock() + KNOWN_SECONDS
        while len(self._known) > KNOWN_BLOBS:
            self._known.popitem(last=False)
        return facts

    # Storing

    async def adopt(self, path: Path, digest: str) -> StoredBlob:
        key_of(digest)
        try:
            about = os.stat(path)
        except FileNotFoundError:
            facts = await self._facts(digest)  # perhaps it was adopted before
            if facts is None:
                raise MissingBlob(digest) from None
            return StoredBlob(digest=digest, size=facts.size, stored=self._clock())
        held = await self.begin(path, digest, about.st_size, int(about.st_mtime)).finish()
        await self.cache.add(path, digest, about.st_size)
        return held

    def begin(self, path: Path, digest: str, size: int, date: int) -> GrowingObject:
        """See `BlobStore`."""
        facts = BlobFacts(digest=digest, key=key_of(digest), size=size, date=date)
        return GrowingObject(self._writer, path, facts, self._clock)

    async def keep_copy(self, path: Path, digest: str) -> None:
        if await self.cache.find(digest) is None:
            await self.cache.add(path, digest, os.stat(path).st_size)

    async def write(self, content: bytes) -> StoredBlob:
        await self.claim()
        digest = await off_loop(lambda: hashlib.sha256(content).hexdigest())
        return (await self.store_all([SmallBlob(content=content, digest=digest)]))[0]

    async def store_all(self, blobs: Sequence[SmallBlob]) -> list[StoredBlob]:
        """See `BlobStore`. Where an error is raised, some may be stored: a sweep finds them."""
        await self.claim()
        slots = asyncio.Semaphore(STORES_AT_ONCE)

        async def store(blob: SmallBlob) -> None:
            async with slots:
                date = int(self._clock()) if blob.date is None else blob.date
                facts = BlobFacts(digest=blob.digest, key=key_of(blob.digest), size=len(blob.content), date=date)
                work = [self._writer.write(facts, blob.content)]
                if blob.label:
                    work.append(self._write_label(blob.digest, blob.label))
                if self._numbers is not None:  # else it is a process that serves no one
                    work.append(self.cache.write(SmallBlob(content=blob.content, digest=blob.digest, date=date)))
                await _all_of(work)

        await _all_of(store(blob) for blob in {blob.digest: blob for blob in blobs}.values())
        now = self._clock()
        return [StoredBlob(digest=blob.digest, size=len(blob.content), stored=now) for blob in blobs]

    # Labels

    async def label(self, digest: str, *label: str) -> None:
        """See `BlobStore`. Written in the background: no client waits for what only a lost catalog needs."""
        check_digest(digest)
        if len(self._labels) >= MOST_LABELS:
            await asyncio.wait(self._labels, return_when=asyncio.FIRST_COMPLETED)
        task = asyncio.create_task(self._write_label(digest, label))
        self._labels.add(task)
        task.add_done_callback(self._labels.discard)

    async def _write_label(self, digest: str, label: Sequence[str]) -> None:
        async with self._labelling:
            try:
                await self.client.create(_label(digest, label), b"")
            except MirrorError as error:
                logger.warning("blob %s could not be labelled: %s", digest, error)

    async def is_labelled(self, digest: str, *label: str) -> bool:
        if not self._has_labels:
            return False
        try:
            key = _label(digest, label)
        except MissingBlob:
            return False
        return await self.client.head(key) is not None and await self._facts(digest) is not None

    # Deleting

    async def delete(self, digest: str) -> None:
        keys = [key_of(digest)]
        await self.claim()
        async for page in self.client.walk(f"labels/{digest[:2]}/{digest}"):
            keys += [one.key for one in page]
        self._known.pop(digest, None)
        await self.client.delete(keys)
        await self.cache.drop(digest)

    async def withdraw(self, digest: str) -> None:
        await self.claim()
        await self.client.replace(tombstone_of(digest), b"", 0)
        self._withdrawn.add(digest)

    async def restore(self, digest: str) -> None:
        await self.client.delete([tombstone_of(digest)])
        self._withdrawn.discard(digest)

    async def discard(self, digest: str) -> None:
        if await self.client.head(tombstone_of(digest)) is not None:  # else a node has waited too long for it
            await self.delete(digest)
            await self.client.delete([tombstone_of(digest)])
        self._withdrawn.discard(digest)

    async def withdrawn(self) -> list[str]:
        return [one.key.rpartition("/")[2] async for page in self.client.walk("withdrawn") for one in page]

    async def set_aside(self, digest: str) -> None:
        await self.claim()
        self._known.pop(digest, None)
        await self.cache.drop(digest)
        try:
            await self.client.copy(key_of(digest), f"damaged/{digest}")
        except MissingObject:
            return
        await self.client.delete([key_of(digest)])

    async def _judge(self, digest: str) -> None:
        """Look again at an object that was missing, or did not have the right bytes; then set it aside."""
        self._known.pop(digest, None)
        hasher = hashlib.sha256()
        try:
            async for chunk in self.client.read(key_of(digest)):
                await off_loop(partial(hasher.update, chunk))
        except MissingObject:
            return
        if hasher.hexdigest() != digest:
            self._damaged += 1
            logger.error("the object of blob %s is damaged and is set aside", digest)
            await self.set_aside(digest)

    # Everything

    async def walk(self) -> AsyncIterator[StoredBlob]:
        async for blob in self._below(BLOBS):
            yield blob

    async def digests(self, beginning: str) -> list[str]:
        return [blob.digest for blob in await self.listed(beginning)]

    async def listed(self, beginning: str) -> list[StoredBlob]:
        # A listing is of whole folders, whose names have two digits.
        folders = [one for one in beginnings(sys.maxsize) if one.startswith(beginning)] if beginning else [""]
        below = [self._below(f"{BLOBS}/{folder}".rstrip("/")) for folder in folders]
        return [blob for blobs in below async for blob in blobs]

    async def stored(self, digests: Collection[str]) -> list[StoredBlob]:
        return [
            StoredBlob(digest=digest, size=about.size, stored=about.modified)
            for digest in digests
            if (about := await self.client.head(key_of(digest))) is not None
        ]

    async def _below(self, prefix: str) -> AsyncIterator[StoredBlob]:
        async for page in self.client.walk(prefix):
            for one in page:
                digest = one.key.rpartition("/")[2]
                try:
                    known = one.key == key_of(digest)
                except MissingBlob:
                    continue
                if known:
                    yield StoredBlob(digest=digest, size=one.size, stored=one.modified)

    def state(self) -> StoreState:
        return StoreState(
            missing=self._missing,
            reachable=not self.client.breaker.is_open,
            requests=dict(self.client.requests),
            errors=self.client.errors,
            damaged=self._damaged,
            evicted=self.cache.evicted,
        )

    async def clean_incoming(self) -> int:
        return await self.cache.local.clean_incoming()

    async def close(self) -> None:
        """Finish the labels that wait, and stop reading and writing."""
        await self._reader.close()
        await self._writer.close()
        await asyncio.gather(*self._labels, return_exceptions=True)


def _label(digest: str, label: Sequence[str]) -> str:
    short = hashlib.sha256("\0".join(label).encode()).hexdigest()[:32]
    return f"labels/{check_digest(digest)[:2]}/{digest}/{short}"


def _date(found: StoredObject) -> int:
    """Return the date that was stored with an object, else when it was written."""
    text = found.attributes.get("date", "")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 12 else int(found.modified)


async def _all_of(work: Iterable[Coroutine[None, None, None]]) -> None:
    """Wait for all of it; raise the first error, once nothing runs any more."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
