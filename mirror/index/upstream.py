"""An upstream with everything that it ever answered kept, as a source."""

from functools import partial

import msgspec

from mirror.errors import MirrorError, NoSidecar, Offline, UpstreamUnavailable
from mirror.index.checksums import HeldChecksums
from mirror.index.freshness import Freshness, fresh_until
from mirror.index.journal import Journal
from mirror.index.source import Document, DocumentBody, LoadedNames, NameListing, OpenFile, Outdated, SourceOptions
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import NAMES, UpstreamPages
from mirror.model import File, Names, Outcome, Page

RENEWED_SECONDS = 10.0
"""Time for which a page counts as just asked for, when one of its links is refused."""


class CachedUpstream:
    """One upstream: its pages are revalidated, its files are held for ever."""

    local = False
    projects = None

    def __init__(self, pages: UpstreamPages, files: UpstreamFiles, journal: Journal, options: SourceOptions) -> None:
        self.name = pages.name
        self.upstream = pages.upstream
        self.pages = pages
        """Its pages; an index of upstream's own sets their `listing`."""
        self.pages.writer = self
        self._files = files
        self._journal = journal
        self._options = options
        self.project = pages.project
        self.open = files.open
        self.origin = files.origin
        files.renew = self._renew
        if pages.checksums is not None:
            files.kept_unvouched = partial(self._kept_unvouched, pages.checksums)

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
            until = self._options.clock() + 10
            return NameListing(
                revision=self._held_revision(), until=until, outcome=outcome, load=self._names_of_stored_pages
            )
        stamp = state.row.stamp
        if not stamp.found:
            until = fresh_until(stamp, self._options.ages)
            return NameListing(revision="", until=until, outcome=state.outcome, load=_no_names)
        until = self.pages.until(NAMES, state)
        return NameListing(revision=stamp.revision, until=until, outcome=state.outcome, load=self.pages.names)

    def _held_revision(self) -> str:
        return f"held at {self._journal.serial}"

    async def _names_of_stored_pages(self) -> LoadedNames:
        revision = self._held_revision()
        return LoadedNames(revision, Names(serials=dict.fromkeys(await self.pages.store.projects())))

    async def holds(self, project: str, file: File) -> bool:
        return await self._files.held(project, file) is not None

    async def sidecar(self, project: str, file: File) -> OpenFile:
        try:
            return await self._files.sidecar(project, file)
        except NoSidecar:
            if await self.pages.gaps.add(project, file, self._options.clock()):
                self.outdated([project])
            raise

    def _kept_unvouched(self, checksums: HeldChecksums, project: str) -> None:
        """Look at a page again that lists a checksum of ours from now on."""
        self.outdated([project])
        checksums.forget(project)

    async def _renew(self, project: str, file: File) -> File | None:
        """Ask for the page of a project anew, and return the entry of a file if nothing but its link has changed."""
        known = await self.pages.store.row(Page("project", project))
        asked = known is not None and 0 <= self._options.clock() - known.stamp.checked < RENEWED_SECONDS
        try:
            listing = await self.pages.project(project, Freshness.ANY if asked else Freshness.ANEW)
        except MirrorError:
            return None
        if known is None or listing.revision != known.stamp.revision:
            self.outdated([project])
        entry = listing.project.file(file.filename) if listing.project else None
        if entry is None or entry.url == file.url:
            return None
        # An entry that differs in more goes through policy first: the next request finds it.
        same = msgspec.structs.replace(entry, url=file.url, extra=file.extra, sidecar=file.sidecar) == file
        return entry if same else None

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        state = await self.pages.get(page, freshness)
        if not state.row.stamp.found:
            return None
        return Document(
            revision=state.row.stamp.revision, outcome=state.outcome, read=partial(self._document_body, page)
        )

    async def _document_body(self, page: Page) -> DocumentBody:
        revision, response = await self.pages.response(page)
        return DocumentBody(revision, response.body)

    def forget(self, project: str) -> None:
        self.pages.forget(project)
        self._files.forget(project)

    async def close(self) -> None:
        await self.pages.close()
        await self._files.close()


async def _no_names() -> LoadedNames:
    return LoadedNames("", Names())
