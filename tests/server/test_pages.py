"""Rendered pages in memory: made once for all that they are made of."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from mirror.index.cache import MemoryBudget
from mirror.index.packing import COMPRESS, DECOMPRESS
from mirror.server.disk_cache import DiskCache
from mirror.server.pages import HEAD_BYTES, PageCache, PageInput, PageKey, RenderedPage


class Thing:
    """What a page is made of, and how often it was made."""

    def __init__(self) -> None:
        self.revision = 0
        self.asked = 0
        self.heavy = False
        self.body = b""
        self.kept = True

    async def get(self) -> PageInput:
        self.asked += 1
        await asyncio.sleep(0)
        body = self.body or b"revision %d" % self.revision
        return PageInput(lambda: body, "text/plain", heavy=self.heavy, kept=self.kept)


@pytest.fixture
def pages() -> PageCache:
    return PageCache(MemoryBudget(1_000_000))


@pytest.fixture
def thing() -> Thing:
    return Thing()


async def page(pages: PageCache, thing: Thing) -> RenderedPage:
    return await pages.get(PageKey(("pypi", "six", "simple"), thing.revision), thing.get)


async def body(pages: PageCache, thing: Thing) -> bytes:
    return await (await page(pages, thing)).body()


@pytest.mark.parametrize("heavy", [False, True])
async def test_a_page_is_made_once_for_each_revision(pages: PageCache, thing: Thing, heavy: bool) -> None:
    thing.heavy = heavy
    assert await body(pages, thing) == b"revision 0"
    assert await body(pages, thing) == b"revision 0"
    assert thing.asked == 1
    thing.revision = 1
    assert await body(pages, thing) == b"revision 1"
    thing.revision = 0
    assert await body(pages, thing) == b"revision 0"
    assert thing.asked == 2


async def test_many_at_once_make_it_once(pages: PageCache, thing: Thing) -> None:
    await asyncio.gather(*(page(pages, thing) for _ in range(5)))
    assert thing.asked == 1


async def test_a_page_counts_with_all_its_encodings(thing: Thing) -> None:
    budget = MemoryBudget(1_000_000)
    pages = PageCache(budget)
    thing.body = bytes(range(256)) * 200
    made = await page(pages, thing)
    plain = budget.weight - len(thing.body)
    gzip = await made.encode("gzip")
    assert budget.weight == plain + gzip, "it is kept compressed alone"
    zstd = await made.encode("zstd")
    assert budget.weight == plain + gzip + zstd
    assert await made.encode("gzip") == gzip
    assert budget.weight == plain + gzip + zstd
    made.keep_head((200, "gzip", "hit"), bytes(400))
    assert budget.weight == plain + gzip + zstd + HEAD_BYTES + 400


async def test_a_large_page_is_compressed_once_for_all_who_wait(thing: Thing, monkeypatch: pytest.MonkeyPatch) -> None:
    thing.body = bytes(range(256)) * 400
    made = await page(PageCache(MemoryBudget(1_000_000)), thing)
    compressed: list[str] = []

    def counted(encoding: str) -> Callable[[bytes], bytes]:
        def compress(body: bytes) -> bytes:
            compressed.append(encoding)
            return COMPRESS[encoding](body)

        return compress

    monkeypatch.setattr("mirror.server.pages.COMPRESS", {encoding: counted(encoding) for encoding in COMPRESS})
    await asyncio.gather(*(made.encode(encoding) for encoding in ("gzip", "zstd") * 3))
    assert sorted(compressed) == ["gzip", "zstd"]


async def test_what_is_newer_than_its_key_is_not_kept(pages: PageCache, thing: Thing) -> None:
    thing.kept = False
    assert await body(pages, thing) == b"revision 0"
    thing.body, thing.kept = b"what the key names", True
    assert await body(pages, thing) == await body(pages, thing) == b"what the key names"
    assert thing.asked == 2


async def test_memory_is_bounded(thing: Thing) -> None:
    budget = MemoryBudget(20_000)
    pages = PageCache(budget)
    thing.body = b"x" * 3000
    for thing.revision in range(50):
        await page(pages, thing)
    assert budget.weight <= 20_000
    assert 0 < len(pages._pages) < 50


async def test_an_error_is_not_kept(pages: PageCache, thing: Thing) -> None:
    async def fail() -> PageInput:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await pages.get(PageKey(("pypi", "six", "simple"), 0), fail)
    assert await body(pages, thing) == b"revision 0"


async def test_the_identity_of_a_compressed_page_is_made_again(pages: PageCache, thing: Thing) -> None:
    thing.body = b"a page " * 9000
    made = await page(pages, thing)
    for encoding in ("gzip", "zstd", "gzip", "identity"):
        size = await made.encode(encoding)
        (content,) = made.chunks(encoding, 0, size)
        assert DECOMPRESS[encoding](bytes(content)) == thing.body
    assert thing.asked == 1


# On disk


PLACE = ("pypi", "six", "simple")


@pytest.fixture
async def disk(tmp_path: Path) -> AsyncIterator[DiskCache]:
    one = DiskCache(tmp_path / "rendered", "1")
    await one.resize(100_000_000, 1000)
    yield one
    await one.close()


async def saved(disk: DiskCache, thing: Thing, encoding: str = "gzip", budget: int = 1_000_000) -> PageCache:
    """The cache of a process that finds what another one has written, which has ended by now."""
    before = PageCache(MemoryBudget(1_000_000), disk)
    await (await before.get(PageKey(PLACE, str(thing.revision), durable=True), thing.get)).encode(encoding)
    await before.close()
    return PageCache(MemoryBudget(budget), disk)


async def again(pages: PageCache, thing: Thing) -> bytes:
    return await pages.body(PageKey(PLACE, str(thing.revision), durable=True), thing.get)


@pytest.mark.parametrize("body", [b"small", b"a page " * 9000, b"a large page " * 200_000])
@pytest.mark.parametrize("encoding", ["identity", "gzip", "zstd"])
@pytest.mark.parametrize("budget", [1_000_000, 10])
async def test_a_page_on_disk_is_not_made_again(
    disk: DiskCache, thing: Thing, body: bytes, encoding: str, budget: int
) -> None:
    thing.body = body
    pages = await saved(disk, thing, encoding, budget)
    assert await again(pages, thing) == await again(pages, thing) == body
    assert thing.asked == 1


async def test_a_small_page_is_compressed_and_written_to_disk_once_a_second_client_wants_it(
    disk: DiskCache, thing: Thing
) -> None:
    thing.body = b"a page " * 1000
    pages, key = PageCache(MemoryBudget(1_000_000), disk), PageKey(PLACE, "0", durable=True)
    assert pages._saver is not None
    made = await pages.get(key, thing.get)
    made.keep_head((200, "identity", "miss", False), b"")
    await pages._saver.flush()
    assert (made.compressible, len(disk.places)) == (False, 0)
    await (await pages.get(key, thing.get)).encode("gzip")
    await pages._saver.flush()
    assert (made.compressible, len(disk.places), set(made.bodies)) == (True, 1, {"gzip"})


async def test_a_small_page_is_written_to_disk_when_memory_has_no_room_for_it(disk: DiskCache, thing: Thing) -> None:
    pages = PageCache(MemoryBudget(20_000), disk)
    thing.body = b"x" * 3000
    for number in range(10):
        await pages.get(PageKey(("pypi", f"six-{number}", "simple"), "0", durable=True), thing.get)
    assert pages._saver is not None
    await pages._saver.flush()
    assert len(disk.places) + len(pages._pages) == 10


@pytest.mark.parametrize("size", [14_001, 2 << 20])
async def test_a_page_of_several_round_trips_is_compressed_for_its_first_client(
    pages: PageCache, thing: Thing, size: int
) -> None:
    thing.body = bytes(size)
    assert (await page(pages, thing)).compressible


async def test_a_page_has_the_same_etags_from_disk(disk: DiskCache, thing: Thing) -> None:
    thing.body = b"a page " * 9000
    made = await page(PageCache(MemoryBudget(1_000_000)), thing)
    kept = await (await saved(disk, thing)).get(PageKey(PLACE, "0", durable=True), thing.get)
    assert [kept.etag_of(one) for one in COMPRESS] == [made.etag_of(one) for one in COMPRESS]
    assert (kept.size, kept.sha256, kept.media_type) == (made.size, made.sha256, made.media_type)


async def test_another_revision_takes_the_place_of_the_one_before(disk: DiskCache, thing: Thing) -> None:
    pages = await saved(disk, thing)
    thing.revision = 1
    assert await again(pages, thing) == b"revision 1"
    await pages.close()
    assert len(disk.places) == 1
    assert await again(PageCache(MemoryBudget(1_000_000), disk), thing) == b"revision 1"
    assert thing.asked == 2


async def test_an_encoding_that_is_asked_for_later_is_kept_beside_the_first(disk: DiskCache, thing: Thing) -> None:
    thing.body = bytes(range(256)) * 2000
    await (await saved(disk, thing, "gzip")).close()
    pages = await saved(disk, thing, "zstd")
    kept = await pages.get(PageKey(PLACE, "0", durable=True), thing.get)
    assert set(kept.on_disk) == {"gzip", "zstd"}
    assert thing.asked == 1


@pytest.mark.parametrize("size", [500, 60_000, 600_000])
@pytest.mark.parametrize("damage", ["changed", "cut", "emptied", "deleted"])
async def test_a_damaged_page_is_rendered_again(tmp_path: Path, thing: Thing, size: int, damage: str) -> None:
    thing.body = bytes(range(256)) * (size // 256)
    first = DiskCache(tmp_path / "rendered", "1")
    await first.resize(100_000_000, 1000)
    await saved(first, thing)
    await first.close()
    (file,) = tmp_path.glob("rendered/1/*.pages")
    content = file.read_bytes()
    match damage:
        case "changed":
            file.write_bytes(content[:-20] + bytes(20))
        case "cut":
            file.write_bytes(content[:-1])
        case "emptied":
            file.write_bytes(b"")
        case "deleted":
            file.unlink()
    second = DiskCache(tmp_path / "rendered", "1")
    await second.resize(100_000_000, 1000)
    pages = PageCache(MemoryBudget(1_000_000), second)
    assert await again(pages, thing) == thing.body
    assert thing.asked == 2
    await pages.close()
    assert await again(PageCache(MemoryBudget(1_000_000), second), thing) == thing.body, "and it is kept anew"
    assert thing.asked == 2
    await second.close()


async def test_pages_that_are_not_durable_stay_off_the_disk(disk: DiskCache, thing: Thing) -> None:
    pages = PageCache(MemoryBudget(1_000_000), disk)
    await body(pages, thing)
    await pages.close()
    assert not disk.places
