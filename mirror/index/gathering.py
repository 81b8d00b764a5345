"""What the sources of a repository have of one project: they are asked in their order, as `precedence` allows.

The surprise: a later source is remembered once it has given a project (`Claims.show`). While an earlier one is silent,
that is what tells the projects that go on from names that only became known to the later one meanwhile.
"""

import asyncio
from collections.abc import Container, Mapping, Sequence

from mirror.catalog import Claims
from mirror.errors import MirrorError, NotFound, Offline, ReservedName, UnknownProject, UpstreamError
from mirror.index.freshness import Freshness
from mirror.index.precedence import Permission, Precedence, Reply, SourceReply, permission
from mirror.index.source import Document, Listing, Source
from mirror.model import Page
from mirror.policy import matches


class SourceOrder:
    """The sources of one repository, in the order in which they count."""

    def __init__(self, repository: str, sources: Sequence[Source], precedence: Precedence, claims: Claims) -> None:
        self.sources = tuple(sources)
        for source in self.sources[:-1]:
            source.precedes = True
        self.precedence = precedence
        self._repository = repository
        self._claims = claims

    async def gather(
        self, name: str, sources: Sequence[Source], freshness: Freshness, known: Mapping[str, str]
    ) -> dict[str, Listing]:
        """Return the listings of a project, by source in order: that of the one to show, or of all for a union.

        `sources` are those that may have it, `known` is the revision that the caller has of each. Raises
        UnknownProject, Unavailable, UpstreamError.
        """
        if self.precedence.union and matches(self.precedence.union, name):
            return await self._gather_all(name, sources, freshness, known)
        replies: list[SourceReply] = []
        left: dict[str, Listing] = {}
        silent: MirrorError | None = None
        for source in sources:
            allowed = permission(replies)
            if allowed is Permission.NOT:
                raise silent or ReservedName(name)
            held = allowed is Permission.HELD
            if held and not await self._claims.was_shown(self._repository, name, source.name):
                continue
            reply = Reply.MISSING
            try:
                listing = await source.project(name, Freshness.HELD if held else freshness, known.get(source.name, ""))
                if not listing.gone:
                    if replies and not held and source.name not in known:
                        await self._claims.show(self._repository, name, source.name)
                    return {source.name: listing}
                left = left or {source.name: listing}
            except ReservedName:
                raise
            except UnknownProject:
                pass
            except (UpstreamError, Offline) as error:
                silent, reply = silent or error, Reply.SILENT
            if not source.local:
                replies.append(SourceReply(reply, await self._had(name, source)))
                if left and replies[-1].had:
                    break
        if left:
            return left
        raise silent or UnknownProject(name)

    def unknown(self, name: str, owners: Container[str]) -> UnknownProject:
        """Return the error for a project of which its sources have nothing left that may be shown."""
        last = self.sources[-1]
        if any(source.name in owners for source in self.sources if source is not last):
            return ReservedName(name)
        return UnknownProject(name)

    async def _had(self, name: str, source: Source) -> bool:
        """Return whether a source ever had a project; not asked of the last one, whose name no one could take."""
        return source is not self.sources[-1] and bool(await self._claims.of(self._repository, name, [source.name]))

    async def _gather_all(
        self, name: str, sources: Sequence[Source], freshness: Freshness, known: Mapping[str, str]
    ) -> dict[str, Listing]:
        """Return the listings of all sources. Raises UpstreamError for any that cannot be asked."""
        found: dict[str, Listing] = {}
        missing: MirrorError = UnknownProject(name)
        for source in sources:
            try:
                found[source.name] = await source.project(name, freshness, known.get(source.name, ""))
            except UnknownProject:
                continue
            except Offline as error:
                missing = error
        if not found:
            raise missing
        return found

    async def document(self, source: str, page: Page, freshness: Freshness) -> Document | None:
        """Return a page of the format's own that a source has; None where there is none, or no such source."""
        try:
            return await next(one.document(page, freshness) for one in self.sources if one.name == source)
        except (NotFound, StopIteration):
            return None

    async def taken_names(self) -> list[set[str]]:
        """Return for each source, in order, the names that belong to sources before it, without those of unions."""
        taken, so_far = [], set[str]()
        for source in self.sources:
            taken.append(so_far)
            if source is not self.sources[-1]:
                names = await self._claims.names(self._repository, source.name)
                names |= await self._claims.former(self._repository) if source.local else set()
                so_far = so_far | names
        if union := self.precedence.union:
            return await asyncio.to_thread(lambda: [{n for n in names if not matches(union, n)} for names in taken])
        return taken
