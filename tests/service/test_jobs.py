"""The jobs in the background: which there are, and that none of them stops silently."""

import asyncio
import logging
from pathlib import Path

import pytest

from mirror.config import Settings
from mirror.service.jobs import RETRY_SECONDS, BackgroundJob, Supervisor, mirror_jobs, process_jobs
from mirror.service.process import Service
from tests.serving import repositories
from tests.simulator import Simulator

EVERYTHING = {
    "feed": {"keep": "1d"},
    "store": {"limit": "1GB", "verify_rate": "1MB", "sweep_every": "5m"},
    "sync": [{"name": "shop", "names": ["six"], "every": "1h"}],
}


def settings_of(directory: Path, simulator: Simulator, **changes: object) -> Settings:
    tables = repositories(simulator)
    tables["pypi"]["upstreams"] = [{"url": simulator.simple_url, "follow": True}]
    table = {"listen": ["127.0.0.1:0"], "data_dir": str(directory / "data"), "log": {"access": False}}
    return Settings.model_validate({**table, "repositories": tables, "limits": {"shutdown_grace": 1}, **changes})


async def test_these_are_all_the_jobs(simulator: Simulator, tmp_path: Path) -> None:
    service = Service(settings_of(tmp_path, simulator, **EVERYTHING))
    await service.start()
    try:
        jobs = [*process_jobs(service), *mirror_jobs(service.mirror, service.store, service.urls)]
        running = {*service.jobs.running, *service.generation.jobs.running}
    finally:
        await service.stop(politely=False)
    follow = next(job.name for job in jobs if job.name.startswith("follow "))
    assert [(job.name, job.every, job.lease) for job in jobs] == [
        ("statistics", 30, ""),
        ("event loop lag", None, ""),
        ("journal", None, ""),
        ("slow clients", 2, ""),
        ("certificate", 5, ""),
        ("heartbeat", 1, ""),
        ("watchdog", None, ""),
        ("policies", 300, ""),
        ("flush", 10, ""),
        ("trim", 600, ""),
        ("sweep", 300, "sweep"),
        ("verify", 3600, "verify"),
        ("sync shop", 3600, "sync shop"),
        (follow, None, ""),
    ]
    assert all(job.purpose for job in jobs)
    assert running | {"watchdog"} == {job.name for job in jobs}, "one ends at once, without systemd"


async def test_an_offline_mirror_has_no_job_that_asks_an_upstream(simulator: Simulator, tmp_path: Path) -> None:
    service = Service(settings_of(tmp_path, simulator, offline=True, **EVERYTHING))
    await service.start()
    try:
        running = set(service.generation.jobs.running)
    finally:
        await service.stop(politely=False)
    assert running == {"policies", "flush", "trim", "sweep", "verify"}


async def test_a_job_that_fails_is_logged_and_starts_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pauses: list[float] = []
    sleep = asyncio.sleep

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        await sleep(0)

    monkeypatch.setattr("mirror.service.jobs.asyncio.sleep", pause)
    results = iter([OSError("no room"), RuntimeError("a defect"), asyncio.CancelledError(), False, None])
    done = asyncio.Event()

    async def work() -> bool | None:
        match next(results, "over"):
            case BaseException() as error:
                raise error
            case "over":
                done.set()
                await asyncio.Event().wait()
            case False:
                return False
        return None

    supervisor = Supervisor()
    with caplog.at_level(logging.WARNING, "mirror.service.jobs"):
        supervisor.start([BackgroundJob("tidy", "keep things tidy", work, every=1000)])
        await asyncio.wait_for(done.wait(), 10)
    assert supervisor.running == ("tidy",)
    assert pauses == [RETRY_SECONDS] * 4 + [1000]
    assert "tidy: failed, and is tried again in 60 s: no room" in caplog.text
    assert "RuntimeError: a defect" in caplog.text
    assert "tidy: what it waited for was cancelled" in caplog.text
    await supervisor.stop()
    assert supervisor.running == ()
