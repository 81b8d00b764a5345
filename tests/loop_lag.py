"""A probe of the event loop: how long whatever else it had to do was kept waiting."""

import asyncio
import time
from types import TracebackType
from typing import Self

TICK_SECONDS = 0.005


class LoopLag:
    """Measures, for the length of the block, the longest time for which the event loop could not serve others.

    What counts is the processor time of this process between two ticks, no more than the time that has passed: on a
    busy machine a tick may be late because other processes run, which is not the fault of the code under test.
    """

    def __init__(self) -> None:
        self.longest = 0.0
        """Seconds."""
        self._task: asyncio.Task[None] | None = None

    async def _measure(self) -> None:
        while True:
            passed, used = time.perf_counter(), time.process_time()
            await asyncio.sleep(TICK_SECONDS)
            lag = min(time.perf_counter() - passed - TICK_SECONDS, time.process_time() - used)
            self.longest = max(self.longest, lag)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._measure())
        await asyncio.sleep(TICK_SECONDS)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._task is not None
        await asyncio.sleep(TICK_SECONDS)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
