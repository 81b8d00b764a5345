"""Promise 9: nodes are restarted and upgraded one after the other, and no request fails."""

import asyncio
import hashlib
import os
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests import objects
from tests.builders import wheel
from tests.nodes.cluster import cluster, only_pypi
from tests.nodes.compose import Composition, composition, publish_upstream
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form

SECONDS = float(os.environ.get("TEST_ROLL_SECONDS", "0"))
"""How long nodes are restarted, each once at least: a minute on demand."""
CLIENTS = 32

NEXT_VERSION = """
import mirror.catalog.migration as migration, mirror.catalog.postgres.schema as schema, mirror.cli
known = migration.migrations()
text = "ALTER TABLE pages ADD COLUMN later TEXT; CREATE TABLE later (name TEXT PRIMARY KEY);"
schema.migrations = lambda: [*known, migration.Migration(9999, "9999_later.sql", text)]
schema.BEGIN = schema.BEGIN.replace("lock_timeout = '5s'", "lock_timeout = '1s'")
mirror.cli.main()
"""
"""The command as a next version would have it: its migration adds a column and a table, and is not as patient."""


class Clients:
    """Clients of nginx that ask for everything there is, again and again."""

    def __init__(self, composition: Composition, session: aiohttp.ClientSession, token: str) -> None:
        self._url = composition.url
        self._session = session
        self._token = token
        self.requests = 0
        self.uploads = 0
        self.ended = False

    async def work(self, number: int) -> None:
        """Send one request after the other; an assertion fails for an answer that is none."""
        wanted: list[Callable[[], Awaitable[None]]] = [self._page, self._file, self._info, self._versions, self._file]
        chosen = random.Random(number)
        while not self.ended:
            await asyncio.sleep(0.2)  # as somebody who does something with it
            await (self._upload() if number == 0 else chosen.choice(wanted)())
            self.requests += 1

    async def _get(self, path: str, **headers: str) -> bytes:
        async with self._session.get(self._url + path, headers=headers) as response:
            body = await response.read()
            assert response.status in (200, 206), f"{path}: {response.status} {body[:200]!r}"
            return body

    async def _page(self) -> None:
        assert b"part0-1.0" in await self._get("simple/part0/")

    async def _file(self) -> None:
        built = wheel("part0", "1.0", size=200_000)
        body = await self._get(f"packages/part0/{built.filename}")
        assert hashlib.sha256(body).hexdigest() == built.sha256

    async def _info(self) -> None:
        assert b"1.0" in await self._get("info/part0")

    async def _versions(self) -> None:
        assert b"part0 1.0" in await self._get("versions", Range="bytes=0-")

    async def _upload(self) -> None:
        built = wheel("rolled", f"1.{self.uploads}")
        data = form(fields_of(built).items(), built.filename, built.content)
        headers = {"Authorization": basic(self._token)}
        async with self._session.post(f"{self._url}legacy/", data=data, headers=headers) as response:
            assert response.status == 200, await response.text()
        self.uploads += 1
        assert built.filename.encode() in await self._get("simple/rolled/")


async def test_promise_9_no_request_fails_while_four_nodes_are_restarted_one_after_the_other(
    tmp_path: Path, simulator: Simulator, postgres_url: str, report: Callable[[str], None]
) -> None:
    publish_upstream(simulator)
    async with composition(tmp_path, simulator, postgres_url, objects.table("s3"), count=4) as running:
        token = (await running.command("token", "create", "--right", "upload")).split()[-1]
        async with aiohttp.ClientSession() as session:
            clients = Clients(running, session, token)
            working = asyncio.gather(*(clients.work(number) for number in range(CLIENTS)))
            restarts = await running.restart_in_turn(SECONDS)
            clients.ended = True
            await working
        assert running.failures() == []
        report(f"{restarts} restarts of 4 nodes, {clients.requests} requests and {clients.uploads} uploads")


async def test_promise_9_a_node_of_the_next_version_migrates_beside_one_of_this_version(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    publish_upstream(simulator)
    async with cluster(tmp_path, only_pypi(simulator), 2, catalog=postgres_url) as nodes:
        assert (await nodes[0].process.get("/simple/part0/")).status == 200
        await nodes[1].end()
        await nodes[1].start(code=NEXT_VERSION)
        for number in range(1, 4):
            for node in nodes:
                assert (await node.process.get(f"/simple/part{number}/")).status == 200
                path = f"/packages/part{number}/{wheel(f'part{number}', '1.0').filename}"
                assert (await node.process.get(path)).status == 200
        assert await nodes[0].end() == 0
        with pytest.raises(AssertionError, match="a newer version of the mirror has made this catalog"):
            await nodes[0].start()


async def test_promise_9_a_migration_does_not_wait_for_ever_behind_another_node(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    """The lock that one migration takes is asked for with a time limit: the node that has to wait says so and ends."""
    import asyncpg

    from mirror.catalog.postgres.schema import ONLY_WRITER

    async with cluster(tmp_path, only_pypi(simulator), 1, catalog=postgres_url) as nodes:
        await nodes[0].end()
        blocker = await asyncpg.connect(postgres_url)
        try:
            await blocker.execute(f"BEGIN; SELECT {ONLY_WRITER}")
            began = time.monotonic()
            with pytest.raises(AssertionError, match="is being changed by another node for too long"):
                await nodes[0].start(code=NEXT_VERSION)
            assert time.monotonic() - began < 15
        finally:
            await blocker.close()
        await nodes[0].start(code=NEXT_VERSION)
        assert (await nodes[0].process.get("/health")).status == 200
