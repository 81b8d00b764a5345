"""A disk that is really full: a tmpfs of 50 MB as the data directory. What is asked for is served all the same."""

import asyncio
import hashlib
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from mirror.blobs.local import DiskSpace
from mirror.errors import StorageFull
from mirror.transfer.growing import Reservation
from tests.builders import Built, gem, wheel
from tests.serving import Client, Serving, repositories, serving, spawned
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form, make_token

JSON = "application/vnd.pypi.simple.v1+json"


def fill(disk: Path) -> Path:
    """A file that leaves not one byte free; removing it is what the operator does."""
    ballast = disk / "ballast"
    with ballast.open("ab", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    assert os.statvfs(disk).f_bavail == 0
    return ballast


def files_on(disk: Path) -> set[str]:
    return {path.name for path in (disk / "blobs").glob("??/*")}


async def get_right(mirror: Client, built: Built) -> None:
    path = f"/gems/{built.filename}" if built.filename.endswith(".gem") else f"/packages/{built.name}/{built.filename}"
    reply = await mirror.get(path)
    assert (reply.status, hashlib.sha256(reply.body).hexdigest()) == (200, built.sha256)


async def health(mirror: Client) -> str:
    reply = await mirror.get("/health")
    assert reply.status == 200
    return reply.text.split(":")[0].strip()


async def upload(mirror: Serving, built: Built, token: str) -> int:
    data = form(fields_of(built).items(), built.filename, built.content)
    return (await mirror.ask("POST", "/legacy/", data, Authorization=basic(token))).status


async def test_more_than_fits_is_served_uploads_are_refused_and_all_recovers_by_itself(
    small_disk: Path, simulator: Simulator
) -> None:
    built = [wheel(f"project{number}", "1.0", size=5_000_000) for number in range(20)]
    for one in built:
        simulator.publish(one)
    async with serving(small_disk, repositories(simulator)) as mirror:
        token = await make_token(mirror)
        assert await health(mirror) == "ok"
        for start in range(0, 20, 4):  # 100 MB in all
            await asyncio.gather(*(get_right(mirror, one) for one in built[start : start + 4]))
        assert await health(mirror) == "degraded"
        kept = files_on(small_disk)
        assert 8 <= len(kept) < 10
        assert not list((small_disk / "incoming").iterdir())
        late = next(one for one in built if one.sha256 not in kept)
        early = next(one for one in built if one.sha256 in kept)
        ballast = fill(small_disk)
        assert await upload(mirror, wheel("ours", "1.0"), token) == 507
        assert await upload(mirror, wheel("ours", "1.0", size=3_000_000), token) == 507
        await asyncio.gather(*(get_right(mirror, late) for _ in range(8)), get_right(mirror, early))
        assert files_on(small_disk) == kept
        assert not list((small_disk / "uploads").rglob("*.json"))

        ballast.unlink()
        for digest in sorted(kept - {early.sha256})[:3]:
            (small_disk / "blobs" / digest[:2] / digest).unlink()
        assert await health(mirror) == "ok"
        assert await upload(mirror, wheel("ours", "1.0"), token) == 200
        await get_right(mirror, late)
        assert late.sha256 in files_on(small_disk)
        simulator.forget()
        await get_right(mirror, late)
        assert simulator.requests == []


async def test_an_upload_that_the_catalog_has_no_room_for_leaves_nothing(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*row: object) -> int:
        raise StorageFull("The disk is full.")

    ours = wheel("ours", "1.0")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        token = await make_token(mirror)
        with monkeypatch.context() as patched:
            patched.setattr(mirror.mirror.catalog.uploads, "put_all", full)
            assert await upload(mirror, ours, token) == 507
        assert not list((tmp_path / "data" / "uploads").rglob("*.json"))
        assert files_on(tmp_path / "data") == set()
        assert await upload(mirror, wheel("ours", "1.0", size=10), token) == 200  # other bytes of that name


async def test_pages_and_sidecars_are_new_and_right_while_nothing_can_be_stored(
    small_disk: Path, simulator: Simulator
) -> None:
    old, new = wheel("six", "1.0"), wheel("six", "1.1")
    simulator.publish(old)
    simulator.publish(wheel("idna", "1.0"))
    async with serving(small_disk, repositories(simulator)) as mirror:
        assert (await mirror.get("/simple/six/")).status == 200
        ballast = fill(small_disk)
        simulator.publish(new)
        page = await mirror.get("/simple/six/", Accept=JSON, Cache_Control="no-cache")
        assert [file["filename"] for file in page.json()["files"]] == [old.filename, new.filename]
        again = await mirror.get("/simple/six/", Accept=JSON)
        assert (again.body, again.outcome) == (page.body, "hit")
        assert (await mirror.get("/simple/idna/")).status == 200
        assert (await mirror.get("/simple/nothing/")).status == 404
        assert (await mirror.get(f"/packages/six/{new.filename}.metadata")).body.startswith(b"Metadata-Version")
        assert (await mirror.get("/simple/six/", Accept=JSON, Cache_Control="no-cache")).body == page.body  # a 304
        for path in ("/simple/", "/", "/-/status", "/metrics", "/ready"):
            assert (await mirror.get(path)).status == 200, path
        await mirror.mirror.statistics.flush()

        ballast.unlink()
        assert (await mirror.get("/simple/six/", Accept=JSON, Cache_Control="no-cache")).body == page.body
    await simulator.go_down("refused")
    async with serving(small_disk, repositories(simulator)) as mirror:
        assert (await mirror.get("/simple/six/", Accept=JSON)).body == page.body


async def test_a_gem_index_grows_on_a_full_disk_and_is_persisted_when_there_is_room(
    small_disk: Path, simulator: Simulator
) -> None:
    first, second = gem("rack", "3.0"), gem("rack", "3.1")
    simulator.push(first)
    async with serving(small_disk, repositories(simulator)) as mirror:
        before = (await mirror.get("/versions")).body
        ballast = fill(small_disk)
        simulator.push(second)
        for followed in mirror.mirror.upstream_indexes.values():
            followed.asked_at = 0
        grown = (await mirror.get("/versions", Cache_Control="no-cache")).body
        assert grown.startswith(before)
        assert grown.endswith(f"\nrack 3.1 {simulator.rubygems.md5('rack')}\n".encode())
        assert (await mirror.get("/info/rack")).body == simulator.rubygems.info("rack")
        await get_right(mirror, second)
        assert files_on(small_disk) == set()

        ballast.unlink()
        await mirror.mirror.catalog.logs.flush()
    await simulator.go_down("refused")
    async with serving(small_disk, repositories(simulator)) as mirror:
        assert (await mirror.get("/versions")).body == grown


async def test_a_mirror_starts_on_a_full_disk_and_serves_what_is_held(small_disk: Path, simulator: Simulator) -> None:
    built = wheel("six", "1.0", size=100_000)
    simulator.publish(built)
    other = wheel("idna", "1.0", size=100_000)
    simulator.publish(other)
    async with serving(small_disk, repositories(simulator)) as mirror:
        await get_right(mirror, built)
    fill(small_disk)
    async with serving(small_disk, repositories(simulator)) as mirror:
        await get_right(mirror, built)
        await get_right(mirror, other)
        assert await health(mirror) == "degraded"


async def test_the_command_sweep_makes_room_on_a_disk_that_is_full_to_the_last_byte(
    small_disk: Path, simulator: Simulator
) -> None:
    built = [wheel(f"project{number}", "1.0", size=5_000_000) for number in range(8)]
    for one in built:
        simulator.publish(one)
    async with spawned(small_disk, repositories(simulator), store={"min_age": "0s"}) as mirror:
        for one in built[:7]:
            await get_right(mirror, one)
        fill(small_disk)
        assert await health(mirror) == "degraded"
        settings = small_disk.with_suffix(".toml")
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "mirror", "sweep", "--config", settings, "--limit", "20MB",
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        output, _ = await process.communicate()
        assert process.returncode == 0, output.decode()
        assert output.count(b"gone: ") == 4
        assert files_on(small_disk) == {one.sha256 for one in built[4:7]}
        assert await health(mirror) == "ok"
        await get_right(mirror, built[7])
        assert built[7].sha256 in files_on(small_disk)
        await get_right(mirror, built[0])


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """What is free on a disk of 10,000 bytes, of which 500 are left to the catalog."""
    free = [2_000]
    monkeypatch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=free[0], f_blocks=10_000, f_frsize=1))
    return free


def test_a_file_without_room_says_that_the_disk_is_full_until_there_is_room_or_time_has_passed(
    free: list[int], tmp_path: Path
) -> None:
    now = [0.0]
    disk_space = DiskSpace(tmp_path, lambda: now[0])
    disk_space.check(1_500)
    assert not disk_space.is_full()
    free[0] = 1_000
    with pytest.raises(StorageFull):
        disk_space.check(700)
    assert disk_space.is_full()
    free[0] = 1_200
    assert not disk_space.is_full()
    free[0] = 1_000
    now[0] = 601
    assert not disk_space.is_full()
    free[0] = 499
    assert disk_space.is_full()


def test_a_file_larger_than_a_tenth_of_the_disk_does_not_make_it_full(free: list[int], tmp_path: Path) -> None:
    disk_space = DiskSpace(tmp_path)
    with pytest.raises(StorageFull):
        disk_space.check(10**18)
    assert not disk_space.is_full()


def test_what_is_on_its_way_in_has_its_room(free: list[int], tmp_path: Path) -> None:
    disk_space = DiskSpace(tmp_path)
    disk_space.claim(1_000)
    with pytest.raises(StorageFull):
        disk_space.claim(1_000)
    disk_space.release(1_000)
    disk_space.claim(1_000)


def test_promised_sizes_reserve_no_more_than_half_of_what_is_free(free: list[int], tmp_path: Path) -> None:
    disk_space = DiskSpace(tmp_path)
    first, *others = (Reservation(disk_space, 600) for _ in range(3))
    assert disk_space.fits(900)
    assert not disk_space.fits(901)
    for one in others:
        one.release()
    assert not disk_space.fits(901)
    first.release()
    assert disk_space.fits(1_500)


def test_what_could_not_be_reserved_is_reserved_as_it_comes(free: list[int], tmp_path: Path) -> None:
    disk_space = DiskSpace(tmp_path)
    coming = Reservation(disk_space, 1_400)
    assert disk_space.fits(1_500)
    assert coming.extend(1_000, 1_000)
    assert not disk_space.fits(501)
    coming.release(1_000)
    free[0] = 900  # so many have been written, and others have written too
    assert not coming.extend(500, 500)
    coming.release()


def test_a_promised_size_that_does_not_fit_does_not_make_the_disk_full(free: list[int], tmp_path: Path) -> None:
    free[0] = 1_000
    disk_space = DiskSpace(tmp_path)
    assert not disk_space.fits(10**9)
    assert not disk_space.is_full()


def test_where_nobody_knows_what_is_free_writing_tells(tmp_path: Path) -> None:
    disk_space = DiskSpace(tmp_path / "nowhere")
    disk_space.check(10**12)
    assert disk_space.free() is None
    assert not disk_space.is_full()
