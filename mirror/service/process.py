"""Listening, and the life of the process: from the settings to a mirror that answers, until a signal ends it.

A `Service` listens. What answers is one mirror after another over the same store: SIGHUP makes a new one from the new
settings, and only when all of it is good does it take the place of the old one, which finishes what it has begun. The
surprise: sockets belong to the service, not to a mirror; so no client can tell when one follows the other.
"""

import asyncio
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, BinaryIO

from mirror import __version__
from mirror.config import LimitsSettings, Settings, TLSSettings
from mirror.errors import ConfigError
from mirror.runtime import event_loops, tune_runtime
from mirror.server.connection import (
    ConnectionGroup,
    ConnectionLimits,
    ConnectionProtocol,
    Connections,
    affordable_connections,
    raise_open_files,
)
from mirror.server.drain import ConnectionRunner
from mirror.server.replay import ReplayCache
from mirror.service import following, scheduled_sync
from mirror.service.directory import lock, publish_urls
from mirror.service.jobs import keep_in_order
from mirror.service.listening import LOOK, TLS, Listening
from mirror.service.services import Activity, Mirror
from mirror.service.store import Store
from mirror.service.systemd import Notifier, listen_fds
from mirror.telemetry import log
from mirror.telemetry.observer import Observer

logger = logging.getLogger(__name__)

SICK = 10.0
"""Seconds that the event loop may be late before the watchdog is no longer put off."""


class Generation:
    """One mirror at work, with the server of its connections."""

    def __init__(self, settings: Settings, store: Store, activity: Activity, connections: Connections) -> None:
        """Raises Misconfigured."""
        self.mirror = Mirror(settings, store, activity)
        self._store = store
        self._grace = settings.limits.shutdown_grace
        self._access = _access_log(settings)
        observer = Observer(self._access, activity.metrics)
        replays = ReplayCache(store.clock)
        self._group = ConnectionGroup(connections, replays, settings.limits.idle, observer.record_replay)
        self._observer = observer
        self._tasks: list[asyncio.Task[None]] = []
        self.mirror.state.connections = lambda: len(connections)
        if (access := self._access) is not None:
            self.mirror.state.lines_dropped = lambda: access.dropped

    async def open(self) -> None:
        """Make everything, writing nothing and answering nobody yet. Raises ConfigError."""
        await self.mirror.open()

    async def start(self) -> None:
        """Begin to work."""
        await self.mirror.start()
        limits = self.mirror.settings.limits
        self._runner = ConnectionRunner(
            self.mirror.application(),
            self._group,
            shutdown_timeout=self._grace,
            access_log_class=self._observer.logger(),
            max_line_size=32_768,  # so that nonsense of some length is still answered by us
            max_field_size=16_384,
            auto_decompress=False,
            keepalive_timeout=limits.idle,
        )
        await self._runner.setup()
        self._run(self.mirror.policies.run())
        self._run(keep_in_order(self.mirror, self._store))

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work))

    def connect(self) -> ConnectionProtocol:
        """The protocol of a new connection."""
        return self._runner.connect()

    async def retire(self) -> None:
        """Another one has taken over: finish what has been begun, however long that takes, and end."""
        await self._runner.retire()
        await self.mirror.transfers.ended(list(self.mirror.upstreams.values()))
        await self.close()

    async def finish(self, politely: bool) -> None:
        """Let answers finish for the configured time; `politely`: connections in use are told before they end."""
        if politely:
            await self._runner.drain()
        await self._runner.cleanup()

    async def close(self) -> None:
        """Let go of everything but the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if hasattr(self, "_runner"):
            await self._runner.cleanup()
        await self.mirror.close()
        if self._access is not None:
            await asyncio.to_thread(self._access.close)


class Service:
    """The process: its store, its sockets, and the mirror that answers at this moment."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        passed: Sequence[socket.socket] = (),
        notifier: Notifier | None = None,
    ) -> None:
        """`passed` are listening sockets from systemd. Raises ConfigError when the data directory is taken."""
        self._settings = settings
        self._lock = lock(settings.data_dir)
        self.store = Store(settings, clock)
        self._activity = Activity(self.store)
        self._open_files = raise_open_files()
        self._connections = Connections(self._bounds(settings.limits))
        self._notifier = notifier or Notifier()
        self._listening = Listening(lambda: self._now.connect(), passed)
        self._tls: TLS | None = None
        self._now: Generation
        self._retiring: set[asyncio.Task[None]] = set()
        self._tasks: list[asyncio.Task[None]] = []
        self._sets: list[asyncio.Task[None]] = []
        self._beat = 0.0

    @property
    def mirror(self) -> Mirror:
        """What answers at this moment."""
        return self._now.mirror

    @property
    def urls(self) -> list[str]:
        """Where it listens."""
        return self._listening.urls

    def _bounds(self, limits: LimitsSettings) -> ConnectionLimits:
        affordably = affordable_connections(limits.connections, self._open_files)
        if affordably < limits.connections and limits.connections != LimitsSettings().connections:
            logger.warning(
                "limits.connections: %d open files are allowed, which is enough for %d connections.",
                self._open_files, affordably,
            )  # fmt: skip
        return ConnectionLimits(
            connections=affordably, headers=limits.headers, head_time=limits.head_time, stall=limits.stall
        )

    async def start(self) -> None:
        """Listen and answer. Raises ConfigError."""
        settings = self._settings
        try:
            self._tls = _tls(settings.tls)
            await self.store.open()
            await self.store.clean()
            await self.store.journal.open()
            self._now = Generation(settings, self.store, self._activity, self._connections)
            await self._now.open()
            bound = self._listening.bind(settings.listen, settings.socket_mode)
            await self._now.start()
            await self._listening.use(bound, self._tls)
        except BaseException:
            await self.stop()
            raise
        self._answering()
        self._tasks = [
            asyncio.create_task(work)
            for work in (
                self._activity.statistics.run(),
                self._activity.metrics.sample_loop_lag(),
                self.store.journal.follow_others(lambda: self.mirror.rebuild(), self._take_in),
                self._connections.watch(),
                self._watch_certificate(),
                self._heartbeat(),
                self._notifier.keep_alive(self._healthy),
            )
        ]

    def _answering(self) -> None:
        """A mirror has begun to answer: commands can find it, its sets are kept, and others are followed."""
        publish_urls(self._lock, self.urls)
        for task in self._sets:
            task.cancel()
        self._sets = [*scheduled_sync.scheduled(self.mirror, self.urls), *following.scheduled(self.mirror)]

    # Reload

    async def reload(self, settings: Settings) -> None:
        """Answer by other settings from now on: by all of them, or when one is wrong, by none. Raises ConfigError."""
        if settings.data_dir != self._settings.data_dir:
            raise ConfigError("data_dir: cannot change while the mirror runs; restart it.")
        tls = _tls(settings.tls)
        new = Generation(settings, self.store, self._activity, self._connections)
        try:
            await new.open()
            bound = self._listening.bind(settings.listen, settings.socket_mode)
        except BaseException:
            await new.close()
            raise
        old = self._now
        await old.mirror.retire()
        try:
            await new.start()
        except BaseException:
            old.mirror.resume()
            self._listening.release(bound)
            await new.close()
            raise
        self._now, self._settings, self._tls = new, settings, tls
        self._connections.limits = self._bounds(settings.limits)
        await self._listening.use(bound, tls)
        self._answering()
        task = asyncio.create_task(old.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retired)

    async def _take_in(self) -> None:
        """A command has taken in a bundle: a mirror that remembers nothing takes over, and shows all of it at once."""
        try:
            await self.reload(self._settings)
        except ConfigError as error:
            logger.error("what was taken in shows little by little: %s", error)

    def _retired(self, task: asyncio.Task[None]) -> None:
        self._retiring.discard(task)
        if not task.cancelled() and (error := task.exception()):
            logger.error("what served before the reload did not end well: %s", error, exc_info=error)

    async def _watch_certificate(self) -> None:
        while True:
            await asyncio.sleep(LOOK)
            if self._tls is not None:
                self._tls.look()

    # Health

    async def _heartbeat(self) -> None:
        while True:
            self._beat = time.monotonic()
            await asyncio.sleep(1)

    def _healthy(self) -> bool:
        """Whether the event loop keeps up; asked on the loop itself, so that one that hangs does not even answer."""
        return not self._beat or time.monotonic() - self._beat < SICK

    # The end

    async def stop(self, politely: bool = True) -> None:
        """Take no more connections, let what runs finish for the configured time, and let go of everything.

        `politely`: clients that are asking one thing after another are told that it is the last, for up to a second.
        """
        self._listening.close()
        for task in (*self._tasks, *self._sets):
            task.cancel()
        await asyncio.gather(*self._tasks, *self._sets, return_exceptions=True)
        grace = self._settings.limits.shutdown_grace
        if self._tasks:  # it was running
            await self._now.finish(politely)
            await self._activity.transfers.close(grace)
        if self._retiring:
            _, late = await asyncio.wait(self._retiring, timeout=grace)
            for one in late:
                one.cancel()
            await asyncio.gather(*late, return_exceptions=True)
        with suppress(AttributeError):  # it failed before there was anything to answer
            await self._now.close()
        await self._activity.statistics.flush()
        await self.store.close()
        os.close(self._lock)


def _tls(settings: TLSSettings) -> TLS | None:
    return TLS(settings.certificate, settings.key) if settings.certificate else None


def _access_log(settings: Settings) -> log.AccessLog | None:
    if not settings.log.access:
        return None
    stream: BinaryIO = sys.stdout.buffer
    return log.AccessLog(stream, json=log.wants_json(settings.log.format, sys.stdout))


@asynccontextmanager
async def running(
    settings: Settings, clock: Callable[[], float] = time.time
) -> AsyncIterator[tuple[Mirror, list[str]]]:
    """Superseded by `open_mirror`."""
    from mirror.service.open import Mode, open_mirror

    async with open_mirror(settings, Mode.SERVE, clock=clock) as opened:
        yield await opened.mirror(), list(opened.urls)


def serve(
    load: Callable[[], Settings], ready: Callable[[Settings, Sequence[str]], None] = lambda settings, urls: None
) -> int:
    """Run the mirror until SIGTERM or SIGINT, and return the exit status.

    `load` gives the settings, now and again on each SIGHUP. `ready` is called with its settings and URLs. Raises
    ConfigError.
    """
    settings = load()
    log.configure(settings.log.format, settings.log.level)
    tune_runtime()
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_serve(settings, load, ready))


async def _serve(
    settings: Settings, load: Callable[[], Settings], ready: Callable[[Settings, Sequence[str]], None]
) -> int:
    notifier = Notifier.from_environment()
    service = Service(settings, passed=listen_fds(), notifier=notifier)
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, signals.put_nowait, number)
    await service.start()
    ready(settings, service.urls)
    notifier.ready(_status(service))
    while await signals.get() == signal.SIGHUP:
        notifier.reloading()
        await _reload(service, load)
        notifier.ready(_status(service))
    grace = service.mirror.settings.limits.shutdown_grace
    notifier.stopping(f"running answers may finish within {grace:.0f} s")
    logger.info("stopping: running answers may finish within %s s", grace)
    await service.stop()
    return 0


async def _reload(service: Service, load: Callable[[], Settings]) -> None:
    try:
        settings = await asyncio.to_thread(load)
        await service.reload(settings)
    except ConfigError as error:
        logger.error("the settings stay as they were: %s", "; ".join(str(error).splitlines()))
        return
    except Exception:  # whatever it is, what serves now goes on
        logger.exception("the settings stay as they were, for a reason that should not be")
        return
    log.configure(settings.log.format, settings.log.level)
    logger.info("the settings were read anew: %s", _status(service))


def _status(service: Service) -> str:
    settings = service.mirror.settings
    names = ", ".join(settings.repositories)
    return f"mirror {__version__}: {names} at {', '.join(service.urls)}{', offline' if settings.offline else ''}"
