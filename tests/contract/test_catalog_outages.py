"""The catalog's database away: what was served goes on, misses stream through, and it recovers by itself."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders import Built, gem, wheel
from tests.postgres import PostgresProxy, PostgresServer
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form, make_token

RECOVERED_SECONDS = 10


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(postgres) as running:
        yield running


async def file_of(mirror: Serving, built: Built) -> tuple[int, bytes]:
    path = f"/gems/{built.filename}" if built.filename.endswith(".gem") else f"/packages/{built.name}/{built.filename}"
    reply = await mirror.get(path)
    return reply.status, reply.body


async def test_a_mirror_goes_on_while_the_database_is_away(
    simulator: Simulator, tmp_path: Path, postgres: PostgresServer, proxy: PostgresProxy
) -> None:
    seen, unseen = wheel("seen", "1.0"), wheel("unseen", "1.0")
    for one in (seen, unseen):
        simulator.publish(one)
    simulator.push(gem("seen", "1.0"))
    catalog = {"url": proxy.url(postgres.fresh())}
    ours = wheel("ours", "1.0")
    async with serving(tmp_path / "data", repositories(simulator), catalog=catalog) as mirror:
        token = await make_token(mirror)

        async def upload() -> tuple[int, str | None]:
            data = form(fields_of(ours).items(), ours.filename, ours.content)
            reply = await mirror.ask("POST", "/legacy/", data, Authorization=basic(token))
            return reply.status, reply.headers.get("Retry-After")

        page = await mirror.get("/simple/seen/")
        info = await mirror.get("/info/seen")
        versions = await mirror.get("/versions")
        assert await file_of(mirror, seen) == (200, seen.content)
        proxy.cut()
        # What was served goes on, from memory and from the disk.
        for path, before in (("/simple/seen/", page), ("/info/seen", info), ("/versions", versions)):
            again = await mirror.get(path)
            assert (again.status, again.body) == (200, before.body)
        simulator.forget()
        assert await file_of(mirror, seen) == (200, seen.content)
        assert simulator.requests == []
        # What was never asked for streams through.
        assert (await mirror.get("/simple/unseen/")).status == 200
        assert await file_of(mirror, unseen) == (200, unseen.content)
        status, retry_after = await upload()
        assert (status, int(retry_after or 0) > 0) == (503, True)
        ready, health = await mirror.get("/ready"), await mirror.get("/health")
        assert (ready.status, ready.text) == (200, "ready\n")
        metrics = await mirror.get("/metrics")
        assert (metrics.status, "mirror_degraded 1.0" in metrics.text) == (200, True)
        assert health.status == 200
        assert health.text.startswith("degraded: The catalog's database does not answer")

        proxy.down = False
        async with asyncio.timeout(RECOVERED_SECONDS):
            while (await upload())[0] != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert (await mirror.get("/health")).text == "ok\n"
        assert (await mirror.get("/simple/ours/")).status == 200
        assert await file_of(mirror, unseen) == (200, unseen.content)
        assert await file_of(mirror, ours) == (200, ours.content)
