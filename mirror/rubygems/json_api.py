"""JSON about gems, as their upstream words it where it does, else from what is known here; and search.

An upstream's API fails, limits and pauses apart from its index. So nothing here depends on it: what it does not give
within some seconds is made of the gem's page, and of the specification inside the gem that is described.
"""

import asyncio
import logging
from collections.abc import Callable

import msgspec
from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.errors import (
    Invalid,
    MirrorError,
    NotFound,
    Unavailable,
    UnknownFile,
    UnknownProject,
    UpstreamError,
)
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.index.source import Document
from mirror.model import File, Page, Project
from mirror.rubygems import pages
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.versions_map import VersionsMap
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.names import GENERIC, FullName, canonical
from mirror.rubygems.pages import Links
from mirror.server.facts import facts_of, public_url
from mirror.server.pages import PageCache, PageInput, PageKey
from mirror.server.rules import PAGE

logger = logging.getLogger(__name__)

JSON = "application/json"
DOCUMENT_SECONDS = 5.0
"""Time for which an upstream's API is waited for."""
SPECIFICATION_SECONDS = 5.0
"""Time for which the specification of a gem is waited for, which may have to be made or fetched."""
MADE_HERE = msgspec.structs.replace(PAGE, cache_control="max-age=60")
"""For JSON that stands in for that of an upstream which fails."""
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
            lambda project, upstream: pages.gem_json(project, links, upstream),
            about=links.gem(""),
            described=pages.shown,
        )

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/versions/NAME.json`."""
        return await self._json(
            request, "versions_json", lambda project, upstream: pages.versions_json(project, upstream)
        )

    async def latest(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v1/versions/NAME/latest.json`, for an unknown gem with an unknown version."""
        try:
            return await self._json(request, None, lambda project, _: pages.latest_json(project))
        except UnknownProject:
            return web.Response(body=pages.latest_json(None), content_type=JSON)

    async def version(self, request: web.Request) -> web.StreamResponse:
        """Respond to `/api/v2/rubygems/NAME/versions/VERSION.json`."""
        name, version = canonical(request.match_info["gem"]), request.match_info["version"]
        platform, abi = request.query.get("platform", GENERIC), request.query.get("ruby_abi", "")
        links = self._links(request)

        def described(project: Project) -> File | None:
            return pages.find(project, version, platform, abi)

        def render(project: Project, upstream: bytes | None) -> bytes:
            file = described(project)
            if file is None:
                raise UnknownFile(name, FullName(name, version, platform).filename)
            return pages.version_json(project, file, links, upstream)

        what = (name, version, platform, abi) if abi else (name, version, platform)
        address = "/".join(what[:2] if platform == GENERIC else what)
        return await self._json(
            request,
            "version_json",
            render,
            about=f"{links.gem('')} {address}",
            address=address,
            described=described,
        )

    async def _json(
        self,
        request: web.Request,
        kind: str | None,
        render: Callable[[Project, bytes | None], bytes],
        about: str = "",
        address: str = "",
        described: Callable[[Project], File | None] = lambda project: None,
    ) -> web.StreamResponse:
        """Respond with JSON about one gem.

        `render` gets the gem and what its upstream has as the page `kind`, called `address` there; the body also
        depends on `about`. `described` returns the file that is described in full, if any is.
        """
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        name = canonical(request.match_info["gem"])
        await self._access.check(request, name)

        freshness = facts.freshness
        view = await self._repository.project(name, freshness)
        document, failed = await self._document(view, Page(kind, address or name), freshness) if kind else (None, False)

        async def content() -> PageInput:
            read, content = await document.read() if document else (None, None)
            project, kept = view.project, read == revision
            if document is None and (file := described(project)) is not None:
                project = await self._with_specification(project, file)
                kept = kept and pages.spec_of(described(project) or file) is not None
            body = render(project, content)
            return PageInput(lambda: body, JSON, etag=pages.revision, kept=kept)

        revision = document.revision if document else None
        key = PageKey((self._repository.name, name, kind, about), (view.revision, revision))
        # Never replayed: links begin with the scheme, which is not among the bytes of a request.
        rules = MADE_HERE if failed else PAGE
        return await self._page_cache.respond(request, key, content, view.outcome, rules=rules)

    async def _document(self, view: View, page: Page, freshness: Freshness) -> tuple[Document | None, bool]:
        """Return the JSON that the gem's upstream has, if any, and whether it could not be had."""
        try:
            async with asyncio.timeout(DOCUMENT_SECONDS):
                return await self._repository.document(view, page, freshness), False
        except (UpstreamError, Unavailable, TimeoutError) as error:
            reason = str(error) or "its upstream takes too long"
            logger.info("the JSON of %s is made here: %s", page.name, reason)
            return None, True

    async def _with_specification(self, project: Project, file: File) -> Project:
        """Return a gem with the specification that is inside one of its files, if that can be had."""
        if pages.spec_of(file) is not None:
            return project
        try:
            async with asyncio.timeout(SPECIFICATION_SECONDS):
                _, opened = await self._repository.sidecar(project.name, file.filename)
                content = b"".join([chunk async for chunk in opened.body.read()])
            spec = read_gemspec_rz(content)
        except (MirrorError, TimeoutError):
            return project
        with_spec = msgspec.structs.replace(file, extra={**file.extra, "spec": msgspec.to_builtins(spec)})
        files = tuple(with_spec if one is file else one for one in project.files)
        return msgspec.structs.replace(project, files=files)

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
                except (NotFound, UpstreamError, Unavailable):
                    return None  # it cannot be described now, and the others can

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
