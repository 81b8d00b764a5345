"""The event loop, and settings of the interpreter that keep it responsive."""

import asyncio
import gc
import resource
import sys
from collections.abc import Callable

RESERVED_DESCRIPTORS = 256
"""File descriptors that are kept for everything but clients: files, upstreams, the catalog."""


def tune_runtime() -> None:
    """Keep threads that parse large pages and the garbage collector from blocking the event loop for long."""
    sys.setswitchinterval(0.001)  # seconds for which a thread keeps the interpreter while another one wants it
    gc.freeze()  # what is here by now is here for good
    gc.set_threshold(20_000, 50, 100)  # a page of 5,000 files would set off the longest collection, several times


def event_loops() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Return the factory of uvloop's event loops, or None where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop


def raise_open_files() -> int:
    """Raise this process's limit of open files as far as it may go, and return it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):  # an infinite limit that the kernel does not grant
            return soft
    return hard


def affordable_connections(wanted: int, open_files: int) -> int:
    """Return how many connections a limit of open files allows: each needs a second one while it sends a file."""
    return max(16, min(wanted, (open_files - RESERVED_DESCRIPTORS) * 3 // 4))
