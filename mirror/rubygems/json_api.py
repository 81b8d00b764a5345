"""JSON about gems, as their upstream words it where it does, else from what is known here; and search."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.errors import Invalid, NotFound, UnknownFile, UnknownProject
from mirror.index.repository import Repository, View
from mirror.model import Page, Project
from mirror.rubygems import pages
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.versions_map import VersionsMap
from mirror.rubygems.names import GENERIC, FullName, canonical
from mirror.rubygems.pages import Links
from mirror.server.facts import facts_of, public_url
from mirror.server.pages import PageCache, PageInput

JSON = "application/json"
SEARCH_RESULTS = 30
"""The gems on one page of a search."""


class JsonApi:
    """The handlers below `/api`."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, page_cache: PageCache, access: ReadAccess, prefix: str
    ) -> None:
        """`prefix`: the mount, without a slash at the end."""
        self._repository = repository
        self._published = published
        self._page_cache = page_cache
        self._access = access
        self._prefix = prefix

    async def gem(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/gems/NAME.json`."""
        links = self._links(request)
        return await self._json(
            request,
            "gem_json",
            lambda view, upstream: pages.gem_json(view.project, links, upstream),
            about=links.gem(""),
        )

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/versions/NAME.json`."""
        return await self._json(
            request, "versions_json", lambda view, upstream: pages.versions_json(view.project, upstream)
        )

    async def latest(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/versions/NAME/latest.json`, for an unknown gem with an unknown version."""
        try:
            return await self._json(request, None, lambda view, _: pages.latest_json(view.project))
        except UnknownProject:
            return web.Response(body=pages.latest_json(None), content_type=JSON)

    async def version(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v2/rubygems/NAME/versions/VERSION.json`."""
        name, version = canonical(request.match_info["gem"]), request.match_info["version"]
        platform = request.query.get("platform", GENERIC)
        filename = FullName(name, version, platform).filename
        links = self._links(request)

        def render(view: View, upstream: bytes | None) -> bytes:
            file = view.project.file(filename)
            if file is None:
                raise UnknownFile(name, filename)
            return pages.version_json(view.project, file, links, upstream)

        address = "/".join((name, version) if platform == GENERIC else (name, version, platform))
        return await self._json(request, "version_json", render, about=f"{links.gem('')} {address}", address=address)

    async def _json(
        self,
        request: web.Request,
        kind: str | None,
        render: Callable[[View, bytes | None], bytes],
        about: str = "",
        address: str = "",
    ) -> web.StreamResponse:
        """Respond with JSON about one gem.

        `render` gets the gem and what its upstream has as the page `kind`, called `address` there; the body also
        depends on `about`.
        """
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        name = canonical(request.match_info["gem"])
        await self._access.check(request, name)

        freshness = facts.freshness
        view = await self._repository.project(name, freshness)
        page = Page(kind, address or name) if kind else None
        document = await self._repository.document(view, page, freshness) if page else None

        async def content() -> PageInput:
            read, content = await document.read() if document else (None, None)
            body = render(view, content)
            return PageInput(lambda: body, JSON, etag=pages.revision, kept=read == revision)

        revision = document.revision if document else None
        key = (self._repository.name, name, kind, about, view.revision, revision)
        # Never replayed: links begin with the scheme, which is not among the bytes of a request.
        return await self._page_cache.respond(request, key, content, view.outcome)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/search.json`: gems with that name first, then those whose names begin with the word."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        word = request.query.get("query", "").strip().lower()
        if not word or len(word) > 200:
            raise Invalid("Add the word to search for: /api/v1/search.json?query=WORD.")
        page = request.query.get("page", "1")
        first = (int(page) - 1) * SEARCH_RESULTS if page.isascii() and page.isdigit() and 0 < int(page) < 1000 else 0
        readable = await self._access.scope(request)
        log = await self._published.current()
        found = await asyncio.to_thread(_search, log.map, word, readable)
        slots = asyncio.Semaphore(8)

        async def project(name: str) -> Project | None:
            async with slots:
                try:
                    return (await self._repository.project(name)).project
                except NotFound:
                    return None

        projects = await asyncio.gather(*(project(name) for name in found[first : first + SEARCH_RESULTS]))
        body = pages.search_json(((one, None) for one in projects if one is not None), self._links(request))
        return web.Response(body=body, content_type=JSON)

    async def dependencies(self, request: web.Request) -> web.StreamResponse:
        """Respond that the dependency API is gone, as from the public index: clients then use the compact index."""
        raise NotFound("The dependency API is gone; the compact index is at /versions and /info/NAME.")

    def _links(self, request: web.Request) -> Links:
        base = public_url(request) + self._prefix
        return Links(gem=lambda filename: f"{base}/gems/{filename}", project=lambda name: f"{base}/info/{name}")


def _search(versions: VersionsMap, word: str, readable: Scope) -> list[str]:
    found = [name for name in versions if word in name.lower() and readable.allows(name)]
    return sorted(found, key=lambda name: (name.lower() != word, not name.lower().startswith(word), len(name), name))
