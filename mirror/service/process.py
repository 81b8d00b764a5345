"""The life of the process: from the settings to a mirror that answers, until a signal ends it.

A `Service` listens. What answers is one mirror after another over the same store: SIGHUP makes a new one from the new
settings, and only when all of it is good does it take the place of the old one, which finishes what it has begun. The
surprise: sockets belong to the service, not to a mirror; so no client can tell when one follows the other.
"""

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from mirror import __version__
from mirror.config import LimitsSettings, Settings, TLSSettings
from mirror.errors import ConfigError
from mirror.runtime import affordable_connections, event_loops, raise_open_files, tune_runtime
from mirror.server.connections import ConnectionLimits, Connections
from mirror.service.directory import lock, publish
from mirror.service.generation import Generation
from mirror.service.handshakes import Handshakes
from mirror.service.jobs import Supervisor, process_jobs
from mirror.service.listening import Listeners
from mirror.service.presence import Presence
from mirror.service.services import Activity, Mirror
from mirror.service.store import Store
from mirror.service.systemd import Heartbeat, Notifier, listen_fds
from mirror.service.tls import TLS
from mirror.service.workers import RETIRE, WorkerContext, WorkerSupervisor
from mirror.telemetry import log

if TYPE_CHECKING:
    from mirror.service.node import Node

logger = logging.getLogger(__name__)

CLOSING_SECONDS = 2.0
"""The part of the time for stopping that is left for closing everything, once no more answers are waited for."""


class Service:
    """The process: its store, its sockets, and the mirror that answers at this moment."""

    def __init__(
        self,
        settings: Settings,
        clock: Callable[[], float] = time.time,
        passed: Sequence[socket.socket] = (),
        notifier: Notifier | None = None,
        worker: WorkerContext | None = None,
    ) -> None:
        """`passed` are listening sockets from systemd; `worker`: what it gets from its supervisor, if it has one."""
        self.store = Store(settings, clock, worker.secret if worker else b"")
        self.notifier = notifier or Notifier()
        self._worker = worker
        self.node: Node | None = None
        """This process, as the other ones of the mirror reach it."""
        self.presence = Presence(self.store.catalog.leases, clock, settings.data_dir)
        """Shown where nodes share the catalog."""
        self.heartbeat = Heartbeat()
        self.jobs = Supervisor()
        """Those of the process; each generation has its own."""
        self.activity: Activity
        self.generation: Generation
        """The mirror that answers at this moment, with its connections and jobs."""
        self._settings = settings
        self._open_files = raise_open_files()
        self.connections = Connections(self._limits(settings.limits))
        self._listeners = Listeners(lambda: self.generation.connect(), worker.sockets if worker else passed)
        self._handshakes = Handshakes(self.connections, lambda address: self.generation.client_of(address))
        self._tls: TLS | None = None
        self._retiring: dict[Generation, asyncio.Task[None]] = {}
        self._open = AsyncExitStack()
        """What is open, to be closed in reverse."""
        self._politely = True

    @property
    def mirror(self) -> Mirror:
        """The mirror that answers at this moment."""
        return self.generation.mirror

    @property
    def urls(self) -> list[str]:
        """The URLs at which it listens."""
        return self._listeners.urls

    def _limits(self, limits: LimitsSettings) -> ConnectionLimits:
        affordable = affordable_connections(limits.connections, self._open_files)
        if affordable < limits.connections and limits.connections != LimitsSettings().connections:
            logger.warning(
                "limits.connections: %d open files are allowed, which is enough for %d connections.",
                self._open_files, affordable,
            )  # fmt: skip
        return ConnectionLimits(
            connections=affordable,
            client_connections=max(1, int(affordable * limits.client_share)),
            headers=limits.headers,
            head_time=limits.head_time,
            body_rate=limits.body_rate,
            idle=limits.idle,
            stall=limits.stall,
        )

    # Start and stop

    async def start(self) -> None:
        """Listen and answer. Raises ConfigError, also when the data directory or an address is taken."""
        try:
            await self._start()
        except BaseException:
            await self.stop(politely=False)
            raise

    async def _start(self) -> None:
        settings, opened = self._settings, self._open
        self._tls = _tls(settings.tls)
        if self._worker is None:
            opened.callback(os.close, lock(settings.data_dir))
        opened.push_async_callback(self.store.close)
        await self.store.open()
        if self.store.database.shared:
            self._open.push_async_callback(self.presence.end)
            await self.presence.begin()
        if self._worker is None or self._worker.first:
            await self.store.clean()
        await self.store.keep_rendered(settings)
        await self.store.journal.open()
        await self._open_node()
        self.activity = Activity(
            self.store,
            self.node.flights if self.node else None,
            self._worker.reports if self._worker else None,
        )
        opened.callback(self.report)
        opened.push_async_callback(self.activity.statistics.flush)
        self.generation = Generation(settings, self.store, self.activity, self.connections)
        opened.push_async_callback(lambda: self.generation.close())
        await self.generation.open()
        bound = self._listeners.bind(settings.listen, settings.socket_mode)
        try:
            await self.generation.start()
        except BaseException:
            self._listeners.release(bound)
            raise
        opened.push_async_callback(self._finish)
        opened.push_async_callback(self.jobs.stop)
        await self._listeners.use(bound, self._tls, self._handshakes)
        self.generation.start_jobs(self.urls)
        if self._worker is None:
            publish(settings.data_dir, self.urls, self.store.secret)
        self.jobs.start(process_jobs(self))

    async def _open_node(self) -> None:
        """Be reached by the other processes of the mirror, if there are any. Raises ConfigError."""
        if self._worker is not None or self._settings.node.address is not None:
            from mirror.service.node import open_node

            self.node = await open_node(self._settings, self.store.catalog, self._worker)
            if self.node is not None:
                self._open.push_async_callback(self.node.close)

    async def stop(self, politely: bool = True) -> None:
        """Accept no more connections, let responses finish for the configured time, and close everything.

        `politely`: connections in use get one more answer with the notice that it is the last, for up to a second.
        """
        self._politely = politely
        self._listeners.close()
        self._handshakes.close()
        await self._open.aclose()

    async def retire(self) -> None:
        """Accept no more connections, and finish what has begun, however long that takes."""
        self._listeners.close()
        await self.generation.jobs.stop()
        await self.generation.retire()

    def report(self) -> None:
        """Report to the other workers, if there are any, what this one has counted."""
        if "generation" in vars(self):  # else it could not start
            self.mirror.state.publish()

    def beat(self) -> None:
        """Record that the event loop runs."""
        self.heartbeat.beat()
        if self._worker is not None:
            self._worker.beat()

    async def _finish(self) -> None:
        grace = self._settings.limits.shutdown_grace
        until = asyncio.get_running_loop().time() + grace - min(CLOSING_SECONDS, grace / 4)
        retiring = dict(self._retiring)
        for task in retiring.values():
            task.cancel()
        await asyncio.gather(self.generation.jobs.stop(), *retiring.values(), return_exceptions=True)
        await asyncio.gather(
            self.generation.finish(self._politely, until),
            *(one.finish(politely=False, until=until) for one in retiring),
        )
        await self.activity.transfers.close(max(0.0, until - asyncio.get_running_loop().time()))
        for one in retiring:
            await one.close()

    # Reload

    async def reload(self, settings: Settings) -> None:
        """Use other settings from now on; if one of them is wrong, change nothing. Raises ConfigError."""
        if settings.data_dir != self._settings.data_dir:
            raise ConfigError("data_dir: cannot change while the mirror runs; restart it.")
        if settings.catalog.url != self._settings.catalog.url:
            raise ConfigError("catalog.url: cannot change while the mirror runs; restart it.")
        if settings.blobs != self._settings.blobs:
            raise ConfigError("blobs: cannot change while the mirror runs; restart it.")
        if settings.node.address != self._settings.node.address:
            raise ConfigError("node.address: cannot change while the mirror runs; restart it.")
        tls = _tls(settings.tls)
        new = Generation(settings, self.store, self.activity, self.connections)
        try:
            await new.open()
            bound = self._listeners.bind(settings.listen, settings.socket_mode)
        except BaseException:
            await new.close()
            raise
        old = self.generation
        await old.stop_writing()
        try:
            await new.start()
        except BaseException:
            old.resume_writing()
            self._listeners.release(bound)
            await new.close()
            raise
        self.generation, self._settings, self._tls = new, settings, tls
        self.connections.limits = self._limits(settings.limits)
        await self.store.keep_rendered(settings)
        await self._listeners.use(bound, tls, self._handshakes)
        publish(settings.data_dir, self.urls, self.store.secret)
        self._retiring[old] = asyncio.create_task(old.retire())
        self._retiring[old].add_done_callback(partial(self._retired, old))
        await old.jobs.stop()
        new.start_jobs(self.urls)

    def _retired(self, old: Generation, task: asyncio.Task[None]) -> None:
        del self._retiring[old]
        if not task.cancelled() and (error := task.exception()):
            logger.error("what served before the reload failed while it ended: %s", error, exc_info=error)

    # For the jobs of the process

    async def rebuild(self) -> None:
        """Read the uploads from their records again: another process has replaced the catalog."""
        await self.mirror.rebuild()

    async def show_import(self) -> None:
        """Have a new generation take over: with nothing cached, it shows all of an imported bundle at once."""
        try:
            await self.reload(self._settings)
        except ConfigError as error:
            logger.error("imported projects appear one after another, not all at once: %s", error)

    def check_certificate(self) -> None:
        """Reload the files of the certificate if they have changed."""
        if self._tls is not None:
            self._tls.reload_if_changed()


def _tls(settings: TLSSettings) -> TLS | None:
    return TLS(settings.certificate, settings.key) if settings.certificate else None


def serve(
    load: Callable[[], Settings], ready: Callable[[Settings, Sequence[str]], None] = lambda settings, urls: None
) -> int:
    """Run the mirror until SIGTERM or SIGINT, and return the exit status.

    `load` returns the settings, now and again on each SIGHUP. `ready` is called with its settings and URLs. Raises
    ConfigError.
    """
    os.umask(0o077)  # all that it makes is its own; sockets get the mode of the settings
    settings = load()
    log.configure(settings.log.format, settings.log.level)
    tune_runtime()
    if settings.node.count > 1:
        return WorkerSupervisor(load, _work, ready).run(settings)
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_serve(settings, load, ready))


def _work(context: WorkerContext) -> int:
    """Serve as one of several workers, until the supervisor says to end or is gone."""
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        runner.run(_serve_with_others(context))
    return 0


async def _serve_with_others(context: WorkerContext) -> None:
    loop, wishes = asyncio.get_running_loop(), asyncio.Queue[signal.Signals]()
    for number in (signal.SIGTERM, RETIRE):
        loop.add_signal_handler(number, wishes.put_nowait, number)

    def end() -> None:
        loop.remove_reader(context.supervisor)
        logger.error("the supervisor is gone, and with it this worker")
        wishes.put_nowait(signal.SIGTERM)

    loop.add_reader(context.supervisor, end)
    service = Service(context.settings, worker=context)
    await service.start()
    context.ready()
    if await wishes.get() == RETIRE:
        retiring = asyncio.create_task(service.retire())
        stopping = asyncio.create_task(wishes.get())
        await asyncio.wait({retiring, stopping}, return_when=asyncio.FIRST_COMPLETED)
        for task in (retiring, stopping):
            task.cancel()
        await asyncio.gather(retiring, stopping, return_exceptions=True)
    await service.stop()


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
    except Exception:  # whatever it is, the mirror that answers stays
        logger.exception("the settings stay as they were, because of an unexpected error")
        return
    log.configure(settings.log.format, settings.log.level)
    logger.info("the settings were reloaded: %s", _status(service))


def _status(service: Service) -> str:
    settings = service.mirror.settings
    names = ", ".join(settings.repositories)
    return f"mirror {__version__}: {names} at {', '.join(service.urls)}{', offline' if settings.offline else ''}"
