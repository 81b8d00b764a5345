"""Pages as an upstream answers them: kept raw, revalidated when they are due, and standing in when it fails.

The decisions stand in `freshness`; here is what they lead to. Only an answer that parses replaces an older one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec

from mirror.catalog import Catalog, PageRow
from mirror.errors import NotFound, Offline, StorageFull, UpstreamError, UpstreamProtocolError, UpstreamUnavailable
from mirror.index.cache import BoundedCache
from mirror.index.flight import SingleFlight
from mirror.index.freshness import Ages, Decision, Freshness, decide, fresh_until, stands_in
from mirror.index.journal import Journal
from mirror.index.removals import Removals
from mirror.model import Format, Names, Outcome, Page, Project, Stamp, UpstreamRequest, UpstreamResponse
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

LARGE = 256 << 10
"""Bytes of a page above which parsing and compressing leave the event loop."""
LAG = 30.0
"""Seconds after which an upstream that serves an older page than it lists is asked again."""
REMEMBERED_FILES = 100_000
"""How many files' entries of parsed pages stay in memory."""
UNSTORED = 64 << 20
"""Bytes of pages that stay in memory because there was no room to store them."""
NAMES = Page("names")

T = TypeVar("T", Project, Names)


class UpstreamPages:
    """The pages of one upstream."""

    def __init__(
        self,
        name: str,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        feed: Journal,
        removals: Removals,
        *,
        ages: Ages,
        limit: int,
        offline: bool,
        clock: Callable[[], float],
    ) -> None:
        """`name` is the source's; `limit` is the largest page in bytes, decompressed, that is accepted."""
        self.listed: Callable[[Page], str | None] = lambda page: None
        """What upstream's own index lists as a page's revision, where it has such an index."""
        self.fetch: Callable[[Page, UpstreamRequest, str | None, str | None], Awaitable[UpstreamResponse | None]] = (
            self._fetch
        )
        """How a page is got from upstream: page, question, ETag and Last-Modified → answer, None when unmodified."""
        self._name = name
        self._format = format
        self._upstream = upstream
        self._catalog = catalog
        self._feed = feed
        self._removals = removals
        self._ages = ages
        self._limit = limit
        self._offline = offline
        self._clock = clock
        self._rows: BoundedCache[Page, PageRow] = BoundedCache(20_000)
        self._unstored: BoundedCache[Page, tuple[PageRow, UpstreamResponse]] = BoundedCache(UNSTORED)
        """Newer than what is stored: the disk was full."""
        self._projects: BoundedCache[Page, tuple[str, Project]] = BoundedCache(REMEMBERED_FILES)
        self._names: tuple[str, Names] | None = None
        self._lagging: BoundedCache[Page, tuple[str, float]] = BoundedCache(1000)
        self._asking: SingleFlight[Page, PageRow] = SingleFlight()
        self._overdue: set[Page] = set()
        """Pages that upstream has been asked for longer than a client with a stored one is let wait."""
        feed.listen(self._heard)

    def _heard(self, source: str, project: str) -> None:
        """Read a page's state again: another process may have changed it."""
        if source == self._name:
            page = Page("project", project) if project else NAMES
            self._rows.forget(page)
            self._unstored.forget(page)

    def until(self, page: Page, row: PageRow, outcome: Outcome) -> float:
        """The moment until which the page need not be asked for again."""
        now = self._clock()
        if self._offline:
            return now + 3600
        if outcome == "stale":
            return now  # so that the refreshed page is seen as soon as it is there
        if (listed := self.listed(page)) is not None:
            return now + (3600 if listed == row.stamp.revision else LAG)  # a change announces itself in the index
        return fresh_until(row.stamp, self._ages)

    async def get(self, page: Page, demand: Freshness) -> tuple[PageRow, Outcome]:
        """The stored state of a page, after asking upstream where that is due. Raises Unavailable, UpstreamError."""
        row = await self._row(page)
        if self._offline:
            if row is None or not row.stamp.found:
                raise Offline(f"{page.name or 'The list of names'} is not held here, and this mirror is offline.")
            return row, "offline"
        now = self._clock()
        stamp = row.stamp if row else None
        listed = self.listed(page)
        if row and listed is not None and listed != row.stamp.revision and self._lags(page, listed, now):
            return row, "stale"
        if row and demand is Freshness.USUAL and self._outdated(page, row):
            demand = Freshness.NOW
        decision = decide(stamp, now, self._ages, listed=listed, demand=demand)
        if row and decision is Decision.SERVE:
            return row, "hit"
        if row and decision is Decision.SERVE_AND_REFRESH:
            self._asking.start(page, lambda: self._ask(page, row))
            return row, "stale"
        stand_in = row if stands_in(stamp, now, self._ages) else None
        missing = stamp is not None and not stamp.found
        try:
            if self._overdue and (stand_in or missing):
                raise UpstreamUnavailable(f"{self._upstream.name} is taking too long to answer.", 5)
            async with asyncio.timeout(self._upstream.options.connect_timeout if stand_in or missing else None):
                asked, joined = await self._asking.run(page, lambda: self._ask(page, row))
        except UpstreamError as error:
            if stand_in is None:
                raise
            logger.warning("serving the stored page of %s: %s", page.name or page.kind, error)
            return stand_in, "stale"
        except TimeoutError:
            # The question goes on; until it is answered, nobody else waits who has something stored.
            self._overdue.add(page)
            self._asking.start(page, lambda: self._ask(page, row)).add_done_callback(
                lambda _: self._overdue.discard(page)
            )
            if stand_in is None:
                raise UpstreamUnavailable(f"{self._upstream.name} is taking too long to answer.", 5) from None
            return stand_in, "stale"
        if listed is not None and asked.stamp.revision != listed:
            self._lagging.put(page, (listed, now))
        return asked, "joined" if joined else "miss"

    def _outdated(self, page: Page, row: PageRow) -> bool:
        """Whether the list of names, read later than the page, has a newer serial for it: clients compare the two."""
        names = self._rows.get(NAMES)
        if names is None or self._names is None or names.stamp.checked <= row.stamp.checked:
            return False
        serial = self._names[1].serials.get(page.name)
        return serial is not None and row.serial is not None and row.serial < serial

    def _lags(self, page: Page, listed: str, now: float) -> bool:
        """Whether upstream was asked just now and still has an older page than its own index lists."""
        lagging = self._lagging.get(page)
        return lagging is not None and lagging[0] == listed and 0 <= now - lagging[1] < LAG

    async def _row(self, page: Page) -> PageRow | None:
        if (unstored := self._unstored.get(page)) is not None:
            return unstored[0]
        return await self._stored(page)

    async def _stored(self, page: Page) -> PageRow | None:
        row = self._rows.get(page)
        if row is None:
            row = await self._catalog.pages.get(self._name, page)
            if row is not None:
                self._rows.put(page, row)
        return row

    async def _ask(self, page: Page, row: PageRow | None) -> PageRow:
        """Ask upstream, conditionally, and store what it says: only an answer that parses replaces an older one."""
        ask = self._format.request_for(self._upstream.url, page)
        ask = msgspec.structs.replace(ask, limit=min(ask.limit, self._limit))
        known = row if row and row.stamp.found else None
        try:
            answer = await self.fetch(page, ask, known.etag if known else None, known.last_modified if known else None)
        except NotFound:
            return await self._gone(page, row)
        now = self._clock()
        if answer is None and known:
            if (unstored := self._unstored.get(page)) is not None:
                return await self.accept(page, unstored[1])  # there may be room by now
            stamp = msgspec.structs.replace(known.stamp, checked=now)
            with self._room_or(f"that {page.kind} {page.name} is unchanged"):
                await self._catalog.pages.touch(self._name, page, now)
            return self._keep(page, msgspec.structs.replace(known, stamp=stamp))
        if answer is None:
            raise UpstreamUnavailable(f"{self._upstream.name} answered 304 to a question without a condition.")
        return await self.accept(page, answer)

    async def _fetch(
        self, page: Page, ask: UpstreamRequest, etag: str | None, last_modified: str | None
    ) -> UpstreamResponse | None:
        return await self._upstream.get(ask, etag=etag, last_modified=last_modified)

    async def accept(self, page: Page, answer: UpstreamResponse) -> PageRow:
        """Store an answer to `page` as if upstream had just given it. Raises UpstreamProtocolError if it is not one."""
        now = self._clock()
        stamp = Stamp(now, True, self._format.revision(answer.body))
        if page.kind == "project":
            project = await _off_loop(answer, lambda: self._format.parse(page, answer))
            old = await self._stored(page)
            if old is None or not old.stamp.found or old.stamp.revision != stamp.revision:
                await self._compare(page, project, now)
            self._remember(page, stamp.revision, project)
        elif page.kind == "names":
            names = await _off_loop(answer, lambda: self._format.parse_names(answer))
            self._names = stamp.revision, names
        row = PageRow(
            stamp=stamp,
            url=answer.url,
            content_type=answer.content_type,
            etag=answer.etag,
            last_modified=answer.last_modified,
            serial=answer.serial,
        )
        try:
            serial = await self._catalog.pages.put(self._name, page, answer, stamp)
        except StorageFull as error:
            logger.warning("the page %s %s stays in memory: %s", page.kind, page.name, error)
            self._keep_unstored(page, row, answer)
        else:
            if serial is not None:
                self._feed.changed(serial, self._name, page.name)
            self._keep(page, row)  # after `_heard`, which takes every change for another process's
        if page.kind == "names":
            for other in [other for other in self._rows if other.kind == "project"]:
                if (known := self._rows.get(other)) and self._outdated(other, known):
                    self._feed.changed(None, self._name, other.name)
        return row

    async def _gone(self, page: Page, row: PageRow | None) -> PageRow:
        now = self._clock()
        if page.kind == "project" and row and row.stamp.found:
            await self._compare(page, None, now)
        serial = None
        with self._room_or(f"that there is no {page.kind} {page.name}"):
            serial = await self._catalog.pages.miss(self._name, page, now)
        if row and row.stamp.found:
            logger.warning("%s no longer has the page %s %s", self._upstream.name, page.kind, page.name)
            self._feed.changed(serial, self._name, page.name)
        return self._keep(page, PageRow(stamp=Stamp(now, False)))

    async def _compare(self, page: Page, after: Project | None, now: float) -> None:
        with self._room_or(f"which files of {page.name} are gone"):
            await self._removals.compare(page.name, await self._before(page), after, now)

    async def _before(self, page: Page) -> Project | None:
        """What the stored page of a project lists; None when there is none that can be read."""
        row = await self._stored(page)
        if row is None or not row.stamp.found:
            return None
        remembered = self._projects.get(page)
        if remembered and remembered[0] == row.stamp.revision:
            return remembered[1]
        answer = await self._catalog.pages.answer(self._name, page)
        try:
            return None if answer is None else await _off_loop(answer, lambda: self._format.parse(page, answer))
        except UpstreamProtocolError:
            return None

    def _keep(self, page: Page, row: PageRow) -> PageRow:
        self._unstored.forget(page)
        self._rows.put(page, row)
        return row

    def _keep_unstored(self, page: Page, row: PageRow, answer: UpstreamResponse) -> None:
        known = self._unstored.get(page)
        if known is None or known[0].stamp.revision != row.stamp.revision:
            self._feed.changed(None, self._name, page.name)
        self._unstored.put(page, (row, answer), weight=max(1, len(answer.body)))  # after `_heard`, as in `accept`

    @contextmanager
    def _room_or(self, what: str) -> Iterator[None]:
        """Go on when the disk is full: nobody who only asks has to notice."""
        try:
            yield
        except StorageFull as error:
            logger.warning("it is not written down %s: %s", what, error)

    def _remember(self, page: Page, revision: str, project: Project) -> Project:
        files = tuple(msgspec.structs.replace(file, source=self._name) for file in project.files)
        project = msgspec.structs.replace(project, files=files)
        self._projects.put(page, (revision, project), weight=1 + len(files))
        return project

    async def project(self, page: Page, row: PageRow) -> Project:
        """The project of a stored page, parsed once for each revision."""
        remembered = self._projects.get(page)
        if remembered and remembered[0] == row.stamp.revision:
            return remembered[1]
        answer = await self.answer(page)
        try:
            project = await _off_loop(answer, lambda: self._format.parse(page, answer))
        except UpstreamProtocolError:  # it did parse once: the store, or what we take for a page, has changed
            again = await self._again(page)
            project = await _off_loop(again, lambda: self._format.parse(page, again))
        return self._remember(page, row.stamp.revision, project)

    async def names(self, row: PageRow) -> Names:
        """The names on the stored list of them, parsed once for each revision."""
        if self._names is None or self._names[0] != row.stamp.revision:
            answer = await self.answer(NAMES)
            names = await _off_loop(answer, lambda: self._format.parse_names(answer))
            self._names = row.stamp.revision, names
        return self._names[1]

    def last_missing(self, page: Page) -> bool:
        """Whether the last thing that upstream did say was that there is no such page."""
        row = self._rows.get(page)
        return row is not None and not row.stamp.found

    async def answer(self, page: Page) -> UpstreamResponse:
        """The stored answer; asked for anew when it was lost, as when a damaged catalog was replaced."""
        return await self._known_answer(page) or await self._again(page)

    async def _known_answer(self, page: Page) -> UpstreamResponse | None:
        if (unstored := self._unstored.get(page)) is not None:
            return unstored[1]
        return await self._catalog.pages.answer(self._name, page)

    async def _again(self, page: Page) -> UpstreamResponse:
        """Ask for a page that cannot be read any more, without a condition."""
        what = page.name or page.kind
        logger.error("the stored page of %s is lost or damaged; it is fetched again", what)
        self._rows.forget(page)
        self._unstored.forget(page)
        if self._offline:
            raise Offline(f"The stored page of {what} is lost or damaged, and this mirror is offline.")
        await self._asking.run(page, lambda: self._ask(page, None))
        answer = await self._known_answer(page)
        if answer is None:
            raise UpstreamUnavailable(f"The page of {what} cannot be kept; please ask again.", 1)
        return answer

    async def close(self) -> None:
        """Stop what runs behind."""
        await self._asking.close()


async def _off_loop(answer: UpstreamResponse, work: Callable[[], T]) -> T:
    """Do work on a page, in a thread when the page is large."""
    return work() if len(answer.body) < LARGE else await asyncio.to_thread(work)
