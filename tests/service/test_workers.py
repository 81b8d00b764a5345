"""`mirror serve --workers`: several processes answer like one, whatever happens to one of them."""

import asyncio
import hashlib
import os
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import aiohttp
import pytest

from tests.builders import Built, gem, wheel
from tests.contract.pypi import eventually
from tests.nodes.cluster import only_pypi
from tests.nodes.workers import client_of_each, workers_of
from tests.serving import Client, spawned
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form

WORKERS = 3


async def command(data_dir: Path, *words: str) -> str:
    """What a command says that is given the settings of `spawned`."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, "--config", str(data_dir.with_suffix(".toml")),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, _ = await process.communicate()
    assert process.returncode == 0
    return said.decode().strip()


async def token_of(data_dir: Path) -> str:
    return await command(
        data_dir, "token", "create", "--name", "t", "--right", "upload", "--right", "yank", "--project", "*"
    )


async def upload(client: Client, token: str, built: Built) -> int:
    data = form(fields_of(built).items(), built.filename, built.content)
    return (await client.ask("POST", "/legacy/", data, Authorization=basic(token))).status


async def test_what_one_worker_has_answered_the_others_show(simulator: Simulator, tmp_path: Path) -> None:
    async with (
        spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror,
        client_of_each(mirror) as clients,
    ):
        token = await token_of(tmp_path / "data")
        assert len(clients) == WORKERS
        missing = Counter[int]()
        each = list(clients.items())
        for number in range(30):
            built = wheel("ours", f"1.{number}")
            writer = each[number % WORKERS][0]
            assert await upload(clients[writer], token, built) == 200
            for pid, client in each:
                reply = await client.get("/simple/ours/")
                missing[pid] += built.filename not in reply.text
                projects = await client.get("/simple/")
                missing[pid] += "ours" not in projects.text
        assert not missing.total()
        assert await mirror.end() == 0


async def test_what_a_command_changes_every_worker_shows_with_its_next_answer(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with (
        spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror,
        client_of_each(mirror) as clients,
    ):
        built = wheel("ours", "1.0")
        (tmp_path / built.filename).write_bytes(built.content)
        for client in clients.values():
            assert (await client.get("/simple/ours/")).status == 404
        await command(tmp_path / "data", "add", str(tmp_path / built.filename))
        for client in clients.values():
            assert built.filename in (await client.get("/simple/ours/")).text


async def test_an_account_that_a_command_takes_away_is_refused_by_every_worker_at_once(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(wheel("known", "1.0"))
    closed = {"rules": [{"repositories": ["pypi"], "read": ["authenticated"]}]}
    data = tmp_path / "data"
    async with (
        spawned(data, only_pypi(simulator), "--workers", f"{WORKERS}", auth=closed) as mirror,
        client_of_each(mirror) as clients,
    ):
        token = basic(await command(data, "token", "create", "--name", "reader"))
        for client in [*clients.values()] * 2:
            assert (await client.get("/simple/known/", Authorization=token)).status == 200
        await command(data, "token", "revoke", "reader")
        for client in clients.values():
            assert (await client.get("/simple/known/", Authorization=token)).status == 401


async def test_a_worker_that_is_killed_is_back_within_a_second(simulator: Simulator, tmp_path: Path) -> None:
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror:
        before = workers_of(mirror)
        assert len(before) == WORKERS
        await asyncio.sleep(5.1)  # one that ends sooner is taken for one that cannot work
        for victim in before:
            os.kill(victim, signal.SIGKILL)
            killed = time.monotonic()

            async def is_back(victim: int = victim) -> bool:
                workers = workers_of(mirror)
                return victim not in workers and len(workers) == WORKERS

            await eventually(is_back)
            assert time.monotonic() - killed < 1
        async with client_of_each(mirror) as clients:
            assert len(clients) == WORKERS
        assert await mirror.end() == 0


@pytest.mark.parametrize("how", ["reload", "stop"])
async def test_no_request_is_lost_by_a_reload_nor_cut_off_by_stopping(
    simulator: Simulator, tmp_path: Path, how: str
) -> None:
    built = wheel("known", "1.0", size=300_000)
    simulator.publish(built)
    failures: list[object] = []
    answers = 0
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", "2") as mirror:
        stopping = asyncio.Event()

        async def ask() -> None:
            nonlocal answers
            while not stopping.is_set():
                async with aiohttp.ClientSession() as session:
                    for path in ("simple/known/", f"packages/known/{built.filename}") * 5:
                        try:
                            async with session.get(mirror.url + path) as response:
                                body = await response.read()
                        except aiohttp.ClientConnectorError:
                            if how == "stop":
                                return  # it accepts nothing more
                            raise
                        except aiohttp.ServerDisconnectedError as error:
                            if how == "stop":
                                return  # an idle connection was closed as the request came
                            failures.append(error)
                            continue
                        if response.status != 200 or (path.endswith(".whl") and body != built.content):
                            failures.append((response.status, path, len(body)))
                        answers += 1

        clients = [asyncio.create_task(ask()) for _ in range(8)]
        await asyncio.sleep(0.5)
        if how == "reload":
            for _ in range(2):
                before = workers_of(mirror)
                mirror.process.send_signal(signal.SIGHUP)

                async def are_replaced(before: list[int] = before) -> bool:
                    workers = workers_of(mirror)
                    return len(workers) == 2 and not {*before} & {*workers}

                await eventually(are_replaced)
        else:
            assert await mirror.end() == 0
        stopping.set()
        await asyncio.gather(*clients)
    assert answers
    assert not failures


async def test_no_worker_outlives_its_supervisor(simulator: Simulator, tmp_path: Path) -> None:
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{WORKERS}") as mirror:
        workers = workers_of(mirror)
        await mirror.end(signal.SIGKILL)

        async def are_gone() -> bool:
            return not any(Path(f"/proc/{pid}").exists() for pid in workers)

        await eventually(are_gone)
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:  # the data directory is free
        assert (await mirror.get("/health")).status == 200


async def test_a_worker_that_hangs_is_replaced(simulator: Simulator, tmp_path: Path) -> None:
    code = "import mirror.service.workers as w, mirror.cli; w.HUNG_SECONDS = 2.0; mirror.cli.main()"
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", "2", code=code) as mirror:
        hung, other = workers_of(mirror)
        os.kill(hung, signal.SIGSTOP)

        async def is_replaced() -> bool:
            workers = workers_of(mirror)
            return hung not in workers and len(workers) == 2

        await eventually(is_replaced)
        assert other in workers_of(mirror)


async def test_settings_that_cannot_be_used_end_the_start_and_change_nothing_later(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", "2") as mirror:
        before = workers_of(mirror)
        file = (tmp_path / "data").with_suffix(".toml")
        file.write_text(file.read_text() + "\nnonsense = 1\n")
        mirror.process.send_signal(signal.SIGHUP)

        async def is_said() -> bool:
            return b"the settings stay as they were" in (tmp_path / "data.log").read_bytes()

        await eventually(is_said)
        assert workers_of(mirror) == before
        assert (await mirror.get("/health")).status == 200
    second = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "serve", "--data-dir", str(tmp_path / "other"), "--workers", "many",
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    _, said = await second.communicate()
    assert second.returncode == 2
    assert b"workers: should be a number of processes" in said


async def test_the_gem_log_of_all_workers_is_one_byte_for_byte_after_each_answer(
    simulator: Simulator, tmp_path: Path
) -> None:
    settings = {"rubygems": {"format": "rubygems", "upstreams": []}}
    async with (
        spawned(tmp_path / "data", settings, "--workers", "2") as mirror,
        client_of_each(mirror) as clients,
    ):
        key = await token_of(tmp_path / "data")
        each = list(clients.values())
        assert len(each) == 2
        before = b""
        for number in range(30):
            name = f"ours{number % 3}"
            built = gem(name, f"1.{number}")
            reply = await each[number % 2].ask("POST", "/api/v1/gems", built.content, Authorization=key)
            assert reply.status == 200
            answers = {(await client.get("/versions")).body for client in each}
            assert len(answers) == 1
            (log,) = answers
            assert log.startswith(before)
            assert len(log.splitlines()) == number + 3, "a line for each push, none twice"
            assert log.splitlines()[-1].startswith(f"{name} 1.{number} ".encode())
            for client in each:
                page = await client.get(f"/info/{name}")
                assert log.splitlines()[-1].endswith(hashlib.md5(page.body, usedforsecurity=False).hexdigest().encode())
                assert name in (await client.get("/names")).text
            before = log
        pushes = (
            client.ask("POST", "/api/v1/gems", gem("both", f"{at}.{number}").content, Authorization=key)
            for number in range(5)
            for at, client in enumerate(each)
        )
        assert {reply.status for reply in await asyncio.gather(*pushes)} == {200}
        logs = {(await client.get("/versions")).body for client in each}
        assert len(logs) == 1
        (log,) = logs
        assert log.startswith(before)
        added = [item for line in log.splitlines() if line.startswith(b"both ") for item in line.split()[1].split(b",")]
        assert {item for item in added if not item.startswith(b"-")} >= {
            f"{at}.{number}".encode() for at in range(2) for number in range(5)
        }
