"""Pages as an upstream answers them: stored raw, revalidated when they are due, and standing in when it fails.

`freshness` decides; here is what follows from its decisions. Only a response that parses replaces an older one.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from functools import partial

import msgspec

from mirror.catalog import Catalog, PageRow
from mirror.errors import (
    AbsentPage,
    MirrorError,
    NotFound,
    Offline,
    StorageUnavailable,
    UnknownProject,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight
from mirror.index.checksums import HeldChecksums
from mirror.index.freshness import CURRENT, Decision, Freshness, decide, stands_in
from mirror.index.journal import Journal, Subscription
from mirror.index.page_changes import PageChanges
from mirror.index.page_listing import LAG_SECONDS, LISTED_SECONDS, PageListing
from mirror.index.page_reader import PageReader
from mirror.index.page_samples import has_page
from mirror.index.page_store import NAMES, PageState, PageStore, fresh_until, off_loop, row_of
from mirror.index.removals import Removals, with_removed
from mirror.index.serials import NewerSerials
from mirror.index.shared_pages import asked_once
from mirror.index.sidecars import SidecarGaps, with_gaps
from mirror.index.source import Listing, LoadedNames, Outdated, SourceOptions, name_of_upstream
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import File, Format, Outcome, Page, Project, Stamp, UpstreamResponse
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)


class UpstreamPages:
    """The pages of one upstream."""

    def __init__(
        self,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        journal: Journal,
        memory: MemoryBudget,
        isolated: IsolatedProcesses,
        options: SourceOptions,
    ) -> None:
        self.listing: PageListing | None = None
        """What an index of upstream's own lists, where it has one; `open_listing` reads it from the store."""
        self.open_listing: Callable[[], Awaitable[None]] | None = None
        self.outdated: Outdated = lambda projects: None
        self.precedes = False
        self.writer: object = self
        """Who changes these pages, for the journal."""
        self.name = name_of_upstream(upstream)
        self.upstream = upstream
        self._format = format
        self._journal = journal
        self._options = options
        self._clock = options.clock
        self._is_alone = options.flights is None and not catalog.database.shared
        self._reader = PageReader(format, isolated)
        self.store = PageStore(self.name, format, catalog, memory, self._reader, options.ages.negative)
        self._removals = Removals(self.name, catalog, journal, memory)
        self.gaps = SidecarGaps(self.name, catalog, journal, memory)
        """The files that have no sidecar."""
        self.checksums: HeldChecksums | None = None
        """Those of ours that its pages are to show, where that is wanted."""
        if options.legacy_checksums and format.with_checksum is not None:
            self.checksums = HeldChecksums(self.name, format.with_checksum, catalog, memory)
        self._lagging: BoundedCache[Page, tuple[str, float]] = BoundedCache(memory)
        """Pages that upstream serves older than its own index lists them: the listed revision, and when we asked."""
        self._asking: SingleFlight[Page, PageState] = SingleFlight(at_once=True)
        self._ask = asked_once(self._ask_upstream, self.store, self.name, options)
        self._overdue: set[Page] = set()
        """Pages that upstream has been asked for longer than a client with a stored one is kept waiting."""
        self.serials = NewerSerials(self.name, catalog)
        asks = partial(has_page, upstream, format)
        self._changes = PageChanges(self.name, self.store, self._reader, self._removals, catalog.claims, memory, asks)

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL, known: str = "") -> Listing:
        """Return what upstream lists of a project; see `Source.project`."""
        page, until = Page("project", name), self._clock() + LAG_SECONDS
        outcome: Outcome = "offline" if self._options.offline else "stale"
        try:
            state = await self.get(page, freshness)
            until, outcome = self.until(page, state), state.outcome
            if state.row.stamp.found and (self.listing is None or state.row.stamp.revision != self.listing.void):
                listing = await self._listing(page, state, until, known)
                if listing.project is None or self.listing is None or self.listing.complete(listing.project):
                    return listing  # what is known already was complete, or is asked for again in its time
                return await self._ask_for_rest(page, listing, known)
            missing: MirrorError = UnknownProject(name)
        except NotFound:
            missing = UnknownProject(name)
        except Offline as error:
            missing = error
        except UpstreamUnavailable as error:
            row = self.store.row_in_memory(page)
            if row is None or row.stamp.found:  # else its last answer was that there is no such page
                raise
            missing = error
        removed = await self._removals.of(name)
        if not removed:
            raise missing
        revision, project, left = with_removed("", Project(name=name), removed)
        return Listing(revision=revision, until=until, outcome=outcome, project=project, removed=left, gone=True)

    async def _listing(self, page: Page, state: PageState, until: float, known: str) -> Listing:
        """Return a project that upstream has, with what is left of its removed files."""
        removed: tuple[File, ...] = ()
        if self._may_have_removed(page.name):
            removed = await self._removals.of(page.name)
        known_gaps = self.gaps.rows.projects
        gaps = await self.gaps.rows.of(page.name) if known_gaps is None or page.name in known_gaps else None
        same = known == state.row.stamp.revision and not (self.checksums and self.checksums.lacks(page.name))
        if same and not removed and not gaps:
            return Listing(revision=known, until=until, outcome=state.outcome, project=None)
        revision, project = await self._read_project(page, state)
        left: frozenset[str] = frozenset()
        if removed:
            revision, project, left = with_removed(revision, project, removed)
        if gaps:
            revision, project = with_gaps(revision, project, gaps)
        if self.checksums is not None:
            revision, project = await self.checksums.complete(revision, project)
        return Listing(revision=revision, until=until, outcome=state.outcome, project=project, removed=left)

    async def _ask_for_rest(self, page: Page, listing: Listing, known: str) -> Listing:
        """Ask again for a page that lacks what upstream's index lists, though with this very revision of the page."""
        now = self._clock()
        until, listed = min(listing.until, now + LAG_SECONDS), self._listed(page) or ""
        if self._options.offline or self._lags(page, listed, now):
            return msgspec.structs.replace(listing, until=until)
        self._lagging.put(page, (listed, now))
        state = await self._ask_or_stand_in(page, await self.store.row(page), now)
        return await self._listing(page, state, until, known)  # looked at again soon, whatever it has now

    async def get(self, page: Page, freshness: Freshness) -> PageState:
        """Return the state of a page, after asking upstream where that is due. Raises Unavailable, UpstreamError."""
        row = await self.store.row(page)
        if (row is None or not row.stamp.found) and page.kind == "project" and await self._is_unlisted(page.name):
            return PageState(PageRow(stamp=Stamp(self._clock(), False)), "offline" if self._options.offline else "hit")
        if self._options.offline or freshness is Freshness.HELD:
            if row is None or not row.stamp.found:
                why = "this mirror is offline" if self._options.offline else "no upstream may be asked"
                raise Offline(f"{page.name or 'The list of names'} is not held here, and {why}.")
            return PageState(row, "offline" if self._options.offline else "stale")
        now = self._clock()
        listed = self._listed(page)
        lags = row and listed is not None and listed != row.stamp.revision and self._lags(page, listed, now)
        if row and lags and freshness not in CURRENT:
            return PageState(row, "stale")
        if row and freshness is Freshness.USUAL and page.kind == "project" and self.serials.exceeds(page.name, row):
            freshness = Freshness.ANEW
        if row:
            decision = decide(row.stamp, now, self._options.ages, listed=listed, freshness=freshness)
            if decision is Decision.SERVE:
                return PageState(row)
            if decision is Decision.SERVE_AND_REFRESH:
                self._asking.start(page, lambda: self._refresh(page, row))
                return PageState(row, "stale")
        state = await self._ask_or_stand_in(page, row, now)
        if listed is not None and state.outcome != "stale" and state.row.stamp.revision != listed:
            self._lagging.put(page, (listed, now))
        return state

    def until(self, page: Page, state: PageState) -> float:
        """Return the moment until which the page need not be asked for again."""
        now = self._clock()
        if self._options.offline:
            return now + 3600
        if state.outcome == "stale":
            return now  # so that the refreshed page is seen as soon as it is there
        if (listed := self._listed(page)) is not None:
            return now + (LISTED_SECONDS if listed == state.row.stamp.revision else LAG_SECONDS)
        return fresh_until(state.row.stamp, self._options.ages)

    async def _read_project(self, page: Page, state: PageState) -> tuple[str, Project]:
        """Return the project on a stored page, with the revision of that page."""
        if state.project is not None:
            return state.row.stamp.revision, state.project
        stored = await self.store.read(page)
        if stored is not None:
            revision, response = stored
            try:
                project = await self.store.project(page, response)
            except UpstreamProtocolError:
                pass  # it did parse once: the store, or what we take for a page, has changed
            else:
                return revision, project
        again = await self._fetch_again(page)
        if again.project is None:
            raise UpstreamUnavailable(f"{self.upstream.name} no longer has the page of {page.name}.")
        return again.row.stamp.revision, again.project

    async def names(self) -> LoadedNames:
        """Return the names on the stored list of them."""
        revision, response = await self.response(NAMES)
        names = await self._reader.names(response)
        row = await self.store.row(NAMES)
        await self.serials.compare(names, row.stamp.checked if row else 0.0)
        return LoadedNames(revision, names)

    async def response(self, page: Page) -> tuple[str, UpstreamResponse]:
        """Return the stored response with its revision; fetched again when it was lost, as with a damaged catalog."""
        stored = await self.store.read(page)
        if stored is None:
            await self._fetch_again(page)
            stored = await self.store.read(page)
        if stored is None:
            raise UpstreamUnavailable(f"The page of {page.name or page.kind} cannot be kept; please ask again.")
        return stored

    def forget(self, project: str) -> None:
        """Read again what is stored of a project, since someone else has changed it; "" is what is about all."""
        for page in [Page("project", project)] if project else self._format.index_pages:
            self.store.forget(page)
        self._removals.forget(project)
        self.gaps.forget(project)
        if self.checksums is not None:
            self.checksums.forget(project)

    def _may_have_removed(self, project: str) -> bool:
        """Return whether there may be removed files of a project."""
        return self._removals.rows.projects is None or project in self._removals.rows.projects

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self.gaps.close()
        if self.checksums is not None:
            await self.checksums.close()
        await self._asking.close()
        await self.store.close()
        await self._removals.close()

    # What is known

    async def _is_unlisted(self, name: str) -> bool:
        """Return whether upstream's own index, which decides, does not list a project."""
        if self.listing is None and self.open_listing is not None:
            await self.open_listing()
        if self.listing is None or name in self.listing.names:
            return False
        if not self._options.offline:
            await self.listing.update()  # sets another one when there is news
        return name not in self.listing.names

    def _listed(self, page: Page) -> str | None:
        """Return the revision of a page that upstream's own index lists."""
        return self.listing.revision(page.name) if self.listing is not None and page.kind == "project" else None

    def _lags(self, page: Page, listed: str, now: float) -> bool:
        """Return whether upstream was asked just now and still has an older page than its own index lists."""
        lagging = self._lagging.value(page)
        return lagging is not None and lagging[0] == listed and 0 <= now - lagging[1] < LAG_SECONDS

    # Asking upstream

    async def _ask_or_stand_in(self, page: Page, row: PageRow | None, now: float) -> PageState:
        """Ask for a page; the stored one stands in where upstream fails or takes too long."""
        stand_in = row if row and stands_in(row.stamp, now, self._options.ages) else None
        missing = row is not None and not row.stamp.found
        try:
            if self._overdue and (stand_in or missing):
                raise self._too_slow()
            limit = self.upstream.options.stale_timeout
            async with asyncio.timeout(limit) if stand_in or missing else nullcontext():
                state, joined = await self._asking.run(page, lambda: self._ask(page, row))
                return msgspec.structs.replace(state, outcome="joined") if joined else state
        except (UpstreamError, StorageUnavailable) as error:
            if stand_in is None:
                raise
            logger.warning("serving the stored page of %s: %s", page.name or page.kind, error)
        except TimeoutError:
            # The request goes on; until it is answered, no one else waits who has something stored.
            self._overdue.add(page)
            self._asking.start(page, lambda: self._ask(page, row)).add_done_callback(
                lambda _: self._overdue.discard(page)
            )
            if stand_in is None:
                raise self._too_slow() from None
        return PageState(stand_in, "stale")

    def _too_slow(self) -> UpstreamUnavailable:
        return UpstreamUnavailable(f"{self.upstream.name} is taking too long to answer.")

    async def _refresh(self, page: Page, row: PageRow) -> PageState:
        """Ask for a page while the stored one is served; the next request sees what came of it."""
        state = await self._ask(page, row)
        if state.row.stamp.revision != row.stamp.revision and page.kind == "project":
            self.outdated([page.name])
        return state

    async def _ask_upstream(self, page: Page, row: PageRow | None) -> PageState:
        """Ask upstream, conditionally, and store its answer."""
        request = self._format.request_for(self.upstream.url, page)
        request = msgspec.structs.replace(request, limit=min(request.limit, self._options.page_limit))
        known = row if row and row.stamp.found else None
        try:
            if page.kind == "project" and self.listing is not None and self.listing.make is not None:
                return await self._accept(page, row, await self.listing.make(page.name))
            response = await self.upstream.get(
                request, etag=known.etag if known else None, last_modified=known.last_modified if known else None
            )
        except NotFound as error:
            listing = self.listing if page.kind == "project" else None
            if listing is not None and listing.make is None and page.name in listing.names:
                # No 404 to our clients for what upstream itself lists: some would leave the index for good.
                raise AbsentPage(f"{self.upstream.name} lists {page.name}, but has no page of it.") from None
            return await self._missing(page, row, error.existed)
        if response is not None:
            return await self._accept(page, row, response)
        if known is None:
            raise UpstreamUnavailable(f"{self.upstream.name} answered 304 to a request without a condition.")
        if (unstored := self.store.unstored(page)) is not None:
            return await self._accept(page, row, unstored)  # there may be room by now
        confirmed = await self.store.confirm(page, known, self._clock())
        return PageState(confirmed, "miss") if confirmed else await self._ask_upstream(page, None)

    async def _fetch_again(self, page: Page) -> PageState:
        """Fetch a page whose stored response can no longer be read, without a condition."""
        what = page.name or page.kind
        logger.error("the stored page of %s is lost or damaged, or out of reach; it is fetched again", what)
        self.store.forget(page)
        if self._options.offline:
            raise Offline(f"The stored page of {what} is lost or damaged, and this mirror is offline.")
        state, _ = await self._asking.run(page, lambda: self._ask_upstream(page, None))
        return state

    # Taking in an answer

    async def _accept(self, page: Page, before: PageRow | None, response: UpstreamResponse) -> PageState:
        """Store a response to the request for `page`. Raises UpstreamProtocolError if it is not one."""
        now = self._clock()
        stamp = Stamp(now, True, self._format.revision(response.body))
        changed = before is None or not before.stamp.found or before.stamp.revision != stamp.revision
        project = None
        if page.kind == "project":
            project = await self.store.project(page, response)
            listed_before = before is not None and before.stamp.found
            if changed and (listed_before or project.status == "quarantined" or self._may_have_removed(page.name)):
                listed = self._listed(page) == stamp.revision
                await self._changes.check_project(page, before, project, response, now, listed)
        elif page.kind == "names":
            names = await self._reader.names(response)
            await self._changes.check_names(page, before, names, now)
            await self.serials.compare(names, now)
        else:
            await off_loop(response, lambda: self._format.check_document(page, response))
        row, report = row_of(stamp, response), partial(self._report if changed else self._recorded, page)
        first = before is None and page.kind == "project" and self.store.has_room
        if first and self._is_alone and not self.precedes and not self._others():
            self.store.put_soon(page, row, response, report)
        else:
            report(await self.store.put(page, row, response))
        return PageState(row, "miss", project)

    async def _missing(self, page: Page, row: PageRow | None, had: bool) -> PageState:
        """Store that upstream has no such page; `had`: it says itself that there was one."""
        now = self._clock()
        listed = row is not None and row.stamp.found
        if page.kind == "project" and listed:
            await self._changes.check_missing(page, now)
        missing, serial = await self.store.put_missing(page, now, had)
        if listed:
            logger.warning("%s no longer has the page %s %s", self.upstream.name, page.kind, page.name)
            self._report(page, serial)
        return PageState(missing, "miss")

    def _others(self) -> list[Subscription]:
        """Return who else in this process wants to know of changes."""
        return [one for one in self._journal.subscriptions.get(self.name, ()) if self.writer not in one.own]

    def _report(self, page: Page, serial: int | None) -> None:
        """Let others know that a page has changed, and all pages be looked at again by a new list of names."""
        if page.kind in ("project", "names"):
            for subscription in self._others():
                subscription.listener(self.name, page.name)
        self._recorded(page, serial)
        if page.kind == "names":
            self.outdated(None)

    def _recorded(self, page: Page, serial: int | None) -> None:
        """Wake those who wait for events, after one was written."""
        if serial is not None:
            self._journal.own_serials.append(serial)
            self._journal.news.set()
