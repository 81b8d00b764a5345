"""One index that we serve: sources in order, merged, and looked at through policy.

A file is only given through the project that lists it, so that policy guards direct URLs as well as pages.

A project as it is shown is a `View`. It is the only thing here with a lifetime: whatever is made of it is kept under
its revision, and what is replayed without looking at it again is valid for as long as its `validity` holds.
"""

import math
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import TypeVar

import msgspec

from mirror.errors import Blocked, UnknownFile, UnknownProject
from mirror.index.cache import FILE_BYTES, BoundedCache, MemoryBudget, Validity
from mirror.index.elsewhere import OtherSources, open_from_any
from mirror.index.freshness import CURRENT, Freshness
from mirror.index.gathering import SourceOrder
from mirror.index.journal import Journal
from mirror.index.merge import merge_union, removed_everywhere, worst
from mirror.index.name_lists import ListRenderer
from mirror.index.names import NameIndex
from mirror.index.precedence import FIRST, SourceChoice, choose
from mirror.index.source import Document, Listing, OpenFile, Source, Wanted
from mirror.index.view import RepositoryNames, UnfilteredProject, View, ViewStamp, stand_in, unfiltered
from mirror.index.views import MANY_PROJECTS, STAMP_BYTES, ViewCache
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import File, Format, Outcome, Page
from mirror.policy import Policy, Verdict, apply, matches

__all__ = ["Repository", "UnfilteredProject", "View"]

S = TypeVar("S", bound=ViewStamp)

VIEW_BYTES = 3000
"""Bytes that a view takes in memory, without its files (measured)."""
NOTICED_SECONDS = 3600.0
"""Time after which a request for a small file is looked at again, so that eviction knows that the file is in use."""

_NONE_WITHHELD: Mapping[str, Verdict] = {}


class Repository:
    """One mounted index."""

    def __init__(
        self,
        name: str,
        format: Format,
        order: SourceOrder,
        *,
        policy: Policy,
        journal: Journal,
        memory: MemoryBudget,
        clock: Callable[[], float] = time.time,
        isolated: IsolatedProcesses | None = None,
    ) -> None:
        self.name, self.format = name, format
        self.sources, self.policy = order.sources, policy
        self.changed: list[Callable[[str], None]] = []
        """Called with a project's name when what is shown of it may have changed ("" for the list of names)."""
        self._order = order
        self._precedence = order.precedence
        self._clock = clock
        self._by_name = {source.name: source for source in self.sources}
        self._cache = ViewCache(memory)
        self.views, self.viewing, self._stamps = self._cache.views, self._cache.viewing, self._cache.stamps
        self._names = NameIndex(order, clock, ListRenderer(format.name, isolated) if isolated else None)
        for source in self.sources:
            source.outdated = self._outdated
        self._stop_listening = journal.listen(self._source_changed, self._by_name, own=self.sources)

    # Projects

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL) -> View:
        """Return a project by its canonical name. Raises UnknownProject, Unavailable, UpstreamError."""
        view = await self._view(name, freshness)
        if view.gone and view.empty:
            raise self._order.unknown(name, view.inputs)
        return view

    async def stamp(
        self, name: str, freshness: Freshness, stored: Callable[[], Awaitable[ViewStamp | None]]
    ) -> ViewStamp:
        """Return the stamp of a project, not made anew where one is in memory or `stored`. Raises as `project`."""
        entry = None if name in self.views else self._stamps.get(name)
        if entry and freshness not in CURRENT and entry.value.validity.holds(self._clock()):
            entry.used = True
            stamp = entry.value
        elif name in self.views or (known := entry.value if entry else await stored()) is None:
            return await self.project(name, freshness)
        else:
            stamp, _ = await self._cache.stamping.run(
                (name, freshness), lambda: self._renew_stamp(name, freshness, known)
            )
        if stamp.gone and stamp.empty:
            raise self._order.unknown(name, stamp.inputs)
        return stamp

    async def _renew_stamp(self, name: str, freshness: Freshness, known: ViewStamp) -> ViewStamp:
        """Ask the sources whether a stamp is still right, and return it with what that means; else make the view."""
        before = self._known(name)
        try:
            listings = await self._gather(name, freshness, known.inputs)
        except UnknownProject:
            self.forget(name)
            raise
        until = min(listing.until for listing in listings.values())
        outcome = worst([listing.outcome for listing in listings.values()])
        if not self._unchanged(known, listings):
            return msgspec.structs.replace(await self._view(name, Freshness.ANY), outcome=outcome)
        stamp = msgspec.structs.replace(known, validity=Validity(min(until, known.decided_until)), outcome=outcome)
        return self._keep(name, self._cache.stamping.owns((name, freshness)), before, stamp, self._stamps, STAMP_BYTES)

    async def _view(self, name: str, freshness: Freshness) -> View:
        """Return a project, or what is left of one that is gone."""
        entry = self.views.get(name)
        if entry is not None and freshness not in CURRENT:
            view = entry.value
            if view.validity.live and self._clock() < view.validity.until:
                entry.used = True
                return view
        view, joined = await self.viewing.run((name, freshness), lambda: self._make_view(name, freshness))
        return msgspec.structs.replace(view, outcome="joined") if joined and view.outcome == "miss" else view

    async def _make_view(self, name: str, freshness: Freshness) -> View:
        """Make a view of what the sources have now, and keep it in memory."""
        known, before = self.views.peek(name), self._known(name)
        try:
            listings = await self._gather(name, freshness, known.inputs if known else {})
        except UnknownProject:
            if before is not None:
                self.forget(name)
            raise
        until = min(listing.until for listing in listings.values())
        first, *others = (listing.outcome for listing in listings.values())
        outcome = worst([first, *others]) if others else first
        if known is not None and self._unchanged(known, listings):
            validity = Validity(min(until, known.decided_until))
            view = msgspec.structs.replace(known, validity=validity, outcome=outcome)
        else:
            complete = await self._complete(name, listings)
            try:
                view = self._merge_listings(name, complete, until, outcome)
            except Exception as error:  # an odd value on a page, whatever reads it
                view = stand_in(name, known, self.policy, until, self._clock(), error)
        return self._keep(name, self.viewing.owns((name, freshness)), before, view, self.views, _weight(view))

    async def _gather(self, name: str, freshness: Freshness, known: Mapping[str, str]) -> dict[str, Listing]:
        """Return the listings of the sources in order: of the one that is shown, or of all for a union."""
        sources = [source for source in self._sources_for(name) if source.projects is None or name in source.projects]
        if len(sources) != 1:
            return await self._order.gather(name, sources, freshness, known)
        (source,) = sources
        return {source.name: await source.project(name, freshness, known.get(source.name, ""))}

    def _sources_for(self, name: str) -> Sequence[Source]:
        if self._precedence.private and matches(self._precedence.private, name):
            return [source for source in self.sources if source.local]
        return self.sources

    def _unchanged(self, known: ViewStamp, listings: Mapping[str, Listing]) -> bool:
        inputs = {source: listing.revision for source, listing in listings.items()}
        return (
            self._clock() < known.decided_until
            and list(known.inputs.items()) == list(inputs.items())
            and known.revision == self._revision(inputs, known.decided_until)
        )

    async def _complete(self, name: str, listings: Mapping[str, Listing]) -> dict[str, Listing]:
        """Return the listings with every project: a source that has not changed lists none, since we knew it."""
        complete = {}
        for source, listing in listings.items():
            if listing.project is None:
                listing = await self._by_name[source].project(name, Freshness.ANY)
            complete[source] = listing
        return complete

    def _merge_listings(self, name: str, listings: Mapping[str, Listing], until: float, outcome: Outcome) -> View:
        """Merge the listings of the sources, and apply policy."""
        merged, *others = (listing.project for listing in listings.values() if listing.project is not None)
        if others:
            merged = merge_union(name, [merged, *others])
        removed = _removed_files(listings)
        shown, withheld, decided_until = merged, _NONE_WITHHELD, math.inf
        yanked = self.policy.blocks_yanked and any(file.yanked is not None for file in merged.files)
        if self.policy.rules or self.policy.allow_rules or removed or yanked or merged.status == "quarantined":
            decided = apply(self.policy, merged, self._clock(), removed=removed)
            shown, withheld, decided_until = decided.project, decided.withheld, decided.changes_at or math.inf
        files = {file.filename: file for file in shown.files}
        files |= {filename: verdict.file for filename, verdict in withheld.items() if verdict.state == "hidden"}
        inputs = {source: listing.revision for source, listing in listings.items()}
        return View(
            project=shown,
            files=files,
            withheld=withheld,
            removed=removed if shown.status != "quarantined" else frozenset(files),
            gone=all(listing.gone for listing in listings.values()),
            empty=not shown.files,
            sources=tuple(dict.fromkeys(file.source for file in merged.files)),
            inputs=inputs,
            choice=self._choice(name, listings),
            revision=self._revision(inputs, decided_until),
            decided_until=decided_until,
            validity=Validity(min(until, decided_until)),
            outcome=outcome,
        )

    def _revision(self, inputs: Mapping[str, str], decided_until: float) -> str:
        """Return the revision of everything that goes into a view."""
        sources = "\0".join(f"{source} {revision}" for source, revision in inputs.items())
        return f"{sources}\0{self.policy.digest}\0{decided_until}"

    def _known(self, name: str) -> ViewStamp | None:
        return self.views.peek(name) or self._stamps.peek(name)

    def _keep(
        self, name: str, owned: bool, before: ViewStamp | None, view: S, cache: BoundedCache[str, S], weight: int
    ) -> S:
        """Keep a view or stamp of so many bytes, unless what was kept `before` has changed, or it is not `owned`."""
        known = self._known(name)
        differs = known is None or known.revision != view.revision
        if not owned:
            view.validity.end()  # it has changed since the sources were asked
            return view
        if known is not before and differs:
            view.validity.end()  # of two answers at the same time, neither is known to be the newer one
            self.forget(name)
            return view
        if known is not None and not differs and known.validity.live:
            known.validity.until = view.validity.until
            view = msgspec.structs.replace(view, validity=known.validity)
        elif known is not None:
            known.validity.end()
        elif (dropped := self._cache.dropped.pop(name, None)) is not None:
            dropped.end()
        settled: Outcome = "offline" if view.outcome == "offline" else "hit"
        self._stamps.forget(name)
        cache.put(name, msgspec.structs.replace(view, outcome=settled), weight)
        if differs and (known is not None or view.outcome in ("miss", "joined")):
            self._notify(name)
        return view

    async def candidates(self, name: str, freshness: Freshness = Freshness.USUAL) -> UnfilteredProject:
        """Return a project before policy, and the sources that may answer for it. Raises as `project`."""
        found = await self._gather(name, freshness, {})
        return unfiltered(found, self._choice(name, found), _removed_files(found))

    def _choice(self, name: str, found: Collection[str]) -> SourceChoice:
        uploaded = any(source.local and source.name in found for source in self.sources)
        if not (uploaded or self._precedence.private or self._precedence.union):
            return FIRST
        return choose(name, self._precedence, uploaded=uploaded)

    # Names

    async def names(self, freshness: Freshness = Freshness.USUAL) -> RepositoryNames:
        """Return all names of all sources; the private ones only where they are our own. Raises Unavailable."""
        return await self._names.get(freshness)

    # Files

    def known_file(self, project: str, filename: str) -> File | None:
        """Return the entry of a file that may be fetched, where its project is in memory; else None."""
        entry = self.views.get(project)
        if entry is None or self._clock() >= entry.value.decided_until:
            return None
        entry.used = True
        return entry.value.files.get(filename)

    async def file(self, project: str, filename: str) -> File:
        """Return the entry of a file, however old the page that lists it. Raises NotFound, Blocked, Unavailable."""
        known = self.known_file(project, filename)
        if known is not None:
            return known
        view = await self._view(project, Freshness.ANY)
        if filename not in view.files and filename not in view.withheld:
            view = await self._view(project, Freshness.USUAL)  # it may be newer than the page
        file = view.files.get(filename)
        if file is not None:
            return file
        if verdict := view.withheld.get(filename):
            raise Blocked(filename, verdict.rule, verdict.reason)
        raise UnknownFile(project, filename)

    def validity(self, project: str, file: File) -> Validity | None:
        """Return how long a response with a file may be replayed; None where the present view has no such entry."""
        entry = self.views.get(project)
        if entry is None or not entry.value.validity.live or entry.value.files.get(file.filename) is not file:
            return None  # also when the view has changed since the file was looked up: it may withhold the file
        view = entry.value
        return Validity(min(view.decided_until, self._clock() + NOTICED_SECONDS), view.validity)

    async def removed(self, project: str, filename: str) -> bool:
        """Return whether a file that was just opened is one that upstream has taken back."""
        entry = self.views.get(project)
        view = await self._view(project, Freshness.ANY) if entry is None else entry.value
        return filename in view.removed

    async def open(self, project: str, filename: str, wanted: Wanted = "whole") -> tuple[File, OpenFile]:
        """Return a file's entry and its bytes. Raises NotFound, Blocked, Unavailable, UpstreamError."""
        file = await self.file(project, filename)
        return file, await self.open_file(project, file, wanted)

    async def open_file(self, project: str, file: File, wanted: Wanted = "whole") -> OpenFile:
        """Return the bytes of a file of ours. Raises UnknownFile, Unavailable, UpstreamError."""
        source, others = self._by_name[file.source], self._others(project, file)
        if others is None:
            return await source.open(project, file, wanted)
        return await open_from_any(
            source, others, project, file, lambda at, entry: at.open(project, entry, wanted, others.next_origin)
        )

    def _others(self, project: str, file: File) -> OtherSources | None:
        """Return the other sources of a union, of which one may have the same file."""
        entry = self.views.get(project)
        if entry is None or len(entry.value.inputs) == 1 or file.sha256 is None or file.alternatives:
            return None
        return OtherSources(project, file, [self._by_name[name] for name in entry.value.inputs if name != file.source])

    async def sidecar(self, project: str, filename: str) -> tuple[File, OpenFile]:
        """Return a file's entry and its sidecar. Raises as `open`."""
        file = await self.file(project, filename)
        if not self.format.has_sidecar(file):
            raise UnknownFile(project, self.format.sidecar_name(file))
        source, others = self._by_name[file.source], self._others(project, file)
        if others is None:
            return file, await source.sidecar(project, file)
        return file, await open_from_any(source, others, project, file, lambda at, entry: at.sidecar(project, entry))

    async def document(
        self, view: View, page: Page, freshness: Freshness = Freshness.USUAL, source: str = ""
    ) -> Document | None:
        """Return a page of the format's own about a project, from the source that won it if none is named; or None."""
        return await self._order.document(source or next(iter(view.sources), ""), page, freshness)

    # Changes

    def forget(self, project: str) -> None:
        """Look at a project again ("" for the list of names): what is shown of it may have changed."""
        if self.viewing or self._cache.stamping or any(project in kept for kept in self._cache.kept):
            self._cache.forget(project)
        if not project and (self._names.kept or self._names.gathering):
            self._names.forget()
        self._notify(project)

    def forget_some(self, names: Collection[str]) -> None:
        """Call `forget` for several projects; when they are many, all views are dropped, which is quicker."""
        many = len(names) > MANY_PROJECTS
        if many:
            self._cache.forget_all()
        for name in names:
            (self._notify if many else self.forget)(name)

    def set_policy(self, policy: Policy) -> None:
        """Look at projects through another policy from now on."""
        self.policy = policy
        self._cache.forget_all()

    def _outdated(self, projects: Collection[str] | None) -> None:
        """Look again at the projects that a source of ours lists otherwise than before; None for all of them."""
        if projects is None:
            self._cache.end_validities()
        else:
            self.forget_some(projects)

    def _source_changed(self, source: str, project: str) -> None:
        """Look again at what someone else has changed in one of our sources."""
        ours = self._by_name[source]
        ours.forget(project)
        self.forget(project)
        if ours.local and project:
            self.forget("")  # an upload is on the list of names before it is answered

    def _notify(self, project: str) -> None:
        for listener in self.changed:
            listener(project)

    async def close(self) -> None:
        """Stop what runs in the background."""
        self._stop_listening()
        await self._cache.close()
        await self._names.close()
        for source in self.sources:
            await source.close()


def _removed_files(listings: Mapping[str, Listing]) -> frozenset[str]:
    if not any(listing.removed for listing in listings.values()):
        return frozenset()
    return removed_everywhere([(one.removed, one.project.files if one.project else ()) for one in listings.values()])


def _weight(view: View) -> int:
    """Return the estimated memory of a view, in bytes."""
    files = len(view.files) + sum(verdict.state != "hidden" for verdict in view.withheld.values())
    return VIEW_BYTES + FILE_BYTES * files + sum(map(sys.getsizeof, view.project.extra.values()))
