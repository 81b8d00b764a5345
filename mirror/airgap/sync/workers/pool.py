"""The worker processes, as the process knows them that gives the orders."""

import asyncio
import logging
import os
import pickle
import signal
import socket
import sys
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

from mirror.airgap.sync.workers.messages import ANSWERS, ENCODER, HANDS, Job, JobResult, WorkerConfig, receive, send
from mirror.runtime import event_loops

logger = logging.getLogger(__name__)


class WorkerPool:
    """Processes that stand ready to become workers; they wait for their kit, and end with this one."""

    def __init__(self, count: int) -> None:
        """Costs a few milliseconds where this process can be forked: before it has threads and an event loop.

        Later a new interpreter is started, which takes a while to load what it needs.
        """
        pairs = [socket.socketpair() for _ in range(count * HANDS)]
        numbers = [their.fileno() for _, their in pairs]
        theirs = [numbers[at : at + HANDS] for at in range(0, len(numbers), HANDS)]
        self.ends = [ours for ours, _ in pairs]
        """Of the hands."""
        self._pid: int | None = _forked(theirs, self.ends) if _alone() else _started(theirs)
        for _, their in pairs:
            their.close()

    def __enter__(self) -> "WorkerPool":
        return self

    def __exit__(self, *error: object) -> None:
        self.dismiss()

    def dismiss(self) -> None:
        """End the processes, whatever they are at, and wait for that: the files they were writing are nobody's, and
        swept at the next start. Does nothing the second time.
        """
        if self._pid is None:
            return
        for end in self.ends:
            end.close()
        with suppress(ProcessLookupError):
            os.killpg(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)
        self._pid = None


def _alone() -> bool:
    """Whether nothing goes on in this process that half of would go on in a fork."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return threading.active_count() == 1
    return False


def _forked(workers: list[list[int]], not_theirs: list[socket.socket]) -> int:
    """The process that leads a group of its own; it has all modules that are loaded here."""
    from mirror.airgap.sync.workers import worker

    event_loops()  # loads what they are made of once for all
    pid = os.fork()
    if pid == 0:
        try:
            os.setpgid(0, 0)
            for end in not_theirs:
                end.close()
            worker.main(workers)
        finally:
            os._exit(0)  # nothing of the process it was is to be tidied up here
    with suppress(OSError):  # whichever is first; signals of the terminal are for us alone
        os.setpgid(pid, pid)
    return pid


def _started(workers: list[list[int]]) -> int:
    for sockets in workers:
        for number in sockets:
            os.set_inheritable(number, True)
    command = [
        sys.executable,
        "-m",
        "mirror.airgap.sync.workers.worker",
        *(",".join(map(str, sockets)) for sockets in workers),
    ]
    return os.posix_spawn(sys.executable, command, os.environ, setpgroup=0)


class Worker:
    """One hand of a worker."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    def equip(self, kit: WorkerConfig) -> None:
        """Say what to work with: once, and first."""
        send(self._writer, pickle.dumps(kit))

    async def bring(self, orders: Sequence[Job]) -> list[list[JobResult]]:
        """What was brought for each order: the file first, then its sidecar; nothing for what is left to others.

        All of it is durable. One batch at a time.
        """
        try:
            send(self._writer, ENCODER.encode(orders))
            await self._writer.drain()
            return ANSWERS.decode(await receive(self._reader))
        except (OSError, asyncio.IncompleteReadError):
            logger.warning("A process that fetches small files is gone; they come one by one.")
            return [[] for _ in orders]


@asynccontextmanager
async def working(crew: WorkerPool, kit: WorkerConfig) -> AsyncIterator[list[Worker]]:
    """The hands of a crew, at work for the length of the block; what they are at is given up in the end."""
    writers = []
    try:
        hands = []
        for end in crew.ends:
            reader, writer = await asyncio.open_connection(sock=end)
            writers.append(writer)
            hands.append(Worker(reader, writer))
            hands[-1].equip(kit)
        yield hands
    finally:
        for writer in writers:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        await asyncio.to_thread(crew.dismiss)
