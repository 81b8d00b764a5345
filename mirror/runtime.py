"""The event loop, settings of the interpreter that keep it responsive, and tasks that no one waits for."""

import asyncio
import gc
import logging
import os
import resource
import sys
from collections.abc import Callable

logger = logging.getLogger(__name__)

EXIT_BROKEN = 70
"""The exit status of a process that cannot go on (EX_SOFTWARE of sysexits.h); systemd starts it again."""
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


def processors() -> int:
    """Return on how many processors this process may run."""
    affinity = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def affordable_connections(wanted: int, open_files: int) -> int:
    """Return how many connections a limit of open files allows: each needs a second one while it sends a file."""
    return max(16, min(wanted, (open_files - RESERVED_DESCRIPTORS) * 3 // 4))


def log_failure(task: "asyncio.Task[object]") -> None:
    """Log the error of a task that no one waits for: `task.add_done_callback(log_failure)`."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("the background task %s failed: %s", task.get_name(), error, exc_info=error)


def end_process(task: "asyncio.Task[object]") -> None:
    """End the process because a task has ended without which nothing is ever answered again.

    It is a callback for `task.add_done_callback`, to be removed before the task is ended on purpose.
    """
    error = None if task.cancelled() else task.exception()
    logger.critical("%s has ended, and with it this process: start it again", task.get_name(), exc_info=error)
    logging.shutdown()
    os._exit(EXIT_BROKEN)
