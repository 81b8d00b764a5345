"""What is recorded of every response: a line in the access log and the counters that Prometheus scrapes.

Counting a request costs a dictionary look-up and four additions on plain integers; everything else (labels, cumulative
buckets, text) is made for each scrape. What other modules know (breakers, the store, the feed) is not counted here:
`mirror.api.state` puts it into a `Snapshot` for each scrape.

Not here on purpose: the library's own counters and its global registry, whose locks and label look-ups cost more than
a page from memory. `prometheus_client` itself is imported here, not later: beside aiohttp it is 10 ms and 1.1 MiB.

The surprise: label values come from closed sets alone. A value that is not in the set counts as "other", and so does
every repository after the hundredth, whatever a client does.
"""

import asyncio
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Final, Literal, get_args

import msgspec
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from mirror.blobs import StoreState
from mirror.model import Outcome, UrlClass
from mirror.server.facts import RequestKind, ResponseRecord
from mirror.telemetry.follow_lag import FollowLag, lag_families
from mirror.telemetry.log import AccessLog, request_id

Breaker = Literal["closed", "half-open", "open"]

REQUEST_BUCKETS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0)
LAG_BUCKETS: Final = (0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 1.0, 5.0)

_KINDS = frozenset(get_args(RequestKind))
_OUTCOMES = frozenset(get_args(Outcome)) | {""}
_MAX_REPOSITORIES = 100


class UpstreamState(msgspec.Struct, frozen=True, kw_only=True):
    """One upstream at the moment of a scrape. Counters count since the start of the process."""

    repository: str
    upstream: str
    """Its name in the configuration."""
    breaker: Breaker = "closed"
    paused: Sequence[UrlClass] = ()
    """The classes of URLs that are not asked for at the moment."""
    paused_addresses: int = 0
    """How many single URLs are not."""
    requests: int = 0
    received: int = 0
    """Bytes of bodies."""
    errors: Mapping[str, int] = {}
    """Cause → how often. Causes come from a fixed set (connect, timeout, status, protocol, digest)."""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The state at the moment of a scrape, beyond what requests count. What is None is not exported."""

    upstreams: tuple[UpstreamState, ...] = ()
    transfers: int = 0
    """In progress."""
    connections: int | None = None
    """Open connections of clients."""
    pages: Mapping[Literal["fresh", "stale", "missing"], int] = {}
    files: int | None = None
    """Held."""
    store_bytes: int | None = None
    store_limit: int | None = None
    """Bytes that the store may take; None without a limit."""
    free_bytes: int | None = None
    """Free on the store's file system."""
    degraded: bool = False
    """Whether nothing can be stored now (a full disk), although what is held is served."""
    offline: bool = False
    feed_serial: int | None = None
    log_lines_dropped: int = 0
    blobs: StoreState = StoreState()
    """The store of files."""
    following: tuple[FollowLag, ...] = ()
    """The mirrors that this one follows."""


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """All that a process has counted, as plain values."""

    series: list[tuple[str, str, str, int, int, int]] = []
    """Repository, kind, outcome, class of status; requests and bytes."""
    latencies: list[tuple[str, str, str, list[int], float]] = []
    """Repository, kind, outcome; observations in each bucket, and their sum."""
    lag: tuple[list[int], float] = ([], 0.0)
    evicted: tuple[int, int] = (0, 0)
    """Files, and their bytes."""


class Totals(msgspec.Struct, frozen=True):
    """All requests with one outcome, since the start."""

    requests: int = 0
    sent: int = 0
    """Bytes."""


class _Histogram:
    """Counts per bucket, not cumulative, with one more for values above the last bound; and the sum."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1  # le: a value equal to a bound belongs to it
        self.total += value

    def add(self, counts: Sequence[int], total: float) -> None:
        for bucket, count in enumerate(counts):
            self.counts[bucket] += count
        self.total += total


class _Series:
    """The counts of one (repository, kind, outcome, class of status)."""

    __slots__ = ("latency", "requests", "sent")

    def __init__(self, latency: _Histogram) -> None:
        self.requests = 0
        self.sent = 0
        self.latency = latency


class Metrics:
    """The counters of one process. Everything but `render` is for the event loop's thread alone."""

    def __init__(self, version: str = "") -> None:
        self._version = version
        self._series: dict[tuple[str, str, str, int], _Series] = {}
        self._latencies: dict[tuple[str, str, str], _Histogram] = {}
        self._repositories: set[str] = set()
        self._lag = _Histogram(LAG_BUCKETS)
        self._evicted = (0, 0)
        self.uncounted: list[Callable[[], None]] = []
        """Called before counts are read, to count the responses that were recorded and wait for it."""

    def count_response(
        self, repository: str, kind: RequestKind, outcome: Outcome | Literal[""], status: int, sent: int, seconds: float
    ) -> None:
        """Count one response: `sent` bytes of body, the last of them after `seconds`. Never raises.

        `repository` is a name in the configuration, or empty for what belongs to none; `outcome` is empty where
        X-Mirror-Cache is not sent.
        """
        series = self._series.get((repository, kind, outcome, status // 100))
        if series is None:
            series = self._first(repository, kind, outcome, status // 100)
        series.requests += 1
        series.sent += sent
        series.latency.observe(seconds)

    def _first(self, repository: str, kind: str, outcome: str, status_class: int) -> _Series:
        """Return the series of these labels, made when they are seen for the first time."""
        if repository not in self._repositories:
            if len(self._repositories) < _MAX_REPOSITORIES:
                self._repositories.add(repository)
            else:
                repository = "other"
        kind = kind if kind in _KINDS else "other"
        outcome = outcome if outcome in _OUTCOMES else "other"
        latency = self._latencies.setdefault((repository, kind, outcome), _Histogram(REQUEST_BUCKETS))
        key = (repository, kind, outcome, status_class if 1 <= status_class <= 5 else 0)
        return self._series.setdefault(key, _Series(latency))

    def catch_up(self) -> None:
        """Count what has been recorded and not yet counted."""
        for count in self.uncounted:
            count()

    def totals(self) -> dict[str, Totals]:
        """Return requests and bytes by outcome, for hit rates and bytes saved."""
        self.catch_up()
        sums: dict[str, Totals] = {}
        for (_, _, outcome, _), series in self._series.items():
            so_far = sums.get(outcome, Totals())
            sums[outcome] = Totals(so_far.requests + series.requests, so_far.sent + series.sent)
        return sums

    def counts(self) -> Counts:
        """Return all that was counted so far."""
        self.catch_up()
        return Counts(
            series=[(*labels, one.requests, one.sent) for labels, one in self._series.items()],
            latencies=[(*labels, list(one.counts), one.total) for labels, one in self._latencies.items()],
            lag=(list(self._lag.counts), self._lag.total),
            evicted=self._evicted,
        )

    def add(self, counts: Counts) -> None:
        """Add what another process has counted."""
        for repository, kind, outcome, status, requests, sent in counts.series:
            series = self._first(repository, kind, outcome, status)
            series.requests += requests
            series.sent += sent
        for repository, kind, outcome, buckets, total in counts.latencies:
            latency = self._latencies.setdefault((repository, kind, outcome), _Histogram(REQUEST_BUCKETS))
            latency.add(buckets, total)
        self._lag.add(*counts.lag)
        self._evicted = self._evicted[0] + counts.evicted[0], self._evicted[1] + counts.evicted[1]

    def with_others(self, others: Sequence[Counts]) -> "Metrics":
        """Return the metrics of several processes together."""
        whole = Metrics(self._version)
        for counts in (self.counts(), *others):
            whole.add(counts)
        return whole

    async def sample_loop_lag(self, interval: float = 1.0) -> None:
        """Measure how late the event loop wakes a task, until cancelled: as long would a request have waited."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + interval
            await asyncio.sleep(interval)
            self._lag.observe(max(0.0, loop.time() - due))

    def render(self, snapshot: Snapshot, accept: str = "", system: Sequence[Metric] = ()) -> tuple[bytes, str]:
        """Return the exposition and its Content-Type, in the format that the `Accept` header asks for (else text).

        `system`: what the system knows of several processes, in place of what it knows of this one.
        Takes some 10 ms when much was counted: call it in a thread, while counting goes on, and `catch_up` before it.
        """
        registry = CollectorRegistry()
        registry.register(_Exposition([*self._requests(), *self._evictions(), *self._loop(), *_state(snapshot)]))
        registry.register(_Exposition(system) if system else ProcessCollector(registry=None))
        encode, content_type = choose_encoder(accept)
        return encode(registry), content_type

    def _requests(self) -> Iterator[Metric]:
        by_status = ["repository", "kind", "outcome", "status"]
        requests = CounterMetricFamily("mirror_requests_total", "Requests answered.", labels=by_status)
        sent = CounterMetricFamily("mirror_sent_bytes_total", "Bytes of bodies sent to clients.", labels=by_status)
        for (repository, kind, outcome, status), series in list(self._series.items()):  # a copy: counting goes on
            labels = [repository, kind, outcome or "none", f"{status}xx" if status else "other"]
            requests.add_metric(labels, series.requests)
            sent.add_metric(labels, series.sent)
        latency = HistogramMetricFamily(
            "mirror_request_duration_seconds",
            "Time from a request to the last byte of its answer.",
            labels=["repository", "kind", "outcome"],
        )
        for (repository, kind, outcome), histogram in list(self._latencies.items()):
            latency.add_metric([repository, kind, outcome or "none"], _cumulative(histogram), histogram.total)
        yield from (requests, sent, latency)

    def evicted(self, files: int, size: int) -> None:
        """Count files that were evicted, and their bytes."""
        self._evicted = self._evicted[0] + files, self._evicted[1] + size

    def _evictions(self) -> Iterator[Metric]:
        files, size = self._evicted
        yield CounterMetricFamily("mirror_evicted_files_total", "Files evicted to keep the store's limit.", files)
        yield CounterMetricFamily("mirror_evicted_bytes_total", "Bytes of what was evicted.", size)

    def _loop(self) -> Iterator[Metric]:
        lag = HistogramMetricFamily(
            "mirror_event_loop_lag_seconds", "How late the event loop wakes a task, sampled each second.", labels=[]
        )
        lag.add_metric([], _cumulative(self._lag), self._lag.total)
        yield lag
        build = GaugeMetricFamily("mirror_build_info", "Always 1; the version is in the label.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build


class Observer:
    """Records responses, in batches."""

    def __init__(self, access: AccessLog | None, metrics: Metrics) -> None:
        self._access = access
        self._metrics = metrics

    def process(self, records: Sequence[ResponseRecord]) -> None:
        """Record responses that were sent a moment ago."""
        for record in records:
            facts = record.facts
            self._metrics.count_response(
                facts.repository, facts.kind, facts.outcome, record.status, record.sent, record.seconds
            )
            if self._access is not None:
                self._access.add(
                    request_id(record.request_id), record.client, facts.method, facts.path, record.status, record.sent,
                    record.seconds, facts.outcome, record.agent, record.at,
                )  # fmt: skip


class _Exposition(Collector):
    """Metrics that are already made, in the form that the library expects."""

    def __init__(self, metrics: Sequence[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        return self._metrics


def _cumulative(histogram: _Histogram) -> list[tuple[str, float]]:
    """Return (upper bound, observations up to it), as Prometheus defines histograms: cumulative, with +Inf last."""
    bounds = [*map(str, histogram.bounds), "+Inf"]
    return list(zip(bounds, map(float, accumulate(histogram.counts)), strict=True))


def _state(now: Snapshot) -> Iterator[Metric]:
    """Return the families of what a snapshot holds."""
    yield from _upstreams(now.upstreams)
    pages = GaugeMetricFamily("mirror_pages", "Pages stored, by state.", labels=["state"])
    for state, number in now.pages.items():
        pages.add_metric([state], number)
    yield pages
    for name, text, value in (
        ("mirror_transfers_in_progress", "Files on their way in.", now.transfers),
        ("mirror_client_connections", "Open connections of clients.", now.connections),
        ("mirror_files", "Files held.", now.files),
        ("mirror_store_bytes", "Size of what is held.", now.store_bytes),
        ("mirror_store_limit_bytes", "What the store may take at most.", now.store_limit),
        ("mirror_store_free_bytes", "Free on the store's file system.", now.free_bytes),
        ("mirror_degraded", "1 while nothing can be kept.", now.degraded),
        ("mirror_offline", "1 while upstreams are never asked.", now.offline),
        ("mirror_feed_serial", "Serial of the newest entry of the feed.", now.feed_serial),
    ):
        if value is not None:
            yield GaugeMetricFamily(name, text, value=float(value))
    yield CounterMetricFamily(
        "mirror_access_log_dropped_total", "Access log lines lost.", value=float(now.log_lines_dropped)
    )
    yield from _blobs(now.blobs)
    yield from lag_families(now.following)


def _blobs(now: StoreState) -> Iterator[Metric]:
    for name, text, value in (
        ("mirror_missing_blobs_total", "Requests for files that are lost, such as uploads.", now.missing),
        ("mirror_object_errors_total", "Requests that the object store failed.", now.errors),
        ("mirror_object_damaged_total", "Objects that did not have the right bytes.", now.damaged),
        ("mirror_cache_evicted_total", "Files that had to leave the cache of the object store.", now.evicted),
    ):
        yield CounterMetricFamily(name, text, value=float(value))
    yield GaugeMetricFamily("mirror_object_store_up", "0 while the object store is not asked.", value=now.reachable)
    requests = CounterMetricFamily(
        "mirror_object_requests_total", "Requests to the object store.", labels=["operation"]
    )
    for operation, number in now.requests.items():
        requests.add_metric([operation], number)
    yield requests


def _upstreams(upstreams: Iterable[UpstreamState]) -> Iterator[Metric]:
    names = ["repository", "upstream"]
    requests = CounterMetricFamily("mirror_upstream_requests_total", "Requests sent to upstreams.", labels=names)
    received = CounterMetricFamily("mirror_upstream_received_bytes_total", "Bytes of upstreams' bodies.", labels=names)
    errors = CounterMetricFamily(
        "mirror_upstream_errors_total", "Requests that an upstream failed, by cause.", labels=[*names, "cause"]
    )
    breakers = GaugeMetricFamily(
        "mirror_upstream_breaker_state", "1 for the state that the breaker is in.", labels=[*names, "state"]
    )
    paused = GaugeMetricFamily(
        "mirror_upstream_paused", "1 for a class of URLs that is not asked for at the moment.", labels=[*names, "class"]
    )
    addresses = GaugeMetricFamily(
        "mirror_upstream_paused_addresses", "Single URLs that are not asked for at the moment.", labels=names
    )
    for state in upstreams:
        labels = [state.repository, state.upstream]
        addresses.add_metric(labels, state.paused_addresses)
        for kind in get_args(UrlClass):
            paused.add_metric([*labels, kind], float(kind in state.paused))
        requests.add_metric(labels, state.requests)
        received.add_metric(labels, state.received)
        for cause, number in state.errors.items():
            errors.add_metric([*labels, cause], number)
        for word in get_args(Breaker):
            breakers.add_metric([*labels, word], float(word == state.breaker))
    yield from (requests, received, errors, breakers, paused, addresses)
