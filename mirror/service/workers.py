"""Several processes that serve one data directory at the same sockets, and the supervisor that starts and watches them.

The supervisor has the data directory's lock and the listening sockets, and no event loop: it forks the workers, waits
for signals, and starts a worker anew that has ended or hangs. A reload starts new workers with the new settings; once
they answer, the old ones accept nothing more and finish what they have begun.

The surprise: a worker ends by itself when the supervisor is gone. Each has the read end of a pipe whose write end the
supervisor alone has; so no worker is ever left behind, and the lock is free again.
"""

import logging
import mmap
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple, NoReturn

from mirror import __version__
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.runtime import EXIT_BROKEN
from mirror.service.directory import lock, new_secret, publish
from mirror.service.listening import Listeners
from mirror.service.systemd import Notifier, listen_fds
from mirror.telemetry import log
from mirror.telemetry.worker_reports import ReportMemory, WorkerReports

logger = logging.getLogger(__name__)

MAX_WORKERS = 256
"""How many workers may run at a time, those included that finish what they have begun."""
START_SECONDS = 120.0
"""Seconds within which a worker has to answer, migrations of the catalog included."""
HUNG_SECONDS = 30.0
"""Seconds without a heartbeat after which a worker is killed and started anew."""
LOOK_SECONDS = 0.5
"""Seconds between two looks at the workers."""
QUICK_SECONDS = 5.0
"""A worker that ends within so many seconds of its start is started anew only after a pause …"""
PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 30.0
"""… of this length, doubled each time up to the second number."""
CLOSING_SECONDS = 5.0
"""Seconds beyond the time for running answers after which a worker that is to stop is killed."""
MESSAGE_BYTES = 4096
"""Bytes of what a worker says when it has started, or cannot."""

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
RETIRE = signal.SIGUSR1
"""Has a worker finish what it has begun, however long that takes, and end."""
_BEAT = struct.Struct("d")
_STARTED, _FAILED = b"+", b"!"


class WorkerContext(NamedTuple):
    """The settings, sockets and callbacks of one worker."""

    settings: Settings
    sockets: Sequence[socket.socket]
    """Where to listen."""
    secret: bytes
    """By which the mirror proves to commands that it has the data directory."""
    node_secret: bytes
    """By which the workers prove to each other that they are workers of one mirror."""
    first: bool
    """Whether no other worker runs yet."""
    beat: Callable[[], None]
    """To be called about once a second."""
    reports: WorkerReports
    """What the workers report to each other."""
    ready: Callable[[], None]
    """To be called once it answers."""
    supervisor: int
    """A descriptor that becomes readable when the supervisor is gone."""


Work = Callable[[WorkerContext], int]
"""What a worker does; it returns the exit status. Raises ConfigError where it cannot start."""


class Heartbeats:
    """Times at which the event loop of each worker last ran, in memory that all of them share."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, MAX_WORKERS * _BEAT.size)

    def beat(self, place: int) -> None:
        """Record that the event loop of the worker with this place runs."""
        _BEAT.pack_into(self._memory, place * _BEAT.size, time.monotonic())

    def age(self, place: int) -> float:
        """Return the seconds since the last beat of the worker with this place."""
        (at,) = _BEAT.unpack_from(self._memory, place * _BEAT.size)
        return time.monotonic() - float(at)


class ServingWorker:
    """A worker as its supervisor sees it."""

    def __init__(self, pid: int, number: int, place: int, says: int) -> None:
        """`says` is a descriptor from which to read whether it has started."""
        self.pid = pid
        self.number = number
        self.place = place
        self.began = time.monotonic()
        self.started = False
        self.failure = ""
        """Why it cannot start."""
        self._says = says

    def listen(self) -> None:
        """Read what the worker says, without waiting for it."""
        if self._says < 0:
            return
        try:
            said = os.read(self._says, MESSAGE_BYTES)
        except BlockingIOError:
            return
        self.started = said == _STARTED
        if said.startswith(_FAILED):
            self.failure = said.removeprefix(_FAILED).decode(errors="replace")
        self.close()

    def ended(self) -> bool:
        """Return whether it has ended, of which the system is asked once only."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return True
        if pid:
            self.listen()
            self.failure = self.failure or f"it ended with exit status {os.waitstatus_to_exitcode(status)}"
            self.close()
        return bool(pid)

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def close(self) -> None:
        """Listen no more to what it says."""
        if self._says >= 0:
            os.close(self._says)
            self._says = -1


class WorkerSupervisor:
    """Starts the workers, replaces those that end, and stops them."""

    def __init__(
        self, load: Callable[[], Settings], work: Work, announce: Callable[[Settings, Sequence[str]], None]
    ) -> None:
        """`load` returns the settings, on each reload; `announce` is called with settings and URLs once all answer."""
        self._load = load
        self._work = work
        self._announce = announce
        self._notifier = Notifier.from_environment()
        self._listeners = Listeners(_accept_nothing, listen_fds())
        self._secret, self._node_secret = new_secret(), new_secret()
        self._heartbeats = Heartbeats()
        self._reports = ReportMemory(MAX_WORKERS)
        self._places = set(range(MAX_WORKERS))
        self._supervisor, self._our_end = os.pipe()
        self._woken, self._wake = os.pipe()
        self._signals: list[int] = []
        self._workers: list[ServingWorker] = []
        """Those that are to answer."""
        self._retiring: list[ServingWorker] = []
        """Those that finish what they have begun."""
        self._due: dict[int, float] = {}
        """When to start a worker anew, by its number."""
        self._pauses: dict[int, float] = {}
        """For how long it then had to wait, by its number."""
        self._alive_at = 0.0

    def run(self, settings: Settings) -> int:
        """Serve until SIGTERM or SIGINT, and return the exit status. Raises ConfigError when it cannot start."""
        self._settings = settings
        descriptor = lock(settings.data_dir)
        os.set_blocking(self._woken, False)
        os.set_blocking(self._wake, False)
        signal.set_wakeup_fd(self._wake)
        for number in SIGNALS:
            signal.signal(number, lambda number, frame: self._signals.append(number))
        try:
            bound = self._listeners.bind(settings.listen, settings.socket_mode)
            self._listeners.hold(bound, secure=bool(settings.tls.certificate))
            self._workers = self._start(settings, first=True)
            self._report_ready()
            self._announce(settings, self._listeners.urls)
            self._watch()
        finally:
            self._stop()
            os.close(descriptor)
        return 0

    # Starting

    def _start(self, settings: Settings, first: bool) -> list[ServingWorker]:
        """Start all workers, and wait until they answer. Raises ConfigError; then none of them is left."""
        started: list[ServingWorker] = []
        try:
            started.append(self._fork(0, settings, first))
            self._wait_until_started(started)  # it brings the catalog up to date, before another one looks
            started += [self._fork(number, settings) for number in range(1, settings.node.count)]
            self._wait_until_started(started)
        except BaseException:
            for one in started:
                one.send(signal.SIGKILL)
            self._wait_until_ended(started, START_SECONDS)
            raise
        return started

    def _wait_until_started(self, workers: Sequence[ServingWorker]) -> None:
        until = time.monotonic() + START_SECONDS
        while waiting := [one for one in workers if not one.started]:
            for one in waiting:
                one.listen()
                if one.failure or one.ended():
                    raise ConfigError(one.failure)
            if time.monotonic() > until:
                raise ConfigError(f"A worker did not answer within {START_SECONDS:.0f} s: the log says what it did.")
            time.sleep(0.01)

    def _fork(self, number: int, settings: Settings, first: bool = False) -> ServingWorker:
        place = self._places.pop()
        self._heartbeats.beat(place)
        says, end = os.pipe()
        os.set_blocking(says, False)
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            for ours in (says, self._our_end):
                os.close(ours)
            signal.set_wakeup_fd(-1)
            beat = self._heartbeats.beat
            context = WorkerContext(
                divided(settings), self._listeners.sockets, self._secret, self._node_secret, first,
                lambda: beat(place),
                WorkerReports(self._reports, place), lambda: _say(end, _STARTED), self._supervisor,
            )  # fmt: skip
            _work_and_exit(self._work, context, end)
        os.close(end)
        return ServingWorker(pid, number, place, says)

    def _report_ready(self) -> None:
        settings, urls = self._settings, self._listeners.urls
        publish(settings.data_dir, urls, self._secret)
        self._notifier.ready(
            f"mirror {__version__}: {', '.join(settings.repositories)} at {', '.join(urls)},"
            f" {settings.node.count} workers"
        )

    # Watching

    def _watch(self) -> None:
        """Look after the workers until a signal says to stop."""
        while True:
            select.select([self._woken], [], [], LOOK_SECONDS)
            with suppress(BlockingIOError):
                os.read(self._woken, MESSAGE_BYTES)
            signals, self._signals = self._signals, []
            if signal.SIGTERM in signals or signal.SIGINT in signals:
                return
            if signal.SIGHUP in signals:
                self._reload()
            self._forget_ended()
            self._kill_hung()
            self._start_due()
            if self._notifier.watchdog and time.monotonic() - self._alive_at > self._notifier.watchdog / 4:
                self._alive_at = time.monotonic()
                self._notifier.alive()

    def _forget_ended(self) -> None:
        now = time.monotonic()
        for one in [one for one in self._workers if one.ended()]:
            self._remove(one, self._workers)
            logger.error("worker %d (process %d) is started anew: %s", one.number, one.pid, one.failure)
            quick = now - one.began < QUICK_SECONDS
            pause = min(max(PAUSE_SECONDS, 2 * self._pauses.get(one.number, 0.0)), MAX_PAUSE_SECONDS) if quick else 0.0
            self._pauses[one.number], self._due[one.number] = pause, now + pause
        for one in [one for one in self._retiring if one.ended()]:
            self._remove(one, self._retiring)

    def _remove(self, worker: ServingWorker, workers: list[ServingWorker]) -> None:
        workers.remove(worker)
        self._places.add(worker.place)

    def _kill_hung(self) -> None:
        for one in self._workers:
            one.listen()
            if one.started and self._heartbeats.age(one.place) > HUNG_SECONDS:
                logger.error("worker %d (process %d) hangs, and is killed", one.number, one.pid)
                one.send(signal.SIGKILL)

    def _start_due(self) -> None:
        for number in [number for number, at in self._due.items() if time.monotonic() >= at]:
            del self._due[number]
            self._workers.append(self._fork(number, self._settings))

    def _reload(self) -> None:
        """Replace all workers by ones with new settings; if one of these is wrong, change nothing."""
        self._notifier.reloading()
        try:
            settings = self._load()
            if settings.data_dir != self._settings.data_dir:
                raise ConfigError("data_dir: cannot change while the mirror runs; restart it.")
            bound = self._listeners.bind(settings.listen, settings.socket_mode)
            before = self._listeners.hold(bound, secure=bool(settings.tls.certificate))
            try:
                workers = self._start(settings, first=False)
            except BaseException:
                self._listeners.release(self._listeners.hold(before, secure=bool(self._settings.tls.certificate)))
                raise
        except ConfigError as error:
            logger.error("the settings stay as they were: %s", "; ".join(str(error).splitlines()))
        else:
            self._settings = settings
            self._retiring += self._workers
            for one in self._workers:
                one.send(RETIRE)
            self._workers, self._due = workers, {}
            self._listeners.release(before)
            log.configure(settings.log.format, settings.log.level)
            logger.info("the settings were reloaded: %d workers", len(workers))
        self._report_ready()

    # Stopping

    def _stop(self) -> None:
        grace = self._settings.limits.shutdown_grace
        self._notifier.stopping(f"running answers may finish within {grace:.0f} s")
        workers = [*self._workers, *self._retiring]
        for one in workers:
            one.send(signal.SIGTERM)
        self._listeners.close()
        for one in self._wait_until_ended(workers, grace + CLOSING_SECONDS):
            logger.error("worker %d (process %d) does not stop, and is killed", one.number, one.pid)
            one.send(signal.SIGKILL)

    def _wait_until_ended(self, workers: Iterable[ServingWorker], seconds: float) -> list[ServingWorker]:
        """Wait until these workers have ended, and return those that have not."""
        until, left = time.monotonic() + seconds, list(workers)
        while (left := [one for one in left if not one.ended()]) and time.monotonic() < until:
            time.sleep(0.01)
        return left


def divided(settings: Settings) -> Settings:
    """Return the settings of one of several workers: its part of what all of them may take together."""
    workers, limits = settings.node.count, settings.limits
    return settings.model_copy(
        update={
            "pages": settings.pages.model_copy(update={"memory": settings.pages.memory // workers}),
            "limits": limits.model_copy(
                update={
                    "connections": max(1, limits.connections // workers),
                    "forms": max(1, limits.forms // workers),
                }
            ),
        }
    )


def _work_and_exit(work: Work, context: WorkerContext, says: int) -> NoReturn:
    """Work in a process that was just forked, and end it."""
    status = EXIT_BROKEN
    try:
        for number in SIGNALS:  # a terminal sends SIGINT to all of its processes, and the supervisor sends SIGTERM
            ignored = number in (signal.SIGINT, signal.SIGHUP)
            signal.signal(number, signal.SIG_IGN if ignored else signal.SIG_DFL)
        status = work(context)
    except ConfigError as error:
        status = 2
        with suppress(OSError):
            _say(says, _FAILED + str(error).encode(errors="replace")[: MESSAGE_BYTES - 1])
    except Exception:
        logger.exception("a worker failed")
    finally:
        logging.shutdown()
        with suppress(OSError, ValueError):
            sys.stdout.flush()
        os._exit(status)


def _say(descriptor: int, message: bytes) -> None:
    os.write(descriptor, message)
    os.close(descriptor)


def _accept_nothing() -> NoReturn:
    raise AssertionError("the supervisor serves no connection")
