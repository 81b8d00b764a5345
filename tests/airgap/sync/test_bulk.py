"""Small files that workers fetch: what they store, and what they leave to the ordinary way."""

import asyncio
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

import msgspec

from mirror.airgap.sync.workers import Job, JobResult, WorkerConfig, WorkerPool, WorkerUpstream, working
from mirror.model import File
from mirror.service import scheduled_sync
from tests.builders import Built, sdist, wheel
from tests.serving import serving
from tests.simulator import Corrupt, Simulator


def job(root: str, built: Built) -> Job:
    """Return the job to fetch a file that the simulator has, from one of its hosts."""
    digest = built.sha256
    url = f"{root}packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{built.filename}"
    size = len(built.content)
    return Job(
        "pypi",
        File(filename=built.filename, version="1.0", digests={"sha256": digest}, url=url, size=size, source="it"),
    )


def config(simulator: Simulator, data: Path, authorization: str | None = None) -> WorkerConfig:
    """Return a configuration whose only upstream is the simulator."""
    upstream = WorkerUpstream(
        url=simulator.url, authorization=authorization, user_agent="tests", ca_file=None,
        connect_timeout=30, read_timeout=30,
    )  # fmt: skip
    return WorkerConfig(
        formats={"pypi": "mirror.pypi:FORMAT"}, upstreams={"it": upstream},
        blob_store="mirror.blobs.local:LocalBlobs", data_dir=str(data), connections=2,
    )  # fmt: skip


def children_of(parent: int) -> Iterator[int]:
    """Yield the ids of the processes that a process has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # others come and go meanwhile
            if entry.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                yield int(entry.name)


def test_a_worker_starts_without_settings_and_lock_files() -> None:
    code = "import sys, mirror.airgap.sync.workers.worker; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert {"pydantic", "packaging", "sqlite3", "mirror.config"} & set(result.stdout.split()) == set()


async def test_a_worker_stores_a_wheel_and_its_sidecar_and_leaves_the_rest_undone(
    simulator: Simulator, tmp_path: Path
) -> None:
    good, bad, unknown = wheel("six", "1.0"), sdist("six", "1.0"), sdist("six", "2.0")
    simulator.publish(good)
    simulator.publish(bad)
    simulator.inject(f"*{bad.filename}", Corrupt())
    async with working(WorkerPool(1), config(simulator, tmp_path)) as (worker, _):
        results = await worker.run([job(simulator.url, one) for one in (good, bad, unknown)])
    assert [[(result.filename, result.kind) for result in one] for one in results] == [
        [(good.filename, "file"), (f"{good.filename}.metadata", "sidecar")], [], [],
    ]  # fmt: skip
    assert {path.name for path in tmp_path.glob("blobs/*/*")} == {result.digest for result in results[0]}
    assert simulator.count("GET", "*.metadata") == 0


async def test_a_worker_shows_credentials_to_the_upstream_and_to_no_other(simulator: Simulator, tmp_path: Path) -> None:
    near, far = sdist("six", "1.0"), sdist("six", "2.0")
    simulator.publish(near)
    simulator.publish(far)
    async with working(WorkerPool(1), config(simulator, tmp_path, "Basic c2VjcmV0")) as (worker, _):
        results = await worker.run([job(simulator.url, near), job(simulator.other_url, far)])
    assert [len(one) for one in results] == [1, 1]
    shown = {request.path.rpartition("/")[2]: "Authorization" in request.headers for request in simulator.requests}
    assert shown == {near.filename: True, far.filename: False}


async def test_jobs_for_a_worker_that_is_gone_are_left_to_the_mirror(simulator: Simulator, tmp_path: Path) -> None:
    six = sdist("six", "1.0")
    simulator.publish(six)
    async with working(WorkerPool(2), config(simulator, tmp_path)) as (worker, *_):
        assert [len(one) for one in await worker.run([job(simulator.url, six)])] == [1]
        for pid in children_of(os.getpid()):
            if b"mirror.airgap.sync.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.killpg(pid, signal.SIGKILL)
        assert await worker.run([job(simulator.url, six)]) == [[]]


def forking(pipe: Connection, config: WorkerConfig, jobs: Sequence[Job]) -> None:
    """Start workers before anything else, as a command does, and report the results."""

    async def work(pool: WorkerPool) -> list[list[JobResult]]:
        async with working(pool, config) as (worker, _):
            return await worker.run(jobs)

    with WorkerPool(1) as pool:
        children = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(os.getpid())]
        pipe.send((children == [Path("/proc/self/cmdline").read_bytes()], asyncio.run(work(pool))))


async def test_workers_started_before_there_are_threads_are_forked_and_work_like_any_other(
    simulator: Simulator, tmp_path: Path
) -> None:
    six = sdist("six", "1.0")
    simulator.publish(six)
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, config(simulator, tmp_path), [job(simulator.url, six)])
    process = multiprocessing.get_context("spawn").Process(target=forking, args=arguments)
    process.start()
    forked, results = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    assert [[result.filename for result in one] for one in results] == [[six.filename]]
    assert forked


async def test_workers_know_each_upstream_that_needs_no_proxy(simulator: Simulator, tmp_path: Path) -> None:
    index = {"url": simulator.simple_url, "username": "ann", "password": "secret"}
    proxied = {"url": "http://index.example/simple/", "proxy": "http://proxy.example:3128"}
    both = {"pypi": {"format": "pypi", "upstreams": [index, proxied]}}
    async with serving(tmp_path / "data", both, network={"read_timeout": 7}) as mirror:
        config = scheduled_sync.worker_config(mirror.mirror)
    assert list(config.upstreams) == [simulator.simple_url]
    upstream = config.upstreams[simulator.simple_url]
    assert upstream.read_timeout == 7
    assert upstream.authorization == "Basic YW5uOnNlY3JldA=="
    assert "YW5u" not in repr(upstream)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(config), type=WorkerConfig) == config, "plain values"
