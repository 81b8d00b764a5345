"""A probe of the event loop: how long others wait while a hostile client has its way.

async with loop_lag() as lag:
    ...
assert lag.worst < LAG_SECONDS
"""

import asyncio
import gc
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from mirror.runtime import tune_runtime

LAG_SECONDS = 0.2
"""The longest that the event loop of a mirror may stand still, whatever a client or an upstream sends."""
PROBE_SECONDS = 0.01


class LoopLag:
    """How late the event loop was, in seconds."""

    def __init__(self) -> None:
        self.worst = 0.0
        self.busy = 0.0
        """The worst of it that this process used a processor for: others that keep the machine busy do not count."""
        self.probes = 0


@asynccontextmanager
async def loop_lag() -> AsyncIterator[LoopLag]:
    """Measure the running loop until the end of the block."""
    lag = LoopLag()

    async def probe() -> None:
        while True:
            due, used = time.perf_counter() + PROBE_SECONDS, time.process_time()
            await asyncio.sleep(PROBE_SECONDS)
            late = time.perf_counter() - due
            lag.worst, lag.probes = max(lag.worst, late), lag.probes + 1
            lag.busy = max(lag.busy, min(late, time.process_time() - used))

    with _tuned():
        probing = asyncio.create_task(probe())
        try:
            yield lag
            await asyncio.sleep(PROBE_SECONDS)
        finally:
            probing.cancel()
            await asyncio.gather(probing, return_exceptions=True)


@contextmanager
def _tuned() -> Iterator[None]:
    """Tune the interpreter as `serve` does: the garbage collector would go through all that other tests have left."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    gc.collect()
    tune_runtime()
    try:
        yield
    finally:
        gc.unfreeze()
        gc.set_threshold(*threshold)
        sys.setswitchinterval(interval)
