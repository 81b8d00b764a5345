"""An upstream with everything that it ever answered kept, as a source."""

from collections.abc import Callable
from functools import partial

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.errors import MirrorError, NotFound, Offline, UnknownProject, UpstreamUnavailable
from mirror.index.cache import MemoryBudget
from mirror.index.freshness import Freshness, fresh_until
from mirror.index.journal import Journal
from mirror.index.removals import Removals
from mirror.index.source import Document, Listing, NameListing, Outdated, SourceOptions, name_of_upstream
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import LAG_SECONDS, NAMES, Fetch, PageState, UpstreamPages
from mirror.model import File, Format, Names, Outcome, Page, Project
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
        self._pages = UpstreamPages(format, upstream, catalog, journal, self._removals, memory, options)
        self._pages.writer = self
        self._files = UpstreamFiles(format, upstream, catalog, blobs, transfers, journal, memory, options)
        self.open = self._files.open
        self.sidecar = self._files.sidecar

    @property
    def outdated(self) -> Outdated:
        return self._pages.outdated

    @outdated.setter
    def outdated(self, outdated: Outdated) -> None:
        self._pages.outdated = outdated

    def use_listing(self, listed: Callable[[Page], str | None], fetch: Fetch | None = None) -> None:
        """Let an index of upstream's own decide which revision a page has, and how a page is fetched.

        `listed` returns None for a page that the index does not list. Without `fetch`, pages are fetched as from any
        upstream.
        """
        self._pages.listed = listed
        self._pages.fetch = fetch or self._pages.fetch

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL, known: str = "") -> Listing:
        page = Page("project", name)
        until = self._clock() + LAG_SECONDS
        outcome: Outcome = "offline" if self._options.offline else "stale"
        try:
            state = await self._pages.get(page, freshness)
            until, outcome = self._pages.until(page, state), state.outcome
            if state.row.stamp.found:
                return await self._listing(page, state, until, known)
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
        revision, project, left = _with_removed("", Project(name=name), [self._as_ours(file) for file in removed])
        return Listing(revision=revision, until=until, outcome=outcome, project=project, removed=left, gone=True)

    async def _listing(self, page: Page, state: PageState, until: float, known: str) -> Listing:
        """A project that upstream has, with what is left of its removed files."""
        removed: tuple[File, ...] = ()
        if self._removals.projects is None or page.name in self._removals.projects:
            removed = await self._removals.of(page.name)
        if not removed and known == state.row.stamp.revision:
            return Listing(revision=known, until=until, outcome=state.outcome, project=None)
        revision, project = await self._pages.project(page, state)
        revision, project, left = _with_removed(revision, project, [self._as_ours(file) for file in removed])
        return Listing(revision=revision, until=until, outcome=state.outcome, project=project, removed=left)

    def _as_ours(self, file: File) -> File:
        return msgspec.structs.replace(file, source=self.name)

    async def names(self, freshness: Freshness = Freshness.USUAL) -> NameListing:
        try:
            state = await self._pages.get(NAMES, freshness)
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
        until = self._pages.until(NAMES, state)
        return NameListing(revision=stamp.revision, until=until, outcome=state.outcome, load=self._pages.names)

    async def _names_of_stored_pages(self) -> Names:
        return Names(serials=dict.fromkeys(await self._catalog.pages.known(self.name, "project")))

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        state = await self._pages.get(page, freshness)
        if not state.row.stamp.found:
            return None
        return Document(
            revision=state.row.stamp.revision, outcome=state.outcome, read=partial(self._document_body, page)
        )

    async def _document_body(self, page: Page) -> bytes:
        return (await self._pages.response(page)).body

    def forget(self, project: str) -> None:
        self._pages.forget(project)
        self._removals.forget(project)

    async def close(self) -> None:
        await self._pages.close()
        await self._removals.close()
        await self._files.close()


async def _no_names() -> Names:
    return Names()


def _with_removed(revision: str, project: Project, removed: list[File]) -> tuple[str, Project, frozenset[str]]:
    """A project, with its revision, and those of its removed files that it does not list by now; and their names."""
    listed = {file.filename for file in project.files} if removed else set()
    left = [file for file in removed if file.filename not in listed]
    if not left:
        return revision, project, frozenset()
    versions = dict.fromkeys((*project.versions, *(file.version for file in left)))
    project = msgspec.structs.replace(project, files=(*project.files, *left), versions=tuple(versions))
    # The same page can leave other files behind than it did before.
    return "\0".join((revision, *(file.filename for file in left))), project, frozenset(f.filename for f in left)
