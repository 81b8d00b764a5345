"""The event loop, and what keeps it smooth."""

import asyncio
import gc
import sys
from collections.abc import Callable


def tune_runtime() -> None:
    """Let neither a thread that parses a large page nor the garbage collector hold up the event loop for long."""
    sys.setswitchinterval(0.001)  # seconds for which a thread keeps the interpreter while another one wants it
    gc.freeze()  # what is here by now is here for good
    gc.set_threshold(20_000, 50, 100)  # a page of 5,000 files would set off the longest collection, several times


def event_loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """What makes event loops: uvloop where there is one, else None."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop
