"""Many small files of upstreams at once: fetched by workers in batches, and recorded in batches.

Larger files, files of unknown size or digest, and everything that fails are left to the ordinary way.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from mirror.airgap.sync.queue import FetchCallback, FetchQueue, SyncFile, together
from mirror.airgap.sync.workers import BATCHES_AT_ONCE, Job, JobResult, Worker, WorkerConfig, WorkerPool, working
from mirror.catalog import Files, HeldFile
from mirror.errors import MirrorError
from mirror.index.journal import Journal
from mirror.index.repository import Repository
from mirror.model import File

SMALL_FILE_BYTES = 64 << 10
"""The largest file that counts as small."""
BATCH_FILES = 256
"""The most files that a worker gets at a time, and so the most of one worker that share a commit …"""
MIN_BATCH_FILES = 64
"""… and the fewest, as long as more are to come."""

Batch = list[tuple[SyncFile, Job, Sequence[JobResult]]]
"""Files, their jobs, and the results."""


def pool_size(connections: int) -> int:
    """Return how many worker processes share so many connections: one for each core."""
    return min(os.cpu_count() or 1, connections)


class BulkFetcher:
    """Fetches small files of upstreams."""

    def __init__(
        self,
        repositories: Mapping[str, Repository],
        config: WorkerConfig,
        files: Files,
        journal: Journal,
        slots: asyncio.Semaphore,
        connections: int,
        clock: Callable[[], float] = time.time,
        pool: WorkerPool | None = None,
    ) -> None:
        """`config` without its connections. Each of the `slots`, `connections` in all, stands for one connection.

        `pool`: one of `pool_size(connections)` processes that is started already; else one is started when needed.
        """
        self._processes = pool_size(connections)
        self._batches = self._processes * BATCHES_AT_ONCE
        self._share = max(1, connections // self._batches)
        self._config = msgspec.structs.replace(config, connections=self._share)
        self._repositories = repositories
        self._files = files
        self._journal = journal
        self._slots = slots
        self._clock = clock
        self._pool = pool
        self._workers: list[Worker] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Employ the workers for the length of the block."""
        async with working(self._pool or WorkerPool(self._processes), self._config) as self._workers:
            yield

    async def fetch(self, small: FetchQueue, rest: FetchQueue, on_fetched: FetchCallback) -> None:
        """Fetch files that it `takes`, with the sidecars that can be made from them, until `small` ends.

        Files that it could not fetch are added to `rest`. When `on_fetched` is called for a file, it is durable, in the
        catalog and in the journal. Raises StorageFull.
        """
        finished: asyncio.Queue[Batch | None] = asyncio.Queue()

        async def employ_all() -> None:
            await together(*(self._employ(worker, small, rest, finished) for worker in self._workers))
            finished.put_nowait(None)

        await together(employ_all(), self._record_all(finished, rest, on_fetched))

    async def _employ(
        self, worker: Worker, small: FetchQueue, rest: FetchQueue, finished: "asyncio.Queue[Batch | None]"
    ) -> None:
        """Give a worker one batch after the other, until the queue ends."""
        while waiting := await small.waiting(MIN_BATCH_FILES):
            # A fair share of what is waiting, so that all workers end at about the same time.
            share = min(BATCH_FILES, max(MIN_BATCH_FILES, waiting // self._batches))
            jobs = await self._jobs(small.take(share), rest)
            async with AsyncExitStack() as slots:
                for _ in range(self._share):
                    await slots.enter_async_context(self._slots)
                results = await worker.run([job for _, job in jobs])
            finished.put_nowait([(file, job, result) for (file, job), result in zip(jobs, results, strict=True)])

    async def _record_all(
        self, finished: "asyncio.Queue[Batch | None]", rest: FetchQueue, on_fetched: FetchCallback
    ) -> None:
        """Record finished batches until None arrives, in one commit those that arrived during the last commit."""
        more = True
        while more:
            batches = [await finished.get()]
            while not finished.empty():
                batches.append(finished.get_nowait())
            more = None not in batches
            done: Batch = [one for batch in batches if batch for one in batch]
            await self._record(done)
            for file, job, results in done:
                format = self._repositories[file.repository].format
                if len(results) == 1 + format.has_sidecar(job.file):
                    on_fetched(file)
                else:
                    rest.add([file])

    async def _jobs(self, files: Sequence[SyncFile], rest: FetchQueue) -> list[tuple[SyncFile, Job]]:
        """Return the jobs for files; those that are not for workers are added to `rest`."""
        jobs = []
        for file in files:
            repository = self._repositories[file.repository]
            try:
                listed = await repository.file(file.project, file.file.filename)  # policy has the last word
            except MirrorError:
                rest.add([file])
                continue
            if self.takes(listed):
                jobs.append((file, Job(repository.format.name, listed)))
            else:
                rest.add([file])
        return jobs

    def takes(self, file: File) -> bool:
        """Return whether a file is small, its size and digest are known, and workers can reach its upstream."""
        known = file.sha256 is not None and file.size is not None
        return known and (file.size or 0) <= SMALL_FILE_BYTES and file.source in self._config.upstreams

    async def _record(self, batch: Batch) -> None:
        """Record in catalog and journal what is stored now."""
        now = self._clock()
        held = [
            (
                HeldFile(
                    source=job.file.source, project=file.project, filename=result.filename,
                    digest=result.digest, size=result.size, stored=now,
                ),
                result.kind,
            )
            for file, job, results in batch
            for result in results
        ]  # fmt: skip
        if held:
            self._journal.recorded(await self._files.add_all(held))
