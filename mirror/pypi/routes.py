"""URLs and handlers of one PyPI repository: simple pages, files, `.metadata`, legacy JSON, provenance.

Every page is served by `PageCache`, every file by `respond_file`; this module maps URLs to them. Uploading is in
`upload.py`.

The surprise: every URL exists a second time below `/at/DATE`, where a project has only the files that had been uploaded
by then. The list of names and the files themselves are those of today.
"""

import asyncio
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache
from urllib.parse import quote

import msgspec
from aiohttp import web
from yarl import URL

from mirror.auth import ReadAccess
from mirror.errors import (
    Invalid,
    NotFound,
    Offline,
    UnknownFile,
    UnknownProject,
    UpstreamProtocolError,
    UpstreamRefused,
)
from mirror.index.freshness import Freshness
from mirror.index.merge import worst
from mirror.index.packing import PackedPage
from mirror.index.repository import Repository, View
from mirror.index.source import Document
from mirror.index.view import RepositoryNames, ViewStamp
from mirror.model import File, Page, Project
from mirror.policy import as_of, parse_moment
from mirror.pypi import index, legacy, pages, versions
from mirror.pypi.names import canonical, has_metadata, safe_filename, url_part
from mirror.pypi.pages import HTML_TYPE, JSON_TYPE
from mirror.pypi.provenance import check_provenance
from mirror.server.facts import facts_of, public_url
from mirror.server.negotiate import choose_encoding, negotiate
from mirror.server.pages import PageCache, PageInput, PageKey
from mirror.server.respond import respond_file, retry_if_evicted, wanted_of
from mirror.server.rules import OWN_PAGE, PAGE

LATEST_JSON = "application/vnd.pypi.simple.latest+json"
LATEST_HTML = "application/vnd.pypi.simple.latest+html"
TEXT_HTML = "text/html"
# JSON is the model and HTML is derived from it (PEP 833), but only a client that names JSON in Accept gets it.
OFFERED = (TEXT_HTML, JSON_TYPE, HTML_TYPE, LATEST_JSON, LATEST_HTML)
_FORMATS = {media_type: JSON_TYPE if media_type.endswith("json") else media_type for media_type in OFFERED} | {
    LATEST_HTML: HTML_TYPE
}
_FILE_TYPES = {".whl": "application/zip", ".zip": "application/zip", ".gz": "application/gzip"}
HEAVY_FILES = 500
"""How many files of a project make rendering its pages worth a thread."""


_canonical = lru_cache(maxsize=4096)(canonical)  # clients ask for the same names again and again


class Routes:
    """The handlers of one repository at one mount."""

    def __init__(self, repository: Repository, page_cache: PageCache, access: ReadAccess, mount: str) -> None:
        self._repository = repository
        self._page_cache = page_cache
        self._access = access
        self._prefix = mount.rstrip("/")
        self._own = frozenset(source.name for source in repository.sources if source.local)

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [*self._routes_below(self._prefix), *self._routes_below(f"{self._prefix}/at/{{date}}")]

    def _routes_below(self, at: str) -> list[web.RouteDef]:
        """Return the routes below a mount, or below the mount as of a date."""
        return [
            web.get(f"{at}/simple/{{project}}/", self.project),  # the most frequent one first: they are tried in order
            web.get(f"{at}/simple", self.names),  # bandersnatch asks for it without the slash
            web.get(f"{at}/simple/", self.names),
            web.get(f"{at}/simple/index.html", self.elsewhere),
            web.get(f"{at}/simple/{{project}}/index.html", self.elsewhere),
            web.get(f"{at}/simple/{{project}}", self.project),
            web.get(f"{at}/packages/{{project}}/{{filename}}", self.file),
            # As distributions of Linux write it: source/a/acme/acme-1.0.tar.gz, py3/a/acme/acme-1.0-py3-none-any.whl.
            web.get(f"{at}/packages/{{kind}}/{{letter}}/{{project}}/{{filename}}", self.elsewhere),
            *(web.get(f"{at}/pypi/{{project}}/json{slash}", self.legacy) for slash in ("", "/")),
            *(web.get(f"{at}/pypi/{{project}}/{{version}}/json{slash}", self.legacy) for slash in ("", "/")),
            web.get(f"{at}/integrity/{{project}}/{{version}}/{{filename}}/provenance", self.provenance),
        ]

    # Pages

    async def names(self, request: web.Request) -> web.StreamResponse:
        """Serve the list of all projects (PEP 503, PEP 691)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = await self._access.scope(request)
        media_type = self._media_type(request)
        listing = await self._repository.names(facts.freshness)

        async def content() -> PageInput:
            render = index.render_names_json if media_type == JSON_TYPE else index.render_names_html
            encoding = choose_encoding(request.headers.get("Accept-Encoding", ""), PAGE.encodings)
            if readable.everything and (
                made := await listing.render(f"{render.__module__}:{render.__name__}", encoding)
            ):
                revision, rendered = made
                page, serial = rendered.page, rendered.serial
                return _names_input(listing, revision, media_type, serial, lambda: page)
            revision, names = await listing.load()
            return _names_input(listing, revision, media_type, names.serial, lambda: render(readable.filter(names)))

        key = PageKey((self._repository.name, "", "names", media_type, readable), listing.revision, durable=True)
        return await self._page_cache.respond(request, key, content, listing.outcome, listing.validity)

    async def project(self, request: web.Request) -> web.StreamResponse:
        """Serve the page of one project, or redirect to its canonical URL."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        written = request.match_info["project"]
        name = _canonical(written)
        if written != name or not request.path.endswith("/"):
            query = f"?{request.rel_url.raw_query_string}" if request.query_string else ""
            url = f"{facts.prefix}{self._root(request)}/simple/{name}/{query}"
            raise web.HTTPMovedPermanently(URL(url, encoded=True))
        if not self._access.open:
            await self._access.check(request, name)
        media_type = self._media_type(request)
        moment = _moment(request)
        place = (self._repository.name, name, "simple", media_type, moment)
        if moment is None:
            stamp = await self._repository.stamp(name, facts.freshness, lambda: self._page_cache.stamp(place))
        else:
            stamp = await self._view(name, facts.freshness, moment)

        async def content() -> PageInput:
            view = await self._view(name, Freshness.ANY, moment)
            render = pages.render_json if media_type == JSON_TYPE else pages.render_html
            return _page_input(
                view,
                _content_type(media_type),
                # Relative links: the same page is right under every host name and mount.
                lambda: render(advertised(view.project), _linker(f"../../packages/{name}"), _provenance_linker(name)),
                kept=view.revision == stamp.revision,
                stamp=view,
            )

        key = PageKey(place, stamp.revision, durable=moment is None)
        rules = PAGE if self._own.isdisjoint(stamp.inputs) else OWN_PAGE
        return await self._page_cache.respond(request, key, content, stamp.outcome, stamp.validity, rules)

    async def legacy(self, request: web.Request) -> web.StreamResponse:
        """Serve `/pypi/<project>/json` and `/pypi/<project>/<version>/json`, for bandersnatch and pip-audit."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        written = request.match_info["project"]
        version = request.match_info.get("version")
        name = canonical(written)
        if written != name:
            tail = f"{quote(version)}/json" if version else "json"
            raise web.HTTPMovedPermanently(f"{facts.prefix}{self._root(request)}/pypi/{name}/{tail}")
        await self._access.check(request, name)
        base = public_url(request) + self._root(request)
        moment = _moment(request)
        view = await self._view(name, facts.freshness, moment)
        files = legacy.files_of(view.project, version)
        source = next((file.source for file in files), "")
        document = await self._legacy_document(view, legacy.legacy_page(name, version), facts.freshness, source)

        async def content() -> PageInput:
            read, body = await self._read(document)
            described = not files or (body is not None and legacy.is_about(body, files[0].version))
            metadata = None if described else await self._metadata(view, files)
            return _page_input(
                view,
                "application/json",
                lambda: legacy.render(view.project, body, version, _linker(f"{base}/packages/{name}"), metadata),
                kept=read == revision,
            )

        revision = document.revision if document else None
        place = (self._repository.name, name, "legacy", version, base, moment)
        key = PageKey(place, (view.revision, revision))
        outcome = worst([view.outcome, document.outcome]) if document else view.outcome
        rules = PAGE if self._own.isdisjoint(view.inputs) else OWN_PAGE
        # Never replayed: links begin with the scheme, which is not among the bytes of a request.
        return await self._page_cache.respond(request, key, content, outcome, rules=rules)

    async def _view(self, name: str, freshness: Freshness, moment: datetime | None) -> View:
        """Return a project, as it was at a moment where one is given. Raises what `Repository.project` raises."""
        view = await self._repository.project(name, freshness)
        if moment is None:
            return view
        if len(view.project.files) < HEAVY_FILES:
            then = as_of(view.project, moment, versions)
        else:
            then = await asyncio.to_thread(as_of, view.project, moment, versions)
        if not then.files:
            raise UnknownProject(name)
        return msgspec.structs.replace(view, project=then)

    async def _legacy_document(self, view: View, page: Page, freshness: Freshness, source: str) -> Document | None:
        """Return the upstream's document of the JSON API; None where it cannot be fetched, as it can be derived."""
        try:
            return await self._repository.document(view, page, freshness, source)
        except (Offline, UpstreamRefused, UpstreamProtocolError):  # an upstream that is down raises: it may have more
            return None

    async def _read(self, document: Document | None) -> tuple[str | None, bytes | None]:
        """Return the revision and the body of a document; no body where there is none, or it cannot be read."""
        try:
            return await document.read() if document else (None, None)
        except (Offline, UpstreamRefused, UpstreamProtocolError):  # its stored copy was lost
            return None, None

    async def _metadata(self, view: View, files: Sequence[File]) -> bytes | None:
        """Return core metadata out of one of a version's files, where there is no document of the JSON API."""
        for file in files:
            if self._repository.format.has_sidecar(file):
                try:
                    _, opened = await self._repository.sidecar(view.project.name, file.filename)
                    return b"".join([chunk async for chunk in opened.body.read()])
                except (NotFound, Invalid, Offline):
                    continue
            if not file.url:  # an uploaded sdist, whose PKG-INFO is stored
                page = Page("metadata", file.filename)
                if document := await self._repository.document(view, page, source=file.source):
                    return (await document.read()).content
        return None

    # Files

    @retry_if_evicted
    async def file(self, request: web.Request) -> web.StreamResponse:
        """Serve a file, or with `.metadata` at the end its core metadata (PEP 658)."""
        project, filename = request.match_info["project"], request.match_info["filename"]
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "file"
        described = filename.removesuffix(".metadata")
        file = self._repository.known_file(project, described)
        if file is None and not (safe_filename(described) and project == _canonical(project)):
            raise UnknownFile(project[:100], filename[:100])
        if not self._access.open:
            await self._access.check(request, project)
        if described != filename:
            facts.kind = "sidecar"
            file, opened = await self._repository.sidecar(project, described)
        elif file is None:
            file, opened = await self._repository.open(project, filename, wanted_of(request))
        else:
            opened = await self._repository.open_file(project, file, wanted_of(request))
        return await respond_file(
            request,
            self._repository,
            project,
            file,
            opened,
            media_type=_FILE_TYPES.get(filename[filename.rfind(".") :], "application/octet-stream"),
            public=self._access.open,
            uploaded=file.uploaded,
        )

    async def provenance(self, request: web.Request) -> web.StreamResponse:
        """Serve the provenance of a file (PEP 740), as its source has it."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "page"
        name, filename = canonical(request.match_info["project"]), request.match_info["filename"]
        await self._access.check(request, name)
        file = await self._repository.file(name, filename)
        if file.version != request.match_info["version"] or not file.extra.get("provenance"):
            raise UnknownFile(name, f"{filename}/provenance")
        view = await self._repository.project(name, facts.freshness)
        document = await self._repository.document(view, pages.provenance_page(file), facts.freshness, file.source)
        if document is None:
            raise UnknownFile(name, f"{filename}/provenance")

        async def content() -> PageInput:
            read, body = await document.read()
            check_provenance(file, body)
            kept = read == document.revision
            return _page_input(view, "application/vnd.pypi.integrity.v1+json", lambda: body, kept)

        place = (self._repository.name, name, "provenance", filename)
        key = PageKey(place, (view.revision, document.revision))
        outcome = worst([view.outcome, document.outcome])
        return await self._page_cache.respond(request, key, content, outcome, view.validity)

    # Other addresses, which the public index has or had

    async def elsewhere(self, request: web.Request) -> web.StreamResponse:
        """Redirect to where a page or file really is."""
        parts = request.match_info
        written, filename = parts.get("project", ""), parts.get("filename")
        try:
            name = canonical(written) if written else ""
        except Invalid:
            raise UnknownProject(written[:100]) from None
        place = f"{facts_of(request).prefix}{self._root(request)}"
        if filename is None:
            place += f"/simple/{name}/" if name else "/simple/"
        elif safe_filename(filename):
            place += f"/packages/{name}/{quote(filename)}"
        else:
            raise UnknownFile(name, filename[:100])
        raise web.HTTPMovedPermanently(URL(place, encoded=True))

    # Shared by the handlers

    def _root(self, request: web.Request) -> str:
        """Return the path below which the client reads: the mount, or the mount as of a date."""
        date = request.match_info.get("date")
        return self._prefix if date is None else f"{self._prefix}/at/{quote(date, safe=':')}"

    def _media_type(self, request: web.Request) -> str:
        if request.rel_url.raw_query_string:
            wanted = request.query.get("format", "").replace(" ", "+")  # a '+' that the client did not encode
            if wanted in _FORMATS:
                return _FORMATS[wanted]
        # PEP 691 allows 406 for an Accept that matches nothing; HTML helps more.
        return _FORMATS[negotiate(request.headers.get("Accept", ""), OFFERED) or TEXT_HTML]


def _names_input(
    listing: RepositoryNames,
    revision: str,
    media_type: str,
    serial: int | None,
    render: Callable[[], bytes | PackedPage],
) -> PageInput:
    """Return the input of a page of names that were read at a revision."""
    return PageInput(
        render=render,
        media_type=_content_type(media_type),
        headers=() if serial is None else (("X-PyPI-Last-Serial", str(serial)),),
        heavy=True,
        kept=revision == listing.revision,
    )


def _page_input(
    view: View, media_type: str, render: Callable[[], bytes], kept: bool = True, stamp: ViewStamp | None = None
) -> PageInput:
    """Return the input of a page that shows a view; see `PageInput.kept`."""
    serial = view.project.serial
    return PageInput(
        render=render,
        media_type=media_type,
        headers=() if serial is None else (("X-PyPI-Last-Serial", str(serial)),),
        heavy=len(view.project.files) >= HEAVY_FILES,
        kept=kept,
        stamp=stamp,
    )


def advertised(project: Project) -> Project:
    """Return the project with `core-metadata` on the wheels that have a sidecar here, and on no others.

    The mirror reads it out of wheels for which the index offers none.
    """
    if all(bool(file.extra.get("core-metadata")) is has_metadata(file) for file in project.files):
        return project
    return msgspec.structs.replace(project, files=tuple(map(_advertised, project.files)))


def _advertised(file: File) -> File:
    promised = file.extra.get("core-metadata")
    if bool(promised) is has_metadata(file):
        return file
    return msgspec.structs.replace(file, extra={**file.extra, "core-metadata": not promised})


def _moment(request: web.Request) -> datetime | None:
    """Return the moment in a URL below `/at/DATE`, else None. Raises Invalid."""
    date = request.match_info.get("date")
    return None if date is None else parse_moment(date)


def _linker(directory: str) -> Callable[[File], str]:
    return lambda file: f"{directory}/{url_part(file.filename)}"


def _provenance_linker(name: str) -> Callable[[File], str]:
    return lambda file: f"../../integrity/{name}/{quote(file.version)}/{quote(file.filename)}/provenance"


def _content_type(media_type: str) -> str:
    return f"{TEXT_HTML}; charset=utf-8" if media_type == TEXT_HTML else media_type
