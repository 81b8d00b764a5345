"""Promise 1: what the clients of several processes want at the same time is asked of upstream once."""

import asyncio
import hashlib
from collections.abc import Callable
from pathlib import Path

from tests.builders import wheel
from tests.nodes.cluster import burst, download, only_pypi
from tests.nodes.workers import FULL, clients_of_each, patient
from tests.serving import Client, spawned
from tests.simulator import Simulator
from tests.simulator.faults import Stall

WORKERS, CLIENTS, SIZE = (8, 200, 100_000_000) if FULL else (4, 24, 8_000_000)


@patient
async def test_promise_1_a_cold_file_is_one_request_upstream_for_the_clients_of_all_workers(
    simulator: Simulator, tmp_path: Path, report: Callable[[str], None]
) -> None:
    built = wheel("cold", "1.0", size=SIZE)
    simulator.publish(built)
    wanted = hashlib.sha256(built.content).hexdigest()
    path = f"packages/cold/{built.filename}"
    async with (
        spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror,
        clients_of_each(mirror, CLIENTS // WORKERS) as clients,
    ):
        for each in clients.values():
            await each[0].get("/simple/cold/")
        wanting = (download(mirror.url + path, client.session) for each in clients.values() for client in each)
        digests, latest, text = await burst(simulator, built.filename, wanting)
        report(text)
        assert digests == {wanted}
        assert latest < 2.0
        again = await asyncio.gather(*(download(mirror.url + path, each[0].session) for each in clients.values()))
        assert {one.digest for one in again} == {wanted}
        assert simulator.count("GET", f"*{built.filename}") == 1
        await check_small(simulator, clients)
        assert await mirror.end() == 0


async def check_small(simulator: Simulator, clients: dict[int, list[Client]]) -> None:
    """Check that a small file is one request upstream as well: no byte of it is passed on before all is there."""
    built = wheel("small", "1.0", size=10_000)
    simulator.publish(built)
    for each in clients.values():
        await each[0].get("/simple/small/")
    stalled = simulator.inject(f"*{built.filename}", Stall())
    asking = [
        asyncio.create_task(client.get(f"/packages/small/{built.filename}"))
        for each in clients.values()
        for client in each
    ]
    await simulator.until(lambda: simulator.count("GET", f"*{built.filename}") > 0)
    await asyncio.sleep(0.3)
    stalled.release()
    assert all(reply.body == built.content for reply in await asyncio.gather(*asking))
    assert simulator.count("GET", f"*{built.filename}") == 1


async def test_promise_1_a_burst_for_a_cold_or_stale_page_is_one_request_upstream(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("wanted", "1.0"))
    async with (
        spawned(
            tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}",
            pages={"fresh": "1s", "stale_while_revalidate": "0s", "recheck": "0s"},
        ) as mirror,
        clients_of_each(mirror, 5) as clients,
    ):  # fmt: skip
        for round in ("cold", "stale"):
            simulator.forget()
            stalled = simulator.inject("/simple/wanted/", Stall())
            asking = [
                asyncio.create_task(client.get("/simple/wanted/")) for each in clients.values() for client in each
            ]
            await simulator.until(lambda: simulator.count("GET", "/simple/wanted/") > 0)
            await asyncio.sleep(0.3)  # for the other workers to wait, which no one else can see
            stalled.release()
            got = await asyncio.gather(*asking)
            assert {reply.status for reply in got} == {200}, round
            assert len({reply.body for reply in got}) == 1
            assert simulator.count("GET", "/simple/wanted/") == 1, round
            simulator.heal()
            await asyncio.sleep(1.1)
