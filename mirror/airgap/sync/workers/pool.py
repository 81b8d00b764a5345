"""The worker processes, seen from the process that employs them."""

import asyncio
import logging
import os
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from mirror.airgap.sync.workers.messages import (
    BATCHES_AT_ONCE,
    ENCODER,
    RESULTS_DECODER,
    Job,
    JobResult,
    WorkerConfig,
    receive,
    send,
)
from mirror.runtime import event_loops

logger = logging.getLogger(__name__)


class WorkerPool:
    """Worker processes that wait for their configuration; they end with this process."""

    def __init__(self, processes: int) -> None:
        """Start the processes: in a few milliseconds by a fork, where this process has no threads and no event loop.

        Otherwise a new interpreter is started, which takes a while to import what it needs.
        """
        pairs = [socket.socketpair() for _ in range(processes * BATCHES_AT_ONCE)]
        numbers = [theirs.fileno() for _, theirs in pairs]
        sockets = [numbers[at : at + BATCHES_AT_ONCE] for at in range(0, len(numbers), BATCHES_AT_ONCE)]
        self.sockets = [ours for ours, _ in pairs]
        """Our ends; each process has `BATCHES_AT_ONCE` of the other ends."""
        self._pid: int | None = _fork(sockets, self.sockets) if _can_fork() else _spawn(sockets)
        for _, theirs in pairs:
            theirs.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill the processes, whatever they do, and wait for their end; no error when they are closed already.

        The files that they were writing stay in `incoming` until the next start of the mirror.
        """
        if self._pid is None:
            return
        for end in self.sockets:
            end.close()
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = None


def _can_fork() -> bool:
    """Return whether this process has neither an event loop nor threads, which would be cut off in a fork."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.active_count() == 1
    return False


def _fork(workers: list[list[int]], ours: list[socket.socket]) -> int:
    """Fork the leader of a new process group, which shares all imported modules; return its process id."""
    from mirror.airgap.sync.workers import worker

    event_loops()  # imports what they need, once for all processes
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            for end in ours:
                end.close()
            worker.main(workers)
        finally:
            os._exit(0)  # without the exit handlers of the process that was forked
    with suppress(OSError):  # both processes try, one is first; signals of the terminal are for this process alone
        os.setpgid(pid, pid)
    return pid


def _spawn(workers: list[list[int]]) -> int:
    """Start a new interpreter as the leader of a new process group; return its process id."""
    for sockets in workers:
        for number in sockets:
            os.set_inheritable(number, True)
    arguments = [",".join(map(str, sockets)) for sockets in workers]
    command = [sys.executable, "-m", "mirror.airgap.sync.workers.worker", *arguments]
    return os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)


class Worker:
    """One socket of a worker process, which works on one batch at a time."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, config: WorkerConfig) -> None:
        self._reader = reader
        self._writer = writer
        send(writer, ENCODER.encode(config))

    async def run(self, jobs: Sequence[Job]) -> list[list[JobResult]]:
        """Return what was stored for each job: the file, then its sidecar; nothing for a job that was not done.

        Everything returned is durable. One batch at a time.
        """
        try:
            send(self._writer, ENCODER.encode(jobs))
            await self._writer.drain()
            return RESULTS_DECODER.decode(await receive(self._reader))
        except (OSError, asyncio.IncompleteReadError):
            logger.warning("A process that fetches small files has ended; the mirror fetches its files one by one.")
            return [[] for _ in jobs]


@asynccontextmanager
async def working(pool: WorkerPool, config: WorkerConfig) -> AsyncIterator[list[Worker]]:
    """Configure the workers of a pool for the length of the block, and kill them at its end."""
    writers = []
    try:
        workers = []
        for end in pool.sockets:
            reader, writer = await asyncio.open_connection(sock=end)
            writers.append(writer)
            workers.append(Worker(reader, writer, config))
        yield workers
    finally:
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await asyncio.to_thread(pool.close)
