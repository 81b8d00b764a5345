"""One index that we serve: sources in order, merged, and looked at through policy.

Three questions, the same for both ecosystems: which names are there, what has this project, give me this file. A file
is only given through the project that lists it, so that policy guards direct URLs as well as pages.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import msgspec

from mirror.errors import Blocked, NotFound, Offline, UnknownFile, UnknownProject, UpstreamUnavailable
from mirror.index.cache import BoundedCache, Validity
from mirror.index.flight import Changes, SingleFlight
from mirror.index.freshness import Freshness
from mirror.index.journal import Journal
from mirror.index.merge import SourceChoice, choose, merge
from mirror.index.source import Document, Listing, NameListing, OpenFile, Source
from mirror.model import File, Format, Names, Outcome, Page, Project
from mirror.policy import Policy, Verdict, apply, matches

logger = logging.getLogger(__name__)

TRIES = 5
"""How often a project is gathered anew because it changed meanwhile."""
REMEMBERED_FILES = 200_000
"""How many files' entries of merged projects stay in memory."""


NOTICED = 3600.0
"""Seconds after which who asks for a small file is noticed again, so that a sweep knows that it is in use."""
REMEMBERED_VALIDITIES = 10_000
"""For how many projects the answers about small files may be repeated without asking."""


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A project as this repository shows it, and until when."""

    project: Project
    """With its visible files only."""
    files: Mapping[str, File]
    """Every file that may be fetched by its direct URL: the visible and the hidden ones, by name."""
    withheld: Mapping[str, Verdict]
    """File name → why it is not shown."""
    removed: frozenset[str]
    """Names of files that upstream has taken back; those that may be fetched are in `files`."""
    gone: bool
    """No source has the project any more: only removed files are left."""
    sources: tuple[str, ...]
    """The sources that contributed, the winning one first."""
    choice: SourceChoice
    """The rule that says who may answer for it."""
    revision: str
    """Equal revisions, equal views."""
    until: float
    """Valid before this moment, in seconds since the epoch."""
    decided_until: float
    """Policy has the same answer before this moment; a file's entry is good for as long, however old the page."""
    outcome: Outcome


class UnfilteredProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project before policy has looked at it."""

    project: Project
    sources: tuple[str, ...]
    """Those that have it, in the order in which they count."""
    choice: SourceChoice
    removed: frozenset[str]
    """Names of files that upstream has taken back."""


class Repository:
    """One mounted index."""

    def __init__(
        self,
        name: str,
        format: Format,
        sources: Sequence[Source],
        *,
        policy: Policy,
        private: Sequence[str] = (),
        union: Sequence[str] = (),
        feed: Journal,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.name = name
        self.format = format
        self.sources = tuple(sources)
        self.changed: list[Callable[[str], None]] = []
        """Called with a project's name when what is shown of it may have changed ("" for the list of names)."""
        self.policy = policy
        self._private = tuple(private)
        self._union = tuple(union)
        self._clock = clock
        self._by_name = {source.name: source for source in sources}
        self._views: BoundedCache[str, View] = BoundedCache(REMEMBERED_FILES)
        self._validities: dict[str, Validity] = {}
        self._viewing: SingleFlight[tuple[str, Freshness], View] = SingleFlight()
        self._changes: Changes[str] = Changes()
        feed.listen(self._heard)

    # Projects

    async def project(self, name: str, demand: Freshness = Freshness.USUAL) -> View:
        """A project by its canonical name. Raises UnknownProject, Unavailable, UpstreamError."""
        view = await self._project(name, demand)
        if view.gone and not view.project.files:
            raise UnknownProject(name)
        return view

    async def _project(self, name: str, demand: Freshness) -> View:
        """As `project`, and what is left of a project that is gone."""
        view = self._views.get(name)
        if view is not None and demand is not Freshness.NOW and self._clock() < view.until:
            return view if view.outcome in ("hit", "offline") else msgspec.structs.replace(view, outcome="hit")
        view, joined = await self._viewing.run((name, demand), lambda: self._view(name, demand))
        return msgspec.structs.replace(view, outcome="joined") if joined and view.outcome == "miss" else view

    async def _view(self, name: str, demand: Freshness) -> View:
        with self._changes.watch(name) as watch:
            found = await self._gather(name, demand)
            outcome = worst([listing.outcome for listing in found.values()])
            for _ in range(TRIES):
                if not watch.changed:
                    break
                watch.changed = False
                found = await self._gather(name, Freshness.ANY)  # what was fetched just now is stored: nobody is asked
        return self._merged(name, found, outcome)

    def _merged(self, name: str, found: Mapping[str, Listing], outcome: Outcome) -> View:
        """What sources say, merged and looked at through policy; kept in memory."""
        revision = "\0".join(f"{source} {listing.revision}" for source, listing in found.items())
        until = min(listing.until for listing in found.values())
        now = self._clock()
        known = self._views.get(name)
        if known is not None and now < known.decided_until and known.revision == self._revision(revision, known):
            view = msgspec.structs.replace(known, until=min(until, known.decided_until), outcome=outcome)
        else:
            merged = merge([listing.project for listing in found.values()], union=len(found) > 1)
            for clash in merged.clashes:
                logger.warning(
                    "%s: %s is shown from %s, and %s offers other bytes under that name",
                    name, clash.filename, clash.source, clash.other_source,
                )  # fmt: skip
            removed = _removed(found.values())
            decided = apply(self.policy, merged.project, now, removed=removed)
            files = {file.filename: file for file in decided.project.files}
            files |= {
                filename: verdict.file for filename, verdict in decided.withheld.items() if verdict.state == "hidden"
            }
            view = View(
                project=decided.project,
                files=files,
                withheld=decided.withheld,
                removed=removed if decided.project.status != "quarantined" else frozenset(files),
                gone=all(listing.gone for listing in found.values()),
                sources=tuple(dict.fromkeys(file.source for file in merged.project.files)),
                choice=self._choice(name, found),
                revision="",
                until=min(until, decided.changes_at or math.inf),
                decided_until=decided.changes_at or math.inf,
                outcome=outcome,
            )
            view = msgspec.structs.replace(view, revision=self._revision(revision, view))
        if known is None or known.revision != view.revision:
            self._end_validity(name)
        self._views.put(name, view, weight=1 + len(view.files))
        return view

    def _end_validity(self, project: str) -> None:
        if (validity := self._validities.pop(project, None)) is not None:
            validity.live = False

    def _revision(self, sources: str, view: View) -> str:
        """The revision of a view: of everything that went into it."""
        return f"{sources}\0{self.policy.digest}\0{view.decided_until}"

    async def _gather(self, name: str, demand: Freshness) -> dict[str, Listing]:
        """Source → what it says, in their order: the first that has the project, or all of them for a union."""
        found: dict[str, Listing] = {}
        left: dict[str, Listing] = {}
        unknown: Exception = UnknownProject(name)
        union = matches(self._union, name)
        for source in self._asked(name):
            try:
                listing = await source.project(name, demand)
            except UnknownProject:
                continue
            except Offline as error:
                unknown = error
                continue
            except UpstreamUnavailable as error:
                # Never past a source whose answer is not known: a later one could offer another's project of that name.
                if not error.last_known_missing:
                    raise
                unknown = error
                continue
            (left if listing.gone and not union else found)[source.name] = listing
            if found and not union:
                break
        if not found and not left:
            raise unknown
        return found or dict([next(iter(left.items()))])

    def _asked(self, name: str) -> Sequence[Source]:
        if matches(self._private, name):
            return [source for source in self.sources if source.local]
        return self.sources

    async def candidates(self, name: str, demand: Freshness = Freshness.USUAL) -> UnfilteredProject:
        """A project before policy, and who may answer for it. Raises as `project`."""
        found = await self._gather(name, demand)
        return UnfilteredProject(
            project=merge([listing.project for listing in found.values()], union=len(found) > 1).project,
            sources=tuple(found),
            choice=self._choice(name, found),
            removed=_removed(found.values()),
        )

    def _choice(self, name: str, found: Collection[str]) -> SourceChoice:
        uploaded = any(source.local and source.name in found for source in self.sources)
        return choose(name, uploaded=uploaded, private=self._private, union=self._union)

    # Names

    async def names(self, demand: Freshness = Freshness.USUAL) -> NameListing:
        """All names of all sources; the private ones only where they are our own. Raises Unavailable."""
        listings = await asyncio.gather(*(source.names(demand) for source in self.sources))
        serials: dict[str, int | None] = {}
        display: dict[str, str] = {}
        for source, listing in zip(self.sources, listings, strict=True):
            for name, serial in listing.names.serials.items():
                if not source.local and self._private and matches(self._private, name):
                    continue
                if name not in serials:
                    serials[name] = serial
                    if name in listing.names.display:
                        display[name] = listing.names.display[name]
        known = [listing.names.serial for listing in listings if listing.names.serial is not None]
        return NameListing(
            Names(serials=dict(sorted(serials.items())), display=display, serial=max(known, default=None)),
            "\0".join(listing.revision for listing in listings),
            min((listing.until for listing in listings), default=math.inf),
            worst([listing.outcome for listing in listings]),
        )

    # Files

    async def file(self, project: str, filename: str) -> File:
        """The entry of a file, however old the page that lists it. Raises NotFound, Blocked, Unavailable."""
        known = self._views.get(project)
        if known is not None and filename in known.files and self._clock() < known.decided_until:
            return known.files[filename]
        view = await self._project(project, Freshness.ANY)
        if filename not in view.files and filename not in view.withheld:
            view = await self._project(project, Freshness.USUAL)  # it may be newer than the page
        file = view.files.get(filename)
        if file is not None:
            return file
        if verdict := view.withheld.get(filename):
            raise Blocked(filename, verdict.rule, verdict.reason)
        raise UnknownFile(project, filename)

    def validity(self, project: str) -> Validity | None:
        """How long what was said of a project's files holds; None when that is not in memory."""
        view = self._views.peek(project)
        if view is None:
            return None  # and so nobody would notice its end
        now = self._clock()
        validity = self._validities.get(project)
        if validity is None or not validity.holds(now):
            self._end_validity(project)
            if len(self._validities) >= REMEMBERED_VALIDITIES:
                self._validities.pop(next(iter(self._validities))).live = False
            validity = self._validities[project] = Validity(min(view.decided_until, now + NOTICED))
        return validity

    def removed(self, project: str, filename: str) -> bool:
        """Whether a file that was just opened is one that upstream has taken back."""
        view = self._views.peek(project)
        return view is not None and filename in view.removed

    async def open(self, project: str, filename: str) -> tuple[File, OpenFile]:
        """The bytes of a file. Raises NotFound, Blocked, Unavailable, UpstreamError."""
        file = await self.file(project, filename)
        return file, await self._by_name[file.source].open(project, file)

    async def sidecar(self, project: str, filename: str) -> tuple[File, OpenFile]:
        """The sidecar of a file, and the file. Raises as `open`."""
        file = await self.file(project, filename)
        if not self.format.has_sidecar(file):
            raise UnknownFile(project, self.format.sidecar_name(file))
        return file, await self._by_name[file.source].sidecar(project, file)

    async def document(
        self, view: View, page: Page, demand: Freshness = Freshness.USUAL, source: str = ""
    ) -> Document | None:
        """A page of the format's own about a project, from a source that has it: the one that won it, if none is named.

        None when it has none.
        """
        source = source or next(iter(view.sources), "")
        if source not in self._by_name:
            return None
        try:
            return await self._by_name[source].document(page, demand)
        except NotFound:
            return None

    async def refetch(self, source: str, project: str, filename: str) -> None:
        """Bring in a file or sidecar of a source that was held, and is no longer. Raises MirrorError."""
        view = await self.project(project, Freshness.ANY)
        file = view.files.get(filename)
        if file is not None and file.source == source:
            opened = await self._by_name[source].open(project, file)
        else:
            owner = next((one for one in view.files.values() if self._is_sidecar(filename, one)), None)
            if owner is None or owner.source != source:
                raise UnknownFile(project, filename)
            opened = await self._by_name[source].sidecar(project, owner)
        async for _ in opened.body.read():
            pass

    def _is_sidecar(self, filename: str, file: File) -> bool:
        return self.format.has_sidecar(file) and self.format.sidecar_name(file) == filename

    # Changes

    def forget(self, project: str) -> None:
        """What is shown of a project may have changed."""
        self._changes.tell(project)
        self._views.forget(project)
        self._end_validity(project)
        for tell in self.changed:
            tell(project)

    def forget_some(self, names: Iterable[str] | None) -> None:
        """As `forget`, for several projects; None for all."""
        for name in list(self._views) if names is None else names:
            self.forget(name)

    def set_policy(self, policy: Policy) -> None:
        """From now on projects are looked at through another policy."""
        self.policy = policy
        self._changes.tell_all()
        self._views.clear()
        for project in list(self._validities):
            self._end_validity(project)

    def _heard(self, source: str, project: str) -> None:
        if source in self._by_name:
            self.forget(project)
            if self._by_name[source].local:
                self.forget("")  # an upload is on the list of names before it is answered

    async def close(self) -> None:
        """Stop what runs behind."""
        await self._viewing.close()
        for source in self.sources:
            await source.close()


def _removed(listings: Iterable[Listing]) -> frozenset[str]:
    """The files that are removed wherever they were listed."""
    listings = list(listings)
    removed = frozenset[str]().union(*(listing.removed for listing in listings))
    if not removed or len(listings) == 1:
        return removed
    return removed.difference(
        file.filename for one in listings for file in one.project.files if file.filename not in one.removed
    )


def worst(outcomes: Sequence[Outcome]) -> Outcome:
    """Of several outcomes the one that says most: an answer is a hit only when all of its parts were."""
    order: tuple[Outcome, ...] = ("miss", "joined", "stale", "offline", "hit")
    return min(outcomes, key=order.index, default="hit")
