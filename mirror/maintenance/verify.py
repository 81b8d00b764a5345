"""Finds blobs whose bytes are no longer what their name says, and mends them.

Disks forget. What is held is read again at a bounded rate; a bad blob is moved aside, never deleted, and fetched again
from where it came. A file of our own cannot be fetched: it is reported, for only a backup has it.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.blobs.local import off_loop
from mirror.catalog import Catalog, HeldFile
from mirror.errors import MirrorError, MissingBlob

logger = logging.getLogger(__name__)

Mend = Callable[[HeldFile], Awaitable[None]]
"""Fetches a file or sidecar again. Raises MirrorError."""


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One blob that is damaged or missing."""

    digest: str
    names: tuple[str, ...]
    """File names; empty when nothing names it."""
    missing: bool = False
    ours: bool = False
    """It was uploaded here: only a backup has it."""
    mended: bool = False
    reason: str = ""
    """Why it could not be mended."""


class VerifyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """How far a verification is."""

    blobs: int
    bytes: int
    fault: Fault | None = None
    """What was found just now."""


class Verifier:
    """Re-reads one store."""

    def __init__(self, catalog: Catalog, blobs: BlobStore, mend: Mend, rate: float | None = None) -> None:
        """`rate` is in bytes for each second; None for as fast as the disk goes."""
        self._catalog = catalog
        self._blobs = blobs
        self._mend = mend
        self._rate = rate

    async def verify(self) -> AsyncIterator[VerifyProgress]:
        """Read every blob, then look for the ones that should be there; yields after each."""
        count = size = 0
        seen: set[str] = set()
        async for blob in self._blobs.walk():
            seen.add(blob.digest)
            fault = None
            try:
                actual = await self._digest(blob.digest)
            except (MissingBlob, OSError):
                actual = ""
            if actual != blob.digest and await self._still_there(blob.digest):
                await self._blobs.set_aside(blob.digest)
                fault = await self._fault(blob.digest, await self._catalog.files.named(blob.digest), missing=False)
            count, size = count + 1, size + blob.size
            yield VerifyProgress(blobs=count, bytes=size, fault=fault)
        # All names before any is mended: making a sidecar anew forgets the name of a file that is missing, too.
        for digest, held in (await self._expected()).items():
            if digest not in seen and not await self._still_there(digest):
                yield VerifyProgress(blobs=count, bytes=size, fault=await self._fault(digest, held, missing=True))

    async def _expected(self) -> dict[str, list[HeldFile]]:
        """Every blob that should be there, with the names under which it is held."""
        expected: dict[str, list[HeldFile]] = {digest: [] for digest in await self._catalog.uploads.blobs()}
        for one in await self._catalog.files.all():
            expected.setdefault(one.digest, []).append(one)
        return expected

    async def _still_there(self, digest: str) -> bool:
        try:
            await self._blobs.open(digest)
        except MissingBlob:
            return False
        return True

    async def _digest(self, digest: str) -> str:
        body = await self._blobs.open(digest)
        loop = asyncio.get_running_loop()
        began, read = loop.time(), 0
        hasher = hashlib.sha256()
        async for chunk in body.read():
            await off_loop(lambda chunk=chunk: hasher.update(chunk))  # type: ignore[misc]  # bound at once
            read += len(chunk)
            if self._rate and (ahead := read / self._rate - (loop.time() - began)) > 0:
                await asyncio.sleep(ahead)
        return hasher.hexdigest()

    async def _fault(self, digest: str, held: Sequence[HeldFile], *, missing: bool) -> Fault:
        """Mend a blob that is gone from the store, and say how that went."""
        names = tuple(dict.fromkeys(one.filename for one in held))
        what = "missing" if missing else "damaged"
        if await self._catalog.uploads.uses([digest]):
            logger.error("the blob %s of a file of our own is %s: restore it from a backup", digest, what)
            return Fault(digest=digest, names=names, missing=missing, ours=True, reason="only a backup has it")
        logger.error(
            "the blob %s (%s) is %s; it is fetched again", digest, ", ".join(names) or "named by nothing", what
        )
        reason = "" if held else "nothing names it"
        for one in held:
            try:
                await self._mend(one)
            except MirrorError as error:
                reason = str(error)
                await self._catalog.files.forget(one.source, one.project, one.filename)
        mended = bool(held) and await self._still_there(digest)
        return Fault(digest=digest, names=names, missing=missing, mended=mended, reason="" if mended else reason)
