"""The journal and what is held, for who follows: `GET /-/feed` and `GET /-/holdings`, as JSON lines.

The journal speaks of sources, whose addresses are nobody's business; here its events are told by repository, and only
those of projects that the asker may read. An event is told when what it says can be seen by who asks for the page, not
before. What surprises: one event may be several lines, of one serial, where several repositories share a source.

Both endpoints say in `X-Mirror-Feed` which journal it is, and in `X-Mirror-Serial` up to where all has been told: what
was left out because it is none of the asker's business counts as told. `X-Mirror-Newest` says where the journal stands.
"""

import asyncio
import contextlib
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
from mirror.server.facts import public_url

LONGEST_WAIT = 60.0
"""Seconds that a question may wait for news."""
MOST_WAITING = 1000
"""Those who wait at the same time, over HTTP and WebSockets."""
MOST_OF_ONE = 100
"""The same of one address."""
MOST_READ = 20_000
"""Events that one question looks at; the next one goes on where it ended."""
STEP = 5.0
"""Seconds between two looks whether who waits is still there."""
PROJECTS_AT_ONCE = 200
"""Projects in one answer about what is held."""
WALKS = 4
"""Such answers that are made at the same time."""
LINES = "application/jsonl"

KINDS: Mapping[str, str] = {
    "project": "page",
    **{kind: kind for kind in ("names", "removed", "file", "sidecar", "upload", "yank", "unyank", "delete", "policy")},
}
"""Kind of an event → as it is told. Other documents than these are got by who asks for them, when they ask."""
CHANGES = frozenset({"upload", "yank", "unyank", "delete"})
"""Kinds of events about our own files."""
DETAILS = frozenset({"digest", "reason"})
"""What is told of an event's details."""

Settle = Callable[[Sequence[str]], Awaitable[object]]
"""Awaited with the projects of which something was uploaded: returns when the repository shows it."""


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


class Told(msgspec.Struct, frozen=True):
    """Lines, and up to where they tell everything."""

    lines: list[Line]
    serial: int


class _Lost(MirrorError):
    """Who asks is at a place that the journal does not know: too old (410), or of another journal (409)."""

    def __init__(self, status: int, sentence: str, position: Position) -> None:
        super().__init__(sentence)
        self.status = status
        self.position = position


class FeedApi:
    """The handlers."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        indexes: Mapping[str, str],
        settle: Mapping[str, Settle],
        guard: Guard,
        feed: Journal,
        contents: Contents,
    ) -> None:
        """`indexes`: path of an index → repository; `settle`: repository → what to await until it shows an upload."""
        self._repositories = repositories
        self._indexes = indexes
        self._settle = settle
        self._guard = guard
        self._feed = feed
        self._contents = contents
        self._by_source: dict[str, list[str]] = {}
        for name, repository in repositories.items():
            for source in repository.sources:
                self._by_source.setdefault(source.name, []).append(name)
        self._shown = feed.serial
        self._waiting: Counter[str] = Counter()
        self._walks = asyncio.Semaphore(WALKS)
        self._ending = False

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application."""
        return [web.get("/-/feed", self.feed), web.get("/-/holdings", self.holdings)]

    def end(self) -> None:
        """Answer everyone who waits, and let nobody wait any more: the process ends, or another mirror goes on."""
        self._ending = True
        self._feed.wake()

    def resume(self) -> None:
        """Nobody went on after all."""
        self._ending = False

    # The feed

    async def feed(self, request: web.Request) -> web.StreamResponse:
        """What happened after `since` (or `newest`: nothing, but where the journal stands); `wait` seconds for news.

        `repository`, or `index` (the path of an index as its clients know it), tells of one repository only. `feed` is
        the journal that `since` is a place in, as an earlier answer has called it.
        """
        wait = _number(request, "wait", 0.0)
        only = self._chosen(request)
        scopes = await self._scopes(request, only)
        position = await self._feed.position()
        try:
            since = _since(request, position)
            if request.headers.get("Upgrade", "").lower() == "websocket":
                return await self._socket(request, since, only)
            told = await self._told(since, scopes)
            if wait and not told.lines:
                with self._place(request):
                    told = await self._wait(request, told.serial, min(wait, LONGEST_WAIT), only)
        except _Lost as lost:
            return _lost(lost)
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in told.lines)
        return web.Response(body=body, headers=_headers(position, told.serial, only), content_type=LINES)

    async def _wait(self, request: web.Request, since: int, seconds: float, only: str | None) -> Told:
        until, told = time.monotonic() + seconds, Told([], since)
        while not told.lines and not self._ending and (left := until - time.monotonic()) > 0:
            if self._feed.serial <= told.serial:  # nothing is awaited between this look and the next line
                await self._feed.wait(min(left, STEP))
                if request.transport is None or request.transport.is_closing():
                    break
            told = await self._told(told.serial, await self._scopes(request, only))
        return told

    async def _told(self, since: int, scopes: Mapping[str, Scope]) -> Told:
        """The first lines after `since` of these repositories, if there are any."""
        lines: list[Line] = []
        read = 0
        while not lines and read < MOST_READ:
            newest = self._feed.serial
            events = await self._feed.since(since, EVENTS_AT_ONCE)
            read += EVENTS_AT_ONCE
            lines = [line for event in events for line in self._lines(event, scopes)]
            if len(events) < EVENTS_AT_ONCE:  # serials that were skipped up to `newest` were never given out
                since = max(since, newest, *(event.serial for event in events))
                await self._show(events)
                break
            since = events[-1].serial
            await self._show(events)
        return Told(lines, since)

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
        """See to it that what was uploaded since this process began can be seen: the first who is told waits for it."""
        changed: dict[str, dict[str, None]] = {}
        for event in events:
            if event.serial > self._shown and event.kind in CHANGES:
                for name in self._by_source.get(event.source, ()):
                    changed.setdefault(name, {})[event.project] = None
        for name, projects in changed.items():
            if settle := self._settle.get(name):
                await settle(list(projects))
        if events:
            self._shown = max(self._shown, events[-1].serial)

    # WebSockets

    async def _socket(self, request: web.Request, since: int, only: str | None) -> web.StreamResponse:
        """The same lines, one in each message, until somebody ends it."""
        origin = request.headers.get("Origin")
        # RFC 6455 section 10.2: a page of somebody else must not read with the login of who looks at it.
        if origin is not None and urlsplit(origin).netloc.lower() != urlsplit(public_url(request)).netloc.lower():
            raise Forbidden("The feed is not given to pages of other sites.")
        with self._place(request):
            socket = web.WebSocketResponse(heartbeat=30, max_msg_size=1024, compress=False)
            await socket.prepare(request)
            telling = asyncio.create_task(self._tell(request, socket, since, only))
            try:
                async for message in socket:
                    if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                        await socket.close(code=1008, message=b"nothing is expected here")
            finally:
                telling.cancel()
                await asyncio.gather(telling, return_exceptions=True)
        return socket

    async def _tell(self, request: web.Request, socket: web.WebSocketResponse, since: int, only: str | None) -> None:
        code, why = 1001, b"the mirror ends or reloads: come back"
        try:
            while not self._ending and not socket.closed:
                told = await self._told(since, await self._scopes(request, only))
                for line in told.lines:
                    await socket.send_str(msgspec.json.encode(line).decode())
                since = told.serial
                if self._feed.serial <= since:
                    await self._feed.wait(STEP)
        except MirrorError as error:
            code, why = (1008 if isinstance(error, Unauthorized) else 1011), str(error).encode()[:120]
        except ConnectionError:
            return
        with contextlib.suppress(ConnectionError):
            await socket.close(code=code, message=why)

    # What is held

    async def holdings(self, request: web.Request) -> web.StreamResponse:
        """Pages, files and sidecars of one repository, project by project from `after` on; see `X-Mirror-Next`."""
        only = self._chosen(request) or next(iter(self._repositories))
        scope = (await self._scopes(request, only))[only]
        after = request.query.get("after", "")[:1000]
        position = await self._feed.position()
        async with self._walks:
            lines, more = await self._held(only, scope, after)
        headers = _headers(position, position.newest, only)
        if more:
            headers["X-Mirror-Next"] = lines[-1].project
        body = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        return web.Response(body=body, headers=headers, content_type=LINES)

    async def _held(self, only: str, scope: Scope, after: str) -> tuple[list[HeldLine], bool]:
        """What is held of the next projects that may be read, and whether there are more."""
        sources = [source.name for source in self._repositories[only].sources if not source.local]
        lines: list[HeldLine] = []
        more = True
        while more and not lines:  # a place to go on from must not be the name of what may not be read
            names = await self._contents.projects(sources, only, after, PROJECTS_AT_ONCE)
            more, after = len(names) == PROJECTS_AT_ONCE, names[-1] if names else after
            lines = [
                HeldLine(
                    repository=only, project=name, kind="file" if one.filename else "page",
                    filename=one.filename, sha256=one.digest, size=one.size,
                )
                for name in names if scope.allows(name)
                for one in await self._contents.of_project(sources, only, name)
            ]  # fmt: skip
        return lines, more

    # Who may ask, and for what

    def _chosen(self, request: web.Request) -> str | None:
        """The repository that is asked about; None for all. Raises NotFound."""
        name, index = request.query.get("repository"), request.query.get("index")
        if name is None and index is not None:
            name = self._indexes.get(index, "")
        if name is not None and name not in self._repositories:
            raise NotFound("There is no such repository here.")
        return name

    async def _scopes(self, request: web.Request, only: str | None) -> dict[str, Scope]:
        """What who asks may read. Raises Unauthorized where nothing is open to everyone."""
        if only is not None:
            return {only: await self._guard.read_access(only).scope(request)}
        identity = await self._guard.identify(request)
        scopes = {name: self._guard.scope(identity, "read", name) for name in self._repositories}
        if not identity.known and all(scope.nothing for scope in scopes.values()):
            raise Unauthorized("Reading the feed needs a token or a password.")
        return scopes

    @contextmanager
    def _place(self, request: web.Request) -> Iterator[None]:
        """A place among those who wait. Raises Unavailable when there is none."""
        address = address_of(request)
        if self._waiting.total() >= MOST_WAITING or self._waiting[address] >= MOST_OF_ONE:
            raise Unavailable("Too many are waiting for news of this mirror: ask without `wait`, or later.", 30)
        self._waiting[address] += 1
        try:
            yield
        finally:
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
    """The place from which to tell. Raises Invalid and _Lost."""
    text = request.query.get("since", "0")
    if text == "newest":
        return position.newest
    if not (text.isascii() and text.isdigit() and len(text) < 19):
        raise Invalid("since should be a serial of this feed, or the word newest.")
    since = int(text)
    if request.query.get("feed", position.id) != position.id or since > position.newest:
        raise _Lost(409, f"There is no serial {since} in this feed: it has begun anew, or is another one.", position)
    if since < position.forgotten:
        raise _Lost(410, f"What came after serial {since} is no longer known here.", position)
    return since


def _headers(position: Position, serial: int, only: str | None) -> dict[str, str]:
    headers = {
        "Cache-Control": "no-store",
        "X-Mirror-Feed": position.id,
        "X-Mirror-Serial": str(serial),
        "X-Mirror-Newest": str(max(position.newest, serial)),
    }
    return headers | ({"X-Mirror-Repository": only} if only else {})


def _lost(lost: _Lost) -> web.Response:
    """What to do for who has lost track, for programs as for people."""
    position = lost.position
    said = {
        "error": f"{lost} Compare what you hold with /-/holdings, and go on from the serial that it was asked at.",
        "feed": position.id,
        "oldest": position.forgotten,
        "newest": position.newest,
        "resynchronise": "/-/holdings",
    }
    headers = _headers(position, position.newest, None)
    return web.Response(
        status=lost.status, body=msgspec.json.encode(said), headers=headers, content_type="application/json"
    )
