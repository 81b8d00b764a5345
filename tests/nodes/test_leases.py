"""Promise 5: work that is done once is done under leases, by the clock of the database."""

import asyncio
import json
import signal
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from mirror.catalog import Catalog
from mirror.model import Event
from mirror.policy import records
from mirror.policy.osv import OsvIndex
from mirror.service import following
from tests.builders import wheel
from tests.catalog.conftest import engine
from tests.nodes.cluster import only_pypi
from tests.nodes.commands import run_command
from tests.nodes.workers import ROUNDS, patient
from tests.serving import Serving, serving, spawned
from tests.simulator import Simulator
from tests.uploading import make_token, upload

LEASE_SECONDS = 0.15
"""How long a process that is stopped holds on to its lease."""
OFF_SECONDS = 3600.0
CLOCK_IS_OFF = f"""
import time
right = time.time
time.time = lambda: right() + {OFF_SECONDS}
import mirror.cli
mirror.cli.main()
"""
"""The command on a machine whose clock is an hour ahead."""
TIMES = {
    "pages": ["checked"],
    "files": ["used", "stored"],
    "feed": ["at"],
    "uploads": ["uploaded", "changed"],
    "claims": ["at"],
    "tokens": ["created"],
}
"""Columns with times, in seconds since the epoch, and their tables."""

HOLDER = f"""
import asyncio, sys, time
from mirror.catalog import Catalog
from mirror.errors import LostLease, StorageError
from mirror.model import Event
from tests.catalog.conftest import engine

async def main():
    database = engine(sys.argv[1])
    await database.open()
    catalog = Catalog(database)

    async def work(lease):
        under = catalog.under(lease)
        while True:
            await under.feed.append(Event(serial=0, at=1, source="job", project=f"{{lease.epoch}}", kind="page"))
            await asyncio.sleep(0.01)

    while True:
        try:
            await catalog.leases.run("job", time.time, {LEASE_SECONDS}, work)
        except (LostLease, StorageError):
            pass
        await asyncio.sleep(0.05)

asyncio.run(main())
"""
"""A process that has an effect every 10 ms for as long as it holds a lease."""


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Catalog]:
    database = engine(url)
    await database.open()
    try:
        yield Catalog(database)
    finally:
        await database.close()


@patient
async def test_promise_5_a_holder_that_is_stopped_and_goes_on_has_no_effect_any_more(postgres_url: str) -> None:
    async with opened(postgres_url) as catalog:
        root = Path(__file__).parent.parent.parent
        holder = await asyncio.create_subprocess_exec(sys.executable, "-c", HOLDER, postgres_url, cwd=root)
        try:
            for _ in ROUNDS:
                async with asyncio.timeout(30):
                    _, before = await catalog.feed.bounds()
                    while (await catalog.feed.bounds())[1] < before + 3:  # noqa: ASYNC110  it has the lease
                        await asyncio.sleep(0.02)
                    holder.send_signal(signal.SIGSTOP)
                    while (lease := await catalog.leases.take("job", time.time(), 10)) is None:  # noqa: ASYNC110
                        await asyncio.sleep(0.02)
                    ours = catalog.under(lease)
                    for number in range(4):
                        await ours.feed.append(
                            Event(serial=0, at=1, source="us", project=f"{lease.epoch}", kind="page")
                        )
                        if number == 1:
                            holder.send_signal(signal.SIGCONT)
                        await asyncio.sleep(0.02)
                    await catalog.leases.give_back("job")
        finally:
            holder.kill()
            await holder.wait()
        events = await catalog.feed.since(0, 1_000_000)
        epochs = [int(event.project) for event in events]
        assert epochs == sorted(epochs), "an effect of a lease that another process had taken"
        assert len(set(epochs)) > len(ROUNDS)


async def test_promise_5_a_node_whose_clock_is_an_hour_off_stores_no_wrong_time_and_forgets_nothing(
    simulator: Simulator, postgres_url: str, tmp_path: Path
) -> None:
    built = wheel("six", "1.0")
    simulator.publish(built)
    simulator.publish(wheel("tilt", "1.0"))
    shared = {"catalog": {"url": postgres_url}, "feed": {"keep": "10m"}}
    began = time.time()
    async with spawned(tmp_path / "right", only_pypi(simulator), **shared) as right:
        assert (await right.get("/simple/six/")).status == 200
        simulator.forget()
        async with spawned(tmp_path / "wrong", only_pypi(simulator), code=CLOCK_IS_OFF, **shared) as wrong:
            (tmp_path / "wrong" / "blobs").mkdir(exist_ok=True)
            create = ("token", "create", "--name", "t", "--right", "upload")
            token = await run_command(tmp_path / "right", *create, code=CLOCK_IS_OFF)
            assert (await wrong.get("/simple/six/")).status == 200
            assert simulator.count("GET", "/simple/six/") == 0, "what is fresh there is fresh here"
            assert (await wrong.get("/simple/tilt/")).status == 200
            assert (await wrong.get(f"/packages/six/{built.filename}")).status == 200
            assert (await upload(wrong, token, wheel("ours", "1.0"))).status == 200
            assert (await right.get("/simple/tilt/")).status == 200
            assert await wrong.end() == 0
        assert simulator.count("GET", "/simple/tilt/") == 1
    async with opened(postgres_url) as catalog:
        for table, columns in TIMES.items():
            for column in columns:
                rows = await catalog.database.read(f"SELECT {column} FROM {table}")
                assert rows, table
                for (at,) in rows:
                    assert began - 5 < at < time.time() + 5, (table, column)
        assert (await catalog.feed.bounds())[0] == 1, "the journal was not trimmed by a clock that is ahead"


@pytest.mark.parametrize("count", [3])
async def test_promise_5_a_set_is_fetched_by_one_of_several_workers(
    simulator: Simulator, tmp_path: Path, count: int
) -> None:
    simulator.publish(wheel("six", "1.0"))
    sets = [{"name": "shop", "names": ["six"], "dependencies": False, "every": "1h"}]
    said = tmp_path / "data.log"
    async with spawned(tmp_path / "data", only_pypi(simulator), "--workers", f"{count}", sync=sets) as mirror:
        async with asyncio.timeout(60):
            while "the set shop: " not in said.read_text():  # noqa: ASYNC110  another process has no event for it
                await asyncio.sleep(0.1)
        await asyncio.sleep(1)
        assert await mirror.end() == 0
    assert said.read_text().count("the set shop: ") == 1


async def test_promise_5_records_are_read_by_one_node_and_hold_on_all(
    simulator: Simulator, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("1.0", "2.0"):
        simulator.publish(wheel("acme", version))
    folder, reads, load = tmp_path / "osv", list[Path](), records.load
    folder.mkdir()

    def counted(path: Path, canonical: records.Canonical) -> OsvIndex:
        reads.append(path)
        return load(path, canonical)

    monkeypatch.setattr(records, "load", counted)
    rule = {"name": "bad", "kind": "known-bad", "reason": "It is known to be bad.", "folder": str(folder)}
    shared = {"catalog": {"url": postgres_url}, "policy": [rule], "policies": {"records_every": "1s"}}
    async with (
        serving(tmp_path / "one", only_pypi(simulator), **shared) as one,
        serving(tmp_path / "two", only_pypi(simulator), **shared) as two,
    ):
        changed = {node: asyncio.Event() for node in (one, two)}
        for node, event in changed.items():
            node.mirror.policies.listeners.append(lambda name, policy, event=event: event.set())
            assert "acme-2.0" in (await node.get("/simple/acme/")).text
        reads.clear()
        affected = [{"package": {"ecosystem": "PyPI", "name": "acme"}, "versions": ["2.0"]}]
        (tmp_path / "new").write_text(json.dumps({"id": "MAL-2026-1", "affected": affected}))
        (tmp_path / "new").rename(folder / "MAL-2026-1.json")
        async with asyncio.timeout(20):
            for event in changed.values():
                await event.wait()
        for node in (one, two):
            page = (await node.get("/simple/acme/")).text
            assert ("acme-1.0" in page, "acme-2.0" in page) == (True, False)
    assert reads == [folder]


async def test_promise_5_one_node_follows_and_another_goes_on_where_that_one_ends(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LEASE_SECONDS", 1.5)
    monkeypatch.setattr(following, "REPORT_SECONDS", 0.1)
    files = tmp_path / "files"
    files.mkdir()
    async with serving(tmp_path / "a", {"pypi": {"format": "pypi"}}) as a:
        token = await make_token(a)
        followed = {"pypi": {"format": "pypi", "upstreams": [{"url": f"{a.url}simple/", "follow": True}]}}
        stacks: list[AsyncExitStack] = []
        nodes: list[Serving] = []
        try:
            for name in ("one", "two"):
                (tmp_path / name).mkdir(mode=0o700)
                (tmp_path / name / "blobs").symlink_to(files)
                stacks.append(AsyncExitStack())
                node = serving(tmp_path / name, followed, catalog={"url": postgres_url})
                nodes.append(await stacks[-1].enter_async_context(node))
            for number in range(2):
                built = wheel("acme", f"1.{number}")
                assert (await upload(a, token, built)).status == 200
                async with asyncio.timeout(60):
                    while built.filename not in await held(nodes[-1]):  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                if number == 0:
                    async with asyncio.timeout(60):
                        while not all(map(shows, nodes)):  # noqa: ASYNC110  also the one that does not follow
                            await asyncio.sleep(0.05)
                    leases = [node.mirror.catalog.leases for node in nodes]
                    at_it = [not await one.elsewhere("follow ", time.time()) for one in leases]
                    assert sorted(at_it) == [False, True]
                    await stacks.pop(at_it.index(True)).aclose()
                    del nodes[at_it.index(True)]
        finally:
            for stack in stacks:
                await stack.aclose()


def shows(node: Serving) -> bool:
    """Whether the status of a node says how far the other mirror's journal is applied."""
    return any(one.serial for one in node.mirror.state.following.values())


async def held(node: Serving) -> set[str]:
    """The names of all held files of upstreams."""
    return {one.filename for one in await node.mirror.catalog.files.all()}
