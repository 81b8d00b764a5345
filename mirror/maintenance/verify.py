"""Verification: find blobs whose bytes no longer match their digest, and repair them.

Disks lose data. What is held is read again at a bounded rate; a bad blob is moved aside, never deleted, and fetched
again from its source. An uploaded file cannot be fetched: it is reported, because only a backup has it.
"""

import asyncio
import hashlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import msgspec

from mirror.blobs import BlobStore, parts_of
from mirror.blobs.local import off_loop
from mirror.catalog import Catalog, HeldFile
from mirror.errors import MirrorError, MissingBlob, UnknownFile
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.transfer.archives import BEGINNING_BYTES, END_BYTES, beginning_fault, ending_fault
from mirror.upstream import checkable

logger = logging.getLogger(__name__)

Mend = Callable[[HeldFile], Awaitable[None]]
"""A function that fetches a file or sidecar again. Raises MirrorError."""
IsVerified = Callable[[HeldFile], Awaitable[bool]]
"""A function that returns whether an index lists a digest of a file, or may do so."""


async def refetch(repository: Repository, held: HeldFile) -> None:
    """Fetch a file or sidecar of one of a repository's sources again, and keep it. Raises MirrorError."""
    view = await repository.project(held.project, Freshness.ANY)
    file = view.files.get(held.filename)
    if file is not None and file.source == held.source:
        opened = await repository.open_file(held.project, file)
    else:
        format = repository.format
        owners = (one for one in view.files.values() if format.has_sidecar(one) and one.source == held.source)
        owner = next((one for one in owners if format.sidecar_name(one) == held.filename), None)
        if owner is None:
            raise UnknownFile(held.project, held.filename)
        _, opened = await repository.sidecar(held.project, owner.filename)
    async for _ in opened.body.read():
        pass


async def is_verified(repository: Repository, held: HeldFile) -> bool:
    """Return whether a repository's index lists a digest with which a file was compared; true where that is unknown."""
    try:
        view = await repository.project(held.project, Freshness.ANY)
    except MirrorError:
        return True
    file = view.files.get(held.filename)
    return file is None or file.source != held.source or checkable(file)


class Fault(msgspec.Struct, frozen=True, kw_only=True):
    """One blob that is damaged or missing."""

    digest: str
    names: tuple[str, ...]
    """File names; empty when nothing refers to it."""
    missing: bool = False
    ours: bool = False
    """Whether it was uploaded here: only a backup has it."""
    mended: bool = False
    reason: str = ""
    """Why it could not be mended."""


class VerifyProgress(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a verification."""

    blobs: int
    bytes: int
    fault: Fault | None = None
    """The fault in the blob that was read last."""


class Verifier:
    """Read every blob of one store again."""

    def __init__(
        self, catalog: Catalog, blobs: BlobStore, mend: Mend, is_verified: IsVerified, rate: float | None = None
    ) -> None:
        """`rate` is in bytes per second; None for as fast as the disk allows."""
        self._catalog = catalog
        self._blobs = blobs
        self._mend = mend
        self._is_verified = is_verified
        self._rate = rate

    async def verify(self) -> AsyncIterator[VerifyProgress]:
        """Count the totals again, read every blob, then look for missing ones; yields the progress after each blob."""
        await self._catalog.totals.recount()
        count = size = 0
        faulty: set[str] = set()
        files, _ = await self._catalog.files.totals()
        parts = await parts_of(self._blobs, files)
        for beginning in parts:
            names = await self._expected(beginning)
            for digest in await self._blobs.digests(beginning):
                fault = None
                try:
                    actual, read = await self._read(digest)
                except (MissingBlob, OSError):
                    actual, read = "", 0
                if actual != digest and await self._is_stored(digest):
                    await self._catalog.check_lease()
                    await self._blobs.set_aside(digest)
                    fault = await self._repair(digest, await self._catalog.files.named(digest), missing=False)
                elif wrong := await self._wrong(digest, names.get(digest, ())):
                    await self._catalog.check_lease()
                    await self._blobs.set_aside(digest)
                    fault = await self._repair(digest, wrong, missing=False)
                if fault is not None:
                    faulty.add(digest)
                count, size = count + 1, size + read
                yield VerifyProgress(blobs=count, bytes=size, fault=fault)
        # All names before any is mended: mending a sidecar also makes the catalog forget its missing file.
        missing = {digest: held for beginning in parts for digest, held in (await self._missing(beginning)).items()}
        for digest, held in missing.items():
            if digest not in faulty and not await self._is_stored(digest):
                yield VerifyProgress(blobs=count, bytes=size, fault=await self._repair(digest, held, missing=True))

    async def _wrong(self, digest: str, held: Sequence[HeldFile]) -> list[HeldFile]:
        """Return the names under which a blob is held that cannot be what they say, and that no digest vouches for."""
        if not held:
            return []
        try:
            body = await self._blobs.open_stored(digest)
        except MissingBlob:
            return []
        beginning = b"".join([chunk async for chunk in body.read(0, BEGINNING_BYTES)])
        ending = b"".join([chunk async for chunk in body.read(max(0, body.size - END_BYTES))])
        suspects = [
            one for one in held if beginning_fault(one.filename, beginning) or ending_fault(one.filename, ending)
        ]
        # One name that is vouched for is enough for the bytes to stay.
        return [] if any([await self._is_verified(one) for one in suspects]) else suspects

    async def _expected(self, beginning: str) -> dict[str, list[HeldFile]]:
        """Return the blobs that should be there and begin so, with the names under which each is held."""
        order = self._catalog.eviction
        expected: dict[str, list[HeldFile]] = {digest: [] for digest in await order.uploaded(beginning)}
        for one in await order.all_held(beginning):
            expected.setdefault(one.digest, []).append(one)
        return expected

    async def _missing(self, beginning: str) -> dict[str, list[HeldFile]]:
        """Return the blobs that should be there, begin so and are not."""
        expected = await self._expected(beginning)
        stored = set(await self._blobs.digests(beginning))
        return {digest: held for digest, held in expected.items() if digest not in stored}

    async def _is_stored(self, digest: str) -> bool:
        return await self._blobs.find(digest) is not None

    async def _read(self, digest: str) -> tuple[str, int]:
        """Return the digest that the bytes of a blob have, and how many they are."""
        body = await self._blobs.open_stored(digest)
        loop = asyncio.get_running_loop()
        began, read = loop.time(), 0
        hasher = hashlib.sha256()
        async for chunk in body.read():
            await off_loop(lambda chunk=chunk: hasher.update(chunk))  # type: ignore[misc]  # bound at once
            read += len(chunk)
            if self._rate and (early := read / self._rate - (loop.time() - began)) > 0:
                await asyncio.sleep(early)
        return hasher.hexdigest(), read

    async def _repair(self, digest: str, held: Sequence[HeldFile], *, missing: bool) -> Fault:
        """Mend a blob that is gone from the store, and return the fault with its outcome."""
        names = tuple(dict.fromkeys(one.filename for one in held))
        what = "missing" if missing else "damaged"
        if await self._catalog.uploads.uses([digest]):
            logger.error("blob %s of an uploaded file is %s: restore it from a backup", digest, what)
            return Fault(digest=digest, names=names, missing=missing, ours=True, reason="only a backup has it")
        logger.error(
            "blob %s (%s) is %s and is fetched again", digest, ", ".join(names) or "nothing refers to it", what
        )
        reason = "" if held else "nothing refers to it"
        for one in held:
            try:
                await self._mend(one)
            except MirrorError as error:
                reason = str(error)
                await self._catalog.files.forget(one.source, one.project, one.filename)
        mended = bool(held) and (not reason or await self._is_stored(digest))
        return Fault(digest=digest, names=names, missing=missing, mended=mended, reason="" if mended else reason)
