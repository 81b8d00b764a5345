"""Promise 3: what one node has answered to a change, the next answer of every other one shows."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from tests.builders import Built, gem, wheel
from tests.clients import require_client
from tests.clients.python import environment
from tests.clients.ruby import Home, Ruby
from tests.nodes.cluster import Nodes, cluster, only_pypi
from tests.nodes.commands import run_command
from tests.nodes.workers import MANY, ROUNDS, client_of_each, patient
from tests.serving import Client, serving, spawned
from tests.simulator import Simulator
from tests.uploading import basic, push, upload

UPLOADS = range(5 * ROUNDS.start, 5 * ROUNDS.stop) if MANY else range(30)
"""The numbers of what is uploaded, round robin; 1,000 with NODES_ROUNDS=200."""
PROCESSES = 4 if MANY else 3
RIGHTS = ("--right", "upload", "--right", "yank", "--right", "admin", "--project", "*")
OURS: dict[str, Any] = {
    "pypi": {"format": "pypi", "upstreams": []},
    "rubygems": {"format": "rubygems", "upstreams": []},
}


class Publishing:
    """Uploads to any process of a mirror, by plain HTTP or by real clients."""

    def __init__(self, token: str, directory: Path, ruby: Home) -> None:
        self.counts = Counter[str]()
        """Uploads, by client."""
        self._token = token
        self._directory = directory
        self._ruby = ruby

    async def publish(self, client: Client, built: Built, really: bool = False) -> None:
        """Upload a wheel or gem, which has to succeed; `really` by `uv publish` or `gem push`."""
        is_gem = built.filename.endswith(".gem")
        if not really:
            send = push(client, self._token, built.content) if is_gem else upload(client, self._token, built)
            assert (await send).status == 200
            self.counts["plain HTTP"] += 1
        elif is_gem:
            (self._ruby.place / built.filename).write_bytes(built.content)
            host = client.url.rstrip("/")
            await self._ruby.run("gem", "push", built.filename, "--host", host, GEM_HOST_API_KEY=self._token)
            self.counts["gem push"] += 1
        else:
            path = self._directory / built.filename
            path.write_bytes(built.content)
            urls = ("--publish-url", f"{client.url}legacy/", "--check-url", f"{client.url}simple/")
            process = await asyncio.create_subprocess_exec(
                require_client("uv"), "publish", *urls, "--token", self._token, "--trusted-publishing", "never", path,
                env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
            )  # fmt: skip
            said, _ = await process.communicate()
            assert process.returncode == 0, said.decode()
            self.counts["uv publish"] += 1


@asynccontextmanager
async def publishing(data_dir: Path, url: str) -> AsyncIterator[tuple[Publishing, str]]:
    """Clients that upload to a mirror, with a token of theirs."""
    token = await run_command(data_dir, "token", "create", "--name", "t", *RIGHTS)
    with Ruby().home(url) as ruby:
        yield Publishing(token, data_dir.parent, ruby), token


async def upload_and_read_back(clients: Sequence[Client], publishing: Publishing, token: str) -> Counter[str]:
    """Upload round robin, read each back at once from all others, and count what they did not show."""
    missing = Counter[str]()

    async def read(client: Client, path: str, expected: str, what: str) -> None:
        reply = await client.get(path)
        missing[what] += reply.status != 200 or expected not in reply.text

    # A node's first upload to a repository waits some seconds for the others: all of these at the same time.
    first = [publishing.publish(client, wheel("first", f"1.{number}")) for number, client in enumerate(clients)]
    first += [publishing.publish(client, gem("first", f"1.{number}")) for number, client in enumerate(clients)]
    await asyncio.gather(*first)
    for number in UPLOADS:
        writer = clients[number % len(clients)]
        others = [client for client in clients if client is not writer]
        project = f"ours{number // 5}"
        really = number % 5 in (3, 4) and (MANY or number < 5)
        if number % 5 == 4:
            await publishing.publish(writer, gem(project, f"1.{number}"), really)
            await asyncio.gather(
                *(read(client, f"/info/{project}", f"1.{number} ", "info") for client in others),
                *(read(client, "/versions", f"{project} 1.{number} ", "versions") for client in others),
            )
            logs = await asyncio.gather(*(client.get("/versions") for client in clients))
            missing["one log"] += len({log.body for log in logs}) != 1
            continue
        built = wheel(project, f"1.{number}")
        await publishing.publish(writer, built, really)
        await asyncio.gather(
            *(read(client, f"/simple/{project}/", built.filename, "page") for client in others),
            *(read(client, "/simple/", f">{project}<", "list") for client in others),
        )
        at = f"/-/uploads/pypi/{built.filename}"
        if number % 5 == 1:
            assert (await writer.ask("POST", f"{at}/yank", Authorization=basic(token))).status == 200
            await asyncio.gather(*(read(one, f"/simple/{project}/", "data-yanked", "yank") for one in others))
        if number % 5 == 2:
            assert (await others[0].ask("DELETE", at, Authorization=basic(token))).status == 200
            pages = await asyncio.gather(*(client.get(f"/simple/{project}/") for client in clients))
            missing["delete"] += any(built.filename in page.text for page in pages)
    return missing


@patient
async def test_promise_3_nothing_is_missing_that_another_worker_has_just_answered(
    tmp_path: Path, report: Callable[[str], None]
) -> None:
    words = ("--workers", f"{PROCESSES}")
    async with spawned(tmp_path / "data", OURS, *words) as mirror, client_of_each(mirror) as clients:
        async with publishing(tmp_path / "data", mirror.url) as (ours, token):
            missing = await upload_and_read_back([*clients.values()], ours, token)
        report(f"{dict(ours.counts)} uploads, not shown: {missing.total()}")
        assert not missing.total()


@patient
async def test_promise_3_nothing_is_missing_that_another_node_has_just_answered(
    postgres_url: str, tmp_path: Path, report: Callable[[str], None]
) -> None:
    async with cluster(tmp_path, OURS, PROCESSES, catalog=postgres_url) as nodes:
        async with publishing(nodes[0].data_dir, nodes[0].url) as (ours, token):
            missing = await upload_and_read_back([node.process for node in nodes], ours, token)
        report(f"{dict(ours.counts)} uploads, not shown: {missing.total()}")
        assert not missing.total()


async def test_promise_3_a_token_is_known_and_refused_by_every_node_at_once(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    simulator.publish(wheel("known", "1.0"))
    closed = {"rules": [{"repositories": ["pypi"], "read": ["authenticated"]}]}
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url, auth=closed) as nodes:
        for number in range(3):
            login = basic(await run_command(nodes[0].data_dir, "token", "create", "--name", f"t{number}"))
            assert await statuses(nodes, login) == [200, 200]
            assert await statuses(nodes, login) == [200, 200]
            await run_command(nodes[number % 2].data_dir, "token", "revoke", f"t{number}")
            assert await statuses(nodes, login) == [401, 401]


async def statuses(nodes: Nodes, login: str) -> list[int]:
    replies = await asyncio.gather(*(node.process.get("/simple/known/", Authorization=login) for node in nodes))
    return [reply.status for reply in replies]


async def test_promise_3_two_nodes_that_change_one_project_at_the_same_time_lose_nothing(
    postgres_url: str, tmp_path: Path
) -> None:
    async with cluster(tmp_path, {"pypi": OURS["pypi"]}, 2, catalog=postgres_url) as nodes:
        token = await run_command(nodes[0].data_dir, "token", "create", "--name", "t", *RIGHTS)
        for round in range(3):
            built = [wheel("both", f"{round}.{number}") for number in range(8)]
            replies = await asyncio.gather(
                *(upload(nodes[number % 2].process, token, one) for number, one in enumerate(built))
            )
            assert [reply.status for reply in replies] == [200] * 8
            for node in nodes:
                page = (await node.process.get("/simple/both/")).text
                assert all(one.filename in page for one in built)
            # The same name with other content: one of both is refused, and all nodes have the other one.
            rivals = [wheel("rival", f"{round}.0", summary=word) for word in ("one", "two")]
            answers = await asyncio.gather(
                *(upload(node.process, token, one) for node, one in zip(nodes, rivals, strict=True))
            )
            assert sorted(reply.status for reply in answers) in ([200, 400], [200, 409])
            kept = rivals[[reply.status for reply in answers].index(200)]
            for node in nodes:
                assert (await node.process.get(f"/packages/rival/{kept.filename}")).body == kept.content


async def test_promise_3_a_name_that_is_released_is_seen_by_every_node_at_once(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    simulator.publish(wheel("taken", "9.0"))
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url) as nodes:
        token = await run_command(nodes[0].data_dir, "token", "create", "--name", "t", *RIGHTS)
        built = wheel("taken", "1.0")
        assert (await upload(nodes[0].process, token, built)).status == 200
        page = await nodes[1].process.get("/simple/taken/")
        assert (built.filename in page.text, "9.0" in page.text) == (True, False)
        reply = await nodes[1].process.ask("DELETE", f"/-/uploads/pypi/{built.filename}", Authorization=basic(token))
        assert reply.status == 200
        assert (await nodes[0].process.get("/simple/taken/")).status == 404
        await run_command(nodes[1].data_dir, "release", "taken")
        for node in nodes:
            assert "9.0" in (await node.process.get("/simple/taken/")).text


async def test_promise_3_a_page_is_stored_before_it_is_answered_where_other_nodes_may_fetch_it_too(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    simulator.publish(wheel("acme", "1.0"))
    async with serving(tmp_path / "data", only_pypi(simulator), catalog={"url": postgres_url}) as mirror:
        assert (await mirror.get("/simple/acme/")).outcome == "miss"
        # What is written late would replace what another node has fetched meanwhile.
        assert not mirror.mirror.cached_upstreams["pypi"][0].pages.store.arriving
