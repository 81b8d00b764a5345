"""The composition root: the only module that names the concrete classes together.

`Mirror.open` makes everything from the settings. Listening, and the life of the
process, are in `mirror.service.process`.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Self

from aiohttp import web

import mirror.pypi.routes
import mirror.pypi.upload
import mirror.rubygems.routes
import mirror.rubygems.upload
from mirror import __version__
from mirror.api.explain import ExplainApi
from mirror.api.feed import FeedApi
from mirror.api.monitoring import MonitoringApi
from mirror.api.state import MirrorState
from mirror.api.uploads import UploadsApi
from mirror.auth import Guard, rules_of, tokens_of, users_of
from mirror.auth.audit import AuditTrail
from mirror.catalog import HeldFile
from mirror.config import AgesSettings, RepositorySettings, Settings, UpstreamSettings
from mirror.errors import NotFound, Unauthorized
from mirror.index.cache import MemoryBudget
from mirror.index.freshness import Ages
from mirror.index.merge import Precedence
from mirror.index.publish import Publisher
from mirror.index.records import record_uploads
from mirror.index.repository import Repository
from mirror.index.source import SourceOptions
from mirror.index.uploads import Uploads
from mirror.index.upstream import CachedUpstream
from mirror.model import Format
from mirror.policy import Policy
from mirror.policy.records import Policies
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.server.middleware import request_middleware
from mirror.server.pages import PageCache
from mirror.server.proxies import TrustedProxies
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.store import Store
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.statistics import Statistics
from mirror.transfer import Transfers
from mirror.upstream import Credentials, Upstream, UpstreamOptions
from mirror.web.projects import BrowsableRepository, KnownNames, stored_names
from mirror.web.routes import WebPages

logger = logging.getLogger(__name__)


class Activity:
    """What this process does and has counted, whatever its settings become: transfers, metrics and statistics."""

    def __init__(self, store: Store) -> None:
        self.transfers = Transfers(store.blobs)
        self.metrics = Metrics(__version__)
        self.statistics = Statistics(store.catalog, self.metrics)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.statistics.flush()


class Mirror:
    """Everything that is made from the settings, over a store. Another one may follow it, with other settings."""

    def __init__(self, settings: Settings, store: Store, activity: Activity) -> None:
        """Raises Misconfigured."""
        self.settings = settings
        self.clock = store.clock
        self.policies = Policies(
            settings,
            {name: ECOSYSTEMS[one.format].versions for name, one in settings.repositories.items()},
            {one.versions.ecosystem: one.format.canonical for one in ECOSYSTEMS.values()},
        )
        self.database = store.database
        self.catalog = store.catalog
        self.blobs = store.blobs
        self.journal = store.journal
        self.transfers = activity.transfers
        self.metrics = activity.metrics
        self.statistics = activity.statistics
        self.records = store.records
        self.memory = MemoryBudget(settings.pages.memory)
        self.answers = PageCache(self.memory)
        self.upstreams: dict[str, Upstream] = {}
        self.cached: dict[str, list[CachedUpstream]] = {}
        """What each repository has from upstreams, by the repository's name."""
        self.repositories: dict[str, Repository] = {}
        self.writers = publishers(settings, store)
        """What changes the uploads of a repository, by the repository's name."""
        self.published: dict[str, PublishedIndex] = {}
        """The gem index that a repository publishes, by the repository's name."""
        self.followed: dict[str, UpstreamIndex] = {}
        """What each RubyGems upstream lists, once for all repositories."""
        self.feed_api: FeedApi | None = None
        """What tells those who follow this mirror, once it answers."""
        self._running: set[asyncio.Task[None]] = set()
        self._stop_listening: list[Callable[[], None]] = []
        self.guard = Guard(
            self.catalog.accounts,
            rules_of(
                settings.auth,
                {name: ECOSYSTEMS[one.format].versions.pattern for name, one in settings.repositories.items()},
            ),
            users=users_of(settings.auth),
            tokens=tokens_of(settings.auth),
        )
        self.audit = AuditTrail(self.guard.identify, self.catalog.removed, store.clock)
        self.proxies = TrustedProxies(settings.proxies.trusted, settings.proxies.standard)
        self.state = MirrorState(
            settings,
            self.catalog,
            self.journal,
            self.transfers,
            self.statistics,
            self.metrics,
            self.cached,
            store.clock,
        )

    async def open(self) -> None:
        """Make the repositories. Changes nothing in the store, and listens to nothing yet. Raises ConfigError."""
        await self.policies.open()
        self.policies.changed.append(self._policy_changed)
        for name, settings in self.settings.repositories.items():
            self.repositories[name] = self._repository(name, settings)
        self.pages = self._pages_for_people()

    async def start(self) -> None:
        """Begin to work: from here on this mirror, and no other one over the same store, writes."""
        await record_uploads(self.catalog, self.records)
        for writer in self.writers.values():
            if self.database.renewed or await writer.lost():
                await writer.rebuild()
        for name, published in self.published.items():
            published.open()
            await self._show_uploads(name, published)

    async def _show_uploads(self, name: str, published: PublishedIndex) -> None:
        """Let a gem index say what is uploaded: before a push is answered, and soon for what another process does."""
        writer, uploads = self.writers[name], self.repositories[name].sources[0]

        async def everything() -> None:
            await published.show((await (await uploads.names()).load()).serials)

        def heard(source: str, project: str) -> None:
            if source == uploads.name:
                self._behind(published.show([project]))

        async def show(project: str) -> None:
            await published.show([project])

        writer.published = show
        self._stop_listening.append(self.journal.listen(heard, own=(writer,)))
        if await published.begins_anew():
            await everything()
        else:
            self._behind(everything())  # a crash may have come between an upload and the index

    def _behind(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("work behind the requests failed: %s", error, exc_info=error)

    async def mend(self, held: HeldFile) -> None:
        """Fetch a held file or sidecar again, from where it came. Raises MirrorError."""
        for repository in self.repositories.values():
            if held.source in {source.name for source in repository.sources}:
                await repository.refetch(held.source, held.project, held.filename)
                return
        raise NotFound(f"{held.filename} came from {held.source}, which is no longer in the settings.")

    async def rebuild(self) -> None:
        """Make the uploads again in a catalog that has been replaced."""
        for writer in self.writers.values():
            await writer.rebuild()

    def _repository(self, name: str, settings: RepositorySettings) -> Repository:
        ecosystem = ECOSYSTEMS[settings.format]
        format, versions = ecosystem.format, ecosystem.versions
        sources = self.cached[name] = [self._source(format, name, upstream) for upstream in settings.upstreams]
        repository = Repository(
            name,
            format,
            [Uploads(name, self.catalog, self.blobs), *sources],
            policy=self.policies.of(name),
            precedence=Precedence(
                private=tuple(versions.pattern(pattern) for pattern in settings.private),
                union=tuple(versions.pattern(pattern) for pattern in settings.union),
            ),
            journal=self.journal,
            memory=self.memory,
            clock=self.clock,
        )
        if ecosystem.log_path is not None:
            self.published[name] = self._publish(repository, sources, settings)
        return repository

    def _publish(
        self, repository: Repository, sources: Sequence[CachedUpstream], settings: RepositorySettings
    ) -> PublishedIndex:
        followed = []
        for source in sources:
            key = self._key(source.upstream)
            one = self.followed.setdefault(key, UpstreamIndex(source.upstream, key, self.catalog.logs, self.clock))
            one.guide(source)
            followed.append(one)
        return PublishedIndex(
            repository,
            followed,
            self.catalog.logs,
            private=settings.private,
            offline=self.settings.offline,
            fresh=self.settings.ages(repository.name).fresh,
            clock=self.clock,
        )

    def _policy_changed(self, name: str, policy: Policy) -> None:
        self.repositories[name].set_policy(policy)
        if published := self.published.get(name):
            published.policy_changed()

    def _key(self, upstream: Upstream) -> str:
        return next(key for key, one in self.upstreams.items() if one is upstream)

    def _source(self, format: Format, name: str, settings: UpstreamSettings) -> CachedUpstream:
        key = f"{settings.url} {settings.username}"
        if key not in self.upstreams:
            self.upstreams[key] = Upstream(settings.name, settings.url, self._options(settings))
        return CachedUpstream(
            format,
            self.upstreams[key],
            self.catalog,
            self.blobs,
            self.transfers,
            self.journal,
            self.memory,
            SourceOptions(
                ages=ages(self.settings.ages(name)),
                page_limit=self.settings.pages.max_size,
                offline=self.settings.offline,
                clock=self.clock,
            ),
        )

    def _options(self, settings: UpstreamSettings) -> UpstreamOptions:
        network = self.settings.network
        secret = settings.secret()
        return UpstreamOptions(
            connect_timeout=network.connect_timeout,
            read_timeout=network.read_timeout,
            page_timeout=network.page_timeout,
            retries=network.retries,
            connections=network.connections,
            breaker_failures=network.breaker_failures,
            breaker_seconds=network.breaker_seconds,
            user_agent=f"mirror/{__version__} {network.user_agent}".rstrip(),
            auth=Credentials(settings.username, secret.get_secret_value() if secret else "")
            if settings.username or secret
            else None,
            ca_file=settings.ca_file,
            proxy=str(settings.proxy.get_secret_value()) if settings.proxy else None,
        )

    def application(self) -> web.Application:
        """The routes of all repositories, and our own below `/-/`."""
        middlewares = [request_middleware(self.proxies, self.audit)]
        app = web.Application(middlewares=middlewares, client_max_size=1 << 20)
        for name, repository in self.repositories.items():
            mount = self.settings.repositories[name].mount
            if name in self.published:
                routes = mirror.rubygems.routes.Routes(
                    repository, self.published[name], self.answers, self.guard.read_access(name), mount
                ).table()
            else:
                routes = mirror.pypi.routes.Routes(
                    repository, self.answers, self.guard.read_access(name), mount
                ).table()
            app.add_routes(routes)
            app.add_routes(self._uploading(name, mount))
        app.add_routes(UploadsApi(self.writers, self.catalog.uploads, self.guard).table())
        app.add_routes(MonitoringApi(self.state, self._may_know).table())
        app.add_routes(self._feeding(app).table())
        app.add_routes(ExplainApi(self.repositories, self.guard, self.catalog.files, self.clock).table())
        app.add_routes(self.pages.table())
        return app

    def _feeding(self, app: web.Application) -> FeedApi:
        feed_api = self.feed_api = FeedApi(
            self.repositories,
            {ECOSYSTEMS[one.format].index_at(one.mount): name for name, one in self.settings.repositories.items()},
            {name: published.show for name, published in self.published.items()},
            self.guard,
            self.journal,
            self.catalog.contents,
        )

        async def end(app: web.Application) -> None:
            feed_api.end()

        app.on_shutdown.append(end)
        return feed_api

    def _pages_for_people(self) -> WebPages:
        auth = self.settings.auth
        return WebPages(
            repositories={name: self._browsable(name, repository) for name, repository in self.repositories.items()},
            guard=self.guard,
            catalog=self.catalog,
            feed=self.journal,
            statistics=self.statistics,
            status=self.state.status,
            transfers=self.transfers.active,
            closed=bool(auth.rules or auth.users or auth.tokens),
            version=__version__,
        )

    def _browsable(self, name: str, repository: Repository) -> BrowsableRepository:
        settings = self.settings.repositories[name]
        published = self.published.get(name)
        ecosystem = ECOSYSTEMS[settings.format]

        async def names() -> KnownNames:
            if published is None:
                return await stored_names(repository, self.catalog.pages)
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

    def _uploading(self, name: str, mount: str) -> list[web.RouteDef]:
        writer, directory, limits = self.writers[name], self.blobs.incoming, self.settings.limits
        if name not in self.published:
            return mirror.pypi.upload.UploadRoutes(writer, self.guard, directory, limits, mount).table()
        return mirror.rubygems.upload.UploadRoutes(
            writer, self.repositories[name], self.guard, self.catalog.accounts, directory, limits, mount
        ).table()

    async def status(self) -> dict[str, object]:
        """What is held, what it saved, and how the upstreams do: for `mirror status`."""
        return await self.state.status()

    async def _may_know(self, request: web.Request) -> bool:
        """Whether who asks may hear names of projects: those who may read all that is here."""
        if all(self.guard.read_access(name).open for name in self.repositories):
            return True
        try:
            identity = await self.guard.identify(request)
        except Unauthorized:
            return False
        return all(self.guard.scope(identity, "read", name).everything for name in self.repositories)

    async def retire(self) -> None:
        """Write nothing more into the logs that another mirror over the same store goes on with; serve as before."""
        if self.feed_api is not None:
            self.feed_api.end()
        for published in self.published.values():
            await published.retire()
        for followed in self.followed.values():
            await followed.retire()

    def resume(self) -> None:
        """Nobody has followed after all: go on."""
        if self.feed_api is not None:
            self.feed_api.resume()
        for published in self.published.values():
            published.resume()
        for followed in self.followed.values():
            followed.resume()

    async def close(self) -> None:
        """Let go of all that is not the store's, once the transfers from these upstreams have ended."""
        for stop in self._stop_listening:
            stop()
        self._stop_listening.clear()
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
        for published in self.published.values():
            await published.close()
        for repository in self.repositories.values():
            await repository.close()
        await self.answers.close()
        for upstream in self.upstreams.values():
            await upstream.close()
        if self.repositories:  # opened
            await self.pages.close()
        await self.guard.close()


def publishers(settings: Settings, store: Store) -> dict[str, Publisher]:
    """Return what changes the uploads of each repository, by the repository's name."""
    return {
        name: Publisher(
            name, ECOSYSTEMS[one.format].format, store.catalog, store.blobs, store.records, store.journal, store.clock
        )
        for name, one in settings.repositories.items()
    }


def ages(settings: AgesSettings) -> Ages:
    """The ages of pages, as `freshness` takes them."""
    forever = settings.stale_if_error == float("inf")
    return Ages(
        fresh=settings.fresh,
        stale_while_revalidate=settings.stale_while_revalidate,
        stale_if_error=None if forever else settings.stale_if_error,
        negative=settings.negative,
    )
