"""URLs and handlers of one RubyGems repository: compact index, legacy index, gems, JSON.

Below `/at/DATE` there is the compact index once more, where `/info` shows what had been pushed by then. `/versions`
stays the one of today, as nobody can say what it was: clients see there that `/info` is another one than they know, ask
for it, and believe it. The legacy index, which says all of every gem at once, is not there.

The numbers in comments name the rules that real clients taught: what breaks which of them stands beside the line.
Pushing and yanking are in `upload.py`.
"""

import asyncio
import re
import zlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import get_args

from aiohttp import web

from mirror.auth import Reading, Scope
from mirror.errors import Invalid, NotFound, UnknownFile, UnknownProject, UpstreamError
from mirror.freshness import Demand
from mirror.http.answers import IN_LOOP, SMALL, Answer, Answers, Content
from mirror.http.semantics import KIND, OUTCOME, REMOVED, REPOSITORY, choose_encoding, demand_of, matches, outside
from mirror.http.send import REMEMBERED, Raw, Sent, finish_head, http_date, make_head, once_more, send
from mirror.memory import Validity
from mirror.model import Outcome, Page, Project
from mirror.policy import as_of
from mirror.policy import moment as past
from mirror.repository import Repository, View
from mirror.rubygems import index, pages, versions
from mirror.rubygems.index import PublishedLog, VersionsMap, Which
from mirror.rubygems.names import GENERIC, FullName, canonical, parse_gem_filename, split_full_name
from mirror.rubygems.pages import Links
from mirror.rubygems.published import Published

TEXT = "text/plain; charset=utf-8"
BINARY = "application/octet-stream"
FOUND_AT_ONCE = 30
"""The most gems that a search answers with."""
IN_ONE = 256 << 10
"""Bytes that are written at once."""

Piece = bytes | memoryview

_RANGE = re.compile(r"bytes=(\d{1,15})-(\d{0,15})", re.ASCII)
_EPOCH = datetime.fromtimestamp(0, UTC)


class Routes:
    """The handlers of one repository at one mount."""

    def __init__(
        self, repository: Repository, published: Published, answers: Answers, reading: Reading, mount: str
    ) -> None:
        self._repository = repository
        self._published = published
        self._answers = answers
        self._reading = reading
        self._prefix = mount.rstrip("/")

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application."""
        at = self._prefix
        return [
            web.head(f"{at}/", self.root),
            web.get(f"{at}/versions", self.versions),
            web.get(f"{at}/names", self.names),
            web.get(f"{at}/info/{{gem}}", self.info),
            web.get(f"{at}/gems/{{filename}}", self.file),
            web.get(f"{at}/{{which:(?:specs|latest_specs|prerelease_specs)}}.4.8{{gz:(?:\\.gz)?}}", self.specs),
            web.get(f"{at}/quick/Marshal.4.8/{{full}}.gemspec.rz", self.gemspec),
            web.get(f"{at}/api/v1/gems/{{gem}}.json", self.gem_json),
            web.get(f"{at}/api/v1/versions/{{gem}}.json", self.versions_json),
            web.get(f"{at}/api/v1/versions/{{gem}}/latest.json", self.latest_json),
            web.get(f"{at}/api/v2/rubygems/{{gem}}/versions/{{version}}.json", self.version_json),
            web.get(f"{at}/api/v1/search.json", self.search),
            web.get(f"{at}/api/v1/dependencies", self.dependencies),
            web.get(f"{at}/api/v1/dependencies.json", self.dependencies),
            *self._as_of(f"{at}/at/{{date}}"),
        ]

    def _as_of(self, at: str) -> list[web.RouteDef]:
        """What can be read below the mount as of a date: what bundler and `gem install` need."""
        return [
            web.head(f"{at}/", self.root),
            web.get(f"{at}/versions", self.versions),
            web.get(f"{at}/names", self.names),
            web.get(f"{at}/info/{{gem}}", self.info),
            web.get(f"{at}/gems/{{filename}}", self.file),
            web.get(f"{at}/quick/Marshal.4.8/{{full}}.gemspec.rz", self.gemspec),
        ]

    # The compact index

    async def root(self, request: web.Request) -> web.StreamResponse:
        """`gem install` asks for it to see whether anybody is there (rule 7)."""
        self._note(request, "index")
        return web.Response()

    async def versions(self, request: web.Request) -> web.StreamResponse:
        """The whole index, append-only."""
        self._note(request, "index")
        readable = await self._reading.scope(request)
        log = await self._published.current(demand_of(request))
        if not readable.everything:
            # Who may read only some gems gets a log made for that, which grows nowhere but is rewritten.
            return await self._page(
                request,
                *await self._derived(
                    request, "versions", log, readable, lambda known: index.render_versions(known, _EPOCH)
                ),
            )

        async def packed() -> Sequence[bytes]:
            return log.gzip_chunks

        return await _compact(
            request,
            etag=log.etag,
            digests=log.digest_headers(),
            size=log.size,
            pieces=log.pieces,
            packed=packed if log.gzip_chunks else None,
            outcome=self._published.outcome,
            validity=self._published.validity() if self._repeatable(request) else None,
        )

    async def names(self, request: web.Request) -> web.StreamResponse:
        """The names of all gems."""
        self._note(request, "index")
        readable = await self._reading.scope(request)
        log = await self._published.current(demand_of(request))
        return await self._page(request, *await self._derived(request, "names", log, readable, index.render_names))

    async def info(self, request: web.Request) -> web.StreamResponse:
        """The versions of one gem."""
        self._note(request, "page")
        name = canonical(request.match_info["gem"])
        await self._reading.check(request, name)
        demand = demand_of(request)
        date = request.match_info.get("date")
        moment = None if date is None else past(date)

        async def get(demand: Demand) -> Content:
            try:
                view, body = await self._published.page(name, demand)
            except UnknownProject:
                if not await self._published.listed(name):
                    raise
                # Clients that once saw the gem go on asking, and an error would cost them the whole index (rule 5).
                return Content("", 0, "hit", lambda: pages.EMPTY, TEXT, etag=pages.revision)
            if moment is not None:
                then = as_of(view.project, moment, versions)
                return _content(view, lambda: pages.render_info(then), TEXT)
            return _content(view, lambda: body, TEXT)

        key = (self._repository.name, name, "info", moment)
        return await self._page(request, *await self._answers.obtain(key, demand, get))

    async def _page(self, request: web.Request, answer: Answer, outcome: Outcome) -> web.StreamResponse:
        body = answer.bodies["identity"]

        async def packed() -> Sequence[bytes]:
            if len(body) <= IN_LOOP or "gzip" in answer.bodies:
                return [answer.packed("gzip")]
            return [await asyncio.to_thread(answer.packed, "gzip")]

        return await _compact(
            request,
            etag=answer.etag,
            digests=index.digest_headers(answer.sha256),
            size=len(body),
            pieces=lambda start, stop: [memoryview(body)[start:stop]],
            packed=packed if len(body) > SMALL else None,
            outcome=outcome,
            validity=answer.validity if outcome == "hit" and self._repeatable(request) else None,
        )

    # The legacy index

    async def specs(self, request: web.Request) -> web.StreamResponse:
        """All versions as Ruby Marshal; what `gem list -r`, `search` and `outdated` read up to gem 4.0."""
        self._note(request, "index")
        readable = await self._reading.scope(request)
        which = next(word for word in get_args(Which) if word == request.match_info["which"])
        log = await self._published.current(demand_of(request))
        gz, outcome = await self._derived(request, which, log, readable, lambda known: index.specs(known, which))
        if request.match_info["gz"]:
            return self._binary(request, gz, outcome)
        packed = gz.bodies["identity"]
        plain = await self._derived(request, f"{which} plain", log, readable, lambda _: zlib.decompress(packed, 31))
        return self._binary(request, *plain)

    async def _derived(
        self,
        request: web.Request,
        kind: str,
        log: PublishedLog,
        readable: Scope,
        render: Callable[[VersionsMap], bytes],
    ) -> tuple[Answer, Outcome]:
        """Something made from all that may be read: made once for each state of the log, in a thread."""

        def rendered() -> bytes:
            if readable.everything:
                return render(log.map)
            return render(log.map.only([name for name in log.map if readable.allows(name)]))

        async def get(_: Demand) -> Content:
            return Content(log.etag, 0, self._published.outcome, rendered, BINARY, heavy=True, etag=pages.revision)

        return await self._answers.obtain((self._repository.name, "", kind, readable), demand_of(request), get)

    def _binary(self, request: web.Request, answer: Answer, outcome: Outcome) -> web.StreamResponse:
        request[OUTCOME] = outcome
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
            return Raw(304, make_head(304, headers))
        headers += [("Content-Type", BINARY), ("Content-Length", str(len(body)))]
        return Raw(200, make_head(200, headers), b"" if request.method == "HEAD" else body)

    @once_more
    async def gemspec(self, request: web.Request) -> web.StreamResponse:
        """The specification of one version, as zlib of Ruby Marshal."""
        self._note(request, "sidecar")
        wanted = split_full_name(request.match_info["full"], await self._known())
        await self._reading.check(request, wanted.name)
        _, opened = await self._repository.sidecar(wanted.name, wanted.filename)
        request[OUTCOME] = opened.outcome
        return await send(
            request,
            opened.body,
            content_type=BINARY,
            headers=[("X-Mirror-Cache", opened.outcome)],
            shared=self._reading.open,
        )

    # Files

    @once_more
    async def file(self, request: web.Request) -> web.StreamResponse:
        """A gem."""
        self._note(request, "file")
        filename = request.match_info["filename"]
        wanted = parse_gem_filename(filename, await self._known())
        await self._reading.check(request, wanted.name)
        file, opened = await self._repository.open(wanted.name, filename)
        if self._repository.removed(wanted.name, filename):
            request[REMOVED] = file.source, wanted.name, filename
        request[OUTCOME] = opened.outcome
        return await send(
            request,
            opened.body,
            content_type=BINARY,
            headers=[("X-Mirror-Cache", opened.outcome)],
            modified=http_date(file.uploaded) if file.uploaded else None,
            shared=self._reading.open,
        )

    async def _known(self) -> Callable[[str], bool]:
        """Which names are gems: `a-1-b` can be read in several ways."""
        try:
            log = self._published.log or await self._published.current()
        except UpstreamError:
            return lambda name: False
        return lambda name: name in log.map

    # JSON

    async def gem_json(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/gems/NAME.json`."""
        links = self._links(request)
        return await self._json(
            request, "gem_json", lambda view, told: pages.gem_json(view.project, links, told), about=links.gem("")
        )

    async def versions_json(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/versions/NAME.json`."""
        return await self._json(request, "versions_json", lambda view, told: pages.versions_json(view.project, told))

    async def latest_json(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/versions/NAME/latest.json`: an unknown gem has an unknown version, and no error."""
        try:
            return await self._json(request, None, lambda view, told: pages.latest_json(view.project))
        except UnknownProject:
            return web.Response(body=pages.latest_json(None), content_type="application/json")

    async def version_json(self, request: web.Request) -> web.StreamResponse:
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
        """One gem as JSON: in its source's words where it has any, else from what is known."""
        self._note(request, "page")
        name = canonical(request.match_info["gem"])
        await self._reading.check(request, name)
        demand = demand_of(request)

        async def get(demand: Demand) -> Content:
            view = await self._repository.project(name, demand)
            page = Page(kind, address or name) if kind else None
            document = await self._repository.document(view, page, demand) if page else None
            body = render(view, document.body if document else None)
            return _content(view, lambda: body, "application/json", pages.revision(body))

        return await self._answers.respond(request, (self._repository.name, name, kind, about), demand, get)

    async def search(self, request: web.Request) -> web.StreamResponse:
        """`/api/v1/search.json`: by name; those that are the word first, then those that begin with it."""
        self._note(request, "page")
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
        return web.Response(body=body, content_type="application/json")

    async def dependencies(self, request: web.Request) -> web.StreamResponse:
        """Gone from the public index as well; clients then use the compact index."""
        raise NotFound("The dependency API is gone; the compact index is at /versions and /info/NAME.")

    # What they share

    def _repeatable(self, request: web.Request) -> bool:
        """Whether the same bytes may get the same answer, without another look at who asks and for what."""
        return self._reading.open and demand_of(request) is Demand.USUAL

    def _note(self, request: web.Request, kind: str) -> None:
        request[REPOSITORY] = self._repository.name
        request[KIND] = kind

    def _links(self, request: web.Request) -> Links:
        base = outside(request) + self._prefix
        return Links(gem=lambda filename: f"{base}/gems/{filename}", project=lambda name: f"{base}/info/{name}")


async def _compact(
    request: web.Request,
    *,
    etag: str,
    digests: dict[str, str],
    size: int,
    pieces: Callable[[int, int], Iterable[Piece]],
    packed: Callable[[], Awaitable[Sequence[bytes]]] | None,
    outcome: Outcome,
    validity: Validity | None,
) -> web.StreamResponse:
    """An answer of the compact index: conditions and ranges as every generation of its clients bears them.

    `pieces` gives the identity bytes of a range, `packed` the whole in gzip.
    """
    request[OUTCOME] = outcome
    headers = [
        ("ETag", f'"{etag}"'),
        *digests.items(),  # of the whole, also on a part (rule 1)
        ("Accept-Ranges", "bytes"),
        ("Cache-Control", "max-age=60"),
        ("Vary", "Accept-Encoding"),
        ("X-Mirror-Cache", outcome),
    ]
    wanted = _part(request.headers, etag, size)
    condition = request.headers.get("If-None-Match")
    # 304 wins over Range (rule 4), unless the range shows that the client's copy is damaged: then all of it (rule 10).
    if condition is not None and matches(condition, etag):
        if wanted is None or wanted[0] == max(0, size - 1):
            return Raw(304, make_head(304, headers), b"", validity)
        wanted = None
    headers.append(("Content-Type", TEXT))
    # A range that starts at the end or past it: all of it, never 416 (rule 2).
    if wanted is not None and wanted[0] < min(wanted[1], size):
        start, stop = wanted[0], min(wanted[1], size)
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
        return await _write(request, 206, headers, stop - start, lambda: pieces(start, stop), validity)
    # With Range, never compressed (rule 3).
    coding = choose_encoding(request.headers.get("Accept-Encoding", ""), ("gzip",))
    if packed is not None and coding == "gzip" and "Range" not in request.headers:
        content = await packed()
        headers.append(("Content-Encoding", "gzip"))
        return await _write(request, 200, headers, sum(map(len, content)), lambda: content, validity)
    return await _write(request, 200, headers, size, lambda: pieces(0, size), validity)


def _part(headers: Mapping[str, str], etag: str, size: int) -> tuple[int, int] | None:
    """The bytes [start, stop) that a Range asks for, not yet held against the size; None when it does not count."""
    wanted = _RANGE.fullmatch(headers.get("Range", "").replace(" ", ""))
    if wanted is None or headers.get("If-Range", f'"{etag}"').strip() != f'"{etag}"':
        return None
    return int(wanted[1]), int(wanted[2]) + 1 if wanted[2] else size


async def _write(
    request: web.Request,
    status: int,
    headers: Iterable[tuple[str, str]],
    length: int,
    pieces: Callable[[], Iterable[Piece]],
    validity: Validity | None,
) -> web.StreamResponse:
    """An answer; a long one is written in pieces as the client takes them, and never copied as a whole."""
    head = make_head(status, [*headers, ("Content-Length", str(length))])
    if request.method == "HEAD":
        return Raw(status, head, b"", validity)
    if length <= IN_ONE:
        return Raw(status, head, b"".join(pieces()), validity if length <= REMEMBERED else None)
    sent = 0
    with suppress(ConnectionError):  # a client that left is no news
        await request.writer.write(finish_head(head, request))
        for piece in pieces():
            for at in range(0, len(piece), IN_ONE):
                await request.writer.write(piece[at : at + IN_ONE])
                sent += len(piece[at : at + IN_ONE])
    return Sent(status, sent, request.keep_alive and sent == length)


def _content(view: View, render: Callable[[], bytes], media_type: str, extra_revision: str = "") -> Content:
    return Content(
        revision=f"{view.revision}\0{extra_revision}",
        until=view.until,
        outcome=view.outcome,
        render=render,
        media_type=media_type,
        etag=pages.revision,
        # Links in JSON begin with the scheme, which is not among the bytes of a request.
        repeatable=media_type != "application/json",
    )


def _search(versions: index.VersionsMap, word: str, readable: Scope) -> list[str]:
    found = [name for name in versions if word in name.lower() and readable.allows(name)]
    return sorted(found, key=lambda name: (name.lower() != word, not name.lower().startswith(word), len(name), name))
