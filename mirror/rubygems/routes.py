"""URLs and handlers of one RubyGems repository: the compact index, the legacy index, gems.

What is about every gem at once is derived from the published log. JSON is in `json_api`, pushing and yanking in
`upload`.

Below `/at/DATE` there is the compact index once more, where `/info` shows what had been pushed by then. `/versions` is
that of today, since no one can tell what it was on that day: clients learn from it that `/info` differs from their
copy, request it, and believe it. The legacy index is not there: it lists all of every gem at once.

The ten rules that real clients taught, to which comments here and in `server.respond` refer by number:

 1. `/versions`, `/names` and `/info/*` have the MD5 of the whole uncompressed body as a strong, quoted ETag, its
    SHA-256 in both Repr-Digest and Digest (also on a 206), `Accept-Ranges: bytes`, and are text/plain in UTF-8. With
    another ETag, bundler 2.3 and 2.4 give up the compact index; without digests, 2.5 and later fetch everything again.
 2. A range that starts at the end or past it is answered 200 with the whole body, never 416 and never an empty 206.
    A 416 breaks bundler 2.5 to 2.7 and `gem install` of 4.1; an empty 206 crashes bundler 2.5.
 3. A request with Range is answered uncompressed, also with `Accept-Encoding: gzip`: clients append what they get.
 4. If-None-Match matches quoted, weak (`W/`) and bare tags (bundler 2.5.0 to 2.5.4 send bare ones), and a 304 has
    precedence over a range.
 5. One 404, 429 or 5xx for an `/info` that `/versions` lists makes bundler leave the compact index of that source, and
    walk the legacy index by thousands of requests. So serve it stale, or let the client wait.
 6. For bundler, a gem that `/versions` does not list does not exist, whatever `/info` answers; an empty `/versions`
    means that there is no compact index.
 7. `HEAD /` and `HEAD /versions` are answered 200 from memory: each `gem install` sends one of them.
 8. The legacy index (`specs.4.8.gz` and its siblings, with If-Modified-Since, and `quick/Marshal.4.8/*.gemspec.rz`)
    stays: up to gem 4.0, list, search, outdated, fetch, update and info read nothing else, and `gem install` fetches
    the gemspec of each gem.
 9. Form bodies are read whatever Content-Type says, and also with DELETE: gem 4 sends `POST /api/v1/api_key` without
    one, and `gem yank` and `gem owner --remove` send DELETE with a form.
10. When If-None-Match matches, but the range does not begin at the last byte, the client's copy is damaged: it gets the
    whole body with 200 instead of a 304, with which bundler 2.5 and later would keep the damaged copy for ever.
"""

import math
import zlib
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from typing import TypeAlias, get_args

import msgspec
from aiohttp import web

from mirror.auth import ReadAccess, Scope
from mirror.blobs.local import http_date
from mirror.errors import AbsentPage, Invalid, MirrorError, NotFound, UnknownProject, UpstreamError
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository
from mirror.index.source import Document
from mirror.policy import as_of, parse_moment
from mirror.rubygems import pages, versions
from mirror.rubygems.index import SpecsKind, render_names, specs
from mirror.rubygems.json_api import JsonApi
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.versions_map import VersionsMap, render_versions
from mirror.rubygems.names import FullName, canonical, parse_gem_filename, split_full_name
from mirror.server.facts import RequestFacts, facts_of
from mirror.server.pages import PageCache, PageInput, PageKey
from mirror.server.representation import Chunk, Representation
from mirror.server.respond import respond, respond_file, retry_if_evicted, wanted_of
from mirror.server.rules import COMPACT, ResponseRules

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
SPECS = ResponseRules(cache_control="max-age=60")
"""For the legacy index: its clients send the time of their own copy as a date, and never a range (rule 8)."""

NameReader: TypeAlias = Callable[[str, Callable[[str], bool]], FullName]
"""Reads a full name or a file name, given whether there is a gem of a name. Raises Invalid."""

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


class Routes:
    """The handlers of one repository at one mount."""

    def __init__(
        self, repository: Repository, published: PublishedIndex, page_cache: PageCache, access: ReadAccess, mount: str
    ) -> None:
        self._repository = repository
        self._published = published
        self._page_cache = page_cache
        self._access = access
        self._prefix = mount.rstrip("/")
        self._json = JsonApi(repository, published, page_cache, access, self._prefix)

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        at = self._prefix
        json = self._json
        return [
            *self._reads(at),
            web.get(f"{at}/{{which:(?:specs|latest_specs|prerelease_specs)}}.4.8{{gz:(?:\\.gz)?}}", self.specs),
            web.get(f"{at}/api/v1/gems/{{gem}}.json", json.gem),
            web.get(f"{at}/api/v1/versions/{{gem}}.json", json.versions),
            web.get(f"{at}/api/v1/versions/{{gem}}/latest.json", json.latest),
            web.get(f"{at}/api/v2/rubygems/{{gem}}/versions/{{version}}.json", json.version),
            web.get(f"{at}/api/v1/search.json", json.search),
            web.get(f"{at}/api/v1/dependencies", json.dependencies),
            web.get(f"{at}/api/v1/dependencies.json", json.dependencies),
            *self._reads(f"{at}/at/{{date}}"),
        ]

    def _reads(self, at: str) -> list[web.RouteDef]:
        """Return the routes that bundler and `gem install` need; they exist below the mount, and as of a date."""
        return [
            web.head(f"{at}/", self.root),
            web.get(f"{at}/versions", self.versions),
            web.get(f"{at}/names", self.names),
            web.get(f"{at}/info/{{gem}}", self.info),
            web.get(f"{at}/gems/{{filename}}", self.file),
            web.get(f"{at}/quick/Marshal.4.8/{{full}}.gemspec.rz", self.gemspec),
        ]

    # Every gem at once

    async def root(self, request: web.Request) -> web.StreamResponse:
        """Respond to `gem install`, which first looks whether there is a server (rule 7)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        return web.Response()

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """Respond with the append-only log of all versions."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = self._access.public if self._access.open else await self._access.scope(request)
        log = await self._current(facts)
        if self._access.open or readable.everything:
            replayable = (
                self._access.open and facts.freshness is Freshness.USUAL and facts.outcome in ("hit", "offline")
            )
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
        log = await self._current(facts)
        content = self._content(log, readable, render_names, TEXT)
        return await self._respond(request, self._key("names", log, readable), content, COMPACT)

    async def specs(self, request: web.Request) -> web.StreamResponse:
        """Respond with all versions as Ruby Marshal, for clients up to gem 4.0 (rule 8)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "index"
        readable = await self._access.scope(request)
        which = next(word for word in get_args(SpecsKind) if word == request.match_info["which"])
        log = await self._current(facts)
        content = self._content(log, readable, lambda versions: specs(versions, which), BINARY)
        key = self._key(which, log, readable)
        if readable.everything and self._published.specs is not None:
            theirs = await self._published.specs.get(log, which)
            if theirs is not None:
                content = self._passed_on(theirs, content)
                key = key._replace(revision=f"{key.revision} {theirs.revision}")
        if not request.match_info["gz"]:
            packed = await self._page_cache.body(key, content)
            content = self._content(log, readable, lambda _: zlib.decompress(packed, 31), BINARY)
            key = key._replace(place=(*key.place, "plain"))
        return await self._respond(request, key, content, SPECS)

    # One gem

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
            return await self._respond_empty(request)
        except AbsentPage:
            return await self._respond_empty(request)

        async def content() -> PageInput:
            body = await self._published.render(view)
            if moment is not None:
                body = pages.render_info(as_of(view.project, moment, versions))
            return PageInput(lambda: body, TEXT, etag=pages.revision)

        key = PageKey((self._repository.name, name, "info", moment), (view.revision, self._published.policies))
        return await self._page_cache.respond(request, key, content, view.outcome, view.validity, COMPACT)

    async def _respond_empty(self, request: web.Request) -> web.StreamResponse:
        """Respond for a gem that the log lists, or did once: clients request it, and an error ends all (rule 5)."""

        async def content() -> PageInput:
            return PageInput(lambda: pages.EMPTY, TEXT, etag=pages.revision)

        key = PageKey((self._repository.name, "", "empty"), "")
        return await self._page_cache.respond(request, key, content, "hit", rules=COMPACT)

    @retry_if_evicted
    async def gemspec(self, request: web.Request) -> web.StreamResponse:
        """Respond with the specification of one version, as zlib of Ruby Marshal (rule 8)."""
        facts = facts_of(request)
        facts.repository, facts.kind = self._repository.name, "sidecar"
        wanted = await self._read_name(request, split_full_name, request.match_info["full"])
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
        wanted = await self._read_name(request, parse_gem_filename, filename)
        await self._access.check(request, wanted.name)
        file, opened = await self._repository.open(wanted.name, filename, wanted_of(request))
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

    # Shared by the handlers

    async def _current(self, facts: RequestFacts) -> PublishedLog:
        """Return the log to serve, and note how it came about: the first one has been fetched.

        One that other nodes may have appended to, where they cannot be asked, is stale.
        """
        first = self._published.log is None and await self._published.begins_anew()
        log = await self._published.current(facts.freshness)
        facts.outcome = self._published.outcome
        if facts.outcome == "hit" and (first or facts.maybe_outdated):
            facts.outcome = "miss" if first else "stale"
        return log

    def _key(self, kind: str, log: PublishedLog, readable: Scope) -> PageKey:
        return PageKey((self._repository.name, "", kind, readable), log.etag, durable=True)

    async def _respond(
        self, request: web.Request, key: PageKey, content: Callable[[], Awaitable[PageInput]], rules: ResponseRules
    ) -> web.StreamResponse:
        return await self._page_cache.respond(request, key, content, facts_of(request).outcome or "hit", rules=rules)

    def _content(
        self, log: PublishedLog, readable: Scope, render: Callable[[VersionsMap], bytes], media_type: str
    ) -> Callable[[], Awaitable[PageInput]]:
        """Return the input of a page about all gems that may be read, rendered once per state of the log."""

        def rendered() -> bytes:
            if readable.everything:
                return render(log.map)
            return render(log.map.only([name for name in log.map if readable.allows(name)]))

        async def page() -> PageInput:
            # The next second, for a copy that a client made in the very second of a change may be the old one.
            modified = http_date(math.floor(self._published.changed_at) + 1)
            return PageInput(rendered, media_type, heavy=True, etag=pages.revision, modified=modified)

        return page

    def _passed_on(
        self, theirs: Document, ours: Callable[[], Awaitable[PageInput]]
    ) -> Callable[[], Awaitable[PageInput]]:
        """Return the input of a page that is an upstream's, byte for byte; ours stands in where it has just gone."""

        async def page() -> PageInput:
            made = await ours()
            try:
                revision, body = await theirs.read()
            except MirrorError:
                revision, body = "", b""
            if revision != theirs.revision:
                return msgspec.structs.replace(made, kept=False)
            return msgspec.structs.replace(made, render=lambda: body)

        return page

    async def _read_name(self, request: web.Request, read: NameReader, text: str) -> FullName:
        """Return the parts of the full name of a gem, of which `a-1-b` has several. Raises NotFound, Unauthorized.

        Only gems that the client may read count, lest the reading tells that there is another one.
        """
        readable = await self._access.scope(request)
        try:
            log = self._published.known or await self._published.current()
        except UpstreamError:
            log = None
        try:
            return read(text, lambda name: log is not None and name in log.map and readable.allows(name))
        except Invalid as error:
            raise NotFound(str(error)) from None
