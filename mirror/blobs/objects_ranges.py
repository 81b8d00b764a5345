"""Reading a large object in several ranges at once, where an object store gives each connection a part of what it can.

The first range shows whether it does: a store that is quick on one connection is read as one stream. The bytes come out
in their order. What is received ahead of them is in memory: a few ranges of one object, and not many of all objects
together; a reader that gets none of those goes on with one range after the other.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator

from mirror.blobs.objects_client import ObjectClient

RANGE_BYTES = 4 << 20
"""Bytes of a range: enough for the wait for its first byte to matter little."""
RANGES_AHEAD = 2
"""Ranges of one object that are received besides the one that is read."""
RANGES_IN_MEMORY = 8
"""Ranges that are received ahead for all readers together."""
FAST_BYTES_PER_SECOND = 128 << 20
"""Bytes per second from which one connection is enough: several would cost more than they gain."""


class ParallelReader:
    """Reads large objects of one store in several ranges at once."""

    def __init__(self, client: ObjectClient) -> None:
        self._client = client
        self._ahead = 0
        """Ranges that are received ahead at this moment."""

    async def read(self, key: str, size: int) -> AsyncGenerator[bytes, None]:
        """Yield all bytes of an object of that size. Raises MissingObject, StorageUnavailable."""
        if size <= 2 * RANGE_BYTES:
            async for chunk in self._client.read(key):
                yield chunk
            return
        first = IncomingRange(self._client.read(key, 0, RANGE_BYTES))
        ranges, begun = deque([first]), RANGE_BYTES
        try:
            while ranges:
                async for chunk in ranges[0].chunks():
                    yield chunk
                done = ranges.popleft()
                self._ahead -= bool(ranges)  # the next one is read from now on
                if done is first and first.bytes_per_second >= FAST_BYTES_PER_SECOND:
                    async for chunk in self._client.read(key, begun, size):
                        yield chunk
                    return
                while begun < size and len(ranges) <= RANGES_AHEAD and (not ranges or self._ahead < RANGES_IN_MEMORY):
                    stop = min(begun + RANGE_BYTES, size)
                    self._ahead += bool(ranges)
                    ranges.append(IncomingRange(self._client.read(key, begun, stop)))
                    begun = stop
        finally:
            self._ahead -= max(0, len(ranges) - 1)
            for one in ranges:
                await one.close()


class IncomingRange:
    """One range of an object, which is received whether its bytes are read yet or not."""

    def __init__(self, source: AsyncGenerator[bytes, None]) -> None:
        self.bytes_per_second = 0.0
        """How fast it came, behind its first piece; once it has come."""
        self._source = source
        self._chunks: deque[bytes] = deque()
        self._has_ended = False
        self._changed = asyncio.Event()
        self._receiving = asyncio.create_task(self._receive(), name="a range of an object")

    async def _receive(self) -> None:
        began, received = 0.0, 0
        try:
            async for chunk in self._source:
                began, received = (began, received + len(chunk)) if began else (time.perf_counter(), 0)
                self._chunks.append(chunk)
                self._changed.set()
            self.bytes_per_second = received / max(time.perf_counter() - began, 1e-6)
        finally:
            self._has_ended = True
            self._changed.set()

    async def chunks(self) -> AsyncIterator[bytes]:
        """Yield the bytes as they come. Raises what receiving them raises."""
        while self._chunks or not self._has_ended:
            if self._chunks:
                yield self._chunks.popleft()
            else:
                self._changed.clear()
                await self._changed.wait()
        await self._receiving

    async def close(self) -> None:
        """Receive no more."""
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)
        await self._source.aclose()
