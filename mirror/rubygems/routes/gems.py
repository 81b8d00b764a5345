"""One gem: its page in the compact index, the specification of a version, its files."""

from collections.abc import Callable

from aiohttp import web

from mirror.auth import ReadAccess
from mirror.errors import UnknownProject, UpstreamError
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.policy import as_of
from mirror.rubygems import pages, versions
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.names import canonical, parse_gem_filename, split_full_name
from mirror.rubygems.routes.compact import BINARY, TEXT, send_page
from mirror.server.facts import facts_of
from mirror.server.opened import moment_of, note_kind, note_removed, repeatable, send_opened
from mirror.server.pages import PageCache, PageInput
from mirror.server.respond import retry_if_evicted


class GemRoutes:
    """The handlers of what is needed to install one gem."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, answers: PageCache, reading: ReadAccess
    ) -> None:
        self._repository = repository
        self._published = published
        self._answers = answers
        self._reading = reading

    async def info(self, request: web.Request) -> web.StreamResponse:
        """The versions of one gem."""
        note_kind(request, self._repository, "page")
        name = canonical(request.match_info["gem"])
        await self._reading.check(request, name)
        moment = moment_of(request)

        async def get(demand: Freshness) -> PageInput:
            try:
                view, body = await self._published.page(name, demand)
            except UnknownProject:
                if not await self._published.listed(name):
                    raise
                # Clients that once saw the gem go on asking, and an error would cost them the whole index (rule 5).
                return PageInput("", 0, "hit", lambda: pages.EMPTY, TEXT, etag=pages.revision)

            def render() -> bytes:
                return body if moment is None else pages.render_info(as_of(view.project, moment, versions))

            return PageInput(view.revision, view.until, view.outcome, render, TEXT, etag=pages.revision)

        key = (self._repository.name, name, "info", moment)
        return await send_page(
            request, *await self._answers.obtain(key, facts_of(request).freshness, get), self._reading
        )

    @retry_if_evicted
    async def gemspec(self, request: web.Request) -> web.StreamResponse:
        """The specification of one version, as zlib of Ruby Marshal."""
        note_kind(request, self._repository, "sidecar")
        wanted = split_full_name(request.match_info["full"], await self._known())
        await self._reading.check(request, wanted.name)
        _, opened = await self._repository.sidecar(wanted.name, wanted.filename)
        return await send_opened(
            request,
            opened,
            content_type=BINARY,
            validity=repeatable(self._repository, wanted.name, opened),
            shared=self._reading.open,
        )

    @retry_if_evicted
    async def file(self, request: web.Request) -> web.StreamResponse:
        """A gem."""
        note_kind(request, self._repository, "file")
        filename = request.match_info["filename"]
        wanted = parse_gem_filename(filename, await self._known())
        await self._reading.check(request, wanted.name)
        file, opened = await self._repository.open(wanted.name, filename)
        removed = note_removed(request, self._repository, wanted.name, file)
        return await send_opened(
            request,
            opened,
            content_type=BINARY,
            uploaded=file.uploaded,
            validity=repeatable(self._repository, wanted.name, opened, removed),
            shared=self._reading.open,
        )

    async def _known(self) -> Callable[[str], bool]:
        """Which names are gems: `a-1-b` can be read in several ways."""
        try:
            log = self._published.log or await self._published.current()
        except UpstreamError:
            return lambda name: False
        return lambda name: name in log.map
