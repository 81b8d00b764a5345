"""The journal and what is held, for mirrors that follow: `GET /-/feed` and `GET /-/holdings`, as JSON lines.

The journal names sources, whose addresses are not public; here its events are reported by repository, and only those of
projects that the client may read. An event is reported once the page shows what it reports, not before. The surprise:
one event may be several lines, of one serial, where several repositories share a source.

Both endpoints return in `X-Mirror-Feed` which journal it is, and in `X-Mirror-Serial` up to where all was reported:
what was left out because the client may not read it counts as reported. `X-Mirror-Newest` is the end of the journal.
"""

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import urlsplit

import msgspec
from aiohttp import WSMsgType, web

from mirror.auth import Guard, Scope
from mirror.auth.audit import address_of
from mirror.catalog import Contents, Position
from mirror.errors import Forbidden, Invalid, MirrorError, NotFound, Unauthorized, Unavailable
from mirror.index.journal import EVENTS_AT_ONCE, Journal
from mirror.index.repository import Repository
from mirror.model import Event
from mirror.server.connection import connection_of
from mirror.server.facts import public_url
from mirror.server.proxies import network_of

logger = logging.getLogger(__name__)

LONGEST_WAIT_SECONDS = 60.0
"""The longest time for which a request waits for news."""
WAITING_CLIENTS = 1000
"""The most requests and WebSockets that wait at the same time."""
WAITING_PER_ADDRESS = 100
"""The most of them from one address."""
EVENTS_PER_REQUEST = 20_000
"""The most events that are read for one request; the next one goes on where it ended."""
CLIENT_CHECK_SECONDS = 5.0
"""Time between two checks whether a client that waits is still connected."""
PROJECTS_PER_RESPONSE = 200
"""Projects in one response about what is held."""
HOLDINGS_AT_ONCE = 4
"""The most such responses that are made at the same time."""
LINES = "application/jsonl"

KINDS: Mapping[str, str] = {
    "project": "page",
    **{kind: kind for kind in ("names", "removed", "file", "sidecar", "upload", "yank", "unyank", "delete", "policy")},
}
"""Kind of an event in the journal → kind of a line. Events of other kinds are not reported."""
CHANGES = frozenset({"upload", "yank", "unyank", "delete"})
"""Kinds of events about our own files."""
DETAILS = frozenset({"digest", "reason"})
"""The details of an event that are reported."""

ShowUploads = Callable[[Sequence[str]], Awaitable[object]]
"""Makes a repository show what was uploaded to these projects, and returns when it does."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the feed."""

    serial: int
    time: float
    """Seconds since the epoch."""
    repository: str
    project: str
    """Canonical; empty for the list of names."""
    kind: str
    """page, names, removed, file, sidecar, upload, yank, unyank, delete, policy."""
    filename: str = ""
    detail: Mapping[str, str] = {}


class HeldLine(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line about what is held: a page, or a file or sidecar."""

    repository: str
    project: str
    kind: str
    filename: str = ""
    sha256: str = ""
    size: int = 0


class FeedPart(msgspec.Struct, frozen=True):
    """Lines, and the serial up to which they are complete."""

    lines: list[Line]
    serial: int


class _UnknownPosition(MirrorError):
    """The client's position is not in the journal: too old (410), or of another journal (409)."""

    def __init__(self, status: int, sentence: str, position: Position) -> None:
        super().__init__(sentence)
        self.status = status
        self.position = position


class FeedApi:
    """Handlers of both endpoints, for all repositories."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        indexes: Mapping[str, str],
        show_uploads: Mapping[str, ShowUploads],
        guard: Guard,
        journal: Journal,
        contents: Contents,
    ) -> None:
        """`indexes`: path of an index → repository; `show_uploads`: by repository, where that takes a moment."""
        self._repositories = repositories
        self._indexes = indexes
        self._show_uploads = show_uploads
        self._guard = guard
        self._journal = journal
        self._contents = contents
        self._by_source: dict[str, list[str]] = {}
        for name, repository in repositories.items():
            for source in repository.sources:
                self._by_source.setdefault(source.name, []).append(name)
        self._shown = journal.serial
        self._waiting: Counter[str] = Counter()
        self._holdings_slots = asyncio.Semaphore(HOLDINGS_AT_ONCE)
        self._stopped = False

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [web.get("/-/feed", self.feed), web.get("/-/holdings", self.holdings)]

    def stop(self) -> None:
        """Answer every client that waits, and have none wait from now on: this mirror ends or is replaced."""
        self._stopped = True
        self._journal.wake()

    def resume(self) -> None:
        """Let clients wait again: this mirror was not replaced after all."""
        self._stopped = False

    # The feed

    async def feed(self, request: web.Request) -> web.StreamResponse:
        """Report what happened after `since` (`newest`: nothing, only where the journal ends), waiting `wait` seconds.

        `repository`, or `index` (the path of an index as its clients know it), limits it to one repository. `feed` is
        the journal that `since` is a place in, as named by an earlier response.
        """
        wait = _number(request, "wait", 0.0)
        repository = self._selected(request)
        scopes = await self._scopes(request, repository)
        position = await self._journal.position()
        try:
            since = _since(request, position)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._socket(request, since, repository)
            part = await self._part(since, scopes)
            if wait and not part.lines:
                with self._count_waiting(request):
                    part = await self._wait(request, part.serial, min(wait, LONGEST_WAIT_SECONDS), repository)
        except _UnknownPosition as error:
            return _resynchronise(error)
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in part.lines)
        return web.Response(body=body, headers=_headers(position, part.serial, repository), content_type=LINES)

    async def _wait(self, request: web.Request, since: int, seconds: float, repository: str | None) -> FeedPart:
        deadline, part = time.monotonic() + seconds, FeedPart([], since)
        while not part.lines and not self._stopped and (left := deadline - time.monotonic()) > 0:
            if self._journal.serial <= part.serial:  # nothing is awaited between this check and the next line
                await self._journal.wait(min(left, CLIENT_CHECK_SECONDS))
                if request.transport is None or request.transport.is_closing():
                    break
            part = await self._part(part.serial, await self._scopes(request, repository))
        return part

    async def _part(self, since: int, scopes: Mapping[str, Scope]) -> FeedPart:
        """Return the first lines after `since` of these repositories, if there are any."""
        lines: list[Line] = []
        read = 0
        while not lines and read < EVENTS_PER_REQUEST:
            newest = self._journal.serial
            events = await self._journal.since(since, EVENTS_AT_ONCE)
            read += EVENTS_AT_ONCE
            lines = [line for event in events for line in self._lines(event, scopes)]
            if len(events) < EVENTS_AT_ONCE:  # serials that were skipped up to `newest` were never given out
                since = max(since, newest, *(event.serial for event in events))
                await self._show(events)
                break
            since = events[-1].serial
            await self._show(events)
        return FeedPart(lines, since)

    def _lines(self, event: Event, scopes: Mapping[str, Scope]) -> Iterator[Line]:
        kind = KINDS.get(event.kind)
        for name in self._by_source.get(event.source, ()) if kind else ():
            scope = scopes.get(name)
            if scope is None or not (scope.allows(event.project) if event.project else scope.everything):
                continue
            yield Line(
                serial=event.serial, time=event.at, repository=name, project=event.project, kind=kind or "",
                filename=event.filename,
                detail={key: value for key, value in event.detail.items() if key in DETAILS and isinstance(value, str)},
            )  # fmt: skip

    async def _show(self, events: Sequence[Event]) -> None:
        """Wait until pages show what was uploaded since this process began, before it is first reported."""
        changed: dict[str, dict[str, None]] = {}
        for event in events:
            if event.serial > self._shown and event.kind in CHANGES:
                for name in self._by_source.get(event.source, ()):
                    changed.setdefault(name, {})[event.project] = None
        for name, projects in changed.items():
            if show := self._show_uploads.get(name):
                await show(list(projects))
        if events:
            self._shown = max(self._shown, events[-1].serial)

    # WebSockets

    async def _socket(self, request: web.Request, since: int, repository: str | None) -> web.StreamResponse:
        """Send the same lines, one in each message, until either side closes the connection."""
        origin = request.headers.get("Origin")
        # RFC 6455 section 10.2: a page of another site must not read with the login of the person who looks at it.
        if origin is not None and urlsplit(origin).netloc.lower() != urlsplit(public_url(request)).netloc.lower():
            raise Forbidden("The feed is not given to pages of other sites.")
        with self._count_waiting(request):
            socket = web.WebSocketResponse(heartbeat=30, max_msg_size=1024, compress=False)
            await socket.prepare(request)
            sending = asyncio.create_task(self._send_lines(request, socket, since, repository))
            try:
                async for message in socket:
                    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                        await socket.close(code=1008, message=b"nothing is expected here")
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        return socket

    async def _send_lines(
        self, request: web.Request, socket: web.WebSocketResponse, since: int, repository: str | None
    ) -> None:
        code, reason = 1001, b"the mirror ends or reloads: come back"
        try:
            while not self._stopped and not socket.closed:
                part = await self._part(since, await self._scopes(request, repository))
                for line in part.lines:
                    await socket.send_str(msgspec.json.encode(line).decode())
                since = part.serial
                if self._journal.serial <= since:
                    await self._journal.wait(CLIENT_CHECK_SECONDS)
        except MirrorError as error:
            code, reason = (1008 if isinstance(error, Unauthorized) else 1011), str(error).encode()[:120]
        except ConnectionError:
            return
        except Exception:
            logger.exception("the feed could not be sent; the client has to come back")
            code, reason = 1011, b"the feed cannot be read at the moment"
        with contextlib.suppress(ConnectionError):
            await socket.close(code=code, message=reason)

    # What is held

    async def holdings(self, request: web.Request) -> web.StreamResponse:
        """List pages, files and sidecars of one repository by project, from `after` on; `X-Mirror-Next` goes on."""
        repository = self._selected(request) or next(iter(self._repositories))
        scope = (await self._scopes(request, repository))[repository]
        after = request.query.get("after", "")[:1000]
        position = await self._journal.position()
        async with self._holdings_slots:
            lines, more = await self._held(repository, scope, after)
        headers = _headers(position, position.newest, repository)
        if more:
            headers["X-Mirror-Next"] = lines[-1].project
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        return web.Response(body=body, headers=headers, content_type=LINES)

    async def _held(self, repository: str, scope: Scope, after: str) -> tuple[list[HeldLine], bool]:
        """Return what is held of the next projects that the client may read, and whether there are more."""
        sources = [source.name for source in self._repositories[repository].sources if not source.local]
        lines: list[HeldLine] = []
        more = True
        while more and not lines:  # `after` of the next request must not name what the client may not read
            names = await self._contents.projects(sources, repository, after, PROJECTS_PER_RESPONSE)
            more, after = len(names) == PROJECTS_PER_RESPONSE, names[-1] if names else after
            lines = [
                HeldLine(
                    repository=repository, project=name, kind="file" if one.filename else "page",
                    filename=one.filename, sha256=one.digest, size=one.size,
                )
                for name in names if scope.allows(name)
                for one in await self._contents.of_project(sources, repository, name)
            ]  # fmt: skip
        return lines, more

    # Which client may read what

    def _selected(self, request: web.Request) -> str | None:
        """Return the name of the repository that the request is about; None for all. Raises NotFound."""
        name, index = request.query.get("repository"), request.query.get("index")
        if name is None and index is not None:
            name = self._indexes.get(index, "")
        if name is not None and name not in self._repositories:
            raise NotFound("There is no such repository here.")
        return name

    async def _scopes(self, request: web.Request, repository: str | None) -> dict[str, Scope]:
        """Return what the client may read, by repository. Raises Unauthorized where nothing is open to everyone."""
        if repository is not None:
            return {repository: await self._guard.read_access(repository).scope(request)}
        identity = await self._guard.identify(request)
        scopes = {name: self._guard.scope(identity, "read", name) for name in self._repositories}
        if not identity.known and all(scope.nothing for scope in scopes.values()):
            raise Unauthorized("Reading the feed needs a token or a password.")
        return scopes

    @contextmanager
    def _count_waiting(self, request: web.Request) -> Iterator[None]:
        """Count the client as waiting for the length of the block. Raises Unavailable when too many are."""
        address = network_of(address_of(request))
        if self._waiting.total() >= WAITING_CLIENTS or self._waiting[address] >= WAITING_PER_ADDRESS:
            raise Unavailable("Too many are waiting for news of this mirror: ask without `wait`, or later.", 30)
        self._waiting[address] += 1
        connection = connection_of(request)
        try:
            if connection is not None:
                connection.waiting = True
            yield
        finally:
            if connection is not None:
                connection.waiting = False
            self._waiting[address] -= 1
            if not self._waiting[address]:
                del self._waiting[address]


def _number(request: web.Request, name: str, default: float) -> float:
    text = request.query.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.replace(".", "", 1).isdigit() and len(text) < 19):
        raise Invalid(f"{name} should be a number.")
    return float(text)


def _since(request: web.Request, position: Position) -> int:
    """Return the serial after which to report. Raises Invalid and _UnknownPosition."""
    text = request.query.get("since", "0")
    if text == "newest":
        return position.newest
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid("since should be a serial of this feed, or the word newest.")
    since = int(text)
    if request.query.get("feed", position.id) != position.id or since > position.newest:
        raise _UnknownPosition(
            409, f"There is no serial {since} in this feed: it has begun anew, or is another one.", position
        )
    if since < position.forgotten:
        raise _UnknownPosition(410, f"What came after serial {since} is no longer known here.", position)
    return since


def _headers(position: Position, serial: int, repository: str | None) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "X-Mirror-Feed": position.id,
        "X-Mirror-Serial": str(serial),
        "X-Mirror-Newest": str(max(position.newest, serial)),
    }
    return headers | ({"X-Mirror-Repository": repository} if repository else {})


def _resynchronise(error: _UnknownPosition) -> web.Response:
    """Return how a client can continue whose position is not in the journal, for programs as for people."""
    position = error.position
    document = {
        "error": f"{error} Compare what you hold with /-/holdings, and go on from the serial that it was asked at.",
        "feed": position.id,
        "oldest": position.forgotten,
        "newest": position.newest,
        "resynchronise": "/-/holdings",
    }
    headers = _headers(position, position.newest, None)
    return web.Response(
        status=error.status, body=msgspec.json.encode(document), headers=headers, content_type="application/json"
    )
