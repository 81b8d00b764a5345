"""The state of the mirror: for `mirror status`, Prometheus and health checks, with the endpoints that report it.

The endpoints are open to everyone, and so name no project unless the client may read everything.
"""

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Literal

import msgspec
from aiohttp import web

from mirror import __version__
from mirror.api.recent import RecentResults
from mirror.catalog import Catalog
from mirror.config import Settings
from mirror.errors import StorageError, StorageUnavailable
from mirror.index.journal import Journal
from mirror.index.upstream import CachedUpstream
from mirror.telemetry.follow_lag import FollowLag
from mirror.telemetry.metrics import Metrics, Snapshot, UpstreamState
from mirror.telemetry.statistics import Statistics
from mirror.telemetry.worker_reports import WorkerReports, of_processes, together
from mirror.transfer import Transfers
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

COUNT_SECONDS = 15.0
"""Time for which the number of pages in each state is used again: it is the one thing here that is counted."""
READY_SECONDS = 1.0
"""Time for which the answer of `/ready` holds, so that asking often costs little."""
PROBE_SECONDS = 5.0
"""Time for which `/ready` waits for the catalog."""

NO_STORE = {"Cache-Control": "no-store"}

Pages = Mapping[Literal["fresh", "stale", "missing"], int]


class FollowState(msgspec.Struct, kw_only=True):
    """The progress of following another mirror, made by this process or by the one that follows for all."""

    serial: int = 0
    """Everything up to here is applied."""
    newest: int = 0
    behind: float | None = None
    """Age in seconds of the oldest change that is not applied; 0 when all are, None before anything is known."""
    applied: float = 0.0
    """When everything was applied last, in seconds since the epoch; 0: not since its process started."""
    pages: int = 0
    files: int = 0
    """Fetched since its process started."""
    failed: int = 0
    resynchronised: int = 0
    last_error: str = ""
    comparing: str = ""
    """The project that a comparison of all that is held has reached; empty when none runs."""


class EvictionSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a sweep."""

    at: float
    """Seconds since the epoch."""
    files: int
    orphans: int
    freed: int
    """Bytes."""


class MirrorState:
    """Gathers the state of all parts."""

    def __init__(
        self,
        settings: Settings,
        catalog: Catalog,
        journal: Journal,
        transfers: Transfers,
        statistics: Statistics,
        metrics: Metrics,
        cached: Mapping[str, Sequence[CachedUpstream]],
        clock: Callable[[], float],
        reports: WorkerReports | None = None,
    ) -> None:
        """`cached`: the upstreams of each repository; `reports`: those of all workers, where there are several."""
        self._settings = settings
        self._catalog = catalog
        self._journal = journal
        self._transfers = transfers
        self._statistics = statistics
        self._metrics = metrics
        self._cached = cached
        self._clock = clock
        self._reports = reports
        self._counting = asyncio.Lock()
        self._probing = asyncio.Lock()
        self._probed: tuple[float, bool] | None = None
        """When the catalog was last tried, on the clock of the event loop, and whether it took a change."""
        self._counted: tuple[float, Pages] | None = None
        self._held: tuple[Pages, int, int] = {"fresh": 0, "stale": 0, "missing": 0}, 0, 0
        """Pages by state, files and their bytes, as the catalog last reported them."""
        self.connections: Callable[[], int | None] = lambda: None
        """Returns how many clients are connected; set by the process that listens."""
        self.swept: EvictionSummary | None = None
        """The result of the last sweep."""
        self.lines_dropped: Callable[[], int] = lambda: 0
        """Returns how many lines the access log has lost."""
        self.following: dict[str, FollowState] = {}
        """The progress of following other mirrors, by repository and upstream."""

    @property
    def _upstreams(self) -> list[tuple[str, Upstream]]:
        """All upstreams, each once with a repository that has it, though several may share it."""
        pairs = [(name, one.upstream) for name, each in self._cached.items() for one in each]
        return list({id(upstream): (name, upstream) for name, upstream in pairs}.values())

    async def status(self, names: bool = True) -> dict[str, object]:
        """Return what is held, what that saved and how upstreams are; without `names`, nothing that names a project."""
        files, size = await self._catalog.files.totals()
        projects = sum((await self._catalog.pages.totals()).values())
        offline = self._settings.offline
        others = [] if self._reports is None else self._reports.others()
        snapshot = self._current()
        if self._reports is not None:
            snapshot = together(self._reports.with_inherited(snapshot), others)
        counted = {(one.repository, one.upstream): one for one in snapshot.upstreams}
        upstreams = [(upstream.health(), repository) for repository, upstream in self._upstreams]
        return {
            "version": __version__,
            "running": True,
            "offline": offline,
            "degraded": self.degraded(),
            "workers": 1 + sum(report.live for report in others),
            "repositories": {name: {"format": one.format} for name, one in self._settings.repositories.items()},
            "projects": projects,
            "files": files,
            "bytes": size,
            "store": {
                "limit": self._settings.store.limit,
                "free": self._transfers.disk_space.free(),
                "swept": None if self.swept is None else msgspec.structs.asdict(self.swept),
            },
            "serial": self._journal.serial,
            **await self._statistics.totals(),
            "transfers": snapshot.transfers,
            "following": [
                {"name": name, "serial": one.serial, "newest": one.newest, "behind": one.behind, "failed": one.failed}
                for name, one in self.following.items()
            ],
            "upstreams": [
                {
                    "name": state.name,
                    "url": state.url,
                    "state": "offline" if offline else "ok" if whole.breaker == "closed" else "down",
                    "breaker": whole.breaker,
                    "retry_in": state.retry_in,
                    "paused": {"classes": state.paused, "addresses": state.paused_addresses},
                    "last_cause": state.last_cause,
                    "last_error": state.last_error if names else state.last_cause,
                    "requests": whole.requests,
                    "errors": sum(whole.errors.values()),
                    "bytes": whole.received,
                }
                for state, whole in ((state, counted[repository, state.name]) for state, repository in upstreams)
            ],
        }

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Return the exposition for Prometheus, with its Content-Type."""
        snapshot = await self._snapshot()
        self._metrics.catch_up()
        if self._reports is None:
            return await asyncio.to_thread(self._metrics.render, snapshot, accept)
        others = self._reports.others()
        whole = self._metrics.with_others([report.counts for report in others])
        pids = [os.getpid(), *(report.pid for report in others if report.live)]
        snapshot = together(self._reports.with_inherited(snapshot), others)
        return await asyncio.to_thread(lambda: whole.render(snapshot, accept, of_processes(pids)))

    def publish(self) -> None:
        """Report to the other workers what this one has counted."""
        if self._reports is not None:
            self._reports.publish(self._metrics.counts(), self._current(), dict(self._statistics.unrecorded()))

    async def _snapshot(self) -> Snapshot:
        with suppress(StorageUnavailable):  # what was known last goes on: an outage is when figures are needed
            self._held = await self._count(), *await self._catalog.files.totals()
        return self._current()

    def _current(self) -> Snapshot:
        pages, files, size = self._held
        return Snapshot(
            upstreams=tuple(_state(name, one.upstream) for name, each in self._cached.items() for one in each),
            transfers=len(self._transfers.active()),
            connections=self.connections(),
            pages=pages,
            files=files,
            store_bytes=size,
            store_limit=self._settings.store.limit,
            free_bytes=self._transfers.disk_space.free(),
            degraded=bool(self.degraded()),
            offline=self._settings.offline,
            feed_serial=self._journal.serial,
            log_lines_dropped=self.lines_dropped(),
            blobs=self._transfers.store_state(),
            following=tuple(
                FollowLag(name=name, seconds=one.behind, applied=one.applied) for name, one in self.following.items()
            ),
        )

    async def _count(self) -> Pages:
        """Return the number of pages by state, at most COUNT_SECONDS old, so that scrapes cost little."""
        async with self._counting:
            now = self._clock()
            if self._counted is None or not 0 <= now - self._counted[0] < COUNT_SECONDS:
                fresh = {
                    one.name: now - self._settings.ages(name).fresh
                    for name, each in self._cached.items()
                    for one in each
                }
                self._counted = now, await self._catalog.pages.states(fresh)
            return self._counted[1]

    async def ready(self) -> bool:
        """Return whether the catalog answers and takes changes, as it did at most READY_SECONDS ago.

        A full disk is no reason to send clients elsewhere: what is held is served, and `degraded` reports it.
        """
        async with self._probing:
            at = asyncio.get_running_loop().time()
            if self._probed is None or at - self._probed[0] >= READY_SECONDS:
                self._probed = at, await self._probe()
            return self._probed[1]

    async def _probe(self) -> bool:
        try:
            async with asyncio.timeout(PROBE_SECONDS):
                await self._catalog.feed.bounds()
                await self._catalog.leases.take("ready", self._clock(), 0)
        except StorageError:
            return True
        except TimeoutError:
            return self._catalog.database.shared  # the other nodes could not serve without it either
        except Exception:
            logger.exception("the catalog takes no changes")
            return False
        return True

    def degraded(self) -> str:
        """Return why nothing can be stored at this moment, in one sentence; empty when it can."""
        if self._transfers.disk_space.is_full():
            return "The disk is full: what is held is served, and nothing more is kept."
        if not self._transfers.store_state().reachable:
            return "The object store does not answer: what is cached is served, and nothing more is kept."
        if not self._catalog.database.available:
            return "The catalog's database does not answer: what is in memory is served, and nothing more is kept."
        return ""


def _state(repository: str, upstream: Upstream) -> UpstreamState:
    state = upstream.health()
    return UpstreamState(
        repository=repository,
        upstream=state.name,
        breaker=state.breaker,
        paused=state.paused,
        paused_addresses=state.paused_addresses,
        requests=state.requests,
        received=state.bytes,
        errors=state.causes,
    )


class MonitoringApi:
    """The endpoints for monitoring, about the mirror as a whole."""

    def __init__(
        self,
        state: MirrorState,
        may_read_all: Callable[[web.Request], Awaitable[bool]],
        prove: Callable[[str], str],
    ) -> None:
        """`may_read_all`: whether a client may read everything, and so see names of projects.

        `prove` answers a challenge, for commands that have to know whether this mirror has their data directory.
        """
        self._prove = prove
        self._state = state
        self._may_read_all = may_read_all
        self._expositions: RecentResults[tuple[bytes, str]] = RecentResults()
        self._reports: RecentResults[bytes] = RecentResults()

    async def close(self) -> None:
        """Cancel what is being made."""
        await self._expositions.close()
        await self._reports.close()

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [
            web.get("/health", self.health),
            web.get("/ready", self.readiness),
            web.get("/metrics", self.metrics),
            web.get("/-/status", self.status),
            web.get("/-/proof/{challenge:[0-9a-f]{64}}", self.proof),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Report that the process is alive, and whether it can store what it fetches."""
        degraded = self._state.degraded()
        return web.Response(text=f"degraded: {degraded}\n" if degraded else "ok\n", headers=NO_STORE)

    async def readiness(self, request: web.Request) -> web.Response:
        """Report whether the mirror can serve, which takes a working catalog."""
        ready = await self._state.ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n", headers=NO_STORE)

    async def proof(self, request: web.Request) -> web.Response:
        """Prove that this process has its data directory."""
        return web.json_response({"proof": self._prove(request.match_info["challenge"])}, headers=NO_STORE)

    async def metrics(self, request: web.Request) -> web.Response:
        """Return the metrics in the exposition format of Prometheus."""
        accept = request.headers.get("Accept", "")
        body, content_type = await self._expositions.get(accept, lambda: self._state.exposition(accept))
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})

    async def status(self, request: web.Request) -> web.Response:
        """Return what is held and what that saved, as JSON."""
        names = await self._may_read_all(request)
        body = await self._reports.get("with names" if names else "", lambda: self._report(names))
        return web.Response(body=body, content_type="application/json", headers=NO_STORE)

    async def _report(self, names: bool) -> bytes:
        return msgspec.json.encode(await self._state.status(names=names))
