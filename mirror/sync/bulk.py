"""Many small files at once: each is fetched whole into memory and verified, and they are stored in batches.

A transfer is made for readers who follow a growing file, and costs a disk sync and a commit of its own; here nobody
reads yet, so many files share both. What is larger, or of unknown size or digest, is left to a transfer.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from mirror.blobs import BlobStore, Part, WriteAll
from mirror.catalog import Files, HeldFile
from mirror.errors import Invalid, UpstreamProtocolError
from mirror.feed import Feed
from mirror.model import File, Format
from mirror.transfer.digests import Digests
from mirror.upstream import Stream, Upstream, address

SMALL = 64 << 10
"""Bytes up to which a file counts as small."""
BATCH = 512
"""The most files that are stored together, each with its sidecar."""
MOST_UNSTORED = 64 << 20
"""Bytes that wait to be stored, from which nothing more is fetched."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One verified file or sidecar, and the name that it is held under."""

    source: str
    project: str
    filename: str
    kind: str
    """`file` or `sidecar`."""
    part: Part


Waiting = tuple[Sequence[Entry], asyncio.Future[None]]
"""What is to be stored together, and who waits for it."""


class Bulk:
    """Brings in small files of upstreams."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        blobs: BlobStore,
        files: Files,
        feed: Feed,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`upstreams` by the names of their sources."""
        self._upstreams = upstreams
        self._blobs = blobs
        self._files = files
        self._feed = feed
        self._clock = clock
        self._fetched: list[Waiting] = []
        self._written: list[Waiting] = []
        self._writing: asyncio.Task[None] | None = None
        self._recording: asyncio.Task[None] | None = None
        self._write_all: WriteAll
        self._unstored = 0
        self._stored = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Ready to store, for the length of the block."""
        async with self._blobs.bulk() as self._write_all:
            try:
                yield
            finally:
                for task in (self._writing, self._recording):  # the second is begun by the first
                    if task is not None:
                        await asyncio.gather(task, return_exceptions=True)

    def takes(self, file: File) -> bool:
        """Whether a file is one for this way."""
        known = file.sha256 is not None and file.size is not None
        return known and (file.size or 0) <= SMALL and file.source in self._upstreams

    async def fetch(self, format: Format, project: str, file: File) -> list[Entry]:
        """A file that `takes` says yes to, with its sidecar where that can be made from it; nothing is stored yet.

        Raises NotFound, UpstreamError.
        """
        while self._unstored > MOST_UNSTORED:
            self._stored.clear()
            await self._stored.wait()
        digests, pieces, received = Digests(file.digests), list[bytes](), 0
        async with self._upstreams[file.source].fetch(address(file.url)) as stream:
            async for chunk in stream.chunks():
                received += len(chunk)
                if received > (file.size or 0):
                    raise UpstreamProtocolError(f"{file.filename} is longer than the {file.size} bytes promised.")
                pieces.append(chunk)
        if received != file.size:
            raise UpstreamProtocolError(f"{file.filename} has {received} bytes, but {file.size} are promised.")
        content = b"".join(pieces)
        digests.update(content)
        part = Part(content=content, digest=digests.verified(file.filename), date=self._dated(file, stream))
        entries = [_entry(project, file, file.filename, "file", part)]
        if format.has_sidecar(file) and (sidecar := await _sidecar(format, file, content, part.digest)) is not None:
            entries.append(_entry(project, file, format.sidecar_name(file), "sidecar", sidecar))
        return entries

    async def store(self, entries: Sequence[Entry]) -> None:
        """Keep what was fetched: durable, in the catalog and in the feed when this returns. Raises StorageFull."""
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        size = sum(len(entry.part.content) for entry in entries)
        self._unstored += size
        self._fetched.append((entries, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        try:
            await done
        finally:
            self._unstored -= size
            self._stored.set()

    async def _write(self) -> None:
        """Store what was fetched, batch by batch, as long as there is anything."""
        while self._fetched:
            batch, self._fetched = self._fetched[:BATCH], self._fetched[BATCH:]
            try:
                await self._write_all([entry.part for entries, _ in batch for entry in entries])
            except Exception as error:
                _settle(batch, error)
                continue
            self._written += batch
            if self._recording is None or self._recording.done():  # the next batch need not wait for the catalog's disk
                self._recording = asyncio.create_task(self._record())

    async def _record(self) -> None:
        """Enter in the catalog what was stored, all that there is at a time."""
        while self._written:
            batch, self._written = self._written, []
            now = self._clock()
            held = [(_held(entry, now), entry.kind) for entries, _ in batch for entry in entries]
            try:
                self._feed.recorded(await self._files.add_all(held))
            except Exception as error:
                _settle(batch, error)
            else:
                _settle(batch, None)

    def _dated(self, file: File, stream: Stream) -> int | None:
        date = int(file.uploaded.timestamp()) if file.uploaded else stream.modified
        return None if date is None else min(max(0, date), int(self._clock()))


class _InMemory(msgspec.Struct, frozen=True):
    """A Body of bytes that are at hand."""

    content: bytes
    digest: str
    modified: str | None = None
    path: Path | None = None

    @property
    def size(self) -> int:
        return len(self.content)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        yield self.content[start:stop]


async def _sidecar(format: Format, file: File, content: bytes, digest: str) -> Part | None:
    """The sidecar as the file itself has it; None when it cannot be had from it, or its index promises another."""
    try:
        made = await format.sidecar_make(file, _InMemory(content, digest))
        format.sidecar_check(file, made)
    except (Invalid, UpstreamProtocolError):
        return None
    digests = Digests({})
    digests.update(made)
    return Part(content=made, digest=digests.verified(file.filename))


def _entry(project: str, file: File, filename: str, kind: str, part: Part) -> Entry:
    return Entry(source=file.source, project=project, filename=filename, kind=kind, part=part)


def _held(entry: Entry, now: float) -> HeldFile:
    return HeldFile(
        source=entry.source, project=entry.project, filename=entry.filename, digest=entry.part.digest,
        size=len(entry.part.content), stored=now,
    )  # fmt: skip


def _settle(batch: Sequence[Waiting], error: Exception | None) -> None:
    for _, done in batch:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)
