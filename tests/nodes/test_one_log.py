"""Promise 4: the gem index is one log, whichever process appends to it and whichever is asked."""

import asyncio
import hashlib
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.builders import gem
from tests.clients.ruby import Ruby, rubies
from tests.nodes.cluster import cluster
from tests.nodes.commands import run_command
from tests.nodes.gem_log import log_of_all, same_of_all
from tests.nodes.workers import ROUNDS, client_of_each, workers_of
from tests.serving import Client, Spawned, spawned, write_settings
from tests.simulator import Simulator
from tests.uploading import change_gem, push

SPECS = [f"/{kind}.4.8.gz" for kind in ("specs", "latest_specs", "prerelease_specs")]
RIGHTS = ("--right", "upload", "--right", "yank", "--project", "*")


def gems(*upstreams: str, **more: Any) -> dict[str, Any]:
    return {"rubygems": {"format": "rubygems", "upstreams": list(upstreams), **more}}


@asynccontextmanager
async def processes(
    set_up: str, request: pytest.FixtureRequest, directory: Path, repositories: dict[str, Any], count: int
) -> AsyncIterator[tuple[list[Client], Path]]:
    """A client for each of so many processes of one mirror, and the data directory of one."""
    async with AsyncExitStack() as stack:
        if set_up == "workers":
            running = spawned(directory / "data", repositories, "--workers", f"{count}")
            clients = await stack.enter_async_context(client_of_each(await stack.enter_async_context(running)))
            yield list(clients.values()), directory / "data"
        else:
            url = request.getfixturevalue("postgres_url")
            nodes = await stack.enter_async_context(cluster(directory, repositories, count, catalog=url))
            yield [node.process for node in nodes], nodes[0].data_dir


@pytest.mark.parametrize(("set_up", "count"), [("workers", 4), ("nodes", 2)])
async def test_promise_4_what_two_append_at_the_same_time_is_in_the_log_once(
    set_up: str, count: int, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    async with processes(set_up, request, tmp_path, gems(), count) as (clients, data_dir):
        token = await run_command(data_dir, "token", "create", "--name", "t", *RIGHTS)
        before = await log_of_all(clients)
        for number in range(len(ROUNDS)):
            pair = [clients[number % count], clients[(number + 1) % count]]
            names = ["both", "both"] if number % 2 else [f"first{number % 3}", f"second{number % 3}"]
            replies = await asyncio.gather(
                *(push(one, token, gem(names[at], f"1.{number}.{at}").content) for at, one in enumerate(pair))
            )
            assert [reply.status for reply in replies] == [200, 200]
            log = await log_of_all(clients)
            assert log.startswith(before)
            if number % 5 == 4:
                yanked = f"1.{number - number % 2 - 1}.0"
                assert (await change_gem(pair[0], token, "yank", "both", yanked)).status == 200
            before = await log_of_all(clients)
            for at, name in enumerate(names):
                page = await same_of_all(clients, f"/info/{name}")
                lines = [line for line in before.decode().splitlines() if line.startswith(f"{name} ")]
                assert lines[-1].endswith(hashlib.md5(page.body, usedforsecurity=False).hexdigest())
                items = [item for line in lines for item in line.split()[1].split(",")]
                assert items.count(f"1.{number}.{at}") == 1 + items.count(f"-1.{number}.{at}")
        for path in (*SPECS, "/names"):
            await same_of_all(clients, path)


@pytest.mark.parametrize("set_up", ["workers", "nodes"])
async def test_promise_1_upstream_is_asked_once_for_its_list_and_once_for_each_change(
    set_up: str, request: pytest.FixtureRequest, simulator: Simulator, tmp_path: Path
) -> None:
    simulator.push(gem("rack", "3.0"))
    async with processes(set_up, request, tmp_path, gems(simulator.url), 3) as (clients, _):
        await log_of_all(clients)
        assert simulator.count("GET", "/versions") == 1
        simulator.push(gem("rack", "3.1"))
        simulator.forget()
        await asyncio.sleep(2.1)  # below which no client can have upstream asked again
        began = time.monotonic()
        replies = await asyncio.gather(*(client.get("/versions", Cache_Control="no-cache") for client in clients * 3))
        assert all(b"rack 3.1 " in reply.body for reply in replies)
        later = int((time.monotonic() - began) / 2)  # on a busy machine some clients may ask after that time again
        assert 1 <= simulator.count("GET", "/versions") <= 1 + later
        assert b"rack 3.1 " in await log_of_all(clients)


async def test_promise_4_a_policy_that_changes_is_listed_once_by_workers_that_start_and_those_that_end(
    simulator: Simulator, tmp_path: Path
) -> None:
    for version in ("3.0", "3.1"):
        simulator.push(gem("rack", version))
    settings = gems(simulator.url)
    async with spawned(tmp_path / "data", settings, "--workers", "3") as mirror:
        async with client_of_each(mirror) as clients:
            before = await log_of_all(list(clients.values()))
        for denied, versions in (("3.1", ">=3.1"), ("3.0", "<3.1")):
            rule = {"name": "bad", "kind": "deny", "projects": ["rack"], "versions": versions, "reason": "broken"}
            write_settings(tmp_path / "data", settings, policy=[rule])
            workers = workers_of(mirror)
            mirror.process.send_signal(signal.SIGHUP)
            async with asyncio.timeout(60):
                while len(now := workers_of(mirror)) != 3 or {*now} & {*workers}:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            async with client_of_each(mirror) as clients:
                each = list(clients.values())
                page = await same_of_all(each, "/info/rack")
                assert f"\n{denied} ".encode() not in page.body
                log = await log_of_all(each)
                assert log.startswith(before)
                (line,) = log[len(before) :].splitlines()
                assert line.endswith(hashlib.md5(page.body, usedforsecurity=False).hexdigest().encode())
                assert f"-{denied}".encode() in line
                before = log


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_promise_4_bundler_and_gem_see_each_push_whichever_worker_they_reach(
    simulator: Simulator, tmp_path: Path, ruby: Ruby
) -> None:
    simulator.push(gem("rack", "3.0"))
    mirror: Spawned
    async with spawned(tmp_path / "data", gems(simulator.url), "--workers", "4") as mirror:
        token = await run_command(tmp_path / "data", "token", "create", "--name", "t", *RIGHTS)
        with ruby.home(mirror.url) as home:
            for number in range(4):
                built = gem("acme", f"1.{number}", dependencies={"rack": ">= 0"})
                (home.place / built.filename).write_bytes(built.content)
                said = await home.run(
                    "gem", "push", built.filename, "--host", mirror.url.rstrip("/"), GEM_HOST_API_KEY=token
                )
                assert "Successfully registered" in said
                await home.bundle("lock", "--update", gemfile='gem "acme"\n')
                assert f"acme (1.{number})" in home.locked()
            await home.bundle("install")
            assert "acme (1.3)" in await home.run("gem", "list", "--remote", "acme")
            await home.run("gem", "install", "acme", "--version", "1.2")
