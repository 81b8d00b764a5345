"""URLs and handlers of the pages for people. They show only what who asks may read, and change nothing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial, wraps
from typing import ParamSpec, Protocol, TypeVar
from urllib.parse import quote

from aiohttp import web
from yarl import URL

from mirror.auth import Guard, Scope
from mirror.catalog import Catalog
from mirror.errors import Invalid, MirrorError, NotFound
from mirror.index.flight import SingleFlight
from mirror.index.journal import Journal
from mirror.index.merge import chosen
from mirror.model import ProjectSummary
from mirror.server.facts import public_url
from mirror.server.middleware import error_response
from mirror.server.negotiate import qualities
from mirror.telemetry.statistics import Span
from mirror.web import views
from mirror.web.abouts import ProjectSummaries, version_shown
from mirror.web.browsing import BrowsableRepository, ProjectList
from mirror.web.descriptions import Descriptions
from mirror.web.html import page, root_from, static_file
from mirror.web.plot import plot
from mirror.web.visitors import ViewerAccess

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

EVENTS_AT_ONCE = 50
MANY = 500
"""Files of a project from which its page is made in a thread."""
NOT_READ = "No file of this version is on the pages here, so nothing more is read of it."

_CLIENTS = ("pip/", "uv/", "poetry/", "pdm/", "twine/", "ruby", "rubygems/", "bundler/", "bandersnatch/")
_PLAIN = "A mirror of package indexes. Open this address in a browser to see how to point clients at it.\n"


class Totals(Protocol):
    """What the mirror did, in all and over time."""

    async def totals(self) -> Mapping[str, object]:
        """`hits` by outcome, `bytes_served`, `bytes_saved`."""

    async def course(self, spans: int, hours: int) -> Sequence[Span]:
        """The last spans of so many hours, oldest first."""


Handler = Callable[["Pages", web.Request], Awaitable[web.StreamResponse]]


def _shown(handler: Handler) -> Handler:
    """Errors become pages, too."""

    @wraps(handler)
    async def handle(self: "Pages", request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except MirrorError as error:
            return await self.failed(request, error)

    return handle


class Pages:
    """The handlers of all pages."""

    def __init__(
        self,
        *,
        shelves: Mapping[str, BrowsableRepository],
        guard: Guard,
        catalog: Catalog,
        feed: Journal,
        statistics: Totals,
        status: Callable[[], Awaitable[Mapping[str, object]]],
        transfers: Callable[[], Sequence[object]],
        closed: bool,
        version: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`closed`: the settings say who may do what, so that the state of the mirror is for administrators."""
        self._shelves = shelves
        self._visitors = ViewerAccess(guard, catalog.accounts, list(shelves), closed)
        self._accounts = catalog.accounts
        self._files = catalog.files
        self._feed = feed
        self._events = catalog.feed
        self._statistics = statistics
        self._status = status
        self._transfers = transfers
        self._version = version
        self._clock = clock
        self._browsing = ProjectList(shelves, catalog.browse)
        self._descriptions = Descriptions()
        self._abouts = ProjectSummaries()
        self._figuring: SingleFlight[str, tuple[Mapping[str, object], Sequence[Span], int]] = SingleFlight()
        self._by_source: dict[str, list[str]] = {}
        for name, shelf in shelves.items():
            for source in shelf.sources:
                self._by_source.setdefault(source, []).append(name)

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application after those of the repositories."""
        mounts = sorted({shelf.mount.strip("/") for shelf in self._shelves.values()} - {""})
        return [
            web.get("/", self.start),
            *(web.get(f"/{mount}/", self.to_start) for mount in mounts),
            web.get("/-/projects", self.slash),
            web.get("/-/projects/", self.projects),
            web.get("/-/projects/{repository:[^/]+}/{project:[^/]+}", self.slash),
            web.get("/-/projects/{repository:[^/]+}/{project:[^/]+}/", self.project),
            web.get("/-/activity", self.slash),
            web.get("/-/activity/", self.activity),
            web.get("/-/state", self.slash),
            web.get("/-/state/", self.state),
            web.get("/-/signin", self.sign_in),
            web.get("/-/static/{name}", static_file),
        ]

    async def close(self) -> None:
        """Stop what runs behind."""
        await self._figuring.close()
        await self._descriptions.close()

    # Pages

    async def start(self, request: web.Request) -> web.StreamResponse:
        """How to point clients here, what is held and what it saved; for clients a line of text."""
        if not wants_page(request):
            return web.Response(text=_PLAIN, headers={"Vary": "Accept", "Cache-Control": "no-cache"})
        return await self._start(request)

    async def to_start(self, request: web.Request) -> web.StreamResponse:
        """The root of a repository elsewhere: people are shown to the start page."""
        if wants_page(request):
            raise web.HTTPFound(root_from(request.path), headers={"Vary": "Accept"})
        return await self.start(request)

    @_shown
    async def _start(self, request: web.Request) -> web.StreamResponse:
        (status, spans, hours), _ = await self._figuring.run("", self._figures)
        hits = status["hits"]
        assert isinstance(hits, Mapping)
        requests = sum(hits.values())
        return await self._page(
            request,
            "start.html",
            here="start",
            title="Start",
            status=status,
            requests=requests,
            rate=views.share(requests - hits["miss"], requests),
            plot=plot(spans, hours),
            by_hour=hours == 1,
            shelves=[
                {
                    "name": shelf.name,
                    "format": shelf.format,
                    "title": shelf.ecosystem.title,
                    "root": (root := _root(request, shelf)),
                    "lines": shelf.ecosystem.clients.setup_lines(root, list(shelf.upstreams)),
                    "uploads": shelf.ecosystem.clients.upload_lines(root),
                }
                for shelf in self._shelves.values()
            ],
        )

    async def _figures(self) -> tuple[Mapping[str, object], Sequence[Span], int]:
        """What was done, in all and in spans of so many hours. Counting takes a while: once for all who ask at once."""
        status = await self._status()
        spans = await self._statistics.course(30, 24)
        if any(span.requests for span in spans[:-2]):
            return status, spans, 24
        return status, await self._statistics.course(48, 1), 1  # young: its hours say more than its days

    @_shown
    async def projects(self, request: web.Request) -> web.StreamResponse:
        """Projects by name, of all repositories."""
        query = " ".join(request.query.get("q", "").split())[:100]
        scopes = await self._visitors.scopes(request)
        listed = await self._browsing.page(query, request.query.get("from", ""), scopes)
        exact = [] if request.query.get("from") else self._exact(query, scopes)
        shown = {(row.repository, row.name) for row in listed.rows}
        return await self._page(
            request,
            "projects.html",
            here="projects",
            title=f"“{views.told(query, 60)}”" if query else "Projects",
            listed=listed,
            exact=[one for one in exact if one not in shown],
            first=not request.query.get("from"),
            query=query,
            several=len(self._shelves) > 1,
        )

    def _exact(self, query: str, scopes: Mapping[str, Scope]) -> list[tuple[str, str]]:
        """(repository, project) wherever what is sought can be a name, known or not."""
        found = []
        for shelf in self._shelves.values():
            try:
                name = shelf.repository.format.canonical(query)
            except Invalid:
                continue
            if shelf.name in scopes and scopes[shelf.name].allows(name):
                found.append((shelf.name, name))
        return found

    @_shown
    async def project(self, request: web.Request) -> web.StreamResponse:
        """One project: what it is, its versions, the files of one of them."""
        shelf = self._shelves.get(request.match_info["repository"])
        written = request.match_info["project"]
        if shelf is None:
            raise NotFound("There is no repository of that name here.")
        name = shelf.repository.format.canonical(written)
        await self._visitors.check(request, shelf.name, name)
        if written != name:
            raise web.HTTPMovedPermanently(f"../{quote(name, safe='')}/")
        view = await shelf.repository.project(name)
        version = request.query.get("version", "")
        # What looks at every file goes to a thread where there are thousands.
        aside = _at_once if len(view.project.files) + len(view.withheld) < MANY else asyncio.to_thread
        newest, version, file = await aside(version_shown, shelf, view, version)
        about, trouble = (
            await self._abouts.of(shelf, view, file) if file else (ProjectSummary(version=version), NOT_READ)
        )
        held = await asyncio.gather(*(self._files.of_project(source, name) for source in shelf.sources))
        number = request.query.get("page", "1")
        make = partial(
            views.project_page,
            view.project,
            view.withheld,
            about,
            version=version,
            newest=newest,
            page=int(number) if number.isascii() and number.isdigit() and len(number) < 6 else 1,
            held={one.filename: one.size for files in held for one in files},
            own=[source.name for source in shelf.repository.sources if source.local],
            key=shelf.ecosystem.versions.key,
            path=shelf.ecosystem.clients.file_path,
        )
        shown = await aside(make)
        root = _root(request, shelf)
        from markupsafe import Markup

        return await self._page(
            request,
            "project.html",
            here="projects",
            title=views.told(name, 80),
            shelf=shelf,
            shown=shown,
            mount=shelf.mount.strip("/") + "/" if shelf.mount.strip("/") else "",
            # The one text that is not escaped: it comes out of the allow-list of `markup`.
            description=Markup(await self._descriptions.html(about.description, about.description_type)),
            trouble=trouble,
            stale=view.outcome == "stale",
            answers=chosen(view.choice, [shelf.called.get(source, source) for source in view.sources]),
            lines=shelf.ecosystem.clients.install_lines(root, name, "" if shown.newest else version),
        )

    @_shown
    async def activity(self, request: web.Request) -> web.StreamResponse:
        """What changed here, newest first."""
        scopes = await self._visitors.scopes(request)
        before = request.query.get("before", "")
        if before and not (before.isascii() and before.isdigit() and len(before) < 18):
            raise Invalid("That is no page of the journal: begin at its first page.")
        events = await self._events.before(int(before) if before else self._feed.serial + 1, EVENTS_AT_ONCE)
        doings = []
        for event in events:
            seen = [
                name
                for name in self._by_source.get(event.source, [event.source] if event.source in self._shelves else [])
                if name in scopes and (not event.project or scopes[name].allows(event.project))
            ]
            if seen:
                doings.append(views.doing(event, seen[0]))
        return await self._page(
            request,
            "activity.html",
            here="activity",
            title="Activity",
            doings=doings,
            following=events[-1].serial if len(events) == EVENTS_AT_ONCE else None,
            first=not before,
            serial=self._feed.serial,
        )

    @_shown
    async def state(self, request: web.Request) -> web.StreamResponse:
        """Upstreams, transfers, tokens: for administrators, and for everyone where nobody has an account."""
        admin = await self._visitors.sees_state(request)
        return await self._page(
            request,
            "state.html",
            here="state",
            title="State",
            status=await self._status(),
            transfers=self._transfers(),
            called={source: name for shelf in self._shelves.values() for source, name in shelf.called.items()},
            tokens=await self._accounts.tokens() if admin else [],
            admin=admin,
        )

    async def sign_in(self, request: web.Request) -> web.StreamResponse:
        """Makes a browser ask for a name and password, which it then sends with every page below `/-/`."""
        try:
            await self._visitors.sign_in(request)
        except MirrorError as error:
            return await self.failed(request, error)
        raise web.HTTPSeeOther("projects/", headers={"Cache-Control": "no-store"})

    async def slash(self, request: web.Request) -> web.StreamResponse:
        """The same address with a slash at its end."""
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        raise web.HTTPMovedPermanently(f"{quote(request.path.rpartition('/')[2], safe='')}/{query}")

    async def failed(self, request: web.Request, error: MirrorError) -> web.StreamResponse:
        """The page that says what went wrong, with the status and headers that clients get."""
        plain = error_response(error)
        if plain.status >= 500:
            logger.warning("%s %s: %s", request.method, request.path[:200], error)
        response = await self._page(
            request,
            "error.html",
            plain.status,
            here="",
            title=f"{plain.status} {plain.reason}",
            message=views.told(error, 600),
            status_code=plain.status,
        )
        for name in ("WWW-Authenticate", "Retry-After"):
            if name in plain.headers:
                response.headers[name] = plain.headers[name]
        response.headers["Cache-Control"] = "no-store"
        return response

    # What they share

    async def _page(self, request: web.Request, template: str, status: int = 200, /, **values: object) -> web.Response:
        common = {"query": "", "version": self._version, "now": self._clock()}
        return page(request, template, {**common, **await self._visitors.told(request), **values}, status)


def _root(request: web.BaseRequest, shelf: BrowsableRepository) -> URL:
    """Where clients outside find the repository, with a slash at the end."""
    return URL(f"{public_url(request)}{shelf.mount.rstrip('/')}/")


async def _at_once(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """`asyncio.to_thread` without the thread."""
    return work(*args, **named)


def wants_page(request: web.BaseRequest) -> bool:
    """Whether a browser asks, and not a package client."""
    if request.headers.get("User-Agent", "").lower().startswith(_CLIENTS):
        return False
    weights = qualities(request.headers.get("Accept", ""))
    return weights.get("text/html", 0) > 0 or weights.get("application/xhtml+xml", 0) > 0
