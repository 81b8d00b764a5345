"""The background jobs: the one list of what a serving process does besides answering, and the one place that runs it.

A job of the process continues over reloads; a job of a mirror ends when another mirror takes over. A job that raises is
logged and started again after a pause, so that nothing stops silently.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from mirror.api.state import EvictionSummary
from mirror.catalog.coordination import Lease
from mirror.config import Settings
from mirror.errors import MirrorError, StorageError
from mirror.index.journal import LOOK_SECONDS
from mirror.index.source import name_of
from mirror.maintenance.evict import Evictor
from mirror.maintenance.verify import Verifier
from mirror.runtime import log_failure
from mirror.server.connections import CHECK_SECONDS
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.presence import SERVING_SECONDS, Presence
from mirror.service.services import Mirror
from mirror.service.shared_clock import QUESTION_SECONDS as CLOCK_SECONDS
from mirror.service.store import Store
from mirror.service.tls import CERTIFICATE_SECONDS
from mirror.telemetry.statistics import RECORD_SECONDS
from mirror.telemetry.worker_reports import PUBLISH_SECONDS
from mirror.web import html

if TYPE_CHECKING:
    from mirror.service.node import Node
    from mirror.service.process import Service

logger = logging.getLogger(__name__)

RETRY_SECONDS = 60.0
"""Pause after which a job that failed is started again, unless it is due sooner."""
FLUSH_SECONDS = 10.0
"""Time between two attempts to write what waits in memory because the disk was full."""
PREPARE_SECONDS = 2.0
"""Time after the start at which pages for people are prepared: a start has other things to do."""
TRIM_SECONDS = 600.0
"""Time between two checks of the journal's length; half of what is kept where that is less."""
TRIM_RENDERED_SECONDS = 10.0
"""Time between two looks at how much room rendered pages may take on disk."""
MISSING_SECONDS = 60.0
"""Time between two looks at the pages that upstreams never had."""
LIFE_SECONDS = 20.0
"""Seconds between two signs of life of a node."""
FLIGHTS_SECONDS = 3600.0
"""Seconds between two looks at flights whose owners have vanished."""
VERIFY_SECONDS = 3600.0
"""Time for which one process has the right to verify the store, renewed while it does, and pause after each pass."""
LEASE_SECONDS = 60.0
"""Time for which one process has the right to do what is short, renewed while it does."""
ORPHANS_SECONDS = 86_400.0
"""Time between two looks through an object store for objects that nothing refers to."""
SYNC_RETRY_SECONDS = 300.0
"""Pause after which a sync set that is not complete is tried again."""


class BackgroundJob(NamedTuple):
    """Something that is done in the background."""

    name: str
    purpose: str
    work: Callable[[], Awaitable[bool | None]]
    """Called for each run. It returns False to be tried again after `retry_seconds`."""
    every: float | None = None
    """Seconds between the end of one run and the next; None for work that runs until it is cancelled."""
    lease: str = ""
    """The lease that the work takes, so that one of several processes over the same store does it; empty: each does."""
    retry_seconds: float = RETRY_SECONDS


class Supervisor:
    """Runs jobs until it is stopped."""

    def __init__(self) -> None:
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def running(self) -> tuple[str, ...]:
        """The names of the jobs that have not ended by themselves."""
        return tuple(name for name, task in self._tasks.items() if not task.done())

    def start(self, jobs: Iterable[BackgroundJob]) -> None:
        """Run these jobs from now on."""
        for job in jobs:
            task = self._tasks[job.name] = asyncio.create_task(_run(job), name=f"job {job.name}")
            task.add_done_callback(log_failure)

    async def stop(self) -> None:
        """Cancel all jobs and wait for their end."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()


async def _run(job: BackgroundJob) -> None:
    task = asyncio.current_task()
    assert task is not None
    pause = job.retry_seconds if job.every is None else min(job.retry_seconds, job.every)
    while True:
        try:
            done: bool | None = await job.work()
        except asyncio.CancelledError:
            if task.cancelling():
                raise
            logger.error("%s: what it waited for was cancelled; it is tried again in %.0f s", job.name, pause)
            done = False
        except (MirrorError, OSError) as error:
            logger.warning("%s: failed, and is tried again in %.0f s: %s", job.name, pause, error)
            done = False
        except Exception:
            logger.exception("%s: failed, and is tried again in %.0f s", job.name, pause)
            done = False
        if done is not False and job.every is None:
            return
        await asyncio.sleep(pause if done is False or job.every is None else job.every)


# The list of jobs


def process_jobs(service: "Service") -> list[BackgroundJob]:
    """List the jobs of the process, which go on whatever its settings become."""
    store, activity = service.store, service.activity
    return [
        *(() if service.node is None else _node_jobs(service.node, store)),
        *(() if store.shared_clock is None else _clock_jobs(store)),
        *([_serving_job(service.presence)] if store.database.shared else ()),
        BackgroundJob(
            "statistics",
            "add what was counted to the totals in the catalog",
            activity.statistics.flush,
            every=RECORD_SECONDS,
        ),
        BackgroundJob("report", "tell the other workers what was counted", _call(service.report), PUBLISH_SECONDS),
        BackgroundJob(
            "event loop lag", "measure how late the event loop wakes a task", activity.metrics.sample_loop_lag
        ),
        BackgroundJob(
            "journal",
            f"notice, every {LOOK_SECONDS:.0f} s, what other processes have changed",
            partial(store.journal.follow_others, service.rebuild, service.show_import),
        ),
        BackgroundJob(
            "slow clients", "close their connections", _call(service.connections.close_slow), every=CHECK_SECONDS
        ),
        BackgroundJob(
            "certificate",
            "reload the files of [tls] when they change",
            _call(service.check_certificate),
            every=CERTIFICATE_SECONDS,
        ),
        BackgroundJob(
            "rendered pages",
            "drop rendered pages on disk as it fills up",
            store.rendered.trim,
            every=TRIM_RENDERED_SECONDS,
        ),
        BackgroundJob("heartbeat", "record that the event loop runs", _call(service.beat), every=1.0),
        BackgroundJob("pages for people", "load the template engine before the first visitor comes", _prepare_pages),
        BackgroundJob(
            "watchdog",
            "reset the watchdog of systemd while the event loop runs",
            partial(service.notifier.keep_alive, service.heartbeat.healthy),
        ),
    ]


def _serving_job(presence: Presence) -> BackgroundJob:
    return BackgroundJob(
        "serving", "show in the catalog that nodes share that this one serves", presence.show, every=SERVING_SECONDS / 3
    )


def _node_jobs(node: "Node", store: Store) -> list[BackgroundJob]:
    """List the jobs of a process that is one of several."""
    if not store.database.shared:
        return []
    return [
        BackgroundJob(
            "node", "show the other nodes that this one serves, and see whether they answer", node.show_life,
            every=LIFE_SECONDS, retry_seconds=LIFE_SECONDS,
        ),
        BackgroundJob(
            "flights", "forget what nodes were fetching that have vanished", store.catalog.flights.forget_old,
            every=FLIGHTS_SECONDS,
        ),
    ]  # fmt: skip


def _clock_jobs(store: Store) -> list[BackgroundJob]:
    purpose = "take the time from the database, which all nodes share"
    return [BackgroundJob("clock", purpose, store.follow_clock, every=CLOCK_SECONDS, retry_seconds=CLOCK_SECONDS)]


def mirror_jobs(mirror: Mirror, store: Store, urls: Sequence[str]) -> list[BackgroundJob]:
    """List the jobs of a mirror that answers at these URLs, as its settings say."""
    settings = mirror.settings
    jobs = [
        _records_job(mirror),
        BackgroundJob(
            "flush", "write what waits in memory because the disk was full", partial(_flush, store), every=FLUSH_SECONDS
        ),
    ]
    jobs.append(
        BackgroundJob(
            "missing pages",
            "forget which pages upstreams never had, once that is no longer believed",
            partial(_trim_missing, mirror),
            every=MISSING_SECONDS,
            lease="missing pages",
        )
    )
    if (keep := settings.feed.keep) < float("inf"):
        jobs.append(
            BackgroundJob(
                "trim",
                "shorten the journal to [feed] keep",
                partial(_trim, store, keep),
                every=min(TRIM_SECONDS, keep / 2),
                lease="trim",
            )
        )
    if (limit := settings.store.limit) is not None:
        jobs.append(
            BackgroundJob(
                "sweep",
                "keep the store below [store] limit",
                partial(_sweep, mirror, evictor(settings, store, limit)),
                every=settings.store.sweep_every,
                lease="sweep",
            )
        )
    elif settings.blobs.url is not None:
        jobs.append(
            BackgroundJob(
                "sweep",
                "remove objects that nothing refers to, as a crash leaves them",
                partial(_sweep, mirror, evictor(settings, store, None)),
                every=ORPHANS_SECONDS,
                lease="sweep",
            )
        )
    if rate := settings.store.verify_rate:
        jobs.append(
            BackgroundJob(
                "verify",
                "compare what is held with its digests, and repair it",
                partial(_verify, mirror, store, rate),
                every=VERIFY_SECONDS,
                lease="verify",
                retry_seconds=VERIFY_SECONDS,
            )
        )
    if not settings.offline and settings.sync:
        jobs += _sync_jobs(mirror, urls)
    if not settings.offline and any(one.follow for each in settings.repositories.values() for one in each.upstreams):
        jobs += _follow_jobs(mirror)
    return jobs


def _records_job(mirror: Mirror) -> BackgroundJob:
    purpose, every = "reload folders of OSV records when they change", mirror.settings.policies.records_every
    if (shared := mirror.shared_records) is None:
        return BackgroundJob("policies", purpose, mirror.policies.check_folders, every=every)
    work = partial(shared.follow, mirror.policies)
    return BackgroundJob("policies", purpose, work, lease="records", retry_seconds=min(RETRY_SECONDS, every))


# What these two import is of no use to most mirrors.


def _sync_jobs(mirror: Mirror, urls: Sequence[str]) -> list[BackgroundJob]:
    from mirror.service import scheduled_sync

    return [
        BackgroundJob(
            f"sync {one.name}",
            "fetch what a set names before a client needs it",
            partial(scheduled_sync.sync_set, mirror, urls, one),
            every=one.every,
            lease=f"sync {one.name}",
            retry_seconds=SYNC_RETRY_SECONDS,
        )
        for one in mirror.settings.sync
    ]


def _follow_jobs(mirror: Mirror) -> list[BackgroundJob]:
    from mirror.service import following

    return [
        BackgroundJob(
            f"follow {source.name} into {name}",
            "apply what changes at another mirror at once",
            partial(following.follow, mirror, name, source, upstream.follow_only),
        )
        for name, source, upstream in following.followed(mirror)
    ]


def _call(function: Callable[[], object]) -> Callable[[], Awaitable[None]]:
    async def work() -> None:
        function()

    return work


# The work


def evictor(settings: Settings, store: Store, limit: int | None) -> Evictor:
    """Return the evictor of a store; `limit` in bytes."""
    formats = {
        name_of(upstream.url, upstream.username): ECOSYSTEMS[repository.format].format
        for repository in settings.repositories.values()
        for upstream in repository.upstreams
    }
    return Evictor(store.catalog, store.blobs, formats, limit=limit, min_age=settings.store.min_age, clock=store.clock)


def verifier(mirror: Mirror, store: Store, rate: int | None, lease: Lease | None = None) -> Verifier:
    """Return the verifier of a store, which fetches damaged files again through the mirror's repositories.

    Under a lease, it ends once another process has that.
    """
    catalog = store.catalog if lease is None else store.catalog.under(lease)
    return Verifier(catalog, store.blobs, mirror.mend, mirror.is_verified, rate)


async def _prepare_pages() -> None:
    await asyncio.sleep(PREPARE_SECONDS)
    await asyncio.to_thread(html.prepare)


async def _flush(store: Store) -> None:
    with suppress(StorageError):  # it stays in memory
        await store.catalog.logs.flush()


async def _trim_missing(mirror: Mirror) -> None:
    async def work(lease: Lease) -> None:
        table = mirror.catalog.under(lease).pages
        for sources in mirror.cached_upstreams.values():
            for source in sources:
                await source.pages.store.trim_missing(mirror.clock(), table)

    await mirror.catalog.leases.run("missing pages", mirror.clock, LEASE_SECONDS, work)


async def _trim(store: Store, keep: float) -> None:
    async def work(lease: Lease) -> None:
        await store.catalog.under(lease).feed.trim(store.clock() - keep)

    await store.catalog.leases.run("trim", store.clock, LEASE_SECONDS, work)


async def _sweep(mirror: Mirror, evictor: Evictor) -> None:
    report = await evictor.sweep()
    if not report.busy:
        mirror.metrics.evicted(report.files, report.freed)
        mirror.state.swept = EvictionSummary(
            at=mirror.clock(), files=report.files, orphans=report.orphans, freed=report.freed
        )
    if report.files or report.orphans:
        logger.info("swept: %d files and %d orphans went, %d bytes in all", report.files, report.orphans, report.freed)


async def _verify(mirror: Mirror, store: Store, rate: int) -> None:
    async def work(lease: Lease) -> None:
        async for _ in verifier(mirror, store, rate, lease).verify():
            pass

    await store.catalog.leases.run("verify", store.clock, VERIFY_SECONDS, work, keep=True)
