"""Small files that workers bring in: what they are told, and what they hand back to the usual way."""

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from pathlib import Path

from yarl import URL

from mirror.airgap.sync.workers import Job, JobResult, WorkerConfig, WorkerPool, working
from mirror.blobs.local import LocalBlobs
from mirror.model import File
from mirror.pypi import FORMAT
from mirror.upstream import Credentials, Upstream, UpstreamOptions
from tests.builders import Built, sdist, wheel
from tests.simulator import Corrupt, Simulator


def order(root: str, built: Built) -> Job:
    """To bring in a file that the simulator has, from one of its hosts."""
    digest = built.sha256
    url = f"{root}packages/{digest[:2]}/{digest[2:4]}/{digest[4:]}/{built.filename}"
    size = len(built.content)
    return Job(
        "pypi",
        File(filename=built.filename, version="1.0", digests={"sha256": digest}, url=url, size=size, source="it"),
    )


def kit(simulator: Simulator, data: Path, auth: Credentials | None = None) -> WorkerConfig:
    """For workers that know the simulator."""
    upstream = Upstream("it", URL(simulator.url), UpstreamOptions(auth=auth))
    return WorkerConfig(formats={"pypi": FORMAT}, upstreams={"it": upstream}, blobs=LocalBlobs(data), connections=2)


def children_of(parent: int) -> Iterator[int]:
    """The processes that one has started."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # others come and go meanwhile
            if entry.joinpath("stat").read_text().rpartition(")")[2].split()[1] == str(parent):
                yield int(entry.name)


async def test_a_worker_stores_a_wheel_and_its_sidecar_and_leaves_the_rest_undone(
    simulator: Simulator, tmp_path: Path
) -> None:
    good, bad, unknown = wheel("six", "1.0"), sdist("six", "1.0"), sdist("six", "2.0")
    simulator.publish(good)
    simulator.publish(bad)
    simulator.inject(f"*{bad.filename}", Corrupt())
    async with working(WorkerPool(1), kit(simulator, tmp_path)) as (worker, _):
        brought = await worker.bring([order(simulator.url, one) for one in (good, bad, unknown)])
    assert [[(thing.filename, thing.kind) for thing in one] for one in brought] == [
        [(good.filename, "file"), (f"{good.filename}.metadata", "sidecar")], [], [],
    ]  # fmt: skip
    assert {path.name for path in tmp_path.glob("blobs/*/*")} == {thing.digest for thing in brought[0]}
    assert simulator.count("GET", "*.metadata") == 0


async def test_a_worker_shows_credentials_to_the_upstream_and_to_nobody_else(
    simulator: Simulator, tmp_path: Path
) -> None:
    near, far = sdist("six", "1.0"), sdist("six", "2.0")
    simulator.publish(near)
    simulator.publish(far)
    async with working(WorkerPool(1), kit(simulator, tmp_path, Credentials("ann", "secret"))) as (worker, _):
        brought = await worker.bring([order(simulator.url, near), order(simulator.other_url, far)])
    assert [len(one) for one in brought] == [1, 1]
    shown = {request.path.rpartition("/")[2]: "Authorization" in request.headers for request in simulator.requests}
    assert shown == {near.filename: True, far.filename: False}


async def test_orders_for_a_worker_that_is_gone_are_left_to_the_usual_way(simulator: Simulator, tmp_path: Path) -> None:
    six = sdist("six", "1.0")
    simulator.publish(six)
    async with working(WorkerPool(2), kit(simulator, tmp_path)) as (worker, *_):
        assert [len(one) for one in await worker.bring([order(simulator.url, six)])] == [1]
        for pid in children_of(os.getpid()):
            if b"mirror.airgap.sync.workers.worker" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.killpg(pid, signal.SIGKILL)
        assert await worker.bring([order(simulator.url, six)]) == [[]]


def hired(pipe: Connection, kit: WorkerConfig, orders: Sequence[Job]) -> None:
    """Be a process that makes its crew before anything else, and tells what that brought."""

    async def work(crew: WorkerPool) -> list[list[JobResult]]:
        async with working(crew, kit) as (worker, _):
            return await worker.bring(orders)

    with WorkerPool(1) as crew:
        children = [Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children_of(os.getpid())]
        pipe.send((children == [Path("/proc/self/cmdline").read_bytes()], asyncio.run(work(crew))))


async def test_a_crew_made_before_there_are_threads_is_a_fork_and_works_like_any_other(
    simulator: Simulator, tmp_path: Path
) -> None:
    six = sdist("six", "1.0")
    simulator.publish(six)
    ours, theirs = multiprocessing.Pipe()
    arguments = (theirs, kit(simulator, tmp_path), [order(simulator.url, six)])
    process = multiprocessing.get_context("spawn").Process(target=hired, args=arguments)
    process.start()
    forked, brought = await asyncio.to_thread(ours.recv)
    await asyncio.to_thread(process.join)
    assert process.exitcode == 0
    assert [[thing.filename for thing in one] for one in brought] == [[six.filename]]
    assert forked
