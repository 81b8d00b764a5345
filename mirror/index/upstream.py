"""An upstream with everything that it ever answered kept, as a source."""

import time
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, PageRow
from mirror.errors import MirrorError, NotFound, Offline, UnknownProject, UpstreamUnavailable
from mirror.index.freshness import Ages, Freshness, fresh_until
from mirror.index.journal import Journal
from mirror.index.removals import Removals
from mirror.index.source import Document, Listing, NameListing, OpenFile, name_of
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import LAG, NAMES, UpstreamPages
from mirror.model import File, Format, Names, Outcome, Page, Project, UpstreamRequest, UpstreamResponse
from mirror.transfer import Transfers
from mirror.upstream import Upstream


class CachedUpstream:
    """One upstream: its pages are revalidated, its files are held for ever."""

    local = False

    def __init__(
        self,
        *,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        blobs: BlobStore,
        transfers: Transfers,
        feed: Journal,
        ages: Ages,
        page_limit: int = 64 << 20,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`page_limit` is the largest page in bytes, decompressed, that is accepted; a format may allow less."""
        auth = upstream.options.auth
        self.name = name_of(upstream.url, auth.username if auth else "")
        self.upstream = upstream
        self._catalog = catalog
        self._feed = feed
        self._ages = ages
        self._offline = offline
        self._clock = clock
        self._removals = Removals(self.name, catalog, feed)
        self._pages = UpstreamPages(
            self.name, format, upstream, catalog, feed, self._removals,
            ages=ages, limit=page_limit, offline=offline, clock=clock,
        )  # fmt: skip
        self._files = UpstreamFiles(
            self.name, format, upstream, catalog, blobs, transfers, feed, offline=offline, clock=clock
        )

    def guide(
        self,
        listed: Callable[[Page], str | None],
        fetch: Callable[[Page, UpstreamRequest, str | None, str | None], Awaitable[UpstreamResponse | None]]
        | None = None,
    ) -> None:
        """Let an index of upstream's own say which revision a page has, and how a page is got.

        `listed` gives None for a page that the index does not list. `fetch` takes the page, the question, an ETag and a
        Last-Modified, and gives None when the page is unmodified; without it, pages are got as from any upstream.
        """
        self._pages.listed = listed
        self._pages.fetch = fetch or self._pages.fetch

    async def project(self, name: str, demand: Freshness = Freshness.USUAL) -> Listing:
        page = Page("project", name)
        until = self._clock() + LAG
        outcome: Outcome = "offline" if self._offline else "stale"
        try:
            row, outcome = await self._pages.get(page, demand)
            until = self._pages.until(page, row, outcome)
            if row.stamp.found:
                project = await self._pages.project(page, row)
                return self._listing(name, project, await self._removals.of(name), row.stamp.revision, until, outcome)
            missing: MirrorError = UnknownProject(name)
        except NotFound:
            missing = UnknownProject(name)
        except Offline as error:
            missing = error
        except UpstreamUnavailable as error:
            error.last_known_missing = self._pages.last_missing(page)
            if not error.last_known_missing:
                raise
            missing = error
        removed = await self._removals.of(name)
        if not removed:
            raise missing
        return self._listing(name, None, removed, "", until, outcome)

    def _listing(
        self,
        name: str,
        project: Project | None,
        removed: Sequence[File],
        revision: str,
        until: float,
        outcome: Outcome,
    ) -> Listing:
        """A project with what is left of its removed files."""
        listed = {file.filename for file in project.files} if project and removed else set()
        left = tuple(msgspec.structs.replace(file, source=self.name) for file in removed if file.filename not in listed)
        whole = project or Project(name=name)
        if left:
            files = (*whole.files, *left)
            versions = dict.fromkeys((*whole.versions, *(file.version for file in left)))
            whole = msgspec.structs.replace(whole, files=files, versions=tuple(versions))
            # The same page can leave other files behind than it did before.
            revision = "\0".join((revision, *(file.filename for file in left)))
        return Listing(whole, revision, until, outcome, frozenset(f.filename for f in left), project is None)

    async def names(self, demand: Freshness = Freshness.USUAL) -> NameListing:
        try:
            row, outcome = await self._pages.get(NAMES, demand)
        except (Offline, UpstreamUnavailable):
            # Never fetched, and not to be had now: what we hold is what can be installed from here.
            known = await self._catalog.pages.known(self.name, "project")
            names = Names(serials=dict.fromkeys(known))
            word: Outcome = "offline" if self._offline else "stale"
            return NameListing(names, f"held at {self._feed.serial}", self._clock() + 10, word)
        if not row.stamp.found:
            return NameListing(Names(), "", fresh_until(row.stamp, self._ages), outcome)
        names = await self._pages.names(row)
        return NameListing(names, row.stamp.revision, self._pages.until(NAMES, row, outcome), outcome)

    async def document(self, page: Page, demand: Freshness = Freshness.USUAL) -> Document | None:
        row, outcome = await self._pages.get(page, demand)
        if not row.stamp.found:
            return None
        return Document(outcome=outcome, **msgspec.structs.asdict(await self._pages.answer(page)))

    async def accept(self, page: Page, answer: UpstreamResponse) -> PageRow:
        """Store an answer to `page` as if upstream had just given it. Raises UpstreamProtocolError if it is not one."""
        return await self._pages.accept(page, answer)

    async def open(self, project: str, file: File) -> OpenFile:
        return await self._files.open(project, file)

    async def sidecar(self, project: str, file: File) -> OpenFile:
        return await self._files.sidecar(project, file)

    async def close(self) -> None:
        await self._pages.close()
        await self._files.close()
