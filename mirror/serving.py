"""Listening, and the life of the process: from the settings to a mirror that answers, until a signal ends it.

`running` listens for the length of a block, `serve` until a signal. What is served is made in `mirror.app`.
"""

import asyncio
import fcntl
import gc
import logging
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import BinaryIO

from aiohttp import web
from yarl import URL

from mirror import log
from mirror.app import Mirror
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.lane import LaneRunner, Lanes
from mirror.observe import Observer

logger = logging.getLogger(__name__)

KEEPALIVE = 75.0
"""Seconds for which an idle connection stays open."""


def serve(settings: Settings, ready: Callable[[Sequence[str]], None] = lambda urls: None) -> int:
    """Run the mirror until SIGTERM or SIGINT, and return the exit status. `ready` is called with its URLs."""
    log.configure(settings.log.format, settings.log.level)
    _keep_smooth()
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        return runner.run(_serve(settings, ready))


def _keep_smooth() -> None:
    """Let neither a thread that parses a large page nor the garbage collector hold up the event loop for long."""
    sys.setswitchinterval(0.001)  # seconds for which a thread keeps the interpreter while another one wants it
    gc.freeze()  # what is here by now is here for good
    gc.set_threshold(20_000, 50, 100)  # a page of 5,000 files would set off the longest collection, several times


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # not on every platform
        return None
    return uvloop.new_event_loop


async def _serve(settings: Settings, ready: Callable[[Sequence[str]], None]) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with running(settings) as (_, urls):
        ready(urls)
        await stop.wait()
        logger.info("stopping: running answers may finish within %s s", settings.limits.shutdown_grace)
    return 0


@asynccontextmanager
async def running(
    settings: Settings, clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Mirror, list[str]]]:
    """A mirror that listens, with its URLs; at the end of the block running answers may finish.

    Raises ConfigError when an address or the data directory is taken.
    """
    async with AsyncExitStack() as stack:
        stack.callback(os.close, lock(settings.data_dir))
        mirror = Mirror(settings, clock)
        await mirror.open()
        access = None
        if settings.log.access:
            stream: BinaryIO = sys.stdout.buffer
            access = log.AccessLog(stream, json=log.wants_json(settings.log.format, sys.stdout))
            stack.callback(access.close)
        observer = Observer(access, mirror.metrics)
        lanes = Lanes(observer.hit, KEEPALIVE, clock)
        runner = LaneRunner(
            mirror.application(),
            lanes,
            shutdown_timeout=settings.limits.shutdown_grace,
            access_log_class=observer.logger(),
            max_line_size=32_768,  # so that nonsense of some length is still answered by us
            max_field_size=16_384,
            auto_decompress=False,
            keepalive_timeout=KEEPALIVE,
        )
        await runner.setup()
        stack.push_async_callback(mirror.close, settings.limits.shutdown_grace)
        stack.push_async_callback(runner.cleanup)
        urls = [await _listen(runner, str(address)) for address in settings.listen]
        flushing = asyncio.create_task(mirror.statistics.run())
        stack.callback(flushing.cancel)
        following = asyncio.create_task(mirror.feed.follow_others(mirror.rebuild))
        stack.callback(following.cancel)
        looking = asyncio.create_task(mirror.policies.run())
        stack.callback(looking.cancel)
        yield mirror, urls


async def _listen(runner: web.AppRunner, address: str) -> str:
    """Listen at `host:port` or `unix:/path`, and return the URL."""
    try:
        if address.startswith("unix:"):
            path = address.removeprefix("unix:")
            await web.UnixSite(runner, path).start()
            return f"http+unix://{path.replace('/', '%2F')}"
        url = URL(f"http://{address}")
        site = web.TCPSite(runner, url.host, url.port, backlog=1024)
        await site.start()
        port = runner.addresses[-1][1] if url.port == 0 else url.port
        return str(url.with_port(port))
    except OSError as error:
        raise ConfigError(f"listen: cannot listen at {address}: {error.strerror or error}.") from None


def lock(data_dir: Path) -> int:
    """Take the data directory for this process, until the returned descriptor is closed. Raises ConfigError."""
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise ConfigError(f"data_dir: {data_dir} cannot be used: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise ConfigError(f"data_dir: another mirror is serving from {data_dir}; stop it or choose another.") from None
    return descriptor
