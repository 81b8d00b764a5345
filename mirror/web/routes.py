"""URLs and handlers of the pages for people. They show only what the viewer may read, and change nothing."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial, wraps
from typing import ParamSpec, Protocol, TypeVar
from urllib.parse import quote

from aiohttp import web
from yarl import URL

from mirror import __version__
from mirror.api.recent import RecentResults
from mirror.auth import Scope
from mirror.catalog import Catalog
from mirror.errors import Invalid, MirrorError, NotFound
from mirror.index.journal import Journal
from mirror.index.precedence import chosen
from mirror.index.repository import View
from mirror.model import ProjectSummary
from mirror.server.facts import public_url
from mirror.server.middleware import error_response
from mirror.server.negotiate import qualities
from mirror.telemetry.statistics import Span
from mirror.web import views
from mirror.web.access import ViewerAccess
from mirror.web.descriptions import Descriptions
from mirror.web.html import page_of, render_page, render_text, root_from, static_file, unescaped
from mirror.web.plot import plot
from mirror.web.projects import BrowsableRepository, ProjectList
from mirror.web.signin import SignIn
from mirror.web.summaries import ProjectSummaries, select_version

logger = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")

EVENTS_PER_PAGE = 50
PAGE_DIGITS = 6
THREAD_FROM_FILES = 500
"""With so many files or more, the page of a project is computed in a thread."""
NO_SUMMARY = "No file of this version is listed here, so its metadata cannot be read."

_CLIENTS = ("pip/", "uv/", "poetry/", "pdm/", "twine/", "ruby", "rubygems/", "bundler/", "bandersnatch/")
_PLAIN = "A mirror of package indexes. Open this address in a browser to see how to point clients at it.\n"


class UsageStatistics(Protocol):
    """Statistics of what the mirror served, in total and over time."""

    async def totals(self) -> Mapping[str, object]:
        """Return `hits` by outcome, `bytes_served` and `bytes_saved`."""

    async def history(self, spans: int, hours: int) -> Sequence[Span]:
        """Return the last `spans` spans of `hours` hours each, oldest first."""


Handler = Callable[["WebPages", web.Request], Awaitable[web.StreamResponse]]


def _errors_as_pages(handler: Handler) -> Handler:
    """Make a handler answer a MirrorError with a page."""

    @wraps(handler)
    async def handle(self: "WebPages", request: web.Request) -> web.StreamResponse:
        try:
            return await handler(self, request)
        except MirrorError as error:
            return await self.error_page(request, error)

    return handle


class WebPages:
    """The handlers of the pages for people."""

    def __init__(
        self,
        *,
        repositories: Mapping[str, BrowsableRepository],
        access: ViewerAccess,
        catalog: Catalog,
        feed: Journal,
        statistics: UsageStatistics,
        status: Callable[[], Awaitable[Mapping[str, object]]],
        transfers: Callable[[], Sequence[object]],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._repositories = repositories
        self._access = access
        self._accounts = catalog.accounts
        self._files = catalog.files
        self._feed = feed
        self._events = catalog.feed
        self._statistics = statistics
        self._status = status
        self._transfers = transfers
        self._clock = clock
        self._project_list = ProjectList(repositories, catalog.browse)
        self._descriptions = Descriptions()
        self._summaries = ProjectSummaries()
        self._start_pages: RecentResults[str] = RecentResults()
        self._sign_in = SignIn(access, self._page, self.error_page)
        self._by_source: dict[str, list[str]] = {}
        for name, browsable in repositories.items():
            for source in browsable.sources:
                self._by_source.setdefault(source, []).append(name)

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application after those of the repositories."""
        mounts = sorted({browsable.mount.strip("/") for browsable in self._repositories.values()} - {""})
        return [
            web.get("/", self.start),
            *(web.get(f"/{mount}/", self.redirect_to_start) for mount in mounts),
            web.get("/-/projects", self.add_slash),
            web.get("/-/projects/", self.projects),
            web.get("/-/projects/{repository:[^/]+}/{project:[^/]+}", self.add_slash),
            web.get("/-/projects/{repository:[^/]+}/{project:[^/]+}/", self.project),
            web.get("/-/activity", self.add_slash),
            web.get("/-/activity/", self.activity),
            web.get("/-/state", self.add_slash),
            web.get("/-/state/", self.state),
            *self._sign_in.table(),
            web.get("/-/static/{name}", static_file),
        ]

    async def close(self) -> None:
        """Cancel background work."""
        await self._start_pages.close()
        await self._descriptions.close()

    # Pages

    async def start(self, request: web.Request) -> web.StreamResponse:
        """Show how to configure clients, what is held and what it saved; package clients get a line of text."""
        if not wants_page(request):
            return web.Response(text=_PLAIN, headers={"Vary": "Accept", "Cache-Control": "no-cache"})
        return await self._start(request)

    async def redirect_to_start(self, request: web.Request) -> web.StreamResponse:
        """Redirect a browser from the root of a repository to the start page."""
        if wants_page(request):
            raise web.HTTPFound(root_from(request.path), headers={"Vary": "Accept"})
        return await self.start(request)

    @_errors_as_pages
    async def _start(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" in request.headers or "Cookie" in request.headers:
            return await self._page(request, "start.html", **await self._start_values(request))
        # Everyone who is not signed in sees the same.
        kind = f"{public_url(request)} {request.path}"
        return page_of(await self._start_pages.get(kind, lambda: self._start_text(request)))

    async def _start_text(self, request: web.Request) -> str:
        values = await self._with_common_values(request, **await self._start_values(request))
        # Many may ask for it at a time; in a thread, none of those who install something waits for all of it.
        return await asyncio.to_thread(render_text, request, "start.html", values)

    async def _start_values(self, request: web.Request) -> dict[str, object]:
        status, spans, hours = await self._read_totals()
        hits = status["hits"]
        assert isinstance(hits, Mapping)
        requests = sum(hits.values())
        return {
            "section": "start",
            "title": "Start",
            "status": status,
            "requests": requests,
            "rate": views.share(requests - hits["miss"], requests),
            "plot": plot(spans, hours),
            "by_hour": hours == 1,
            "repositories": [
                {
                    "name": browsable.name,
                    "format": browsable.format,
                    "title": browsable.ecosystem.title,
                    "root": (root := _root(request, browsable)),
                    "lines": browsable.ecosystem.clients.setup_lines(root, list(browsable.upstreams)),
                    "uploads": browsable.ecosystem.clients.upload_lines(root),
                }
                for browsable in self._repositories.values()
            ],
        }

    async def _read_totals(self) -> tuple[Mapping[str, object], Sequence[Span], int]:
        """Return the totals, and the spans of the plot with the hours of each."""
        status = await self._status()
        spans = await self._statistics.history(30, 24)
        if any(span.requests for span in spans[:-2]):
            return status, spans, 24
        return status, await self._statistics.history(48, 1), 1  # of a young mirror, hours show more than days

    @_errors_as_pages
    async def projects(self, request: web.Request) -> web.StreamResponse:
        """Show projects by name, of all repositories."""
        query = " ".join(request.query.get("q", "").split())[:100]
        scopes = await self._access.scopes(request)
        list_page = await self._project_list.page(query, request.query.get("from", ""), scopes)
        exact = [] if request.query.get("from") else self._exact(query, scopes)
        listed_names = {(row.repository, row.name) for row in list_page.rows}
        return await self._page(
            request,
            "projects.html",
            section="projects",
            title=f"“{views.printable(query, 60)}”" if query else "Projects",
            list_page=list_page,
            exact=[one for one in exact if one not in listed_names],
            first=not request.query.get("from"),
            query=query,
            several=len(self._repositories) > 1,
        )

    def _exact(self, query: str, scopes: Mapping[str, Scope]) -> list[tuple[str, str]]:
        """Return (repository, project) for each repository in which the query is a valid name, known or not."""
        found = []
        for browsable in self._repositories.values():
            try:
                name = browsable.repository.format.canonical(query)
            except Invalid:
                continue
            if browsable.name in scopes and scopes[browsable.name].allows(name):
                found.append((browsable.name, name))
        return found

    @_errors_as_pages
    async def project(self, request: web.Request) -> web.StreamResponse:
        """Show a project: its summary, its versions, and the files of one of them."""
        browsable = self._repositories.get(request.match_info["repository"])
        written = request.match_info["project"]
        if browsable is None:
            raise NotFound("There is no repository with that name here.")
        name = browsable.repository.format.canonical(written)
        await self._access.check(request, browsable.name, name)
        if written != name:
            raise web.HTTPMovedPermanently(f"../{quote(name, safe='')}/")
        view = await browsable.repository.project(name)
        number = request.query.get("page", "1")
        shown, summary, missing_reason = await self._project_page(
            browsable,
            view,
            request.query.get("version", ""),
            int(number) if number.isascii() and number.isdigit() and len(number) < PAGE_DIGITS else 1,
        )
        mount = browsable.mount.strip("/")
        description = await self._descriptions.html(summary.description, summary.description_type)
        version = "" if shown.newest else shown.version
        return await self._page(
            request,
            "project.html",
            section="projects",
            title=views.printable(name, 80),
            repository=browsable,
            project=shown,
            mount=f"{mount}/" if mount else "",
            description=unescaped(description),  # it comes out of the allow-list of `markup`
            missing_reason=missing_reason,
            stale=view.outcome == "stale",
            provenance=chosen(view.choice, [browsable.source_names.get(source, source) for source in view.sources]),
            lines=browsable.ecosystem.clients.install_lines(_root(request, browsable), name, version),
        )

    async def _project_page(
        self, browsable: BrowsableRepository, view: View, version: str, number: int
    ) -> tuple[views.ProjectPage, ProjectSummary, str]:
        """Return what is shown of a project, its summary, and the reason if that is incomplete."""
        # A thread for what visits every file, where there are thousands.
        run = _call if len(view.project.files) + len(view.withheld) < THREAD_FROM_FILES else asyncio.to_thread
        newest, version, file = await run(select_version, browsable, view, version)
        summary, missing_reason = (
            await self._summaries.get(browsable, view, file) if file else (ProjectSummary(version=version), NO_SUMMARY)
        )
        held = await asyncio.gather(
            *(self._files.of_project(source, view.project.name) for source in browsable.sources)
        )
        make = partial(
            views.project_page,
            view.project,
            view.withheld,
            summary,
            version=version,
            newest=newest,
            page=number,
            held={one.filename: one.size for files in held for one in files},
            own=[source.name for source in browsable.repository.sources if source.local],
            key=browsable.ecosystem.versions.key,
            path=browsable.ecosystem.clients.file_path,
        )
        return await run(make), summary, missing_reason

    @_errors_as_pages
    async def activity(self, request: web.Request) -> web.StreamResponse:
        """Show the journal, newest events first."""
        scopes = await self._access.scopes(request)
        before = request.query.get("before", "")
        if before and not (before.isascii() and before.isdigit() and len(before) < 18):
            raise Invalid("There is no such page of the journal: begin with its first page.")
        events = await self._events.before(int(before) if before else self._feed.serial + 1, EVENTS_PER_PAGE)
        entries = []
        for event in events:
            shown_by = self._by_source.get(event.source, [event.source])
            visible_in = [
                name
                for name in shown_by
                if name in scopes and (not event.project or scopes[name].allows(event.project))
            ]
            if visible_in:
                entries.append(views.activity_entry(event, visible_in[0]))
        return await self._page(
            request,
            "activity.html",
            section="activity",
            title="Activity",
            entries=entries,
            next_before=events[-1].serial if len(events) == EVENTS_PER_PAGE else None,
            first=not before,
            serial=self._feed.serial,
        )

    @_errors_as_pages
    async def state(self, request: web.Request) -> web.StreamResponse:
        """Show upstreams, transfers and tokens to administrators; to everyone where there are no accounts."""
        admin = await self._access.require_state(request)
        return await self._page(
            request,
            "state.html",
            section="state",
            title="State",
            status=await self._status(),
            transfers=self._transfers(),
            source_names={
                source: name
                for browsable in self._repositories.values()
                for source, name in browsable.source_names.items()
            },
            tokens=await self._accounts.tokens() if admin else [],
            admin=admin,
        )

    async def add_slash(self, request: web.Request) -> web.StreamResponse:
        """Redirect to the same address with a slash at its end."""
        query = f"?{request.rel_url.raw_query_string}" if request.rel_url.raw_query_string else ""
        raise web.HTTPMovedPermanently(f"{quote(request.path.rpartition('/')[2], safe='')}/{query}")

    async def error_page(self, request: web.Request, error: MirrorError) -> web.StreamResponse:
        """Return an error page, with the status and headers that package clients get."""
        plain = error_response(error)
        if plain.status >= 500:
            logger.warning("%s %s: %s", request.method, request.path[:200], error)
        response = await self._page(
            request,
            "error.html",
            plain.status,
            section="",
            title=f"{plain.status} {plain.reason}",
            message=views.printable(error, 600),
            status_code=plain.status,
        )
        if "Retry-After" in plain.headers:
            response.headers["Retry-After"] = plain.headers["Retry-After"]
        response.headers["Cache-Control"] = "no-store"
        return response

    # Rendering

    async def _page(self, request: web.Request, template: str, status: int = 200, /, **values: object) -> web.Response:
        return render_page(request, template, await self._with_common_values(request, **values), status)

    async def _with_common_values(self, request: web.Request, **values: object) -> dict[str, object]:
        """Return the values of a template with those that every one needs."""
        common = {"query": "", "version": __version__, "now": self._clock()}
        return {**common, **await self._access.template_values(request), **values}


def _root(request: web.BaseRequest, browsable: BrowsableRepository) -> URL:
    """Return the address of a repository for clients, with a slash at the end."""
    return URL(f"{public_url(request)}{browsable.mount.rstrip('/')}/")


async def _call(work: Callable[P, T], *args: P.args, **named: P.kwargs) -> T:
    """Call a function as `asyncio.to_thread` does, but without the thread."""
    return work(*args, **named)


def wants_page(request: web.BaseRequest) -> bool:
    """Return whether a request comes from a browser, not from a package client."""
    if request.headers.get("User-Agent", "").lower().startswith(_CLIENTS):
        return False
    weights = qualities(request.headers.get("Accept", ""))
    return weights.get("text/html", 0) > 0 or weights.get("application/xhtml+xml", 0) > 0
