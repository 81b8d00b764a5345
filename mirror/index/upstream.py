"""An upstream with everything that it ever answered kept, as a source."""

from functools import partial

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import Offline, UpstreamUnavailable
from mirror.index.cache import MemoryBudget
from mirror.index.freshness import Freshness, fresh_until
from mirror.index.journal import Journal
from mirror.index.removals import Removals
from mirror.index.source import Document, NameListing, Outdated, SourceOptions, name_of_upstream
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import NAMES, UpstreamPages
from mirror.model import Format, Names, Outcome, Page
from mirror.transfer import Transfers
from mirror.upstream import Upstream


class CachedUpstream:
    """One upstream: its pages are revalidated, its files are held for ever."""

    local = False
    projects = None

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
        self.name = name_of_upstream(upstream)
        self.upstream = upstream
        self._catalog = catalog
        self._journal = journal
        self._options = options
        self._clock = options.clock
        self._removals = Removals(self.name, catalog, journal, memory)
        self.pages = UpstreamPages(format, upstream, catalog, journal, self._removals, memory, options)
        """Its pages; an index of upstream's own sets their `listing`."""
        self.pages.writer = self
        self._files = UpstreamFiles(format, upstream, catalog, blobs, transfers, journal, memory, options)
        self.project = self.pages.project
        self.open = self._files.open
        self.sidecar = self._files.sidecar

    @property
    def outdated(self) -> Outdated:
        return self.pages.outdated

    @outdated.setter
    def outdated(self, outdated: Outdated) -> None:
        self.pages.outdated = outdated

    async def names(self, freshness: Freshness = Freshness.USUAL) -> NameListing:
        try:
            state = await self.pages.get(NAMES, freshness)
        except (Offline, UpstreamUnavailable):
            # Never fetched, and not to be had now: what we hold is what can be installed from here.
            outcome: Outcome = "offline" if self._options.offline else "stale"
            revision = f"held at {self._journal.serial}"
            return NameListing(
                revision=revision, until=self._clock() + 10, outcome=outcome, load=self._names_of_stored_pages
            )
        stamp = state.row.stamp
        if not stamp.found:
            until = fresh_until(stamp, self._options.ages)
            return NameListing(revision="", until=until, outcome=state.outcome, load=_no_names)
        until = self.pages.until(NAMES, state)
        return NameListing(revision=stamp.revision, until=until, outcome=state.outcome, load=self.pages.names)

    async def _names_of_stored_pages(self) -> Names:
        return Names(serials=dict.fromkeys(await self._catalog.pages.known(self.name, "project")))

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        state = await self.pages.get(page, freshness)
        if not state.row.stamp.found:
            return None
        return Document(
            revision=state.row.stamp.revision, outcome=state.outcome, read=partial(self._document_body, page)
        )

    async def _document_body(self, page: Page) -> bytes:
        return (await self.pages.response(page)).body

    def forget(self, project: str) -> None:
        self.pages.forget(project)
        self._removals.forget(project)

    async def close(self) -> None:
        await self.pages.close()
        await self._removals.close()
        await self._files.close()


async def _no_names() -> Names:
    return Names()
