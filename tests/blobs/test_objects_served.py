"""A mirror whose files are in an object store: what is asked of the store, its faults, its start, and redirects."""

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from mirror.blobs.objects import ObjectBlobs
from mirror.errors import ConfigError
from tests import objects
from tests.builders import noise, wheel
from tests.clients.python import running
from tests.objects_faults import FaultyStore, faulty_s3
from tests.serving import Serving, repositories, serving, write_settings
from tests.simulator import Simulator
from tests.uploading import make_token, upload

SMALL = wheel("small", "1.0")
LARGE = wheel("large", "1.0", size=3_000_000)
OURS = wheel("ours", "1.0", size=400_000)


@pytest.fixture
async def store() -> AsyncIterator[FaultyStore]:
    """A store that can be made to fail, in front of SeaweedFS."""
    async with faulty_s3() as proxy:
        yield proxy


@asynccontextmanager
async def node(directory: Path, simulator: Simulator, store: FaultyStore, **blobs: Any) -> AsyncIterator[Serving]:
    """A mirror with a data directory of its own over the store."""
    for built in (SMALL, LARGE):
        simulator.publish(built)
    async with serving(directory, repositories(simulator), blobs=store.table | blobs) as mirror:
        yield mirror


def path_of(built: Any) -> str:
    return f"/packages/{built.name}/{built.filename}"


def blobs_of(mirror: Serving) -> ObjectBlobs:
    blobs = mirror.mirror.blobs
    assert isinstance(blobs, ObjectBlobs)
    return blobs


async def forget_cache(mirror: Serving) -> None:
    """As a node that has not cached anything."""
    for path in sorted((mirror.mirror.settings.data_dir / "cache" / "blobs").glob("??/*")):
        path.unlink()


# What is asked of the store


async def test_a_hit_makes_no_request_to_the_store(simulator: Simulator, store: FaultyStore, tmp_path: Path) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        for built in (SMALL, LARGE):
            assert (await mirror.get(path_of(built))).outcome == "miss"
            await mirror.get(path_of(built) + ".metadata")
        await blobs_of(mirror).close()  # labels are written in the background
        before = dict(store.requests)
        for number in range(3):
            for built in (SMALL, LARGE):
                hit = await mirror.get(path_of(built), User_Agent=f"client/{number}")
                assert (hit.outcome, hit.body) == ("hit", built.content)
                assert (await mirror.get(path_of(built) + ".metadata", User_Agent=f"client/{number}")).status == 200
                await mirror.get("/simple/large/", User_Agent=f"client/{number}")
        assert dict(store.requests) == before


async def test_a_file_that_is_not_cached_comes_from_the_store_and_is_cached(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        first = await mirror.get(path_of(LARGE))
        await forget_cache(mirror)
        many = await asyncio.gather(*(mirror.get(path_of(LARGE)) for _ in range(5)))
        part = await mirror.get(path_of(LARGE), Range="bytes=1000000-1000999")
        assert {(reply.outcome, reply.body) for reply in many} == {("hit", LARGE.content)}
        assert part.body == LARGE.content[1_000_000:1_001_000]
        assert many[0].headers["Last-Modified"] == first.headers["Last-Modified"]
    gets = [path for path in store.paths if path.startswith("GET") and LARGE.sha256 in path and "labels" not in path]
    assert len(gets) == 1
    assert simulator.count("GET", f"*/{LARGE.filename}") == 1


async def test_a_file_larger_than_the_cache_is_served_all_the_same(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store, cache="1MB") as mirror:
        for _ in range(2):
            assert (await mirror.get(path_of(LARGE))).body == LARGE.content
            part = await mirror.get(path_of(LARGE), Range="bytes=1000000-1000999")
            assert part.body == LARGE.content[1_000_000:1_001_000]
        assert (await mirror.get(path_of(SMALL))).body == SMALL.content
        cached = {path.name for path in (tmp_path / "a" / "cache" / "blobs").glob("??/*")}
    assert LARGE.sha256 not in cached
    assert SMALL.sha256 in cached
    assert simulator.count("GET", f"*/{LARGE.filename}") == 1


async def test_the_cache_keeps_to_its_limit_and_lets_the_least_recently_used_go(
    store: FaultyStore, tmp_path: Path
) -> None:
    from mirror.config import Settings
    from mirror.service.blobs import blob_store
    from tests.blobs.conftest import MemoryNumbers

    settings = Settings.model_validate({"data_dir": str(tmp_path), "blobs": store.table | {"cache": "1MB"}})
    blobs = blob_store(settings, MemoryNumbers())
    held = [(await blobs.write(noise(90_000, str(n)))).digest for n in range(10)]
    for number, digest in enumerate(held):
        path = tmp_path / "cache" / "blobs" / digest[:2] / digest
        os.utime(path, (1000 + number, path.stat().st_mtime))
    assert (await blobs.open(held[0])).path is not None  # which is a use
    for number in range(10, 14):
        await blobs.write(noise(90_000, str(number)))
        sizes = [path.stat().st_size for path in (tmp_path / "cache" / "blobs").glob("??/*")]
        assert sum(sizes) <= 1_000_000
    left = {path.name for path in (tmp_path / "cache" / "blobs").glob("??/*")}
    assert held[0] in left
    assert not {*held[1:4]} & left
    await blobs.close()


# Faults


async def test_while_the_store_fails_hits_go_on_and_misses_are_passed_through(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        secret = await make_token(mirror)
        assert (await mirror.get(path_of(SMALL))).outcome == "miss"
        await blobs_of(mirror).close()
        store.fail = lambda method, path: True
        assert (await mirror.get(path_of(SMALL), User_Agent="another")).outcome == "hit"
        assert (await mirror.get(path_of(LARGE))).body == LARGE.content
        refused = await upload(mirror, secret, OURS)
        assert refused.status == 503, refused.text
        assert "object store" in refused.text
        assert int(refused.headers["Retry-After"]) >= 1
        assert (await mirror.get(path_of(LARGE))).body == LARGE.content
        assert "object store" in (await mirror.get("/health")).text
        before = sum(store.requests.values())
        assert (await mirror.get(path_of(LARGE))).body == LARGE.content
        assert sum(store.requests.values()) == before  # it is left alone
        store.fail = lambda method, path: False
        blobs_of(mirror).client.breaker.record(True)  # as after its time
        assert (await upload(mirror, secret, OURS)).status == 200
        assert (await mirror.get(path_of(LARGE))).body == LARGE.content
        assert (await mirror.get(path_of(LARGE), User_Agent="another")).outcome == "hit"


@pytest.mark.parametrize("spoil", [lambda body: body[:-1], lambda body: b"x" + body[1:], lambda body: body + b"x"])
async def test_a_damaged_object_is_never_served_whole_nor_kept(
    simulator: Simulator, store: FaultyStore, tmp_path: Path, spoil: Any
) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        await mirror.get(path_of(LARGE))
        await forget_cache(mirror)
        store.spoil = spoil
        try:
            broken = (await mirror.get(path_of(LARGE))).body
        except aiohttp.ClientPayloadError:
            broken = b""
        assert len(broken) < len(LARGE.content)
        store.spoil = bytes
        assert (await mirror.get(path_of(LARGE), User_Agent="another")).body == LARGE.content
    assert simulator.count("GET", f"*/{LARGE.filename}") == 2


async def test_a_cached_object_that_was_deleted_is_fetched_anew_and_a_missing_upload_is_named(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        secret = await make_token(mirror)
        assert (await upload(mirror, secret, OURS)).status == 200
        await mirror.get(path_of(LARGE))
        blobs = blobs_of(mirror)
        for built in (LARGE, OURS):
            await blobs.client.delete([f"blobs/{built.sha256[:2]}/{built.sha256}"])
        await forget_cache(mirror)
        again = await mirror.get(path_of(LARGE))
        assert (again.status, again.body) == (200, LARGE.content)
        lost = await mirror.get(path_of(OURS))
        lost = await mirror.get(path_of(OURS))
        assert lost.status == 503, lost.text
        assert OURS.filename in lost.text
        metrics = (await mirror.get("/metrics")).text
        assert "mirror_missing_blobs_total 0.0" not in metrics
        assert "mirror_missing_blobs_total" in metrics
    assert simulator.count("GET", f"*/{LARGE.filename}") == 2


async def test_an_object_that_nothing_refers_to_goes_once_it_is_a_day_old(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    from mirror.service.jobs import evictor

    async with node(tmp_path / "a", simulator, store) as mirror:
        await mirror.get(path_of(SMALL))
        orphan = (await mirror.mirror.blobs.write(b"orphan")).digest
        store_of = mirror.mirror.store
        now = store_of.clock
        sweeper = evictor(mirror.mirror.settings, store_of, 1 << 40)
        sweeper._pause = 0
        assert (await sweeper.sweep()).orphans == 0
        sweeper._clock = lambda: now() + 90_000
        assert (await sweeper.sweep()).orphans == 1
        assert await mirror.mirror.blobs.find(orphan) is None
        assert (await mirror.get(path_of(SMALL), User_Agent="another")).outcome == "hit"


# The start


async def refusal(directory: Path, simulator: Simulator, table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as refused:
        async with serving(directory, repositories(simulator), blobs=table):
            pass
    text = str(refused.value)
    assert "\n" not in text
    assert "blobs.url" in text
    return text


async def test_a_bucket_that_does_not_exist_is_refused(simulator: Simulator, tmp_path: Path) -> None:
    table = objects.table("s3")
    text = await refusal(tmp_path / "a", simulator, table | {"url": "s3://no-such-bucket/x"})
    assert "there is no bucket" in text


async def test_a_bucket_of_another_mirror_is_refused_and_nothing_in_it_changes(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store):
        pass
    store.requests.clear()
    assert "another mirror" in await refusal(tmp_path / "b", simulator, store.table)
    assert {*store.requests} <= {"GET", "HEAD"}
    async with node(tmp_path / "a", simulator, store) as mirror:
        assert (await mirror.get(path_of(SMALL))).status == 200


@pytest.mark.parametrize("begun", [False, True], ids=["empty", "its own"])
async def test_a_bucket_that_can_only_be_read_is_refused(
    simulator: Simulator, store: FaultyStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begun: bool
) -> None:
    if begun:
        async with node(tmp_path / "a", simulator, store):
            pass
    for name, value in objects.READER_KEYS.items():
        monkeypatch.setenv(name, value)
    assert "does not let this mirror" in await refusal(tmp_path / "a", simulator, store.table)


async def test_a_data_directory_with_files_is_not_left_behind(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    simulator.publish(SMALL)
    async with serving(tmp_path / "a", repositories(simulator), blobs={}) as mirror:
        await mirror.get(path_of(SMALL))
    assert "mirror move" in await refusal(tmp_path / "a", simulator, store.table)


async def test_a_node_starts_while_the_store_is_away_and_serves_what_is_cached(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store) as mirror:
        await mirror.get(path_of(SMALL))
    store.fail = lambda method, path: True
    async with node(tmp_path / "a", simulator, store) as mirror:
        assert (await mirror.get(path_of(SMALL))).outcome == "hit"
    assert "cannot be used" in await refusal(tmp_path / "b", simulator, store.table)


def test_without_its_library_an_object_store_is_one_clear_sentence(tmp_path: Path) -> None:
    file = write_settings(tmp_path / "data", None, blobs={"url": "s3://bucket/prefix"})
    hide = "import sys; sys.modules['obstore'] = None; from mirror.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", hide, "serve", "--config", str(file)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stderr.strip().splitlines() == [
        "mirror: blobs.url: object stores need a part of the mirror that is not installed:"
        " pip install 'mirror[objects]'"
    ]


async def test_the_doctor_looks_at_the_store(simulator: Simulator, store: FaultyStore, tmp_path: Path) -> None:
    from mirror.config import Settings
    from mirror.doctor.objects import check_object_store

    settings = Settings.model_validate({"data_dir": str(tmp_path / "a"), "blobs": store.table})
    assert [one.verdict for one in await check_object_store(settings)] == ["fails"]  # it was never used
    async with node(tmp_path / "a", simulator, store):
        pass
    assert {one.verdict for one in await check_object_store(settings)} == {"ok"}
    store.fail = lambda method, path: True
    (found,) = await check_object_store(settings)
    assert (found.name, found.verdict) == ("mirror/object-store", "fails")


async def test_a_backup_has_the_uploads_of_an_object_store(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    from mirror.maintenance.backup import add_stored, back_up

    async with node(tmp_path / "a", simulator, store) as mirror:
        assert (await upload(mirror, await make_token(mirror), OURS)).status == 200
        await mirror.get(path_of(LARGE))
        saved = await asyncio.to_thread(back_up, tmp_path / "a", tmp_path / "backup")
        assert OURS.sha256 in saved.missing
        whole = await add_stored(mirror.mirror.blobs, tmp_path / "backup", saved)
    assert whole.missing == ()
    kept = {path.name for path in (tmp_path / "backup" / "blobs").glob("??/*")}
    assert OURS.sha256 in kept
    assert LARGE.sha256 not in kept


async def test_verify_reads_the_objects_and_mends_what_is_damaged(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    from mirror.service.jobs import verifier

    async with node(tmp_path / "a", simulator, store) as mirror:
        await mirror.get(path_of(LARGE))
        await mirror.get(path_of(SMALL))
        key = f"blobs/{LARGE.sha256[:2]}/{LARGE.sha256}"
        await blobs_of(mirror).client.replace(key, b"x" * len(LARGE.content), len(LARGE.content))
        found = [
            one.fault
            async for one in verifier(mirror.mirror, mirror.mirror.store, None).verify()
            if one.fault is not None
        ]
        assert [(fault.digest, fault.mended) for fault in found] == [(LARGE.sha256, True)]
        await forget_cache(mirror)
        assert (await mirror.get(path_of(LARGE), User_Agent="x")).body == LARGE.content


# Redirects


async def test_large_files_are_redirected_for_get_alone(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store, redirect="1MB") as mirror:
        for built in (SMALL, LARGE):
            assert (await mirror.get(path_of(built))).body == built.content
        for headers in ({}, {"Range": "bytes=5-9"}):
            away = await mirror.get(path_of(LARGE), User_Agent="x", **headers)
            assert (away.status, away.headers["Cache-Control"]) == (302, "no-store")
            assert store.url in away.headers["Location"]
        assert (await mirror.head(path_of(LARGE), User_Agent="x")).status == 200
        assert (await mirror.get(path_of(LARGE), If_None_Match=f'"{LARGE.sha256}"')).status == 304
        for path in (path_of(SMALL), path_of(LARGE) + ".metadata", "/simple/large/"):
            assert (await mirror.get(path, User_Agent="x")).status == 200


async def test_pip_follows_a_redirect_and_verifies_the_file(
    simulator: Simulator, store: FaultyStore, tmp_path: Path
) -> None:
    async with node(tmp_path / "a", simulator, store, redirect="1MB") as mirror:
        assert (await mirror.get(path_of(LARGE))).status == 200
        await running(
            sys.executable, "-m", "pip", "download", "--no-deps", "--no-cache-dir", "--dest", tmp_path / "out",
            "--index-url", f"{mirror.url}simple/", "large==1.0",
        )  # fmt: skip
    assert (tmp_path / "out" / LARGE.filename).read_bytes() == LARGE.content
    assert any("X-Amz-Signature" in path and LARGE.sha256 in path for path in store.paths)
