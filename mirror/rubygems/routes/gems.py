"""One gem: its page in the compact index, the specification of a version, its files.

The numbered rules are those of `rubygems.routes`.
"""

from collections.abc import Callable

from aiohttp import web

from mirror.auth import ReadAccess
from mirror.errors import UnknownProject, UpstreamError
from mirror.index.repository import Repository
from mirror.policy import as_of, parse_moment
from mirror.rubygems import pages, versions
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.names import canonical, parse_gem_filename, split_full_name
from mirror.rubygems.routes.index import BINARY, TEXT
from mirror.server.facts import facts_of
from mirror.server.pages import PageCache, PageInput, RenderedPage
from mirror.server.respond import respond, respond_file, retry_if_evicted
from mirror.server.rules import COMPACT


class GemRoutes:
    """The handlers for what is needed to install one gem."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, page_cache: PageCache, access: ReadAccess
    ) -> None:
        self._repository = repository
        self._published = published
        self._page_cache = page_cache
        self._access = access

    async def info(self, request: web.Request) -> web.StreamResponse:
        """Respond with the versions of one gem."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        name = canonical(request.match_info["gem"])
        if not self._access.open:
            await self._access.check(request, name)
        date = request.match_info.get("date")
        moment = parse_moment(date) if date is not None else None

        try:
            view = await self._published.view(name, facts.freshness)
        except UnknownProject:
            if not await self._published.listed(name):
                raise
            # Clients that once saw the gem keep requesting it, and leave the index after an error (rule 5).
            facts.outcome = "hit"
            return await respond(
                request, RenderedPage(PageInput(bytes, TEXT, etag=pages.revision), pages.EMPTY), COMPACT
            )

        async def content() -> PageInput:
            body = await self._published.render(view)
            if moment is not None:
                body = pages.render_info(as_of(view.project, moment, versions))
            return PageInput(lambda: body, TEXT, etag=pages.revision)

        key = (self._repository.name, name, "info", moment, view.revision, self._published.policies)
        validity = view.validity if self._access.open else None
        return await self._page_cache.respond(request, key, content, view.outcome, validity, COMPACT)

    @retry_if_evicted
    async def gemspec(self, request: web.Request) -> web.StreamResponse:
        """Respond with the specification of one version, as zlib of Ruby Marshal (rule 8)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "sidecar"
        wanted = split_full_name(request.match_info["full"], await self._is_gem())
        await self._access.check(request, wanted.name)
        file, opened = await self._repository.sidecar(wanted.name, wanted.filename)
        return await respond_file(
            request, self._repository, wanted.name, file, opened, media_type=BINARY, public=self._access.open
        )

    @retry_if_evicted
    async def file(self, request: web.Request) -> web.StreamResponse:
        """Respond with a gem."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "file"
        filename = request.match_info["filename"]
        wanted = parse_gem_filename(filename, await self._is_gem())
        await self._access.check(request, wanted.name)
        file, opened = await self._repository.open(wanted.name, filename)
        return await respond_file(
            request,
            self._repository,
            wanted.name,
            file,
            opened,
            media_type=BINARY,
            public=self._access.open,
            uploaded=file.uploaded,
        )

    async def _is_gem(self) -> Callable[[str], bool]:
        """Return whether a name is that of a gem: `a-1-b` can be read in several ways."""
        try:
            log = self._published.log or await self._published.current()
        except UpstreamError:
            return lambda name: False
        return lambda name: name in log.map
