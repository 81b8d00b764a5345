"""Records on disk: found while they are whole, bounded, and gone without harm."""

import os
import shutil
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.server import segments
from mirror.server.disk_cache import DiskCache
from mirror.server.segments import Record

MB = 1 << 20


def record(key: int, size: int = 1000, about: bytes = b"about") -> Record:
    return Record(key, about, {"gzip": os.urandom(size)})


async def opened(path: Path, version: str = "1", limit: int = 100 * MB, most: int = 1000) -> DiskCache:
    cache = DiskCache(path / "rendered", version)
    await cache.resize(limit, most)
    return cache


async def read(cache: DiskCache, key: int) -> bytes | None:
    found = await cache.find(key)
    return None if found is None else await cache.read_part(found, "gzip")


@pytest.fixture
async def cache(tmp_path: Path) -> AsyncIterator[DiskCache]:
    one = await opened(tmp_path)
    yield one
    await one.close()


@pytest.mark.parametrize("size", [0, 1000, 200_000])
@pytest.mark.parametrize("cold", [False, True])
async def test_a_record_is_found_again(tmp_path: Path, size: int, cold: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if cold:
        monkeypatch.setattr(segments, "_NOWAIT", 0)
    cache = await opened(tmp_path)
    records = [record(key, size) for key in (7, 2**64 - 1)]
    await cache.write(records)
    for one in (cache, DiskCache(tmp_path / "rendered", "1")):
        await one.resize(100 * MB, 1000)
        assert [await read(one, wanted.key) for wanted in records] == [wanted.parts["gzip"] for wanted in records]
        assert await read(one, 8) is None
        await one.close()


async def test_the_newest_record_of_a_key_counts(tmp_path: Path, cache: DiskCache) -> None:
    for about in (b"one", b"two"):
        await cache.write([record(7, about=about)])
    for one in (cache, DiskCache(tmp_path / "rendered", "1")):
        await one.resize(100 * MB, 1000)
        found = await one.find(7)
        assert found is not None
        assert found.head.about == b"two"
        await one.close()


async def test_records_of_another_version_are_deleted(tmp_path: Path, cache: DiskCache) -> None:
    await cache.write([record(7)])
    await cache.close()
    other = await opened(tmp_path, version="2")
    assert await read(other, 7) is None
    assert [path.name for path in (tmp_path / "rendered").iterdir()] == ["2"]
    await other.close()


async def test_the_oldest_go_where_the_limit_is_reached(tmp_path: Path) -> None:
    cache = await opened(tmp_path, limit=4 * MB)
    for key in range(12):
        await cache.write([record(key, MB)])
    assert 3 * MB - MB < cache.size <= 4 * MB
    assert [await read(cache, key) is not None for key in range(12)] == [False] * 9 + [True] * 3
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.*")) <= 4 * MB
    await cache.close()


async def test_the_number_of_records_is_limited(tmp_path: Path) -> None:
    cache = await opened(tmp_path, most=64)
    for key in range(500):
        await cache.write([record(key, 10)])
    assert 32 < len(cache.places) <= 64
    assert await read(cache, 499) is not None
    await cache.close()


async def test_it_goes_first_where_the_disk_fills_up(cache: DiskCache, monkeypatch: pytest.MonkeyPatch) -> None:
    await cache.write([record(7, MB)])

    def nearly_full(path: object) -> os.statvfs_result:
        return os.statvfs_result((4096, 4096, 1000, 500, 500, 1, 1, 1, 0, 255))

    monkeypatch.setattr(os, "statvfs", nearly_full)
    await cache.trim()
    assert cache.size == 0
    assert await read(cache, 7) is None
    monkeypatch.undo()
    await cache.write([record(7)])
    assert await read(cache, 7) is not None


async def test_a_full_disk_costs_what_is_kept_and_nothing_else(
    cache: DiskCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    await cache.write([record(7)])
    written = segments._write

    def full(descriptor: int, content: bytes) -> None:
        written(descriptor, content[:50])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "_write", full)
    await cache.write([record(8)])
    assert await read(cache, 8) is None
    monkeypatch.undo()
    await cache.write([record(9)])
    assert await read(cache, 9) is not None


async def test_its_directory_may_be_deleted_at_any_time(tmp_path: Path, cache: DiskCache) -> None:
    await cache.write([record(7)])
    shutil.rmtree(tmp_path / "rendered")
    assert await read(cache, 7) is not None, "the file is still open"
    await cache.trim()
    assert await read(cache, 7) is None
    await cache.write([record(8)])
    assert await read(cache, 8) is not None
    shutil.rmtree(tmp_path / "rendered")
    await cache.write([record(9)])
    await cache.write([record(9)])
    assert await read(cache, 9) is not None


async def test_only_its_owner_may_look_into_it(tmp_path: Path, cache: DiskCache) -> None:
    await cache.write([record(7)])
    for path in (tmp_path / "rendered").rglob("*"):
        assert not stat.S_IMODE(path.stat().st_mode) & 0o077, path
    assert stat.S_IMODE((tmp_path / "rendered").stat().st_mode) == 0o700


async def test_a_limit_of_nothing_leaves_nothing(tmp_path: Path, cache: DiskCache) -> None:
    await cache.write([record(7)])
    await cache.resize(0, 0)
    assert await read(cache, 7) is None
    await cache.write([record(8)])
    assert not cache.places
    await cache.close()
    await (await opened(tmp_path, limit=0)).close()
    assert not (tmp_path / "rendered").exists()


@pytest.mark.parametrize("content", [b"", b"x", bytes(48), bytes(range(240))])
async def test_nonsense_in_its_files_is_no_record(tmp_path: Path, content: bytes) -> None:
    directory = tmp_path / "rendered" / "1"
    directory.mkdir(parents=True)
    for name in ("1.pages", "1.index", "two.pages", "2.index"):
        (directory / name).write_bytes(content)
    cache = await opened(tmp_path)
    for key in [*cache.places]:
        assert await read(cache, key) is None
    await cache.write([record(7)])
    assert await read(cache, 7) is not None
    await cache.close()


async def test_one_process_has_it_and_another_one_takes_over(tmp_path: Path, cache: DiskCache) -> None:
    await cache.write([record(7)])
    other = await opened(tmp_path)
    assert not other.is_open
    await other.write([record(8)])
    assert not other.places
    await other.trim()
    assert not other.is_open
    await cache.close()
    await other.trim()
    assert await read(other, 7) is not None
    await other.close()
