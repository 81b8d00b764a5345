"""The names of all projects of one repository, gathered from its sources."""

import asyncio
import math
from collections.abc import Callable, Sequence

import msgspec

from mirror.index.cache import SingleFlight, Validity
from mirror.index.freshness import CURRENT, Freshness
from mirror.index.gathering import SourceOrder
from mirror.index.merge import worst
from mirror.index.name_lists import ListRenderer
from mirror.index.name_rendering import RenderedNames, merge_names
from mirror.index.source import LoadedNames, NameListing
from mirror.index.view import RepositoryNames
from mirror.model import Outcome


class NameIndex:
    """All names of a repository; they are read only where a page of them is rendered."""

    def __init__(self, order: SourceOrder, clock: Callable[[], float], renderer: ListRenderer | None = None) -> None:
        """Without a `renderer`, lists are always read here."""
        self._renderer = renderer
        self._order = order
        self._clock = clock
        self.kept: RepositoryNames | None = None
        """The names as they were gathered last, until they may have changed."""
        self.gathering: SingleFlight[Freshness, RepositoryNames] = SingleFlight()
        """Those who ask the sources now."""

    async def get(self, freshness: Freshness) -> RepositoryNames:
        """Return the names, after asking the sources where that is due. Raises Unavailable."""
        kept = self.kept
        if kept is not None and freshness not in CURRENT and kept.validity.holds(self._clock()):
            return kept
        return (await self.gathering.run(freshness, lambda: self._gather(freshness)))[0]

    async def _gather(self, freshness: Freshness) -> RepositoryNames:
        listings = await asyncio.gather(*(source.names(freshness) for source in self._order.sources))
        until = min((listing.until for listing in listings), default=math.inf)
        names = RepositoryNames(
            revision=self._revision([listing.revision for listing in listings]),
            until=until,
            outcome=worst([listing.outcome for listing in listings]),
            load=lambda: self._load(listings),
            render=lambda renderer, encoding: self._render(listings, f"{renderer} {encoding}"),
            validity=Validity(until),
        )
        if not self.gathering.owns(freshness):
            names.validity.end()  # they have changed since the sources were asked
            return names
        if self.kept is not None:
            self.kept.validity.end()
        settled: Outcome = "offline" if names.outcome == "offline" else "hit"
        self.kept = msgspec.structs.replace(names, outcome=settled)
        return names

    async def _render(self, listings: Sequence[NameListing], how: str) -> tuple[str, RenderedNames] | None:
        if self._renderer is None:
            return None
        made = await self._renderer.render(listings, self._private(), await self._order.taken_names(), how)
        return made and (self._revision(made[0]), made[1])

    def _revision(self, revisions: Sequence[str]) -> str:
        """Return the revision of what is made of the names of the sources, as the settings merge them."""
        precedence = self._order.precedence
        return "\0".join([*revisions, f"{precedence.private} {precedence.union}"])

    def _private(self) -> list[tuple[str, ...]]:
        private = self._order.precedence.private
        return [() if source.local else private for source in self._order.sources]

    async def _load(self, listings: Sequence[NameListing]) -> LoadedNames:
        loaded = [await listing.load() for listing in listings]
        taken = await self._order.taken_names()
        merged = await asyncio.to_thread(merge_names, [names for _, names in loaded], self._private(), taken)
        return LoadedNames(self._revision([one.revision for one in loaded]), merged)

    def forget(self) -> None:
        """Gather the names again, since they may have changed."""
        self.gathering.clear()
        if self.kept is not None:
            self.kept.validity.end()
            self.kept = None

    async def close(self) -> None:
        """Stop what is being gathered."""
        await self.gathering.close()
