"""Rendered pages in memory: made once for all that they are made of."""

import asyncio

import pytest

from mirror.index.cache import MemoryBudget
from mirror.server.pages import HEAD_BYTES, PageCache, PageInput, RenderedPage, compress


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
    return await pages.get(("pypi", "six", "simple", thing.revision), thing.get)


@pytest.mark.parametrize("heavy", [False, True])
async def test_a_page_is_made_once_for_each_revision(pages: PageCache, thing: Thing, heavy: bool) -> None:
    thing.heavy = heavy
    assert (await page(pages, thing)).body == b"revision 0"
    assert (await page(pages, thing)).body == b"revision 0"
    assert thing.asked == 1
    thing.revision = 1
    assert (await page(pages, thing)).body == b"revision 1"
    thing.revision = 0
    assert (await page(pages, thing)).body == b"revision 0"
    assert thing.asked == 2


async def test_many_at_once_make_it_once(pages: PageCache, thing: Thing) -> None:
    await asyncio.gather(*(page(pages, thing) for _ in range(5)))
    assert thing.asked == 1


async def test_a_page_counts_with_all_its_encodings(thing: Thing) -> None:
    budget = MemoryBudget(1_000_000)
    pages = PageCache(budget)
    thing.body = bytes(range(256)) * 200
    made = await page(pages, thing)
    plain = budget.weight
    gzip = await made.encode("gzip")
    assert budget.weight == plain + gzip
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

    def compress_once(body: bytes, encoding: str) -> bytes:
        compressed.append(encoding)
        return compress(body, encoding)

    monkeypatch.setattr("mirror.server.pages.compress", compress_once)
    await asyncio.gather(*(made.encode(encoding) for encoding in ("gzip", "zstd") * 3))
    assert sorted(compressed) == ["gzip", "zstd"]


async def test_what_is_newer_than_its_key_is_not_kept(pages: PageCache, thing: Thing) -> None:
    thing.kept = False
    assert (await page(pages, thing)).body == b"revision 0"
    thing.body, thing.kept = b"what the key names", True
    assert (await page(pages, thing)).body == (await page(pages, thing)).body == b"what the key names"
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
        await pages.get(("pypi", "six", "simple", 0), fail)
    assert (await page(pages, thing)).body == b"revision 0"
