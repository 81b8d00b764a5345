"""Promise 6 with several nodes: the database away, silent, or behind a pooler, where readers ask it for changes."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from mirror.index import other_nodes
from tests.builders import gem, wheel
from tests.nodes.cluster import Nodes, cluster, only_pypi
from tests.nodes.commands import run_command
from tests.postgres import PostgresProxy, PostgresServer, running_pgbouncer
from tests.serving import Client, repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, upload

RECOVERED_SECONDS = 10
NOTICED_SECONDS = 9.0
"""In which a database that has fallen silent is noticed: 3 s until it is doubted, and 3 s until that is certain."""
KNOWN, NEW, OURS = wheel("known", "1.0"), wheel("new", "1.0"), wheel("ours", "1.0")


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(postgres) as running:
        yield running


async def prepared(nodes: Nodes) -> str:
    """A token, with an upload that all nodes show and a page that all of them have asked for."""
    token = await run_command(
        nodes[0].data_dir, "token", "create", "--name", "t", "--right", "upload", "--project", "*"
    )  # fmt: skip
    assert (await upload(nodes[0].process, token, OURS)).status == 200
    for node in nodes:
        assert OURS.filename in (await node.process.get("/simple/ours/")).text
        assert (await node.process.get("/simple/known/")).status == 200
        assert (await node.process.get(f"/packages/known/{KNOWN.filename}")).body == KNOWN.content
    return token


async def timed(client: Client, path: str, **headers: Any) -> tuple[int, float]:
    began = time.monotonic()
    reply = await client.get(path, **headers)
    return reply.status, time.monotonic() - began


async def recovered(nodes: Nodes, token: str, number: int) -> None:
    """Uploads succeed again within 10 s, and the other node shows them at once."""
    built = wheel("ours", f"2.{number}")
    async with asyncio.timeout(RECOVERED_SECONDS):
        while (await upload(nodes[0].process, token, built)).status != 200:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
        while (await nodes[1].process.get("/health")).text != "ok\n":  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    for node in nodes:
        assert built.filename in (await node.process.get("/simple/ours/")).text


async def test_promise_6_nodes_go_on_while_the_database_is_away_or_silent_and_recover_by_themselves(
    simulator: Simulator, tmp_path: Path, postgres: PostgresServer, proxy: PostgresProxy
) -> None:
    for built in (KNOWN, NEW):
        simulator.publish(built)
    catalog = proxy.url(postgres.fresh())
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=catalog) as nodes:
        token = await prepared(nodes)
        for number, way in enumerate(("cut", "silent")):
            if way == "cut":
                proxy.cut()
            else:
                proxy.silent = True
            for node in nodes:
                for path in ("/simple/ours/", "/simple/known/", f"/packages/known/{KNOWN.filename}"):
                    status, seconds = await timed(node.process, path)
                    assert (way, path, status) == (way, path, 200)
                    assert seconds < NOTICED_SECONDS
            async with asyncio.timeout(20):
                while not (await nodes[1].process.get("/health")).text.startswith("degraded"):  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            assert (await nodes[1].process.get("/ready")).status == 200
            # Once it is known, no one waits: neither for what is held nor for what streams through.
            for path in ("/simple/ours/", "/simple/known/", "/simple/new/", f"/packages/new/{NEW.filename}"):
                status, seconds = await timed(nodes[1].process, path)
                assert (path, status, seconds < 2.0) == (path, 200, True)
            for path in ("/simple/ours/", "/simple/known/"):
                assert (await nodes[1].process.get(path)).outcome == "stale"
            refused = await upload(nodes[1].process, token, wheel("ours", f"1.{number + 1}"))
            assert (refused.status, int(refused.headers["Retry-After"]) > 0) == (503, True)
            proxy.down = proxy.silent = False
            await recovered(nodes, token, number)
            assert (await nodes[1].process.get("/simple/known/")).outcome == "hit"


async def test_promise_6_what_other_nodes_may_have_changed_is_marked_as_stale_until_they_can_be_asked_again(
    simulator: Simulator,
    tmp_path: Path,
    postgres: PostgresServer,
    proxy: PostgresProxy,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(other_nodes, "TRUSTED_SECONDS", 0.0)  # where there are no uploads, this long is not asked
    simulator.publish(KNOWN)
    simulator.push(gem("rack", "1.0"))
    paths = ("simple/known/", "simple/", "versions", "names", "specs.4.8.gz", "info/rack", "pypi/known/json")
    database = {"url": proxy.url(postgres.fresh())}
    async with serving(tmp_path / "data", repositories(simulator), catalog=database) as mirror:
        for _ in range(2):
            before = {path: await mirror.get(path) for path in paths}
        assert {path: reply.outcome for path, reply in before.items()} == dict.fromkeys(paths, "hit")
        proxy.cut()
        for _ in range(2):  # the second one must not be the first one once more where that was right
            during = {path: await mirror.get(path) for path in paths}
            assert {path: reply.outcome for path, reply in during.items()} == dict.fromkeys(paths, "stale")
            assert [reply.body for reply in during.values()] == [reply.body for reply in before.values()]
        stale = 'mirror_requests_total{kind="page",outcome="stale",repository="pypi",status="2xx"} 4.0'
        assert stale in (await mirror.get("metrics")).text
        proxy.down = False
        async with asyncio.timeout(RECOVERED_SECONDS):
            while (await mirror.get("versions")).outcome == "stale":  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        after = {path: (await mirror.get(path)).outcome for path in paths}
        assert after == dict.fromkeys(paths, "hit")


async def test_promise_6_nodes_behind_a_pooler_in_transaction_mode_show_what_others_have_answered(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = postgres.fresh()
    with running_pgbouncer(postgres) as port:
        catalog = f"postgresql://postgres@127.0.0.1:{port}/{database}"
        async with cluster(tmp_path, {"pypi": {"format": "pypi", "upstreams": []}}, 2, catalog=catalog) as nodes:
            token = await run_command(
                nodes[0].data_dir, "token", "create", "--name", "t", "--right", "upload", "--project", "*"
            )  # fmt: skip
            for number in range(6):
                built = wheel("ours", f"1.{number}")
                assert (await upload(nodes[number % 2].process, token, built)).status == 200
                page = await nodes[1 - number % 2].process.get("/simple/ours/", Authorization=basic(token))
                assert built.filename in page.text
