"""The jobs in the background: which there are, and that none of them stops silently."""

import asyncio
import logging
import sqlite3
import sys
from pathlib import Path

import pytest

from mirror.api import state as state_module
from mirror.catalog.coordination import Lease, Leases
from mirror.catalog.sqlite import SQLite
from mirror.config import Settings
from mirror.index.cache import SingleFlight
from mirror.runtime import EXIT_BROKEN
from mirror.service import jobs
from mirror.service.jobs import RETRY_SECONDS, BackgroundJob, Supervisor, mirror_jobs, process_jobs
from mirror.service.process import Service
from mirror.web import html
from tests.serving import repositories, serving
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
        ("report", 1, ""),
        ("event loop lag", None, ""),
        ("journal", None, ""),
        ("slow clients", 2, ""),
        ("certificate", 5, ""),
        ("rendered pages", 10, ""),
        ("heartbeat", 1, ""),
        ("pages for people", None, ""),
        ("watchdog", None, ""),
        ("policies", 300, ""),
        ("flush", 10, ""),
        ("missing pages", 60, "missing pages"),
        ("trim", 600, "trim"),
        ("sweep", 300, "sweep"),
        ("verify", 3600, "verify"),
        ("sync shop", 3600, "sync shop"),
        (follow, None, ""),
    ]
    assert all(job.purpose for job in jobs)
    assert running | {"watchdog"} == {job.name for job in jobs}, "one ends at once, without systemd"


async def test_the_template_engine_is_loaded_before_the_first_visitor_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "PREPARE_SECONDS", 0.0)
    html._environment.cache_clear()
    await jobs._prepare_pages()
    cache = html._environment().cache
    assert cache is not None
    assert {"start.html", "projects.html", "project.html"} <= {name for _, name in cache}


async def test_an_offline_mirror_has_no_job_that_asks_an_upstream(simulator: Simulator, tmp_path: Path) -> None:
    service = Service(settings_of(tmp_path, simulator, offline=True, **EVERYTHING))
    await service.start()
    try:
        running = set(service.generation.jobs.running)
    finally:
        await service.stop(politely=False)
    assert running == {"policies", "flush", "missing pages", "trim", "sweep", "verify"}


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


# Tasks that no one waits for


async def test_the_error_of_a_background_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def fail() -> None:
        raise ValueError("broken")

    flight: SingleFlight[str, None] = SingleFlight()
    flight.start("a page", fail)
    await flight.landed()
    await asyncio.sleep(0)
    assert caplog.messages == ["work on a page failed: broken"]
    with pytest.raises(ValueError, match="broken"):
        await flight.run("a page", fail)
    await asyncio.sleep(0)
    assert len(caplog.messages) == 1, "who waits for it gets the error"


async def test_the_end_of_the_writer_ends_the_process(tmp_path: Path) -> None:
    program = (
        "import asyncio, pathlib, sys\n"
        "from mirror.catalog.sqlite import SQLite\n"
        "async def main():\n"
        "    database = SQLite(pathlib.Path(sys.argv[1]))\n"
        "    await database.open()\n"
        "    if sys.argv[2] == 'close':\n"
        "        return await database.close()\n"
        "    database._worker.cancel()\n"
        "    await database.write(('DELETE FROM pages',))\n"
        "asyncio.run(main())\n"
    )
    for what, status in (("cancel", EXIT_BROKEN), ("close", 0)):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(tmp_path / "catalog"), what, stderr=asyncio.subprocess.PIPE
        )
        async with asyncio.timeout(30):
            _, errors = await process.communicate()
        assert process.returncode == status
        assert (b"the writer of the catalog has ended" in errors) == bool(status)


async def test_a_lease_is_renewed_again_after_a_failure(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    database = SQLite(tmp_path / "catalog")
    await database.open()
    leases, taken = Leases(database), asyncio.Event()
    failures = 1

    async def renew(lease: Lease, now: float, seconds: float) -> bool:
        nonlocal failures
        if failures:
            failures -= 1
            raise sqlite3.OperationalError("busy")
        taken.set()
        return True

    async with leases.held("it", lambda: 0.0, 0.03) as mine:
        assert mine
        leases.renew = renew  # type: ignore[method-assign]
        async with asyncio.timeout(10):
            await taken.wait()
        del leases.renew  # type: ignore[method-assign]
    await database.close()
    assert "could not renew the lease it; it is tried again" in caplog.messages


async def test_ready_means_that_the_catalog_takes_changes(
    simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state_module, "READY_SECONDS", 0.0)
    monkeypatch.setattr(state_module, "PROBE_SECONDS", 0.2)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        assert (await mirror.get("/ready")).status == 200
        leases = mirror.mirror.catalog.leases
        take = leases.take

        async def hang(name: str, now: float, seconds: float) -> bool:
            return await asyncio.get_running_loop().create_future()

        async def fail(name: str, now: float, seconds: float) -> bool:
            raise sqlite3.OperationalError("read-only")

        for broken in (hang, fail):
            monkeypatch.setattr(leases, "take", broken)
            assert (await mirror.get("/ready")).status == 503
        monkeypatch.setattr(leases, "take", take)
        assert (await mirror.get("/ready")).status == 200
