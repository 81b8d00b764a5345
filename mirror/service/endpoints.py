"""The URLs of a mirror: those of its repositories, and our own below `/-/`."""

from functools import partial

from aiohttp import web

from mirror.api.explain import ExplainApi
from mirror.api.feed import FeedApi
from mirror.api.state import MonitoringApi
from mirror.api.uploads import UploadsApi
from mirror.auth.audit import AuditTrail
from mirror.errors import Unauthorized
from mirror.index.other_nodes import EVERYWHERE
from mirror.index.repository import Repository
from mirror.pypi.routes import Routes as PythonRoutes
from mirror.pypi.upload import UploadRoutes as PythonUploadRoutes
from mirror.rubygems.routes import Routes as RubyRoutes
from mirror.rubygems.upload import UploadRoutes as RubyUploadRoutes
from mirror.server.hosts import HostNames
from mirror.server.middleware import finish_headers, request_middleware
from mirror.server.proxies import TrustedProxies
from mirror.server.receive import FORM_MEMORY, FormMemory
from mirror.service.directory import prove
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.services import Mirror
from mirror.web.access import ViewerAccess
from mirror.web.projects import BrowsableRepository, KnownNames, stored_names
from mirror.web.routes import WebPages


class Endpoints:
    """The handlers of all requests to one mirror."""

    def __init__(self, mirror: Mirror) -> None:
        self._mirror = mirror
        self.feed = FeedApi(
            mirror.repositories,
            {ECOSYSTEMS[one.format].index_at(one.mount): name for name, one in mirror.settings.repositories.items()},
            {name: published.show for name, published in mirror.published_indexes.items()},
            mirror.guard,
            mirror.journal,
            mirror.catalog.contents,
        )
        self._monitoring = MonitoringApi(mirror.state, self._may_read_all, partial(prove, mirror.store.secret))
        self._lists: list[object] = []
        """The handlers of lists to which every node appends."""
        auth, limits = mirror.settings.auth, mirror.settings.limits
        self.form_memory = FormMemory(limits.forms, limits.client_share)
        self.pages = WebPages(
            repositories={name: self._browsable(name, repository) for name, repository in mirror.repositories.items()},
            access=ViewerAccess(
                mirror.guard,
                mirror.catalog.accounts,
                list(mirror.repositories),
                closed=bool(auth.rules or auth.users or auth.tokens),
            ),
            catalog=mirror.catalog,
            feed=mirror.journal,
            statistics=mirror.statistics,
            status=mirror.state.status,
            transfers=mirror.transfers.active,
        )

    async def close(self) -> None:
        """Cancel background work."""
        await self._monitoring.close()
        await self.pages.close()

    def application(self) -> web.Application:
        """Return the application with all routes."""
        mirror, proxies = self._mirror, self._mirror.settings.proxies
        trusted = TrustedProxies(proxies.trusted, proxies.standard)
        audit = AuditTrail(mirror.guard.identify, mirror.catalog.removed, mirror.clock)
        hosts = HostNames(mirror.settings.allowed_hosts, [address.host for address in mirror.settings.listen])
        routes = {name: self._routes(name) for name in mirror.repositories}
        routes[""] = [
            *UploadsApi(mirror.publishers, mirror.catalog.uploads, mirror.guard).table(),
            *self.feed.table(),
            *ExplainApi(mirror.repositories, mirror.guard, mirror.catalog.files, mirror.clock).table(),
            *self.pages.table(),
        ]
        answering: dict[object, str] = {
            route.handler: name for name, table in routes.items() for route in table if isinstance(route, web.RouteDef)
        }
        answering |= dict.fromkeys(self._lists, EVERYWHERE)
        app = web.Application(
            middlewares=[request_middleware(trusted, hosts, audit, mirror.journal, answering)], client_max_size=1 << 20
        )
        app[FORM_MEMORY] = self.form_memory
        for table in (*routes.values(), self._monitoring.table()):
            app.add_routes(table)
        app.on_response_prepare.append(finish_headers)
        app.on_shutdown.append(self._stop_feed)
        return app

    def _routes(self, name: str) -> list[web.RouteDef]:
        """Return the routes of one repository: those that are read, and those for uploads."""
        mirror, guard, pages = self._mirror, self._mirror.guard, self._mirror.page_cache
        repository, publisher = mirror.repositories[name], mirror.publishers[name]
        access, mount = guard.read_access(name), mirror.settings.repositories[name].mount
        incoming, limits = mirror.blobs.incoming, mirror.settings.limits
        published = mirror.published_indexes.get(name)
        if published is None:
            return [
                *PythonRoutes(repository, pages, access, mount).table(),
                *PythonUploadRoutes(publisher, guard, incoming, limits, mount).table(),
            ]
        accounts = mirror.catalog.accounts
        routes = RubyRoutes(repository, published, pages, access, mount)
        self._lists += [routes.versions, routes.names, routes.specs]
        return [
            *routes.table(),
            *RubyUploadRoutes(publisher, repository, guard, accounts, incoming, limits, mount).table(),
        ]

    async def _stop_feed(self, app: web.Application) -> None:
        self.feed.stop()

    def _browsable(self, name: str, repository: Repository) -> BrowsableRepository:
        mirror, settings = self._mirror, self._mirror.settings.repositories[name]
        published, ecosystem = mirror.published_indexes.get(name), ECOSYSTEMS[settings.format]

        async def names() -> KnownNames:
            if published is None:
                return await stored_names(repository, mirror.catalog.pages)
            log = published.log
            return KnownNames.of(log.map, log.etag) if log else KnownNames.of(())

        return BrowsableRepository(
            repository=repository,
            mount=settings.mount,
            ecosystem=ecosystem,
            names=names,
            upstreams={upstream.url: upstream.name for upstream in settings.upstreams},
            private=tuple(ecosystem.versions.pattern(pattern) for pattern in settings.private),
        )

    async def _may_read_all(self, request: web.Request) -> bool:
        """Return whether the client may read all that is here, and so see any project's name."""
        guard, names = self._mirror.guard, self._mirror.repositories
        if all(guard.read_access(name).open for name in names):
            return True
        try:
            identity = await guard.identify(request)
        except Unauthorized:
            return False
        return all(guard.scope(identity, "read", name).everything for name in names)
