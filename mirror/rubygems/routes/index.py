"""The index as a whole: `/versions`, `/names`, and the legacy index; all made of the published log."""

import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import get_args

from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.model import Outcome
from mirror.rubygems import pages
from mirror.rubygems.index import Which, render_names, specs
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.versions_map import VersionsMap, render_versions
from mirror.rubygems.routes.compact import BINARY, repeatable, send_log, send_page
from mirror.server.facts import facts_of
from mirror.server.opened import note_kind
from mirror.server.pages import PageCache, PageInput, RenderedPage
from mirror.server.respond import PreparedResponse, http_date, make_head, matches

_EPOCH = datetime.fromtimestamp(0, UTC)


class IndexRoutes:
    """The handlers of all that is about every gem at once."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, answers: PageCache, reading: ReadAccess
    ) -> None:
        self._repository = repository
        self._published = published
        self._answers = answers
        self._reading = reading

    async def root(self, request: web.Request) -> web.StreamResponse:
        """`gem install` asks for it to see whether anybody is there (rule 7)."""
        note_kind(request, self._repository, "index")
        return web.Response()

    # The compact index

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """The whole index, append-only."""
        note_kind(request, self._repository, "index")
        readable = await self._reading.scope(request)
        log = await self._published.current(facts_of(request).freshness)
        if readable.everything:
            validity = self._published.validity() if repeatable(request, self._reading) else None
            return await send_log(request, log, self._published.outcome, validity)
        # Who may read only some gems gets a log made for that, which grows nowhere but is rewritten.
        made = await self._derived(request, "versions", log, readable, lambda known: render_versions(known, _EPOCH))
        return await send_page(request, *made, self._reading)

    async def names(self, request: web.Request) -> web.StreamResponse:
        """The names of all gems."""
        note_kind(request, self._repository, "index")
        readable = await self._reading.scope(request)
        log = await self._published.current(facts_of(request).freshness)
        made = await self._derived(request, "names", log, readable, render_names)
        return await send_page(request, *made, self._reading)

    # The legacy index

    async def specs(self, request: web.Request) -> web.StreamResponse:
        """All versions as Ruby Marshal; what `gem list -r`, `search` and `outdated` read up to gem 4.0."""
        note_kind(request, self._repository, "index")
        readable = await self._reading.scope(request)
        which = next(word for word in get_args(Which) if word == request.match_info["which"])
        log = await self._published.current(facts_of(request).freshness)
        gz, outcome = await self._derived(request, which, log, readable, lambda known: specs(known, which))
        if request.match_info["gz"]:
            return self._binary(request, gz, outcome)
        packed = gz.bodies["identity"]
        plain = await self._derived(request, f"{which} plain", log, readable, lambda _: zlib.decompress(packed, 31))
        return self._binary(request, *plain)

    def _binary(self, request: web.Request, answer: RenderedPage, outcome: Outcome) -> web.StreamResponse:
        facts_of(request).outcome = outcome
        body = answer.bodies["identity"]
        modified = http_date(datetime.fromtimestamp(int(self._published.changed_at), UTC))
        headers = [
            ("ETag", f'"{answer.etag}"'),
            ("Last-Modified", modified),
            ("Cache-Control", "max-age=60"),
            ("X-Mirror-Cache", outcome),
        ]
        condition = request.headers.get("If-None-Match")
        since = request.headers.get("If-Modified-Since")
        if (condition is not None and matches(condition, answer.etag)) or (condition is None and since == modified):
            return PreparedResponse(304, make_head(304, headers))
        headers += [("Content-Type", BINARY), ("Content-Length", str(len(body)))]
        return PreparedResponse(200, make_head(200, headers), b"" if request.method == "HEAD" else body)

    # What they share

    async def _derived(
        self,
        request: web.Request,
        kind: str,
        log: PublishedLog,
        readable: Scope,
        render: Callable[[VersionsMap], bytes],
    ) -> tuple[RenderedPage, Outcome]:
        """Something made from all that may be read: made once for each state of the log, in a thread."""

        def rendered() -> bytes:
            if readable.everything:
                return render(log.map)
            return render(log.map.only([name for name in log.map if readable.allows(name)]))

        async def get(_: Freshness) -> PageInput:
            return PageInput(log.etag, 0, self._published.outcome, rendered, BINARY, heavy=True, etag=pages.revision)

        return await self._answers.obtain((self._repository.name, "", kind, readable), facts_of(request).freshness, get)
