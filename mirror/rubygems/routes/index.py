"""What is about every gem at once: `/versions`, `/names` and the legacy index, all derived from the published log.

The numbered rules are those of `rubygems.routes`.
"""

import zlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import get_args

from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.blobs.local import http_date
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.rubygems import pages
from mirror.rubygems.index import SpecsKind, render_names, specs
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.versions_map import VersionsMap, render_versions
from mirror.server.facts import facts_of
from mirror.server.pages import Key, PageCache, PageInput
from mirror.server.respond import Chunk, Representation, respond
from mirror.server.rules import COMPACT, ResponseRules

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
SPECS = ResponseRules(cache_control="max-age=60", same_date=True)
"""For the legacy index: its clients send the date that they were given, and never a range (rule 8)."""

_EPOCH = datetime.fromtimestamp(0, UTC)


class LogRepresentation(Representation):
    """The published log as `/versions`."""

    media_type = TEXT

    def __init__(self, log: PublishedLog) -> None:
        self._log = log
        self.size = log.size
        self.compressible = bool(log.gzip_chunks)
        self.sha256 = bytes.fromhex(log.sha256)

    def etag_of(self, encoding: str) -> str:
        """Return the MD5 of the log, in every encoding (rule 1)."""
        return self._log.etag

    async def encode(self, encoding: str) -> int:
        return self.size if encoding == "identity" else sum(map(len, self._log.gzip_chunks))

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        if encoding != "identity":
            return self._log.gzip_chunks
        return self._log.chunks if stop - start == self.size else tuple(self._log.pieces(start, stop))


class IndexRoutes:
    """The handlers for what is about every gem at once."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, page_cache: PageCache, access: ReadAccess
    ) -> None:
        self._repository = repository
        self._published = published
        self._page_cache = page_cache
        self._access = access

    async def root(self, request: web.Request) -> web.StreamResponse:
        """Respond to `gem install`, which first looks whether there is a server (rule 7)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        return web.Response()

    # The compact index

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """Respond with the append-only log of all versions."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = self._access.public if self._access.open else await self._access.scope(request)
        log = await self._published.current(facts.freshness)
        if self._access.open or readable.everything:
            facts.outcome = self._published.outcome
            replayable = self._access.open and facts.freshness is Freshness.USUAL
            validity = self._published.validity() if replayable else None
            return await respond(request, LogRepresentation(log), COMPACT, validity)
        # A client that may read only some gems gets a list of its own, which is rewritten instead of appended to.
        content = self._content(log, readable, lambda versions: render_versions(versions, _EPOCH), TEXT)
        return await self._respond(request, self._key("versions", log, readable), content, COMPACT)

    async def names(self, request: web.Request) -> web.StreamResponse:
        """Respond with the names of all gems."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = await self._access.scope(request)
        log = await self._published.current(facts.freshness)
        content = self._content(log, readable, render_names, TEXT)
        return await self._respond(request, self._key("names", log, readable), content, COMPACT)

    # The legacy index

    async def specs(self, request: web.Request) -> web.StreamResponse:
        """Respond with all versions as Ruby Marshal, for clients up to gem 4.0 (rule 8)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = await self._access.scope(request)
        which = next(word for word in get_args(SpecsKind) if word == request.match_info["which"])
        log = await self._published.current(facts.freshness)
        content = self._content(log, readable, lambda versions: specs(versions, which), BINARY)
        key = self._key(which, log, readable)
        if not request.match_info["gz"]:
            page = await self._page_cache.get(key, content)
            content = self._content(log, readable, lambda _: zlib.decompress(page.body, 31), BINARY)
            key = self._key(f"{which} plain", log, readable)
        return await self._respond(request, key, content, SPECS)

    # Shared by the handlers

    def _key(self, kind: str, log: PublishedLog, readable: Scope) -> Key:
        return (self._repository.name, "", kind, readable, log.etag)

    async def _respond(
        self, request: web.Request, key: Key, content: Callable[[], Awaitable[PageInput]], rules: ResponseRules
    ) -> web.StreamResponse:
        return await self._page_cache.respond(request, key, content, self._published.outcome, rules=rules)

    def _content(
        self, log: PublishedLog, readable: Scope, render: Callable[[VersionsMap], bytes], media_type: str
    ) -> Callable[[], Awaitable[PageInput]]:
        """Return the input of a page about all gems that may be read, rendered once per state of the log."""

        def rendered() -> bytes:
            if readable.everything:
                return render(log.map)
            return render(log.map.only([name for name in log.map if readable.allows(name)]))

        async def page() -> PageInput:
            modified = http_date(self._published.changed_at)
            return PageInput(rendered, media_type, heavy=True, etag=pages.revision, modified=modified)

        return page
