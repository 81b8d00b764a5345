"""A large object is read in several ranges at once, in its order, and with little of it in memory."""

import asyncio
from collections.abc import AsyncGenerator
from typing import cast

import pytest

from mirror.blobs import objects_ranges
from mirror.blobs.objects_client import MissingObject, ObjectClient
from mirror.blobs.objects_ranges import RANGE_BYTES, RANGES_AHEAD, RANGES_IN_MEMORY, ParallelReader
from mirror.errors import StorageUnavailable
from tests.builders import noise

LARGE = noise(5 * RANGE_BYTES + 17, "ranges")
PIECE = 1 << 20


class Ranges:
    """The client of a store with one object, which counts what is asked of it."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, int | None]] = []
        self.open = self.most = 0
        self.fails_at = -1
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def read(self, key: str, start: int = 0, stop: int | None = None) -> AsyncGenerator[bytes, None]:
        self.asked.append((start, stop))
        self.open += 1
        self.most = max(self.most, self.open)
        end = len(LARGE) if stop is None else stop
        try:
            for at in range(start, end, PIECE):
                await self.goes_on.wait()
                await asyncio.sleep(0)
                if at <= self.fails_at < at + PIECE:
                    raise MissingObject(no_bucket=False) if key == "gone" else StorageUnavailable("It fails.")
                yield LARGE[at : min(at + PIECE, end)]
        finally:
            self.open -= 1


@pytest.fixture(autouse=True)
def slow_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """No connection is quick enough."""
    monkeypatch.setattr(objects_ranges, "FAST_BYTES_PER_SECOND", float("inf"))


def reader(ranges: Ranges) -> ParallelReader:
    return ParallelReader(cast(ObjectClient, ranges))


async def test_the_bytes_come_in_their_order() -> None:
    ranges = Ranges()
    assert b"".join([chunk async for chunk in reader(ranges).read("key", len(LARGE))]) == LARGE
    assert ranges.asked[0] == (0, RANGE_BYTES)
    assert (ranges.most, ranges.open) == (1 + RANGES_AHEAD, 0)
    assert all(stop is not None and stop - start <= RANGE_BYTES for start, stop in ranges.asked)


async def test_where_one_connection_is_quick_the_rest_is_one_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_ranges, "FAST_BYTES_PER_SECOND", 1)
    ranges = Ranges()
    assert b"".join([chunk async for chunk in reader(ranges).read("key", len(LARGE))]) == LARGE
    assert ranges.asked == [(0, RANGE_BYTES), (RANGE_BYTES, len(LARGE))]
    assert ranges.most == 1


async def test_a_small_object_is_read_at_once() -> None:
    ranges = Ranges()
    async for _ in reader(ranges).read("key", 2 * RANGE_BYTES):
        pass
    assert ranges.asked == [(0, None)]


async def test_all_readers_together_hold_no_more_than_there_may_be() -> None:
    ranges, many = Ranges(), 2 * RANGES_IN_MEMORY
    reading = reader(ranges)

    async def whole() -> bytes:
        return b"".join([chunk async for chunk in reading.read("key", len(LARGE))])

    assert await asyncio.gather(*(whole() for _ in range(many))) == [LARGE] * many
    assert ranges.most <= many + RANGES_IN_MEMORY
    assert ranges.open == 0


@pytest.mark.parametrize(("key", "error"), [("key", StorageUnavailable), ("gone", MissingObject)])
async def test_what_fails_fails_the_reader_and_leaves_nothing_running(key: str, error: type[Exception]) -> None:
    ranges = Ranges()
    ranges.fails_at = 2 * RANGE_BYTES
    reading, got = reader(ranges), bytearray()

    async def whole() -> None:
        async for chunk in reading.read(key, len(LARGE)):
            got.extend(chunk)

    with pytest.raises(error):
        await whole()
    assert LARGE.startswith(got)
    assert len(got) <= ranges.fails_at
    assert ranges.open == 0
    ranges.fails_at, ranges.most = -1, 0
    assert b"".join([chunk async for chunk in reading.read(key, len(LARGE))]) == LARGE
    assert ranges.most == 1 + RANGES_AHEAD


async def test_who_stops_reading_stops_receiving() -> None:
    ranges = Ranges()
    reading = reader(ranges).read("key", len(LARGE))
    await anext(reading)
    ranges.goes_on.clear()
    await reading.aclose()
    assert ranges.open == 0
