"""What is kept of a rendered page on disk, and the task that writes new pages there, some at a time."""

import asyncio
import logging
from collections.abc import Collection, Mapping
from typing import Protocol

import msgspec

from mirror.index.cache import Validity
from mirror.index.packing import COMPRESS, COMPRESSED_FROM_BYTES
from mirror.index.view import ViewStamp
from mirror.runtime import log_failure
from mirror.server.disk_cache import DiskCache
from mirror.server.replay import SharedBytes
from mirror.server.segments import Record, StoredPart

logger = logging.getLogger(__name__)

IN_LOOP_BYTES = 32 << 10
"""Bytes up to which compressing, or the reverse, is quicker than the hop to a thread."""
SAVE_SECONDS = 0.1
"""Time after which new pages are written, those of this time together."""


class SavedStamp(msgspec.Struct, frozen=True, array_like=True):
    """The stamp of a view as it is kept on disk. Whether it is still right has to be asked."""

    inputs: dict[str, str]
    decided_until: float
    gone: bool
    empty: bool

    def restored(self, revision: str) -> ViewStamp:
        """Return the stamp of a view of that revision; it is not valid until the sources have been asked."""
        return ViewStamp(
            inputs=self.inputs,
            revision=revision,
            decided_until=self.decided_until,
            gone=self.gone,
            empty=self.empty,
            validity=Validity(0, live=False),
            outcome="hit",
        )


class PageFacts(msgspec.Struct, frozen=True, array_like=True):
    """All of a page but its bodies, before which it stands on disk."""

    place: bytes
    revision: str
    media_type: str
    etag: str
    one_etag: bool
    """Whether all encodings have the same ETag."""
    size: int
    """Bytes, not compressed."""
    sha256: bytes
    modified: str | None
    headers: tuple[tuple[str, str], ...]
    stamp: SavedStamp | None


class SavablePage(Protocol):
    """A page, as far as it matters here."""

    facts: PageFacts
    on_disk: Collection[str]
    """The encodings in which it is kept on disk."""
    stored: dict[str, StoredPart]
    """Where on disk it is or will be, by encoding."""

    @property
    def bodies(self) -> Mapping[str, SharedBytes]:
        """The page in the encodings that are in memory."""


class PageSaver:
    """Writes pages to disk, some time after they were rendered."""

    def __init__(self, disk: DiskCache) -> None:
        self.disk = disk
        self.unsaved: dict[int, SavablePage] = {}
        """Key on disk → a page that is to be written there; the page cache adds to it."""
        self.timer: asyncio.TimerHandle | None = None
        """Set by the page cache: calls `start` after `SAVE_SECONDS`."""
        self._writing: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Write in the background what is not saved."""
        self.timer = None
        self._writing = asyncio.create_task(self.flush(), name="the writer of rendered pages")
        self._writing.add_done_callback(log_failure)

    async def flush(self) -> None:
        """Write what is not saved."""
        unsaved, self.unsaved = self.unsaved, {}
        records, pages = [], []
        for key, page in unsaved.items():
            bodies = await _bodies(page)
            if not bodies.keys() <= {*page.on_disk}:
                pages.append((page, bodies))
                records.append(Record(key, msgspec.msgpack.encode(page.facts), bodies))
        written = await self.disk.write(records)
        for page, bodies in pages:
            page.on_disk = tuple(bodies)
        for (page, bodies), record in zip(pages, written, strict=False):  # none are written on a full disk
            for encoding in page.stored.keys() & bodies.keys():
                page.stored[encoding].move(record.stored(encoding))

    async def close(self) -> None:
        """Write what is not saved, and end."""
        if self.timer is not None:
            self.timer.cancel()
        if self._writing is not None:
            await asyncio.wait({self._writing})
        await self.flush()


async def _bodies(page: SavablePage) -> dict[str, bytes]:
    """Return the bodies of a page to be written: compressed, unless that is not worth it."""
    bodies = {encoding: body.content for encoding, body in page.bodies.items()}
    plain = bodies.get("identity")
    if plain is not None and len(bodies) == 1 and len(plain) >= COMPRESSED_FROM_BYTES:
        if len(plain) <= IN_LOOP_BYTES:
            await asyncio.sleep(0)  # there may be many of them, and others have requested something
            packed = COMPRESS["zstd"](plain)
        else:
            packed = await asyncio.to_thread(COMPRESS["zstd"], plain)
        bodies = {"zstd": packed} if len(packed) < len(plain) else bodies
    elif len(bodies) > 1:
        bodies.pop("identity", None)
    return bodies
