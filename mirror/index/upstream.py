"""An upstream with everything that it ever answered kept, as a source."""

from functools import partial

import msgspec

from mirror.errors import MirrorError, NoSidecar, Offline, UpstreamUnavailable
from mirror.index.cache import SingleFlight
from mirror.index.checksums import HeldChecksums
from mirror.index.freshness import Freshness
from mirror.index.journal import Journal
from mirror.index.packing import PackedNames
from mirror.index.page_store import NAMES
from mirror.index.source import (
    Document,
    DocumentBody,
    LoadedNames,
    NameListing,
    OpenFile,
    Outdated,
    SourceOptions,
)
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import UpstreamPages
from mirror.model import File, Names, Outcome, Page

RENEWAL_PAUSE_SECONDS = 3.0
"""Time after a page was asked for because one of its links was refused, before it is asked for that reason again."""
RENEWALS_KNOWN = 1000
"""The most projects of which the last such moment is remembered, the oldest going first."""


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
        self._renewing: SingleFlight[str, None] = SingleFlight()
        self._renewals: dict[str, float] = {}
        """When the page of a project was last asked for because of a link, the oldest first."""
        files.renew, files.arriving, files.written = self._renew, pages.store.arriving, pages.store.written
        if pages.checksums is not None:
            files.kept_unvouched = partial(self._kept_unvouched, pages.checksums)

    @property
    def outdated(self) -> Outdated:
        return self.pages.outdated

    @outdated.setter
    def outdated(self, outdated: Outdated) -> None:
        self.pages.outdated = outdated

    @property
    def precedes(self) -> bool:
        return self.pages.precedes

    @precedes.setter
    def precedes(self, precedes: bool) -> None:
        self.pages.precedes = precedes

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
        stamp, until = state.row.stamp, self.pages.until(NAMES, state)
        if not stamp.found:
            return NameListing(revision="", until=until, outcome=state.outcome, load=_no_names)
        return NameListing(
            revision=stamp.revision,
            until=until,
            outcome=state.outcome,
            load=self.pages.names,
            pack=self._packed_names,
            compared=lambda newer: self.pages.serials.set_newer(newer, stamp.checked),
        )

    async def _packed_names(self) -> PackedNames:
        """Return the stored list of names; fetched again when it was lost."""
        found = await self.pages.store.read_packed(NAMES)
        if found is None:
            await self.pages.response(NAMES)
            found = await self.pages.store.read_packed(NAMES)
        if found is None:
            raise UpstreamUnavailable("The list of projects cannot be kept; please ask again.")
        revision, response = found
        facts = msgspec.json.encode(msgspec.structs.replace(response, body=b""))
        return PackedNames(revision, facts, response.body, await self.pages.store.serials())

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
        """Return the entry of a file whose link was refused, if nothing but its link has changed.

        Its page is asked for anew where what we have of it lists the very link: once for all who ask meanwhile, and
        then not for a while, whatever clients do.
        """
        try:
            renewed = await self._renewed_entry(project, file)
            if renewed is not None:
                return renewed
            since = self._options.clock() - self._renewals.get(project, 0.0)
            if project not in self._renewing and 0 <= since < RENEWAL_PAUSE_SECONDS:
                return None
            await self._renewing.run(project, lambda: self._ask_anew(project))
            return await self._renewed_entry(project, file)
        except MirrorError:
            return None

    async def _ask_anew(self, project: str) -> None:
        """Ask upstream for the page of a project. Raises MirrorError."""
        known = await self.pages.store.row(Page("project", project))
        try:
            listing = await self.pages.project(project, Freshness.ANEW)
        finally:
            self._renewals.pop(project, None)
            self._renewals[project] = self._options.clock()
            if len(self._renewals) > RENEWALS_KNOWN:
                del self._renewals[next(iter(self._renewals))]
        if known is None or listing.revision != known.stamp.revision:
            self.outdated([project])

    async def _renewed_entry(self, project: str, file: File) -> File | None:
        """Return the entry of a file as its page lists it, if it differs in its link and in nothing else."""
        listing = await self.pages.project(project, Freshness.ANY)
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
        await self._renewing.close()
        await self.pages.close()
        await self._files.close()


async def _no_names() -> LoadedNames:
    return LoadedNames("", Names())
