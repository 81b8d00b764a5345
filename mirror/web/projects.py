"""The list of projects of all repositories by name, a page at a time: held projects first, then others that are known.

A page costs a few bounded queries, however many projects there are: each *tier* (held, known) is walked by name from
where the last page ended. No upstream is contacted; its list of names counts only where it is stored already.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import chain

import msgspec
from yarl import URL

from mirror.auth import Scope
from mirror.catalog import Browse, Pages
from mirror.catalog.holdings import begins, contains
from mirror.errors import Invalid, MirrorError
from mirror.index.ecosystem import Ecosystem
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.index.source import join_revisions
from mirror.model import Page
from mirror.policy import matches

PROJECTS_PER_PAGE = 50
STEPS_PER_PAGE = 6
"""Queries of each kind for one page: where the viewer may not see most of what is found, pages are shorter."""
QUERY_CHARACTERS = 100
POSITION_CHARACTERS = 500


class KnownNames(msgspec.Struct, frozen=True):
    """Names that are known without a request upstream."""

    revision: str
    """Equal revisions, equal names."""
    load: Callable[[], Awaitable[tuple[str, Iterable[str]]]]
    """Returns the names with their revision, which may be newer."""

    @classmethod
    def of(cls, names: Iterable[str], revision: str = "") -> "KnownNames":
        """Return names that are in memory already."""

        async def load() -> tuple[str, Iterable[str]]:
            return revision, names

        return cls(revision, load)


async def stored_names(repository: Repository, pages: Pages) -> KnownNames:
    """Return the names on the stored lists of a repository's upstreams, of any age."""
    listings = []
    for source in repository.sources:
        row = None if source.local else await pages.get(source.name, Page("names"))
        if row is not None and row.stamp.found:
            with suppress(MirrorError):
                listings.append(await source.names(Freshness.ANY))

    async def load() -> tuple[str, Iterable[str]]:
        loaded = [await listing.load() for listing in listings]
        return join_revisions(loaded), chain.from_iterable(names.serials for _, names in loaded)

    return KnownNames(join_revisions(listings), load)


class BrowsableRepository(msgspec.Struct, frozen=True, kw_only=True):
    """A repository, with what the pages for people need of it."""

    repository: Repository
    mount: str
    ecosystem: Ecosystem
    names: Callable[[], Awaitable[KnownNames]]
    upstreams: Mapping[URL, str] = {}
    """Address → name in the configuration."""
    private: tuple[str, ...] = ()
    """Patterns of names that are never requested from upstream."""

    @property
    def name(self) -> str:
        return self.repository.name

    @property
    def format(self) -> str:
        return self.repository.format.name

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(source.name for source in self.repository.sources)

    @property
    def source_names(self) -> Mapping[str, str]:
        """The name of each upstream for people, by the name of its source."""
        return {str(url): name for url, name in self.upstreams.items()}

    @property
    def sidecar(self) -> str:
        """The ending of sidecars' file names."""
        return self.ecosystem.sidecar_suffix


class ProjectRow(msgspec.Struct, frozen=True, kw_only=True):
    """A project in the list."""

    tier: int
    repository: str
    format: str
    title: str
    name: str
    held: bool = False
    files: int = 0
    size: int = 0
    used: float | None = None


class ProjectListPage(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list."""

    rows: tuple[ProjectRow, ...]
    next_position: str | None
    """The `from` parameter of the next page; None at the end."""


class _Tier(msgspec.Struct, frozen=True):
    """A part of the list, walked by name."""

    held: bool
    prefix: bool = False
    """Of a search: names that begin with the query; otherwise those that contain it elsewhere."""


SEARCH_TIERS = (_Tier(True, True), _Tier(True), _Tier(False, True), _Tier(False))
TIERS = (_Tier(True), _Tier(False))


class ProjectList:
    """The list of projects of all repositories."""

    def __init__(self, repositories: Mapping[str, BrowsableRepository], browse: Browse) -> None:
        self._repositories = repositories
        self._browse = browse
        self._sorted: dict[str, tuple[str, list[str]]] = {}

    async def page(self, query: str, position: str, scopes: Mapping[str, Scope]) -> ProjectListPage:
        """Return one page of the projects with `query` in their names, from the repositories in `scopes`.

        `position` is the `next_position` of the page before; empty for the first. Raises Invalid when it is not one.
        """
        query = query[:QUERY_CHARACTERS]
        tiers = SEARCH_TIERS if query else TIERS
        number, after = _parse_position(position, len(tiers))
        rows: list[ProjectRow] = []
        for _ in range(STEPS_PER_PAGE):
            if number == len(tiers) or len(rows) > PROJECTS_PER_PAGE:
                break
            found, complete_to = await self._step(number, tiers[number], query, after, scopes)
            rows += found
            number, after = (number, complete_to) if complete_to is not None else (number + 1, "")
        if len(rows) > PROJECTS_PER_PAGE:
            last = rows[PROJECTS_PER_PAGE - 1]
            # Rows that share the last name stay together: the next page begins with another name.
            rest = [row for row in rows[PROJECTS_PER_PAGE:] if (row.tier, row.name) == (last.tier, last.name)]
            rows = rows[:PROJECTS_PER_PAGE] + rest
            number, after = last.tier, last.name
        return ProjectListPage(rows=tuple(rows), next_position=f"{number}.{after}" if number < len(tiers) else None)

    async def _step(
        self, number: int, tier: _Tier, query: str, after: str, scopes: Mapping[str, Scope]
    ) -> tuple[list[ProjectRow], str | None]:
        """Return the next rows of a tier, and the name up to which they are complete; None: to the end of the tier."""
        readable = [browsable for name, browsable in self._repositories.items() if name in scopes]
        found = await asyncio.gather(
            *(self._in_repository(browsable, number, tier, query, after) for browsable in readable)
        )
        ends = [names[-1] for names, _ in found if len(names) >= PROJECTS_PER_PAGE]
        complete_to = min(ends, default=None)
        rows = [
            row
            for browsable, (_, rows) in zip(readable, found, strict=True)
            for row in rows
            if (complete_to is None or row.name <= complete_to) and scopes[browsable.name].allows(row.name)
        ]
        return sorted(rows, key=lambda row: (row.name, row.repository)), complete_to

    async def _in_repository(
        self, browsable: BrowsableRepository, number: int, tier: _Tier, query: str, after: str
    ) -> tuple[list[str], list[ProjectRow]]:
        """Return up to `PROJECTS_PER_PAGE` names of one repository in a tier, and the rows of those to be shown."""
        query = _canonical(browsable, query)
        like = (begins(query) if tier.prefix else contains(query)) if query else "%"
        unlike = begins(query) if query and not tier.prefix else ""
        row = partial(
            ProjectRow,
            tier=number,
            repository=browsable.name,
            format=browsable.format,
            title=browsable.ecosystem.title,
        )
        name, sources, sidecar = browsable.name, browsable.sources, browsable.sidecar
        if tier.held:
            held = await self._browse.held(
                name, sources, like=like, unlike=unlike, after=after, sidecar=sidecar, limit=PROJECTS_PER_PAGE
            )
            return [one.name for one in held], [
                row(name=one.name, held=True, files=one.files, size=one.size, used=one.used) for one in held
            ]
        known = await self._browse.known(sources, like=like, unlike=unlike, after=after, limit=PROJECTS_PER_PAGE)
        listed = await self._listed_upstream(browsable, query, tier.prefix, after)
        names = sorted({*known, *listed})[:PROJECTS_PER_PAGE]
        held_names = await self._browse.among(name, sources, names, sidecar=sidecar)
        return names, [
            row(name=name) for name in names if name not in held_names and not matches(browsable.private, name)
        ]

    async def _listed_upstream(self, browsable: BrowsableRepository, query: str, prefix: bool, after: str) -> list[str]:
        known = await browsable.names()
        if browsable.name not in self._sorted or self._sorted[browsable.name][0] != known.revision:
            revision, names = await known.load()
            self._sorted[browsable.name] = revision, await asyncio.to_thread(sorted, names)
        return await asyncio.to_thread(_search, self._sorted[browsable.name][1], query.lower(), prefix, after)


def _search(names: Sequence[str], query: str, prefix: bool, after: str) -> list[str]:
    """Return the first sorted names after `after` that begin with the query, or else contain it elsewhere."""
    found: list[str] = []
    for place in range(bisect_right(names, after), len(names)):
        name = names[place]
        if query:
            lower = name.lower()
            if lower.startswith(query) != prefix or query not in lower:
                continue
        found.append(name)
        if len(found) == PROJECTS_PER_PAGE:
            break
    return found


def _canonical(browsable: BrowsableRepository, query: str) -> str:
    """Return the query in canonical form, if it is a valid name, else as it is."""
    try:
        return browsable.repository.format.canonical(query)
    except Invalid:
        return query


def _parse_position(position: str, tiers: int) -> tuple[int, str]:
    number, dot, after = (position or "0.").partition(".")
    if not dot or not number.isascii() or not number.isdigit() or len(number) > 1 or int(number) >= tiers:
        raise Invalid("There is no such page of the list of projects: begin with its first page.")
    return int(number), after[:POSITION_CHARACTERS]
