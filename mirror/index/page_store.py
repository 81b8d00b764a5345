"""The pages of one source as they are stored: raw responses in the catalog, and rows about them in memory.

The surprise: a page counts as stored from the moment when it is taken in, a little before it is written; many are
written at once. One that cannot be stored because the disk is full stays in memory, as far as there is room, and counts
as stored until the process ends. No client has to notice.
"""

import asyncio
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import TypeVar

import msgspec

from mirror.catalog import Catalog, PageRow
from mirror.catalog.claims import owner_of
from mirror.catalog.pages import MISSING_AT_ONCE, Pages
from mirror.errors import MirrorError, StorageError, StorageUnavailable, UpstreamProtocolError
from mirror.index.cache import BoundedCache, LoadingCache, MemoryBudget
from mirror.index.freshness import Ages
from mirror.index.packing import COMPRESS
from mirror.index.page_reader import LARGE_PAGE_BYTES, PageReader
from mirror.model import Format, Outcome, Page, Project, Stamp, UpstreamResponse
from mirror.runtime import log_failure

logger = logging.getLogger(__name__)

NAMES = Page("names")
"""The list of all projects."""
ROW_BYTES = 700
"""Bytes that a row takes in memory, without the body of its page (measured)."""
WRITE_SECONDS = 0.02
"""Time for which pages that no one waits for are collected, to be written together."""
PAGES_AT_ONCE = 32
"""The most of them in one transaction."""
ARRIVING_BYTES = 16 << 20
"""Bytes of such pages above which the next one is written before it is answered."""
MOST_MISSING = 10_000
"""Pages that upstream never had, of which it is remembered at the same time; anyone can ask for any number."""
TRIM_EVERY = 100
"""New pages of that kind after which those that have ended are forgotten."""
MOST_FILES = 200_000
"""Files, or versions, of one project, which cost more memory than their bytes; the largest public ones have 30,000."""

T = TypeVar("T")


class PageState(msgspec.Struct, frozen=True):
    """The known state of a page, with its outcome."""

    row: PageRow
    outcome: Outcome = "hit"
    project: Project | None = None
    """The project on it, where it was parsed just now."""


class _Arrival(msgspec.Struct, frozen=True, eq=False):
    """A page that is about to be written, and what is called with the serial of its event then."""

    row: PageRow
    response: UpstreamResponse
    stored: Callable[[int | None], None]


class PageStore:
    """The pages of one source."""

    def __init__(
        self,
        source: str,
        format: Format,
        catalog: Catalog,
        memory: MemoryBudget,
        reader: PageReader,
        negative: float = math.inf,
    ) -> None:
        """`negative`: seconds for which it is believed that there is no such page."""
        self.changed = False
        """Whether anything was stored since the process started, which may have recorded a name as the source's."""
        self._source = source
        self._negative = negative
        self._misses = 0
        self._format = format
        self._reader = reader
        self._owner = owner_of(source)
        self._pages = catalog.pages
        self._rows: LoadingCache[Page, PageRow] = LoadingCache(memory, lambda row: ROW_BYTES)
        self._unstored: BoundedCache[Page, tuple[PageRow, UpstreamResponse]] = BoundedCache(memory)
        self.arriving: dict[Page, _Arrival] = {}
        """What counts as stored and is about to be written."""
        self._arriving_bytes = 0
        self._write_timer: asyncio.TimerHandle | None = None
        self._writing: asyncio.Task[None] | None = None
        self._some_written = asyncio.Event()
        """Set, and replaced, whenever some of them are written."""

    async def row(self, page: Page) -> PageRow | None:
        """Return what is known of a page; None when it was never asked for, or the catalog cannot be reached."""
        if (arrival := self.arriving.get(page)) is not None:
            return arrival.row
        if (unstored := self._unstored.value(page)) is not None:
            return unstored[0]
        try:
            return await self._rows.get(page, lambda: self._pages.get(self._source, page))
        except StorageUnavailable:
            return None

    async def row_anew(self, page: Page) -> PageRow | None:
        """Return what is known of a page, read from the catalog again: another process may have changed it."""
        self._rows.forget(page)
        return await self.row(page)

    def row_in_memory(self, page: Page) -> PageRow | None:
        """Return what is known of a page without reading the catalog."""
        return self._rows.peek(page)

    async def read(self, page: Page) -> tuple[str, UpstreamResponse] | None:
        """Return the newest response with its revision; None where there is none, or it is damaged or out of reach."""
        if (arrival := self.arriving.get(page)) is not None:
            return arrival.row.stamp.revision, arrival.response
        if (unstored := self._unstored.value(page)) is not None:
            row, response = unstored
            return row.stamp.revision, response
        try:
            return await self._pages.read(self._source, page)
        except StorageUnavailable:
            return None

    async def project(self, page: Page, response: UpstreamResponse) -> Project:
        """Return the project on a response, with this source as the one that lists it. Raises UpstreamProtocolError.

        It is one that can be rendered. Any exception about it is upstream's fault, also that of a library for a value
        that no one expected: it must never become an error of ours, but leave the stored page standing.
        """
        try:
            if len(response.body) > LARGE_PAGE_BYTES:
                project = await self._reader.project(page, response, self._source)
            else:
                project = self._format.parse(page, response, self._source)
                self._format.check_project(project)
        except MirrorError:
            raise
        except Exception as error:
            raise UpstreamProtocolError(f"The page of {page.name} cannot be used ({type(error).__name__}).") from error
        if len(project.files) > MOST_FILES or len(project.versions) > MOST_FILES:
            raise UpstreamProtocolError(f"The page of {page.name} lists more than {MOST_FILES:,} files or versions.")
        return project

    async def read_packed(self, page: Page) -> tuple[str, UpstreamResponse] | None:
        """Return the newest response with its revision, its body in zstd; None where there is none."""
        await self.written(page)
        if (unstored := self._unstored.value(page)) is None:
            return await self._pages.read_packed(self._source, page)
        row, response = unstored
        packed = await asyncio.to_thread(COMPRESS["zstd"], response.body)
        return row.stamp.revision, msgspec.structs.replace(response, body=packed)

    async def serials(self) -> dict[str, int]:
        """Return the serial of each stored page of a project that has one, by the project's name."""
        await self.written()
        return await self._pages.serials(self._source)

    def unstored(self, page: Page) -> UpstreamResponse | None:
        """Return the response of a page that the full disk did not take."""
        unstored = self._unstored.value(page)
        return None if unstored is None else unstored[1]

    async def put(self, page: Page, row: PageRow, response: UpstreamResponse) -> int | None:
        """Store a response, and return the serial of the event; None when it changed nothing or the disk is full."""
        self.changed = True
        await self.written(page)
        try:
            serial = await self._pages.put(self._source, page, response, row.stamp, self._owner)
        except StorageError as error:
            self._keep_unstored(page, row, response, error)
            return None
        self._keep(page, row)
        return serial

    # Pages that are answered meanwhile

    @property
    def has_room(self) -> bool:
        """Whether a page may be answered before it is written."""
        return self._arriving_bytes <= ARRIVING_BYTES

    def put_soon(
        self, page: Page, row: PageRow, response: UpstreamResponse, stored: Callable[[int | None], None]
    ) -> None:
        """Store the first response of a page in a moment; for all who ask here, it is stored from now on.

        `stored` is called when it is, with the serial of the event: None when the disk is full.
        """
        self.changed = True
        self.arriving[page] = _Arrival(row, response, stored)
        self._arriving_bytes += len(response.body)
        self._keep(page, row)
        if self._write_timer is None and self._writing is None:
            self._write_timer = asyncio.get_running_loop().call_later(WRITE_SECONDS, self._start_writing)

    def _start_writing(self) -> asyncio.Task[None]:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if self._writing is None:
            self._writing = asyncio.create_task(self._write(), name="the writer of new pages")
            self._writing.add_done_callback(log_failure)
        return self._writing

    async def _write(self) -> None:
        """Write what has arrived, until nothing is left."""
        try:
            while self.arriving:
                await self._write_together(dict(islice(self.arriving.items(), PAGES_AT_ONCE)))
                self._wake()
        finally:
            self._writing = None
            self._wake()

    def _wake(self) -> None:
        self._some_written.set()
        self._some_written = asyncio.Event()

    async def _write_together(self, arrivals: Mapping[Page, _Arrival]) -> None:
        """Write some pages in one transaction; each in its own where one of them cannot be written."""
        serials: dict[Page, int] = {}
        try:
            answers = {page: (arrival.response, arrival.row.stamp) for page, arrival in arrivals.items()}
            serials = await self._pages.put_all(self._source, answers, self._owner)
        except StorageError as error:
            for page, arrival in arrivals.items():
                self._keep_unstored(page, arrival.row, arrival.response, error)
        except Exception:
            if len(arrivals) > 1:
                for page, arrival in arrivals.items():
                    await self._write_together({page: arrival})
                return
            (page,) = arrivals
            logger.exception("the page %s %s could not be stored", page.kind, page.name)
            self._rows.forget(page)
        for page, arrival in arrivals.items():
            del self.arriving[page]
            self._arriving_bytes -= len(arrival.response.body)
            arrival.stored(serials.get(page))

    async def written(self, page: Page | None = None) -> None:
        """Wait until a page that has arrived is written, or all are."""
        while page in self.arriving if page is not None else self.arriving:
            self._start_writing()
            await self._some_written.wait()

    def _keep_unstored(self, page: Page, row: PageRow, response: UpstreamResponse, error: StorageError) -> None:
        logger.warning("the page %s %s stays in memory: %s", page.kind, page.name, error)
        self._unstored.put(page, (row, response), weight=ROW_BYTES + len(response.body))

    async def put_missing(self, page: Page, now: float, had: bool) -> tuple[PageRow, int | None]:
        """Store that there is no such page, and return the row and the serial of the event, if it changed anything.

        `had`: upstream says itself that there was one.
        """
        serial, self.changed = None, True
        await self.written(page)
        with warn_if_full(f"that there is no {page.kind} page {page.name}"):
            serial = await self._pages.miss(self._source, page, now, self._owner if had else "")
            self._misses += 1
            if self._misses % TRIM_EVERY == 0:
                await self.trim_missing(now)
        return self._keep(page, PageRow(stamp=Stamp(now, False))), serial

    async def trim_missing(self, now: float, under: Pages | None = None) -> None:
        """Forget pages that upstream never had, once that is no longer believed, and the oldest beyond a number.

        `under`: the same table under a lease. Raises LostLease.
        """
        table = under or self._pages
        while await table.trim_missing(self._source, now - self._negative, MOST_MISSING) == MISSING_AT_ONCE:
            pass

    async def confirm(self, page: Page, row: PageRow, now: float) -> PageRow | None:
        """Store that a page is unchanged, and return its row; that of another process which has replaced the page."""
        stamp = msgspec.structs.replace(row.stamp, checked=now)
        await self.written(page)
        with warn_if_full(f"that the {page.kind} page {page.name} is unchanged"):
            if not await self._pages.touch(self._source, page, stamp):
                self._rows.forget(page)
                return await self.row(page)
        return self._keep(page, msgspec.structs.replace(row, stamp=stamp))

    async def projects(self) -> list[str]:
        """Return the names of the projects whose pages are stored, sorted."""
        await self.written()
        return await self._pages.known(self._source, "project")

    def forget(self, page: Page) -> None:
        """Read a page from the catalog again, since someone else has changed it."""
        self._rows.forget(page)
        self._unstored.forget(page)

    def _keep(self, page: Page, row: PageRow) -> PageRow:
        self._unstored.forget(page)
        self._rows.put(page, row)
        return row

    async def close(self) -> None:
        """Write what has arrived, and stop what is being read."""
        await self.written()
        await self._rows.close()


@contextmanager
def warn_if_full(what: str) -> Iterator[None]:
    """Go on when the disk is too full to record something."""
    try:
        yield
    except StorageError as error:
        logger.warning("could not record %s: %s", what, error)


async def off_loop(response: UpstreamResponse, work: Callable[[], T]) -> T:
    """Work on a page, in a thread when the page is large."""
    return work() if len(response.body) < LARGE_PAGE_BYTES else await asyncio.to_thread(work)


def fresh_until(stamp: Stamp, ages: Ages) -> float:
    """Return the moment until which the page is served without asking upstream."""
    return stamp.checked + (ages.fresh if stamp.found else ages.negative)


def row_of(stamp: Stamp, response: UpstreamResponse) -> PageRow:
    """Return what is known of a page with this response."""
    return PageRow(
        stamp=stamp,
        url=response.url,
        content_type=response.content_type,
        etag=response.etag,
        last_modified=response.last_modified,
        serial=response.serial,
    )
