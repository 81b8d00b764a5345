"""Promise 11: a follower becomes the home of the uploads of a mirror that is lost; what is lost is the lag."""

import asyncio
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.airgap.test_follow import EMPTY, caught_up, holds, listed, of
from tests.builders import gem, wheel
from tests.contract.pypi import eventually
from tests.nodes.cluster import Node, Nodes, cluster
from tests.nodes.commands import run_command
from tests.serving import serving, spawned, write_settings
from tests.uploading import basic, change_gem, make_token, push, upload

FILES = [wheel("acme", "1.0"), wheel("acme", "1.1"), wheel("other", "2.0")]
GEM = gem("acme", "3.0")


def command(data_dir: Path, repositories: Any, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
    file = write_settings(data_dir, repositories)
    return subprocess.run(
        [sys.executable, "-m", "mirror", *words, "--config", str(file)],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


async def test_promise_11_a_follower_becomes_the_home_of_uploads_with_a_new_feed_identity(tmp_path: Path) -> None:
    async with serving(tmp_path / "a", EMPTY) as a:
        table = of(a)
        async with serving(tmp_path / "b", table) as b:
            token = await make_token(a)
            for built in FILES:
                assert (await upload(a, token, built)).status == 200
            assert (await push(a, token, GEM.content)).status == 200
            at = f"/-/uploads/pypi/{FILES[0].filename}/yank"
            assert (await a.ask("POST", at, Authorization=basic(token))).status == 200
            await holds(b, *FILES, GEM)
            await caught_up(b, a)
            metrics = (await b.get("/metrics")).text
            assert f'mirror_follow_lag_seconds{{name="rubygems {a.url[7:-1]}"}} 0.0' in metrics
            url, before = a.url, await b.mirror.catalog.feed.position()
            info = await b.get("/info/acme")
    write_settings(tmp_path / "b", table)
    refused = command(tmp_path / "b", table, ["promote", f"{url}simple/"])
    assert (refused.returncode, "--project" in refused.stderr) == (2, True)
    async with serving(tmp_path / "b", table) as b:  # the other one is gone
        words = ["promote", url, "--project", "acme"]
        done = await asyncio.to_thread(command, tmp_path / "b", table, words)
        assert (done.returncode, "2 files of 1 projects" in done.stdout, "1 files of 1" in done.stdout) == (
            0,
            True,
            True,
        )
        position = await b.mirror.catalog.feed.position()
        assert position.id != before.id
        assert position.newest >= before.newest, "serials go on"
        token = await make_token(b)
        assert await listed(b) == {FILES[0].filename: True, FILES[1].filename: False}
        later = wheel("acme", "1.2")
        assert (await upload(b, token, later)).status == 200
        assert later.filename in await listed(b)
        for built in FILES[:2]:
            assert (await b.get(f"/packages/acme/{built.filename}")).body == built.content
        assert [row.upload.origin for row in await b.mirror.catalog.uploads.of_project("pypi", "other")] == []
        assert (await b.get("/info/acme")).body == info.body
        assert (await push(b, token, gem("acme", "3.1").content)).status == 200
        assert (await change_gem(b, token, "yank", "acme", "3.0")).status == 200
        assert (await b.get("/versions")).text.splitlines()[-1].startswith("acme -3.0 ")
        again = await asyncio.to_thread(command, tmp_path / "b", table, [*words[:2], "--project", "acm*"])
        assert "2 files of 1 projects" in again.stdout, "it can be repeated"
        await run_command(tmp_path / "b", "rebuild")
        assert set(await listed(b)) == {FILES[0].filename, FILES[1].filename, later.filename}


async def test_promise_11_nodes_that_follow_a_mirror_which_is_killed_become_the_home_of_its_uploads(
    postgres_url: str, tmp_path: Path
) -> None:
    words = ("token", "create", "--name", "t", "--right", "upload", "--project", "*")
    async with spawned(tmp_path / "home", EMPTY) as home:
        token = await run_command(tmp_path / "home", *words)
        async with cluster(tmp_path, of(home), 2, catalog=postgres_url) as nodes:
            for built in FILES[:2]:
                assert (await upload(home, token, built)).status == 200
            for node in nodes:

                async def has_all(node: Node = node) -> bool:
                    replies = [await node.process.get(f"/packages/acme/{built.filename}") for built in FILES[:2]]
                    return [reply.body for reply in replies] == [built.content for built in FILES[:2]]

                await eventually(has_all)
            before = await feeds(nodes)
            await home.end(signal.SIGKILL)
            said = await run_command(nodes[0].data_dir, "promote", home.url, "--project", "acme")
            assert "2 files of 1 projects" in said
            token, later = await run_command(nodes[0].data_dir, *words), wheel("acme", "1.2")
            assert (await upload(nodes[1].process, token, later)).status == 200
            for node in nodes:
                assert set(await listed(node.process)) == {built.filename for built in (*FILES[:2], later)}
            after = await feeds(nodes)
            assert (len(before), len(after), before & after) == (1, 1, set())


async def feeds(nodes: Nodes) -> set[str]:
    """The identities of the feed that nodes give: one, where they agree."""
    replies = [await node.process.get("/-/feed?since=newest") for node in nodes]
    return {reply.headers["X-Mirror-Feed"] for reply in replies}
