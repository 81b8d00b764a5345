"""What is told of gems as JSON, in their source's words where it has any, else from what is known; and search."""

import asyncio
from collections.abc import Callable

from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.errors import Invalid, NotFound, UnknownFile, UnknownProject
from mirror.index.freshness import Freshness
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
FOUND_AT_ONCE = 30
"""The most gems that a search answers with."""


class JsonApi:
    """The handlers below `/api`."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, answers: PageCache, reading: ReadAccess, prefix: str
    ) -> None:
        """`prefix`: the mount, without a slash at the end."""
        self._repository = repository
        self._published = published
        self._answers = answers
        self._reading = reading
        self._prefix = prefix

    async def gem(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/gems/NAME.json`."""
        links = self._links(request)
        return await self._json(
            request, "gem_json", lambda view, told: pages.gem_json(view.project, links, told), about=links.gem("")
        )

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/versions/NAME.json`."""
        return await self._json(request, "versions_json", lambda view, told: pages.versions_json(view.project, told))

    async def latest(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/versions/NAME/latest.json`: an unknown gem has an unknown version, and no error."""
        try:
            return await self._json(request, None, lambda view, told: pages.latest_json(view.project))
        except UnknownProject:
            return web.Response(body=pages.latest_json(None), content_type=JSON)

    async def version(self, request: web.Request) -> web.StreamResponse:
        """`/api/v2/rubygems/NAME/versions/VERSION.json`."""
        name, version = canonical(request.match_info["gem"]), request.match_info["version"]
        platform = request.query.get("platform", GENERIC)
        filename = FullName(name, version, platform).filename
        links = self._links(request)

        def render(view: View, told: bytes | None) -> bytes:
            file = view.project.file(filename)
            if file is None:
                raise UnknownFile(name, filename)
            return pages.version_json(view.project, file, links, told)

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
        """What is told of one gem."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        name = canonical(request.match_info["gem"])
        await self._reading.check(request, name)

        async def get(demand: Freshness) -> PageInput:
            view = await self._repository.project(name, demand)
            page = Page(kind, address or name) if kind else None
            document = await self._repository.document(view, page, demand) if page else None
            body = render(view, document.body if document else None)
            return PageInput(
                revision=f"{view.revision}\0{pages.revision(body)}",
                until=view.until,
                outcome=view.outcome,
                render=lambda: body,
                media_type=JSON,
                etag=pages.revision,
                repeatable=False,  # links begin with the scheme, which is not among the bytes of a request
            )

        key = (self._repository.name, name, kind, about)
        return await self._answers.respond(request, key, facts_of(request).freshness, get)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/search.json`: by name; those that are the word first, then those that begin with it."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        word = request.query.get("query", "").strip().lower()
        if not word or len(word) > 200:
            raise Invalid("Say what to search for: /api/v1/search.json?query=WORD.")
        page = request.query.get("page", "1")
        first = (int(page) - 1) * FOUND_AT_ONCE if page.isdigit() and 0 < int(page) < 1000 else 0
        readable = await self._reading.scope(request)
        log = await self._published.current()
        found = await asyncio.to_thread(_search, log.map, word, readable)
        slots = asyncio.Semaphore(8)

        async def project(name: str) -> Project | None:
            async with slots:
                try:
                    return (await self._repository.project(name)).project
                except NotFound:
                    return None

        projects = await asyncio.gather(*(project(name) for name in found[first : first + FOUND_AT_ONCE]))
        body = pages.search_json(((one, None) for one in projects if one is not None), self._links(request))
        return web.Response(body=body, content_type=JSON)

    async def dependencies(self, request: web.Request) -> web.StreamResponse:
        """Gone from the public index as well; clients then use the compact index."""
        raise NotFound("The dependency API is gone; the compact index is at /versions and /info/NAME.")

    def _links(self, request: web.Request) -> Links:
        base = public_url(request) + self._prefix
        return Links(gem=lambda filename: f"{base}/gems/{filename}", project=lambda name: f"{base}/info/{name}")


def _search(versions: VersionsMap, word: str, readable: Scope) -> list[str]:
    found = [name for name in versions if word in name.lower() and readable.allows(name)]
    return sorted(found, key=lambda name: (name.lower() != word, not name.lower().startswith(word), len(name), name))
