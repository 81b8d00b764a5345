"""The composition root: the parts of a mirror, made from the settings.

Only this module and `mirror.service.endpoints`, which has its URLs, name the concrete classes together. Listening and
the life of the process are in `mirror.service.process`.
"""

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from contextlib import AsyncExitStack

from mirror import __version__
from mirror.api.state import MirrorState
from mirror.auth import Guard, rules_of, tokens_of, users_of
from mirror.catalog import HeldFile, SharedLog
from mirror.config import AgesSettings, RepositorySettings, Settings, UpstreamSettings
from mirror.errors import NotFound
from mirror.index.cache import MemoryBudget
from mirror.index.freshness import Ages
from mirror.index.gathering import SourceOrder
from mirror.index.losses import LIST, Doubts
from mirror.index.precedence import Precedence
from mirror.index.rebuild import NAMING, NAMING_RULES, UploadRebuild
from mirror.index.records import record_uploads
from mirror.index.repository import Repository
from mirror.index.source import SourceOptions
from mirror.index.uploads import UploadSource
from mirror.index.upstream import CachedUpstream
from mirror.index.upstream_files import UpstreamFiles
from mirror.index.upstream_pages import UpstreamPages
from mirror.maintenance.verify import is_verified, refetch
from mirror.model import Format
from mirror.policy import Policy
from mirror.policy.records import Policies, RecordFolders
from mirror.rubygems.log.published_index import PublishedIndex
from mirror.rubygems.log.specs_comparisons import SpecsComparisons
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.upstream_specs import UpstreamSpecs
from mirror.server.pages import PageCache
from mirror.service.blobs import gather_records
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.publishers import publishers
from mirror.service.shared_records import shared_records
from mirror.service.store import Store, places_memory
from mirror.telemetry.metrics import Metrics
from mirror.telemetry.statistics import Statistics
from mirror.telemetry.worker_reports import WorkerReports, unrecorded
from mirror.transfer import Flights, Transfers
from mirror.upstream import Credentials, Upstream, UpstreamOptions

logger = logging.getLogger(__name__)


class Activity:
    """The work and the counters of the process: they outlive a reload of the settings, and are not stored."""

    def __init__(self, store: Store, flights: Flights | None = None, reports: WorkerReports | None = None) -> None:
        """`flights` and `reports` are those of the processes that share the store, if there are several."""
        self.transfers = Transfers(store.blobs, flights)
        self.metrics = Metrics(__version__)
        self.statistics = Statistics(store.catalog, self.metrics)
        self.reports = reports
        if reports is not None:
            self.statistics.elsewhere = lambda: unrecorded(reports.others())
            if reports.inherited is not None:
                self.metrics.add(reports.inherited.counts)
                self.statistics.go_on_from(reports.inherited.unrecorded)


class Mirror:
    """Everything that is made from the settings, over a store. Another one may replace it, with other settings."""

    def __init__(self, settings: Settings, store: Store, activity: Activity) -> None:
        """Raises Misconfigured."""
        activity.transfers.keeps_unverified = settings.store.keep_unverified
        self.settings = settings
        self.clock = store.clock
        self.store = store
        folders = RecordFolders(
            {one.versions.ecosystem: one.format.canonical for one in ECOSYSTEMS.values()},
            Doubts(LIST, store.clock).believe,
        )
        self.shared_records = shared_records(settings, store, folders)
        """The records that policies read, where processes share them."""
        self.policies = Policies(
            settings,
            {name: ECOSYSTEMS[one.format].versions for name, one in settings.repositories.items()},
            self.shared_records or folders,
        )
        self.catalog = store.catalog
        self.blobs = store.blobs
        self.journal = store.journal
        self.transfers = activity.transfers
        self.metrics = activity.metrics
        self.statistics = activity.statistics
        self.memory = MemoryBudget(settings.pages.memory - places_memory(settings))
        self.page_cache = PageCache(self.memory, store.rendered)
        self.upstreams: dict[str, Upstream] = {}
        self.cached_upstreams: dict[str, list[CachedUpstream]] = {}
        """The upstreams of each repository with what they answered, by the repository's name."""
        self.repositories: dict[str, Repository] = {}
        self.publishers = publishers(settings, store)
        """What changes the uploads of a repository, by the repository's name."""
        self.rebuilds = [UploadRebuild(publisher) for publisher in self.publishers.values()]
        self.published_indexes: dict[str, PublishedIndex] = {}
        """The gem index that a repository publishes, by the repository's name."""
        self.upstream_indexes: dict[str, UpstreamIndex] = {}
        """What each RubyGems upstream lists, once for all repositories."""
        self._open = AsyncExitStack()
        """What is open, to be closed in reverse."""
        if self.shared_records is not None:
            self._open.push_async_callback(self.shared_records.close)
        self._tasks: set[asyncio.Task[None]] = set()
        self.guard = Guard(
            self.catalog.accounts,
            rules_of(
                settings.auth,
                {name: ECOSYSTEMS[one.format].versions.pattern for name, one in settings.repositories.items()},
            ),
            users=users_of(settings.auth),
            tokens=tokens_of(settings.auth),
            clock=store.clock,
            announce=store.changes.advance,
        )
        self._open.push_async_callback(self.guard.close)
        self._open.callback(self.journal.on_change(self.guard.look_again))
        self._open.push_async_callback(self.page_cache.close)
        self.state = MirrorState(
            settings, self.catalog, self.journal, self.transfers, self.statistics, self.metrics, self.cached_upstreams,
            store.clock, activity.reports,
        )  # fmt: skip

    async def open(self) -> None:
        """Make the repositories, changing nothing in the store. Raises ConfigError."""
        await self.policies.open()
        self.policies.listeners.append(self._policy_changed)
        for name, settings in self.settings.repositories.items():
            self.repositories[name] = self._repository(name, settings)

    async def start(self) -> None:
        """Begin to write; no other mirror of this process does from here on."""
        self._open.push_async_callback(self._cancel_tasks)
        for name in (name for name, one in self.settings.repositories.items() if one.open_to_confusion):
            logger.warning(
                "repositories.%s has several upstreams, and neither `private` nor `union`: a name that the first one"
                " never had is asked of the next. Say in `private` which names come from uploads alone, or in `union`"
                " which are merged.",
                name,
            )
        for name in (name for name, token in self.settings.auth.tokens.items() if token.unlimited):
            logger.warning(
                'auth.tokens.%s may upload any project, since it names none: say `projects = ["*"]` if that is meant.',
                name,
            )
        await gather_records(self.settings, self.store.records)
        await record_uploads(self.catalog, self.store.records)
        for rebuild in self.rebuilds:
            if self.store.database.renewed or await rebuild.lost():
                await rebuild.rebuild()
        await self._rename_uploads()
        for name, published in self.published_indexes.items():
            published.open()
            await self._show_uploads(name, published)

    async def _rename_uploads(self) -> None:
        """Rename the uploads of all repositories, once for each change of the rules."""
        before = (await self.catalog.counters.all()).get(NAMING, 0)
        if before < NAMING_RULES:
            for rebuild in self.rebuilds:
                await rebuild.rename_all()
            await self.catalog.counters.add({NAMING: NAMING_RULES - before})

    async def _show_uploads(self, name: str, published: PublishedIndex) -> None:
        """Have a gem index list uploads: before a push is answered; when asked where another process changed them."""
        publisher, uploads = self.publishers[name], self.repositories[name].sources[0]

        async def show_all() -> None:
            await published.show((await (await uploads.names()).load()).names.serials)

        if self.settings.node.count > 1:
            published.writer.on_append = self.journal.changes.advance
            if published.specs is not None:
                published.specs.compared.on_store = self.journal.changes.advance
        self._open.callback(self.journal.on_log_change(published.outdate))

        def changed(source: str, project: str) -> None:
            published.report(project)

        publisher.published = lambda project: published.show([project])
        self._open.callback(self.journal.listen(changed, [uploads.name], own=(publisher.writer,)))
        if await published.begins_anew():
            await show_all()
        else:
            self._start(show_all())  # a crash may have come between an upload and the index

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("uploads could not be shown in the gem index: %s", error, exc_info=error)

    async def mend(self, held: HeldFile) -> None:
        """Fetch a held file or sidecar again, from where it came. Raises MirrorError."""
        for repository in self.repositories.values():
            if held.source in {source.name for source in repository.sources}:
                await refetch(repository, held)
                return
        raise NotFound(f"{held.filename} came from {held.source}, which is no longer in the settings.")

    async def is_verified(self, held: HeldFile) -> bool:
        """Return whether an index lists a digest of a held file, or may do so."""
        for repository in self.repositories.values():
            if held.source in {source.name for source in repository.sources}:
                return await is_verified(repository, held)
        return True

    async def rebuild(self) -> None:
        """Make the uploads again in a catalog that has been replaced."""
        for rebuild in self.rebuilds:
            await rebuild.rebuild()

    def _repository(self, name: str, settings: RepositorySettings) -> Repository:
        ecosystem = ECOSYSTEMS[settings.format]
        format, versions = ecosystem.format, ecosystem.versions
        sources = self.cached_upstreams[name] = [
            self._source(format, name, upstream) for upstream in settings.upstreams
        ]
        precedence = Precedence(
            private=tuple(versions.pattern(pattern) for pattern in settings.private),
            union=tuple(versions.pattern(pattern) for pattern in settings.union),
        )
        repository = Repository(
            name,
            format,
            SourceOrder(
                name, [UploadSource(name, self.catalog, self.blobs), *sources], precedence, self.catalog.claims
            ),
            policy=self.policies.of(name),
            journal=self.journal,
            memory=self.memory,
            clock=self.clock,
            isolated=self.store.isolated,
        )
        self._open.push_async_callback(repository.close)
        if ecosystem.log_path is not None:
            published = self.published_indexes[name] = self._publish(repository, sources, settings, precedence)
            self._open.push_async_callback(published.close)
        return repository

    def _publish(
        self,
        repository: Repository,
        sources: Sequence[CachedUpstream],
        settings: RepositorySettings,
        precedence: Precedence,
    ) -> PublishedIndex:
        followed: list[UpstreamIndex] = []
        for source, upstream in zip(sources, settings.upstreams, strict=True):
            key = _key(upstream)
            one = self.upstream_indexes.setdefault(key, UpstreamIndex(source.upstream, key, self.catalog, self.clock))
            one.attach_to(source)
            followed.append(one)
        published = PublishedIndex(
            repository,
            followed,
            self.catalog,
            specs=self._upstream_specs(repository.name, sources, followed),
            precedence=precedence,
            offline=self.settings.offline,
            fresh=self.settings.ages(repository.name).fresh,
            clock=self.clock,
        )
        for source in sources:
            if source.pages.checksums is not None:
                source.pages.checksums.changed.append(published.recheck)
        return published

    def _upstream_specs(
        self, name: str, sources: Sequence[CachedUpstream], followed: Sequence[UpstreamIndex]
    ) -> UpstreamSpecs | None:
        if len(sources) != 1:
            return None  # what several list together, none of them has in one file
        offline, isolated = self.settings.offline, self.store.isolated
        several = self.store.database.shared or self.settings.node.count > 1
        compared = SpecsComparisons(SharedLog(self.catalog.logs, f"specs {name}", self.clock) if several else None)
        return UpstreamSpecs(sources[0], followed[0], isolated, compared, offline=offline, clock=self.clock)

    def _policy_changed(self, name: str, policy: Policy) -> None:
        self.repositories[name].set_policy(policy)
        if published := self.published_indexes.get(name):
            published.policy_changed()

    def _source(self, format: Format, name: str, settings: UpstreamSettings) -> CachedUpstream:
        key = _key(settings)
        if key not in self.upstreams:
            self.upstreams[key] = Upstream(settings.name, settings.url, self._options(settings))
            self._open.push_async_callback(self.upstreams[key].close)
        upstream, catalog, journal, memory = self.upstreams[key], self.catalog, self.journal, self.memory
        options = SourceOptions(
            ages=ages(self.settings.ages(name)),
            page_limit=self.settings.pages.max_size,
            offline=self.settings.offline,
            legacy_checksums=settings.legacy_checksums,
            clock=self.clock,
            flights=self.transfers.flights,
        )
        return CachedUpstream(
            UpstreamPages(format, upstream, catalog, journal, memory, self.store.isolated, options),
            UpstreamFiles(format, upstream, catalog, self.blobs, self.transfers, journal, memory, options),
            journal,
            options,
        )

    def _options(self, settings: UpstreamSettings) -> UpstreamOptions:
        network = self.settings.network
        login = settings.login()
        return UpstreamOptions(
            connect_timeout=network.connect_timeout,
            stale_timeout=network.stale_timeout,
            read_timeout=network.read_timeout,
            minimum_rate=network.minimum_rate,
            page_timeout=network.page_timeout,
            retries=network.retries,
            connections=network.connections,
            breaker_failures=network.breaker_failures,
            breaker_seconds=network.breaker_seconds,
            api_rate=network.api_rate,
            user_agent=f"mirror/{__version__} {network.user_agent}".rstrip(),
            auth=Credentials(*login) if login else None,
            read_login=settings.login if settings.password_file else None,
            ca_file=settings.ca_file,
            proxy=str(settings.proxy.get_secret_value()) if settings.proxy else None,
            allow_hosts=settings.allow_hosts,
            allow_page_redirects=settings.allow_page_redirects,
            forbidden_means_missing=settings.forbidden_means_missing,
        )

    async def stop_writing(self) -> None:
        """Stop writing the logs, which another mirror of this process continues; answer as before."""
        for published in self.published_indexes.values():
            await published.retire()
        for upstream in self.upstream_indexes.values():
            await upstream.retire()

    def resume_writing(self) -> None:
        """Write again: no other mirror has taken over after all."""
        for published in self.published_indexes.values():
            published.resume()
        for upstream in self.upstream_indexes.values():
            upstream.resume()

    async def close(self) -> None:
        """Close all that is not the store's, once the transfers from these upstreams have ended."""
        await self._open.aclose()

    async def _cancel_tasks(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _key(settings: UpstreamSettings) -> str:
    """Return the name of an upstream in the catalog's logs: another login may see other projects there."""
    return f"{settings.url} {settings.username}"


def ages(settings: AgesSettings) -> Ages:
    """Convert the ages of pages from settings."""
    forever = settings.stale_if_error == float("inf")
    return Ages(
        fresh=settings.fresh,
        stale_while_revalidate=settings.stale_while_revalidate,
        stale_if_error=None if forever else settings.stale_if_error,
        negative=settings.negative,
        recheck=settings.recheck,
    )
