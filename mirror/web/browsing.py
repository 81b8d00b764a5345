"""Projects of all repositories by name, a page at a time: what is held first, then what else is known by name.

A page costs a few bounded look-ups, however many projects there are: each *tier* (held, known) is walked by name from
where the last page ended. Upstreams are not asked; what their lists of names say is known only where a list is stored
already.
"""

import asyncio
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain

import msgspec
from yarl import URL

from mirror.auth import Scope
from mirror.catalog import Browse, Pages
from mirror.catalog.browse import begins, contains
from mirror.errors import Invalid, MirrorError
from mirror.index.ecosystem import Ecosystem
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.model import Page
from mirror.policy import matches

AT_ONCE = 50
"""Projects on a page."""
ROUNDS = 6
"""Steps for one page: where most of what is found may not be seen, pages are shorter."""
LONGEST_QUERY = 100


class KnownNames(msgspec.Struct, frozen=True):
    """Names that are known without asking anybody."""

    names: Iterable[str] = ()
    revision: str = ""
    """Equal revisions, equal names."""


async def stored_names(repository: Repository, pages: Pages) -> KnownNames:
    """The names on those lists of upstreams that are stored, of any age; nobody is asked."""
    listings = []
    for source in repository.sources:
        row = None if source.local else await pages.get(source.name, Page("names"))
        if row is not None and row.stamp.found:
            with suppress(MirrorError):
                listings.append(await source.names(Freshness.ANY))
    names = chain.from_iterable(listing.names.serials for listing in listings)
    return KnownNames(names, "\0".join(listing.revision for listing in listings))


class BrowsableRepository(msgspec.Struct, frozen=True, kw_only=True):
    """One repository, with what the pages for people need of it."""

    repository: Repository
    mount: str
    ecosystem: Ecosystem
    names: Callable[[], Awaitable[KnownNames]]
    upstreams: Mapping[URL, str] = {}
    """Address → what the configuration calls it."""
    private: tuple[str, ...] = ()
    """Patterns of names that no upstream is asked for."""

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
    def called(self) -> Mapping[str, str]:
        """What people call a source, by its name."""
        return {str(url): name for url, name in self.upstreams.items()}

    @property
    def sidecar(self) -> str:
        """The ending of sidecars' file names."""
        return self.ecosystem.sidecar_suffix


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One project in the list."""

    tier: int
    repository: str
    format: str
    title: str
    name: str
    held: bool = False
    files: int = 0
    size: int = 0
    used: float | None = None


class Listed(msgspec.Struct, frozen=True, kw_only=True):
    """One page of the list."""

    rows: tuple[Row, ...]
    following: str | None
    """The `from` of the next page; None at the end."""


class _Tier(msgspec.Struct, frozen=True):
    """A part of the list, walked by name."""

    held: bool
    begins: bool = False
    """Names that begin with what is sought; else, of a search, those that have it elsewhere."""


class ProjectList:
    """The list of projects, for all shelves at once."""

    def __init__(self, shelves: Mapping[str, BrowsableRepository], browse: Browse) -> None:
        self._shelves = shelves
        self._browse = browse
        self._sorted: dict[str, tuple[str, list[str]]] = {}

    async def page(self, query: str, following: str, scopes: Mapping[str, Scope]) -> Listed:
        """One page of the projects with `query` in their names, of the repositories that `scopes` has.

        `following` is what the page before said; empty for the first. Raises Invalid when it is not that.
        """
        query = query[:LONGEST_QUERY]
        tiers = (
            [_Tier(True, True), _Tier(True), _Tier(False, True), _Tier(False)] if query else [_Tier(True), _Tier(False)]
        )
        number, after = _position(following, len(tiers))
        rows: list[Row] = []
        for _ in range(ROUNDS):
            if number == len(tiers) or len(rows) > AT_ONCE:
                break
            found, horizon = await self._step(number, tiers[number], query, after, scopes)
            rows += found
            number, after = (number, horizon) if horizon is not None else (number + 1, "")
        if len(rows) > AT_ONCE:
            last = rows[AT_ONCE - 1]
            # All that share the last name: the next page begins with another name.
            rows = rows[:AT_ONCE] + [row for row in rows[AT_ONCE:] if (row.tier, row.name) == (last.tier, last.name)]
            number, after = last.tier, last.name
        return Listed(rows=tuple(rows), following=f"{number}.{after}" if number < len(tiers) else None)

    async def _step(
        self, number: int, tier: _Tier, query: str, after: str, scopes: Mapping[str, Scope]
    ) -> tuple[list[Row], str | None]:
        """The next rows of a tier, and up to which name they are all there are; None: to its end."""
        shelves = [shelf for name, shelf in self._shelves.items() if name in scopes]
        found = await asyncio.gather(*(self._of_shelf(shelf, number, tier, query, after) for shelf in shelves))
        ends = [names[-1] for names, _ in found if len(names) >= AT_ONCE]
        horizon = min(ends, default=None)
        rows = [
            row
            for shelf, (_, rows) in zip(shelves, found, strict=True)
            for row in rows
            if (horizon is None or row.name <= horizon) and scopes[shelf.name].allows(row.name)
        ]
        return sorted(rows, key=lambda row: (row.name, row.repository)), horizon

    async def _of_shelf(
        self, shelf: BrowsableRepository, number: int, tier: _Tier, query: str, after: str
    ) -> tuple[list[str], list[Row]]:
        """Up to `AT_ONCE` names of one repository in a tier, and the rows of those that are shown."""
        sought = _spelled(shelf, query)
        like = (begins(sought) if tier.begins else contains(sought)) if sought else "%"
        unlike = begins(sought) if sought and not tier.begins else ""
        if tier.held:
            held = await self._browse.held(
                shelf.name, shelf.sources, like=like, unlike=unlike, after=after, sidecar=shelf.sidecar, limit=AT_ONCE
            )
            return [one.name for one in held], [
                Row(
                    tier=number, repository=shelf.name, format=shelf.format, title=shelf.ecosystem.title,
                    name=one.name, held=True, files=one.files, size=one.size, used=one.used,
                )
                for one in held
            ]  # fmt: skip
        known = await self._browse.known(shelf.sources, like=like, unlike=unlike, after=after, limit=AT_ONCE)
        listed = await self._listed(shelf, sought, tier.begins, after)
        names = sorted({*known, *listed})[:AT_ONCE]
        held_too = await self._browse.among(shelf.name, shelf.sources, names, sidecar=shelf.sidecar)
        return names, [
            Row(tier=number, repository=shelf.name, format=shelf.format, title=shelf.ecosystem.title, name=name)
            for name in names
            if name not in held_too and not matches(shelf.private, name)
        ]

    async def _listed(self, shelf: BrowsableRepository, sought: str, at_begin: bool, after: str) -> list[str]:
        """Names out of the stored lists of upstreams."""
        known = await shelf.names()
        if shelf.name not in self._sorted or self._sorted[shelf.name][0] != known.revision:
            self._sorted[shelf.name] = known.revision, await asyncio.to_thread(sorted, known.names)
        return await asyncio.to_thread(_after, self._sorted[shelf.name][1], sought.lower(), at_begin, after)


def _after(names: Sequence[str], sought: str, at_begin: bool, after: str) -> list[str]:
    """The first names after `after` that fit."""
    found: list[str] = []
    for place in range(bisect_right(names, after), len(names)):
        name = names[place]
        if sought:
            lower = name.lower()
            if lower.startswith(sought) != at_begin or sought not in lower:
                continue
        found.append(name)
        if len(found) == AT_ONCE:
            break
    return found


def _spelled(shelf: BrowsableRepository, query: str) -> str:
    """What is sought, as the ecosystem spells names where it can be one."""
    try:
        return shelf.repository.format.canonical(query)
    except Invalid:
        return query


def _position(following: str, tiers: int) -> tuple[int, str]:
    number, dot, after = (following or "0.").partition(".")
    if not dot or not number.isascii() or not number.isdigit() or len(number) > 1 or int(number) >= tiers:
        raise Invalid("That is no page of this list: begin at its first page.")
    return int(number), after[:500]
