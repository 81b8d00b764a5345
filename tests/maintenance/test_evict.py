"""Eviction: what goes, in which order, and what never does."""

import asyncio
import hashlib
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mirror.catalog import HeldFile, SetMember, eviction
from mirror.config import Settings
from mirror.maintenance import surplus
from mirror.maintenance.evict import Evictor
from mirror.maintenance.surplus import Batch, fewest
from mirror.model import File
from mirror.service.jobs import evictor
from mirror.service.store import Store
from tests.builders import gem, wheel
from tests.maintenance.stores import settings, store_of, stored, upload
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator

DAY = 86_400.0
TOGETHER = 25
"""Files that clients ask for at one moment."""


# Deciding


def held(digest: str, size: int, **facts: Any) -> HeldFile:
    return HeldFile(source=SOURCE, project="p", filename=f"{digest}.whl", digest=digest, size=size, **facts)


def test_only_as_many_go_as_are_needed() -> None:
    candidates = [held("a", 10), held("b", 10), held("c", 10)]
    assert [len(fewest(candidates, excess)) for excess in (-5, 0, 1, 10, 11, 30, 99)] == [0, 0, 1, 1, 2, 3, 3]


SOURCE = "https://index.example/simple/"
blob = st.tuples(st.integers(1, 100), st.integers(0, 20), st.sampled_from(["", "set", "removed", "used now"]))


@given(st.lists(blob, max_size=12), st.integers(0, 800), st.integers(0, 20))
@hypothesis_settings(max_examples=20, deadline=None)
def test_what_goes_is_the_least_recently_used_and_no_more_than_needed(
    blobs: list[tuple[int, int, str]], limit: int, min_age: int
) -> None:
    async def check(directory: Path) -> None:
        store = Store(Settings.model_validate({"data_dir": str(directory)}), lambda: 20.0)
        await store.database.open()
        known = []
        for number, (size, used, why) in enumerate(blobs):
            digest = (await store.blobs.write(bytes([number]) * size)).digest
            one = held(digest, size, stored=float(used), used=float(used))
            await store.catalog.files.add(one)
            if why == "set":
                await store.catalog.sets.add("ci", [SetMember(SOURCE, "p", one.filename)])
            elif why == "removed":
                gone = [File(filename=one.filename, version="1")]
                await store.catalog.removed.change(SOURCE, "p", gone, "file", [], 1)
            elif why == "used now":
                store.catalog.files.note_use(SOURCE, "p", one.filename, 20.0)
            known.append((20 if why == "used now" else used, digest, size, why in ("set", "removed")))
        report = await Evictor(
            store.catalog, store.blobs, {}, limit=limit, min_age=min_age, clock=store.clock, pause=0
        ).sweep()
        kept = {path.name for path in (directory / "blobs").glob("??/*")}
        expected, size = set(), sum(size for _, _, size, _ in known)
        for used, digest, bytes_, pinned in sorted(known):
            if size > limit and not pinned and 20 - used >= min_age:
                expected.add(digest)
                size -= bytes_
        assert {digest for _, digest, _, _ in known} - kept == expected
        assert (report.files, report.after) == (len(expected), size)
        assert await store.catalog.files.totals() == (len(kept), size)
        await store.close()

    with tempfile.TemporaryDirectory() as directory:
        asyncio.run(check(Path(directory)))


async def test_a_sweep_of_many_slices_evicts_everything_once_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(eviction, "SLICE_FILES", 7)
    monkeypatch.setattr(surplus, "BATCH_BLOBS", 3)
    store = Store(Settings.model_validate({"data_dir": str(tmp_path)}), lambda: 1000.0)
    await store.database.open()
    digests = []
    for number in range(40):
        digests.append((await store.blobs.write(b"%d" % number)).digest)
        for project in ("one", "two", "three")[: 1 + number % 3]:  # several names, used at one moment
            one = held(digests[-1], 1, stored=1.0 + number // 20, used=1.0 + number // 20)
            await store.catalog.files.add(msgspec.structs.replace(one, project=project))
    batches: list[Batch] = []
    one = Evictor(store.catalog, store.blobs, {}, limit=0, min_age=0, clock=store.clock, pause=0)
    await one.sweep(tell=batches.append)
    gone = list(dict.fromkeys(file.digest for batch in batches for file in batch.files))
    assert gone == sorted(digests[:20]) + sorted(digests[20:])
    assert sum(len(batch.files) for batch in batches) == sum(1 + number % 3 for number in range(40))
    assert await store.catalog.files.totals() == (0, 0)
    await store.close()


# Sweeping


async def swept(mirror: Serving, limit: int | None, **options: Any) -> Any:
    """The report of a sweep, with what went: `evicted` and `orphans`."""
    store = store_of(mirror)
    await store.database.open()
    batches: list[Batch] = []
    try:
        one = evictor(settings(mirror), store, limit)
        one._pause = 0.05
        report = await one.sweep(tell=batches.append, **options)
    finally:
        await store.close()
    evicted = tuple(file for batch in batches for file in batch.files)
    orphans = tuple(digest for batch in batches for digest in batch.orphans)
    assert (report.files, report.orphans) == (len(evicted), len(orphans))
    return SimpleNamespace(**msgspec.structs.asdict(report) | {"evicted": evicted, "orphans": orphans})


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
