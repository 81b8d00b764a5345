"""What is counted, read back the way Prometheus reads it."""

import asyncio
import json
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families

from mirror.blobs import StoreState
from mirror.telemetry.metrics import REQUEST_BUCKETS, Metrics, Snapshot, Totals, UpstreamState

DASHBOARD = Path(__file__).parents[2] / "config" / "grafana-dashboard.json"

BUSY = Snapshot(
    blobs=StoreState(requests={"get": 2}),
    upstreams=(
        UpstreamState(
            repository="pypi",
            upstream="index.example",
            breaker="open",
            requests=10,
            received=4096,
            errors={"timeout": 3, "status": 1},
        ),
    ),
    transfers=2,
    connections=5,
    pages={"fresh": 7, "stale": 1, "missing": 2},
    files=3,
    store_bytes=1 << 40,
    store_limit=2 << 40,
    free_bytes=5,
    degraded=True,
    offline=False,
    feed_serial=99,
    log_lines_dropped=4,
)

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def counted() -> Metrics:
    metrics = Metrics("1.2.3")
    for _ in range(3):
        metrics.count_response("pypi", "page", "hit", 200, 100, 0.0004)
    metrics.count_response("pypi", "page", "hit", 304, 0, 0.0005)
    metrics.count_response("pypi", "page", "hit", 404, 10, 60.0)
    metrics.count_response("pypi", "file", "miss", 200, 5000, 2.0)
    metrics.count_response("", "other", "", 200, 2, 0.001)
    return metrics


def samples(metrics: Metrics, snapshot: Snapshot = BUSY) -> Samples:
    text, content_type = metrics.render(snapshot)
    assert content_type.startswith("text/plain; version=0.0.4")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found[name, frozenset(labels.items())]


def test_requests_and_bytes_are_counted_by_repository_kind_outcome_and_status() -> None:
    found = samples(counted())
    page = {"repository": "pypi", "kind": "page", "outcome": "hit"}
    assert value(found, "mirror_requests_total", **page, status="2xx") == 3
    assert value(found, "mirror_requests_total", **page, status="3xx") == 1
    assert value(found, "mirror_requests_total", **page, status="4xx") == 1
    assert value(found, "mirror_sent_bytes_total", **page, status="2xx") == 300
    assert value(found, "mirror_requests_total", repository="", kind="other", outcome="none", status="2xx") == 1


def test_latencies_fall_into_cumulative_buckets_that_include_their_bound() -> None:
    found = samples(counted())
    page = {"repository": "pypi", "kind": "page", "outcome": "hit"}
    name = "mirror_request_duration_seconds"
    buckets = [value(found, f"{name}_bucket", **page, le=str(bound)) for bound in (*REQUEST_BUCKETS, "+Inf")]
    assert buckets == [4.0] * len(REQUEST_BUCKETS) + [5.0]
    assert value(found, f"{name}_count", **page) == 5
    assert value(found, f"{name}_sum", **page) == pytest.approx(60.0017)


def test_the_snapshot_exports_what_other_modules_know() -> None:
    found = samples(Metrics("1.2.3"))
    upstream = {"repository": "pypi", "upstream": "index.example"}
    assert value(found, "mirror_upstream_requests_total", **upstream) == 10
    assert value(found, "mirror_upstream_received_bytes_total", **upstream) == 4096
    assert value(found, "mirror_upstream_errors_total", **upstream, cause="timeout") == 3
    states = {s: value(found, "mirror_upstream_breaker_state", **upstream, state=s) for s in ("open", "closed")}
    assert states == {"open": 1, "closed": 0}
    assert value(found, "mirror_pages", state="stale") == 1
    assert value(found, "mirror_store_bytes") == 1 << 40
    assert value(found, "mirror_degraded") == 1
    assert value(found, "mirror_feed_serial") == 99
    assert value(found, "mirror_access_log_dropped_total") == 4
    assert value(found, "mirror_build_info", version="1.2.3") == 1
    assert value(found, "process_resident_memory_bytes") > 0


def test_what_is_not_known_is_left_out_instead_of_being_zero() -> None:
    names = {name for name, _ in samples(Metrics(), Snapshot())}
    assert "mirror_transfers_in_progress" in names
    assert not names & {"mirror_store_bytes", "mirror_store_limit_bytes", "mirror_feed_serial", "mirror_files"}


def test_no_client_can_make_more_than_a_bounded_number_of_series() -> None:
    metrics = Metrics()
    for number in range(3000):
        metrics.count_response(f"r{number}", f"k{number}", f"o{number}", number, 1, 0.1)  # type: ignore[arg-type]
    metrics.count_response("r5000", "page", "hit", 200, 1, 0.1)
    found = samples(metrics)
    series = [labels for name, labels in found if name == "mirror_requests_total"]
    assert len(series) < 250
    assert sum(value for (name, _), value in found.items() if name == "mirror_requests_total") == 3001
    assert value(found, "mirror_requests_total", repository="other", kind="page", outcome="hit", status="2xx") == 1


def test_totals_add_up_by_outcome() -> None:
    assert counted().totals() == {"hit": Totals(5, 310), "miss": Totals(1, 5000), "": Totals(1, 2)}


def test_openmetrics_is_given_to_those_who_ask_for_it() -> None:
    text, content_type = counted().render(BUSY, "application/openmetrics-text;version=1.0.0,text/plain;q=0.5")
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    families = {family.name for family in parse_openmetrics(text.decode())}
    assert {"mirror_requests", "mirror_event_loop_lag_seconds"} <= families


def test_hostile_label_values_stay_inside_their_quotes() -> None:
    state = UpstreamState(repository="pypi", upstream='a"} 1\nmirror_forged 2\\', requests=1)
    found = samples(Metrics(), Snapshot(upstreams=(state,)))
    assert value(found, "mirror_upstream_requests_total", repository="pypi", upstream=state.upstream) == 1
    assert not any("forged" in name for name, _ in found)


async def test_a_loop_that_is_blocked_shows_as_lag() -> None:
    metrics = Metrics()
    sampling = asyncio.create_task(metrics.sample_loop_lag(0.001))
    await asyncio.sleep(0)
    time.sleep(0.06)  # noqa: ASYNC251 - the fault that is measured
    await asyncio.sleep(0.01)
    sampling.cancel()
    found = samples(metrics)
    late = value(found, "mirror_event_loop_lag_seconds_count") - value(
        found, "mirror_event_loop_lag_seconds_bucket", le="0.05"
    )
    assert late >= 1


async def test_rendering_in_a_thread_does_not_mind_that_counting_goes_on() -> None:
    metrics = counted()
    rendering = asyncio.gather(*(asyncio.to_thread(metrics.render, BUSY) for _ in range(5)))
    number = 0
    while not rendering.done():
        number += 1
        metrics.count_response(f"r{number}", "page", "hit", 200, 1, 0.1)
        await asyncio.sleep(0)
    assert all(b"mirror_requests_total" in text for text, _ in await rendering)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (Debian: prometheus) is not installed")
@pytest.mark.parametrize("snapshot", [BUSY, Snapshot()])
def test_promtool_has_nothing_to_say(snapshot: Snapshot) -> None:
    text, _ = counted().render(snapshot)
    said = subprocess.run(["promtool", "check", "metrics"], input=text, capture_output=True, timeout=60, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, b"", b"")


def test_the_dashboard_asks_only_for_what_is_exported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    names = set(re.findall(r"\b(?:mirror|process)_\w+", asked))
    exported = {name for name, _ in samples(counted())}
    assert names - exported == set()
    labels = set(re.findall(r"(\w+)!?=~?\"", asked)) - {"instance", "job"}  # these two are Prometheus' own
    assert labels <= {label for _, pairs in samples(counted()) for label, _ in pairs}


def test_the_dashboard_shows_everything_that_is_exported() -> None:
    shown = DASHBOARD.read_text()
    ours = {re.sub(r"_(bucket|count|sum)$", "", name) for name, _ in samples(counted()) if name.startswith("mirror_")}
    assert {name for name in ours if name not in shown} == set()
