"""Files of an upstream: held under the names that it lists, and verified on their way in.

The surprise: bytes that the store holds are not given for a digest alone. A page can list the digest of a file that it
could never deliver, such as a private one of another repository; so a source has the files that it has delivered. The
blobs themselves are labelled with the source, so that a lost catalog does not mean to fetch everything again.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Container
from contextlib import suppress
from typing import TypeVar

from mirror.blobs import BlobStore, SmallBlob, StoredBlob
from mirror.catalog import Catalog, HeldFile
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    NoSidecar,
    NotFound,
    Offline,
    StorageError,
    StorageUnavailable,
    UpstreamRefused,
)
from mirror.index.cache import LoadingCache, MemoryBudget, SingleFlight
from mirror.index.journal import Journal
from mirror.index.remote_files import RemoteFiles
from mirror.index.small_files import SmallFileWriter
from mirror.index.source import OpenFile, SourceOptions, Wanted, name_of_upstream
from mirror.index.upstream_sidecars import UpstreamSidecars
from mirror.model import Body, File, Format, Outcome, Page
from mirror.transfer import (
    AlreadyHeld,
    KeptBody,
    NextOrigin,
    Origin,
    SmallFile,
    Transfers,
    fetch_small,
    flight_name,
    is_small,
)
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

T = TypeVar("T")
Renewal = Callable[[str, File], Awaitable[File | None]]
"""Asks for the page of a project anew, and returns the entry of a file if nothing but its link has changed."""

HELD_BYTES = 800
"""Bytes that the row of a held file takes in memory (measured)."""
SMALL_FILES = 64
"""Small files that are in memory at once, on their way from the upstream to the store: up to 16 MiB."""
WHOLE_BYTES = 1 << 20
"""Bytes up to which a file is fetched whole, and kept, also where a part of it is asked for."""


async def _is_written(page: Page) -> None:
    """Return at once."""


async def _no_renewal(project: str, file: File) -> File | None:
    return None


class UpstreamFiles:
    """The files of one upstream."""

    def __init__(
        self,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        blobs: BlobStore,
        transfers: Transfers,
        journal: Journal,
        memory: MemoryBudget,
        options: SourceOptions,
    ) -> None:
        self._name = name_of_upstream(upstream)
        self._upstream = upstream
        self._catalog = catalog
        self._blobs = blobs
        self._transfers = transfers
        self._journal = journal
        self._offline = options.offline
        self._clock = options.clock
        self._held: LoadingCache[str, dict[str, HeldFile]] = LoadingCache(memory, lambda held: HELD_BYTES * len(held))
        """What is held of a project, by file name; some of it may be missing here."""
        self._opening: SingleFlight[tuple[str, str, str | None, bool], OpenFile] = SingleFlight(at_once=True)
        self.renew: Renewal = _no_renewal
        """Set by the source that has the pages: called when the link of a file is refused or gone."""
        self.kept_unvouched: Callable[[str], None] = lambda project: None
        """Called with the project when a file is held now for which its page has no checksum."""
        self.arriving: Container[Page] = ()
        """The pages that are about to be written; set by the source that has them, as is …"""
        self.written: Callable[[Page], Awaitable[None]] = _is_written
        """… what is called with one of them to wait until it is: offline, a file is of no use without its page."""
        self._writer = SmallFileWriter(catalog, blobs, journal)
        self._small_slots = asyncio.Semaphore(SMALL_FILES)
        self._remote = RemoteFiles(upstream, memory)
        self._sidecars = UpstreamSidecars(format, upstream, self, options)
        self.sidecar = self._sidecars.open

    async def open(
        self, project: str, file: File, wanted: Wanted = "whole", next_origin: NextOrigin | None = None
    ) -> OpenFile:
        """Return the bytes of a file: held, on their way in, or for less than the whole of it at the upstream.

        `next_origin` is where a transfer goes on that fails in its middle, unless a new link helps.

        Raises NotFound, Offline, UpstreamError.
        """
        digest = file.digests.get("sha256")
        entry = self._held.kept.get(project)
        row = None if entry is None or digest is None else entry.value.get(file.filename)
        if entry is not None and row is not None and row.digest == digest:
            held = await self._found(row.digest)
            if held is not None and file.size in (None, held.size):
                entry.used = True
                self._catalog.files.note_use(self._name, project, file.filename, self._clock())
                return OpenFile(held, "offline" if self._offline else "hit")
        if wanted in ("part", "head") and (remote := await self._remotely(project, file, wanted)) is not None:
            return OpenFile(remote, "miss", provisional=wanted == "part")
        # The other look-ups are part of the flight: a running transfer keeps the loop busy, and clients that came with
        # the first one would wait for the catalog behind its bytes.
        streamed = wanted == "stream" and not is_small(file)
        key = (project, file.filename, digest, streamed)
        opened, joined = await self._opening.run(key, lambda: self._open(project, file, streamed, next_origin))
        if joined and opened.outcome == "miss":
            return OpenFile(opened.body, "joined", growing=opened.growing)
        return opened

    async def _open(self, project: str, file: File, streamed: bool, elsewhere: NextOrigin | None) -> OpenFile:
        running = self._transfers.runs(file)
        held = None if running else await self.held(project, file)
        if held:
            self._catalog.files.note_use(self._name, project, file.filename, self._clock())
            return OpenFile(held, "offline" if self._offline else "hit")
        if self._offline and not running:
            raise Offline(f"{file.filename} is not held here, and this mirror is offline.")

        if is_small(file) and not running and (small := await self._fetch_small(project, file)) is not None:
            return OpenFile(small, "miss")
        try:
            return await self._transfer(project, file, streamed, elsewhere)
        except AlreadyHeld:  # another process has brought it since
            return await self._open(project, file, streamed, elsewhere)

    async def _transfer(self, project: str, file: File, streamed: bool, elsewhere: NextOrigin | None) -> OpenFile:
        """Return a file on its way in. Raises AlreadyHeld."""
        record = self.origin(project, file).record
        body, joined = await self.linked(
            project,
            file,
            lambda linked: self._transfers.open(
                linked,
                self._upstream,
                record,
                streamed,
                self._next_origin(project, linked, elsewhere),
                has_others=elsewhere is not None,
                is_held=lambda: self._is_held(project, file),
            ),
        )
        outcome: Outcome = "joined" if joined else "miss"
        return OpenFile(body if streamed else KeptBody(body), outcome, growing=not body.is_sized)

    async def _is_held(self, project: str, file: File) -> bool:
        """Return whether a file is held by now, as another process may have brought it."""
        return await self.held(project, file) is not None

    async def _fetch_small(self, project: str, file: File) -> Body | None:
        """Return a small file that is held then; None where only a transfer may get it."""
        flights = self._transfers.flights
        if flights is None:
            return await self._fetch_and_keep(project, file)
        name = flight_name("small", self._name, project, file.filename, file.digests["sha256"])
        return await flights.once(name, lambda: self.held(project, file), lambda: self._fetch_and_keep(project, file))

    async def _fetch_and_keep(self, project: str, file: File) -> Body | None:
        async with self._small_slots:
            try:
                small = await self.linked(project, file, lambda linked: fetch_small(linked, self._upstream))
            except DigestMismatch as error:
                logger.warning("%s was not fetched: %s", file.filename, error)
                raise
            if small is None:
                return None
            try:
                await self.keep(project, file.filename, small)
            except StorageError as error:
                logger.error("%s is passed on without being stored: %s", file.filename, error)
            return small.body

    async def keep(self, project: str, filename: str, small: SmallFile, kind: str = "file") -> None:
        """Store small bytes and record that they are held under a name. Raises StorageError, for the former alone."""
        held = self._row_of(project, filename, small.digest, len(small.content))
        page_written = None
        if (page := Page("project", project)) in self.arriving:
            page_written = asyncio.ensure_future(self.written(page))  # while the file becomes durable
        label = (self._name, filename) if kind == "file" else ()
        blob = SmallBlob(content=small.content, digest=small.digest, date=small.date, label=label)
        if await self._writer.store(blob, held, kind, page_written):
            self._remember(held)

    def origin(self, project: str, file: File) -> Origin:
        """Return where a file may be fetched from this upstream."""

        async def record(blob: StoredBlob) -> None:
            await self.record(project, file.filename, blob)
            if "sha256" not in file.digests:
                self.kept_unvouched(project)

        return Origin(file, self._upstream, record)

    def _next_origin(self, project: str, file: File, elsewhere: NextOrigin | None) -> NextOrigin:
        """Return what finds out where a transfer goes on: with a new link where it expired, else elsewhere."""

        async def next_origin(error: MirrorError) -> Origin | None:
            nonlocal file
            match error:
                case NotFound() | UpstreamRefused():
                    renewed = await self.renew(project, file)
                    if renewed is not None:
                        file = renewed
                        return self.origin(project, renewed)
            return None if elsewhere is None else await elsewhere(error)

        return next_origin

    async def _remotely(self, project: str, file: File, wanted: Wanted) -> Body | None:
        """Return what a HEAD or a short range needs of a file that is neither held nor on its way in."""
        if self._offline or self._transfers.runs(file) or await self.held(project, file) is not None:
            return None
        if wanted == "part" and file.size is not None and file.size <= WHOLE_BYTES:
            return None  # it costs hardly more as a whole, and is kept then
        return await self.linked(project, file, self._remote.describe if wanted == "head" else self._remote.open)

    async def linked(self, project: str, file: File, work: Callable[[File], Awaitable[T]]) -> T:
        """Return the result of `work(file)`; once more with a new link when the one of the page is refused or gone.

        A link that is signed expires, and a client that has a lock file asks for the file without its page.
        """
        try:
            return await work(file)
        except NoSidecar:
            raise
        except (NotFound, UpstreamRefused) as error:
            renewed = await self.renew(project, file)
            if renewed is None:
                raise
            logger.info("%s; the page of %s has a new link", error, project)
            return await work(renewed)

    async def held(self, project: str, file: File) -> Body | None:
        """Return the held bytes of a file; None when there are none, or not those that its index lists."""
        digest = file.digests.get("sha256")
        row = await self.row(project, file.filename, digest)
        if row is None or digest not in (None, row.digest):
            return None if digest is None else await self._delivered(project, file, digest)
        if file.alternatives and all(one.get("sha256", row.digest) != row.digest for one in file.alternatives):
            return None
        body = await self.body_of(row)
        if body is None or file.size in (None, body.size):
            return body
        logger.error("the blob of %s has %d bytes, not %s: it is fetched again", file.filename, body.size, file.size)
        return None

    async def _delivered(self, project: str, file: File, digest: str) -> Body | None:
        """Return what this source has delivered though the catalog does not know it, as after its loss; record it."""
        try:
            # In this order, because an object store knows as a rule that no label can tell anything.
            if not await self._blobs.is_labelled(digest, self._name, file.filename):
                return None
            body = await self._blobs.find(digest)
        except StorageUnavailable:
            return None
        if body is None or file.size not in (None, body.size):
            return None
        blob = StoredBlob(digest=digest, size=body.size, stored=self._clock())
        await self.record(project, file.filename, blob)
        return body

    async def body_of(self, row: HeldFile) -> Body | None:
        """Return the bytes of what is held; None when there are none any more."""
        try:
            body = await self._blobs.find(row.digest)
        except StorageUnavailable:
            return None  # it is passed on from upstream meanwhile
        if body is None:
            self._held.forget(row.project)
            with suppress(StorageError):  # then it stays known as one that has vanished
                now = await self._catalog.files.get(self._name, row.project, row.filename)
                if now is not None and now.digest == row.digest:  # else it is held with other bytes
                    logger.error("the blob of %s has vanished from the store; it is fetched again", row.filename)
                    await self._catalog.files.forget(self._name, row.project, row.filename)
        return body

    async def _found(self, digest: str) -> Body | None:
        """Return a blob of which there is a row; None also where the store cannot be asked."""
        try:
            return await self._blobs.find(digest)
        except StorageUnavailable:
            return None

    async def row(self, project: str, filename: str, digest: str | None = None) -> HeldFile | None:
        """Return what is held under a name; with a `digest`, it is looked for twice before it is another.

        None while the catalog cannot be reached: then the labels of the blobs tell what this source has delivered.
        """
        try:
            return await self._row(project, filename, digest)
        except StorageUnavailable:
            return None

    async def _row(self, project: str, filename: str, digest: str | None) -> HeldFile | None:

        async def read() -> dict[str, HeldFile]:
            return {held.filename: held for held in await self._catalog.files.of_project(self._name, project)}

        was_known = project in self._held.kept
        known = await self._held.get(project, read) or {}
        row = known.get(filename)
        if not was_known or (row is not None and digest in (None, row.digest)):
            return row
        if digest is not None and not self._blobs.may_hold(digest):
            return None
        # What is not known may be there all the same: a sync records many files without reporting each.
        row = await self._catalog.files.get(self._name, project, filename)
        if row is not None and self._held.peek(project) is known:
            self._held.put(project, known | {filename: row})
        return row

    async def record(self, project: str, filename: str, blob: StoredBlob) -> None:
        """Record that bytes are held under a name; with a full disk only in the log."""
        held = self._row_of(project, filename, blob.digest, blob.size)
        if (page := Page("project", project)) in self.arriving:
            await self.written(page)
        await self._blobs.label(blob.digest, self._name, filename)
        try:
            serial = await self._catalog.files.add(held)
        except StorageError as error:
            logger.warning("%s is kept, but not entered in the catalog: %s", filename, error)
            return
        self._remember(held)
        self._journal.own_serials.append(serial)
        self._journal.news.set()

    def _row_of(self, project: str, filename: str, digest: str, size: int) -> HeldFile:
        return HeldFile(
            source=self._name, project=project, filename=filename, digest=digest, size=size, stored=self._clock()
        )

    def _remember(self, held: HeldFile) -> None:
        """Add a row that was recorded to what is in memory of its project."""
        if (known := self._held.peek(held.project)) is not None:
            self._held.put(held.project, known | {held.filename: held})
        else:
            self._held.forget(held.project)  # it may be being read

    def forget(self, project: str) -> None:
        """Read again what is held of a project, since someone else has changed it."""
        self._held.forget(project)

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._held.close()
        await self._opening.close()
        await self._sidecars.close()
        await self._remote.close()
        await self._writer.close()
