"""Eviction: what goes, in which order, and what never does."""

import asyncio
import hashlib
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.catalog import SetMember
from mirror.maintenance.evict import Candidate, plan
from mirror.service.jobs import evictor
from tests.builders import gem, wheel
from tests.maintenance.stores import settings, store_of, stored, upload
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator

DAY = 86_400.0
TOGETHER = 25
"""Files that clients ask for at one moment."""


# Deciding


def candidate(digest: str, size: int, used: float, pinned: bool = False) -> Candidate:
    return Candidate(digest=digest, size=size, used=used, pinned=pinned)


def test_the_least_recently_used_go_first_and_only_as_many_as_needed() -> None:
    evicted = plan([candidate("a", 10, 30), candidate("b", 10, 10), candidate("c", 10, 20)], 20, 1000, 0)
    assert [one.digest for one in evicted] == ["b"]


def test_what_is_pinned_or_was_used_lately_stays_above_the_limit() -> None:
    assert plan([candidate("a", 10, 0, pinned=True), candidate("b", 10, 950)], 0, 1000, 60) == []


def test_without_a_limit_nothing_goes() -> None:
    assert plan([candidate("a", 10, 0)], None, 1000, 0) == []


@given(
    st.lists(st.tuples(st.integers(0, 100), st.integers(0, 1000), st.booleans())),
    st.integers(0, 2000),
    st.integers(0, 900),
)
def test_a_plan_keeps_its_promises(blobs: list[tuple[int, int, bool]], limit: int, min_age: int) -> None:
    known = [candidate(str(number), *facts) for number, facts in enumerate(blobs)]
    gone = set(plan(known, limit, 1000, min_age))
    assert all(not one.pinned and 1000 - one.used >= min_age for one in gone)
    left = [one for one in known if one not in gone and not one.pinned and 1000 - one.used >= min_age]
    assert sum(one.size for one in known if one not in gone) <= limit or not left
    assert all(one.used <= other.used for one in gone for other in left)


# Sweeping


async def swept(mirror: Serving, limit: int | None, **options: Any) -> Any:
    store = store_of(mirror)
    await store.database.open()
    try:
        one = evictor(settings(mirror), store, limit)
        one._pause = 0.05
        return await one.sweep(**options)
    finally:
        await store.close()


async def test_a_thousand_files_are_swept_to_the_limit_in_order_while_clients_install(
    tmp_path: Path, simulator: Simulator
) -> None:
    files = [wheel(f"project{number % 50}", f"1.{number // 50}", size=150_000) for number in range(1000)]
    entries = [simulator.publish(built) for built in files]
    now = time.time()
    clock = [now]
    async with serving(
        tmp_path / "data", repositories(simulator), clock=lambda: clock[0], store={"min_age": "1d"}
    ) as mirror:
        slots = asyncio.Semaphore(16)

        async def fetch(number: int) -> None:
            async with slots:
                reply = await mirror.get(f"/packages/{files[number].name}/{files[number].filename}")
                assert hashlib.sha256(reply.body).hexdigest() == files[number].sha256

        for number in range(0, 1000, TOGETHER):
            clock[0] = now + number
            await asyncio.gather(*map(fetch, range(number, number + TOGETHER)))
        clock[0] = now + 10 * DAY
        await asyncio.gather(*map(fetch, range(100)))  # the oldest hundred, which so are no longer the oldest
        clock[0] = now + 20 * DAY
        await mirror.mirror.catalog.files.flush_uses()
        dry = await swept(mirror, 100_000_000, dry_run=True)
        assert len(stored(tmp_path)) == 1000
        sweeping = asyncio.create_task(swept(mirror, 100_000_000))
        while not sweeping.done():
            await asyncio.gather(*(fetch(number) for number in range(0, 1000, 37)))
        report = await sweeping
        assert report.evicted == dry.evicted
        assert report.before > 150_000_000
        assert report.after <= 100_000_000
        gone = {held.filename for held in report.evicted}
        count = len(gone)
        assert count == len(report.evicted)
        in_order = sorted(range(100, 1000), key=lambda number: (number // TOGETHER, files[number].sha256))
        assert gone == {files[number].filename for number in in_order[:count]}
        held = await mirror.mirror.catalog.files.totals()
        assert held[1] <= 100_000_000 + 28 * 151_000  # what was installed meanwhile came back
        simulator.forget()
        await fetch(in_order[0])
        await fetch(5)
        assert simulator.count("GET", f"/{entries[5].path}") == 0


async def test_uploads_sets_and_what_upstream_no_longer_has_are_never_evicted(
    tmp_path: Path, simulator: Simulator
) -> None:
    kept, lost, plain = (
        wheel("kept", "1.0", size=50_000),
        wheel("lost", "1.0", size=50_000),
        wheel("plain", "1.0", size=9),
    )
    for built in (kept, lost, plain):
        simulator.publish(built)
    simulator.publish(wheel("lost", "2.0"))
    clock = [time.time()]
    async with serving(tmp_path / "data", repositories(simulator), clock=lambda: clock[0]) as mirror:
        for built in (kept, lost, plain):
            assert (await mirror.get(f"/packages/{built.name}/{built.filename}")).status == 200
        ours = wheel("ours", "1.0", size=50_000)
        await upload(mirror, ours)
        source = mirror.mirror.repositories["pypi"].sources[1].name
        await mirror.mirror.catalog.sets.add("ci", [SetMember(source, "kept", kept.filename)])
        simulator.remove("lost", lost.filename)
        assert (await mirror.get("/simple/lost/", Cache_Control="no-cache")).status == 200
        clock[0] += 100 * DAY
        report = await swept(mirror, 0)
        assert {held.filename for held in report.evicted} == {plain.filename}
        assert {kept.sha256, lost.sha256, ours.sha256} <= stored(tmp_path)
        assert plain.sha256 not in stored(tmp_path)


async def test_sidecars_and_pages_go_with_their_files(tmp_path: Path, simulator: Simulator) -> None:
    built, ruby = wheel("six", "1.0", size=10_000), gem("rack", "3.0", size=10_000)
    simulator.publish(built)
    simulator.push(ruby)
    clock = [time.time()]
    async with serving(tmp_path / "data", repositories(simulator), clock=lambda: clock[0]) as mirror:
        for path in (
            f"/packages/six/{built.filename}", f"/packages/six/{built.filename}.metadata",
            f"/gems/{ruby.filename}", "/quick/Marshal.4.8/rack-3.0.gemspec.rz",
        ):  # fmt: skip
            assert (await mirror.get(path)).status == 200
        assert len(stored(tmp_path)) == 4
        clock[0] += 2 * DAY
        report = await swept(mirror, 0)
        assert len(report.evicted) == 4
        assert stored(tmp_path) == set()
        rows = await mirror.mirror.catalog.database.read("SELECT name FROM pages WHERE kind = 'project'")
        assert rows == []
        assert (await mirror.get(f"/packages/six/{built.filename}")).body == built.content


async def test_blobs_that_nothing_names_go_when_they_are_old_enough(tmp_path: Path, simulator: Simulator) -> None:
    clock = [time.time()]
    async with serving(tmp_path / "data", repositories(simulator), clock=lambda: clock[0]) as mirror:
        orphan = await mirror.mirror.blobs.write(b"nobody knows me")
        assert (await swept(mirror, None)).orphans == ()
        clock[0] += 3601
        assert (await swept(mirror, None)).orphans == (orphan.digest,)
        assert stored(tmp_path) == set()


async def test_what_a_killed_sweep_withdrew_is_put_back_if_it_is_needed(tmp_path: Path, simulator: Simulator) -> None:
    built = wheel("six", "1.0")
    simulator.publish(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"/packages/six/{built.filename}")
        await mirror.mirror.blobs.withdraw(built.sha256)
        stray = await mirror.mirror.blobs.write(b"stray")
        await mirror.mirror.blobs.withdraw(stray.digest)
        await swept(mirror, None)
        assert stored(tmp_path) == {built.sha256}
        assert list((tmp_path / "data" / "outgoing").iterdir()) == []


async def test_one_process_sweeps_at_a_time(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        assert await mirror.mirror.catalog.leases.take("sweep", mirror.mirror.clock(), 60)
        assert (await swept(mirror, 0)).busy
        await mirror.mirror.catalog.leases.give_back("sweep")
        assert not (await swept(mirror, 0)).busy


async def test_files_that_go_while_sixteen_clients_fetch_them_are_fetched_anew(
    tmp_path: Path, simulator: Simulator
) -> None:
    built = [wheel("six", f"1.{number}", size=size) for number, size in enumerate([5_000, 100_000, 400_000, 1_500_000])]
    ruby = gem("rack", "3.0", size=300_000)
    for one in built:
        simulator.publish(one)
    simulator.push(ruby)
    settled = asyncio.Event()
    async with serving(tmp_path / "data", repositories(simulator), store={"min_age": "0s"}) as mirror:
        wanted = [(f"/packages/six/{one.filename}", one.sha256) for one in built] + [
            (f"/gems/{ruby.filename}", ruby.sha256)
        ]

        async def client() -> int:
            count = 0
            while not settled.is_set():
                for path, digest in wanted:
                    reply = await mirror.get(path)
                    assert (reply.status, hashlib.sha256(reply.body).hexdigest()) == (200, digest)
                    count += 1
                metadata = await mirror.get(wanted[0][0] + ".metadata")
                assert metadata.status == 200
            return count

        clients = [asyncio.create_task(client()) for _ in range(16)]
        evicted = 0
        for _ in range(8):
            evicted += len((await swept(mirror, 0)).evicted)
        settled.set()
        assert all(await asyncio.gather(*clients))
        assert evicted > len(wanted)


async def test_a_file_that_goes_between_being_found_and_being_opened_is_fetched_anew(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (20_000, 600_000):  # read, and sent by sendfile
        built = wheel("six", f"1.{size}", size=size)
        simulator.publish(built)
        async with serving(tmp_path / f"data{size}", repositories(simulator)) as mirror:
            assert (await mirror.get(f"/packages/six/{built.filename}")).status == 200
            blobs = mirror.mirror.blobs
            find, gone = blobs.find, []

            async def find_late(digest: str) -> Any:
                body = await find(digest)  # noqa: B023  # called within the loop's turn
                if not gone:  # noqa: B023
                    gone.append(digest)  # noqa: B023
                    await blobs.delete(digest)  # noqa: B023
                return body

            monkeypatch.setattr(blobs, "find", find_late)
            simulator.forget()
            reply = await mirror.get(f"/packages/six/{built.filename}")
            assert (reply.status, reply.body) == (200, built.content)
            assert len(simulator.requests) == 1
            assert gone == [built.sha256]


def test_a_file_that_is_larger_than_the_limit_goes_when_it_is_old_enough() -> None:
    assert plan([candidate("a", 100, 0)], 50, 10, 60) == []
    assert [one.digest for one in plan([candidate("a", 100, 0)], 50, 100, 60)] == ["a"]


async def test_serve_keeps_the_limit_by_itself_and_says_so(tmp_path: Path, simulator: Simulator) -> None:
    built = [wheel("six", f"1.{number}", size=100_000) for number in range(10)]
    for one in built:
        simulator.publish(one)
    limited = {"limit": "350KB", "min_age": "0s", "sweep_every": "1s"}
    async with serving(tmp_path / "data", repositories(simulator), store=limited) as mirror:
        for one in built:
            assert (await mirror.get(f"/packages/six/{one.filename}")).status == 200
        async with asyncio.timeout(30):
            while len(stored(tmp_path)) > 3:  # noqa: ASYNC110  # nothing tells
                await asyncio.sleep(0.05)
            while "mirror_evicted_files_total 7.0" not in (metrics := (await mirror.get("/metrics")).text):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert "mirror_store_limit_bytes 350000.0" in metrics
        assert stored(tmp_path) <= {one.sha256 for one in built}
        assert "last swept" in (await mirror.get("/-/state/")).text
        assert (await mirror.get("/-/status")).json()["store"]["limit"] == 350_000


async def test_a_small_file_in_use_is_known_to_be_in_use_though_memory_answers_for_it(
    tmp_path: Path, simulator: Simulator
) -> None:
    hot, cold = wheel("hot", "1.0"), wheel("cold", "1.0")
    simulator.publish(hot)
    simulator.publish(cold)
    clock = [time.time()]
    async with serving(tmp_path / "data", repositories(simulator), clock=lambda: clock[0]) as mirror:
        await mirror.get(f"/packages/cold/{cold.filename}")
        for _ in range(100):
            assert (await mirror.get(f"/packages/hot/{hot.filename}")).status == 200
            clock[0] += 1800
        await mirror.mirror.catalog.files.flush_uses()
        report = await swept(mirror, hot.size + 10, dry_run=True)
        assert [held.filename for held in report.evicted] == [cold.filename]
