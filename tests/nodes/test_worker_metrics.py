"""One `/metrics` and one status for all workers of a machine, whoever answers; and what systemd is told of them."""

import asyncio
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from mirror.telemetry.metrics import Counts, Snapshot, UpstreamState
from mirror.telemetry.worker_reports import REPORT_BYTES, ReportMemory, WorkerReports, together
from tests.builders import wheel
from tests.nodes.cluster import only_pypi
from tests.nodes.workers import client_of_each, workers_of
from tests.serving import Client, spawned
from tests.simulator import Simulator

WORKERS = 3


def sums(text: str) -> dict[str, float]:
    """The sum of the samples of each name."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0.0) + sample.value
    return found


async def pages_counted(client: Client) -> float:
    text = (await client.get("/metrics")).text
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "mirror_requests_total" and sample.labels["kind"] == "page"
    )


async def hits_of(client: Client) -> int:
    hits = (await client.get("/-/status")).json()["hits"]
    return int(sum(hits.values()))


async def settles(read: Callable[[], Awaitable[list[float]]], value: float) -> None:
    """Wait until all values are this one; what others have counted is known a second later."""
    async with asyncio.timeout(20):
        while set(found := await read()) != {value}:
            assert all(one <= value for one in found), "nothing is counted twice"
            await asyncio.sleep(0.1)


async def test_any_worker_reports_what_all_have_counted_also_those_that_were_killed_or_replaced(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("known", "1.0"))
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror:
        async with client_of_each(mirror) as clients:
            each = list(clients.values())
            for number, client in enumerate(each):
                for _ in range(10 + number):
                    assert (await client.get("/simple/known/")).status == 200
            asked = 10 * WORKERS + 3

            async def counted() -> list[float]:
                return [await pages_counted(client) for client in each]

            async def hits() -> list[float]:
                return [await hits_of(client) for client in each]

            await settles(counted, asked)
            await settles(hits, asked)
            report = sums((await each[0].get("/metrics")).text)
            assert report["process_resident_memory_bytes"] > 50e6, "that of all workers"
            assert report["mirror_client_connections"] >= WORKERS
            assert (await each[0].get("/-/status")).json()["workers"] == WORKERS
            victim = next(iter(clients))
            os.kill(victim, signal.SIGKILL)
        async with asyncio.timeout(20):
            while victim in workers_of(mirror) or len(workers_of(mirror)) < WORKERS:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with client_of_each(mirror) as clients:
            each = list(clients.values())
            await settles(counted, asked)
            await settles(hits, asked)
            before = workers_of(mirror)
            os.kill(mirror.pid, signal.SIGHUP)
        async with asyncio.timeout(30):
            while set(before) & set(workers_of(mirror)):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        async with client_of_each(mirror) as clients:
            each = list(clients.values())
            await settles(counted, asked)
            await settles(hits, asked)


def test_counts_go_on_from_the_worker_before_and_states_do_not() -> None:
    memory = ReportMemory(2)
    up = UpstreamState(repository="pypi", upstream="up", requests=5, errors={"timeout": 1}, breaker="open")
    counts = Counts(series=[("pypi", "page", "hit", 2, 3, 100)], evicted=(1, 10))
    WorkerReports(memory, 0).publish(counts, Snapshot(transfers=4, upstreams=(up,)), {"requests.hit": 2})
    after, beside = WorkerReports(memory, 0), WorkerReports(memory, 1)
    assert after.inherited is not None
    assert (after.inherited.counts, after.inherited.unrecorded) == (counts, {"requests.hit": 2})
    fresh = Snapshot(transfers=1, upstreams=(UpstreamState(repository="pypi", upstream="up", requests=1),))
    (own,) = after.with_inherited(fresh).upstreams
    assert (own.requests, own.errors, own.breaker) == (6, {"timeout": 1}, "closed")
    assert after.with_inherited(fresh).transfers == 1
    whole = together(fresh, beside.others())
    assert (whole.transfers, whole.upstreams[0].breaker, whole.upstreams[0].requests) == (5, "open", 6)
    assert beside.inherited is None


def test_a_report_that_has_no_room_leaves_the_one_before(caplog: pytest.LogCaptureFixture) -> None:
    memory = ReportMemory(1)
    WorkerReports(memory, 0).publish(Counts(), Snapshot(), {"requests.hit": 1})
    many = {f"requests.{number}": number for number in range(REPORT_BYTES // 10)}
    WorkerReports(memory, 0).publish(Counts(), Snapshot(), many)
    assert "too many" in caplog.text
    report = memory.read(0)
    assert report is not None
    assert report.unrecorded == {"requests.hit": 1}


async def test_systemd_is_told_when_all_workers_answer_and_when_they_are_replaced_and_stopped(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(30)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        heard: list[str] = []

        async def hear(state: str) -> list[str]:
            while True:
                said = (await asyncio.to_thread(manager.recv, 4096)).decode().split("\n")
                heard.append(said[0])
                if said[0] == state:
                    return said

        async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", "2") as mirror:
            ready = await hear("READY=1")
            assert "2 workers" in ready[1]
            assert len(workers_of(mirror)) == 2
            await hear("WATCHDOG=1")
            os.kill(mirror.pid, signal.SIGHUP)
            reloading = await hear("RELOADING=1")
            assert reloading[1].startswith("MONOTONIC_USEC=")
            assert "2 workers" in (await hear("READY=1"))[1]
            mirror.process.send_signal(signal.SIGTERM)
            await hear("STOPPING=1")
            assert await mirror.process.wait() == 0
        assert heard.count("READY=1") == 2, "only the supervisor speaks"
