"""A worker process: `python -m mirror.airgap.sync.workers.worker SOCKETS …`, one process for each list of sockets.

It forks first, so that modules are imported once. Each socket carries one batch at a time. Everything except making
files durable happens on one thread on purpose: a second thread that makes thousands of short system calls slows both
down. A worker ends when its sockets are closed.
"""

import asyncio
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import cast

from mirror.airgap.sync.workers.client import SmallFileClient, SmallFileResponse
from mirror.airgap.sync.workers.messages import (
    CONFIG_DECODER,
    ENCODER,
    JOBS_DECODER,
    Job,
    JobResult,
    WorkerConfig,
    receive,
    send,
)
from mirror.blobs import BlobStore, MemoryBody, SmallBlob
from mirror.errors import Invalid, MirrorError, UpstreamProtocolError
from mirror.model import File, Format
from mirror.runtime import event_loops, tune_runtime
from mirror.upstream import Digests, parse_http_date, parse_url

BATCH_SECONDS = 300.0
"""The longest time for one batch; files that have not come by then are left to the mirror."""

VerifiedBlob = tuple[str, str, SmallBlob]
"""File name, kind (`file` or `sidecar`) and verified bytes."""


class BatchRunner:
    """Does the jobs of one socket."""

    def __init__(self, config: WorkerConfig) -> None:
        """Import what the configuration names."""
        self._formats: Mapping[str, Format] = {
            name: cast(Format, _imported(path)) for name, path in config.formats.items()
        }
        self._clients = {name: SmallFileClient(upstream) for name, upstream in config.upstreams.items()}
        make_store = cast(Callable[..., BlobStore], _imported(config.blob_store))
        self._blobs = make_store(Path(config.data_dir), *filter(None, [config.blob_settings]))
        self._connections = config.connections

    async def run(self, jobs: Sequence[Job]) -> list[list[JobResult]]:
        """Fetch and store files; return an empty list for each job that did not succeed."""
        fetched: list[list[VerifiedBlob]] = [[] for _ in jobs]
        waiting: Iterator[tuple[int, Job]] = iter(enumerate(jobs))

        async def work() -> None:
            for number, job in waiting:
                with suppress(MirrorError, OSError):  # the mirror tries again, and reports the error
                    fetched[number] = await self._fetch(job)

        with suppress(TimeoutError):
            async with asyncio.timeout(BATCH_SECONDS):
                await asyncio.gather(*(work() for _ in range(self._connections)))
        try:
            await self._blobs.store_all([blob for blobs in fetched for _, _, blob in blobs])
        except (MirrorError, OSError):
            return [[] for _ in jobs]
        return [
            [JobResult(name, kind, blob.digest, len(blob.content)) for name, kind, blob in blobs] for blobs in fetched
        ]

    async def _fetch(self, job: Job) -> list[VerifiedBlob]:
        """Fetch a file; return it, and its sidecar where that can be made from it. Raises UpstreamError."""
        file, format = job.file, self._formats[job.format]
        response = await self._clients[file.source].get(parse_url(file.url), file.size or 0)
        if len(response.body) != file.size:
            raise UpstreamProtocolError(f"{file.filename} does not have the promised {file.size} bytes.")
        digests = Digests(file.digests)
        digests.update(response.body)
        blob = SmallBlob(
            content=response.body,
            digest=digests.verified(file.filename),
            date=_date(file, response),
            label=(file.source, file.filename),
        )
        blobs = [(file.filename, "file", blob)]
        if format.has_sidecar(file) and (sidecar := await _sidecar(format, file, blob)) is not None:
            blobs.append((format.sidecar_name(file), "sidecar", sidecar))
        return blobs

    def close(self) -> None:
        """Close all connections to upstreams."""
        for client in self._clients.values():
            client.close()


def _imported(path: str) -> object:
    """Import the object that an import path, `package.module:NAME`, names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


async def _sidecar(format: Format, file: File, blob: SmallBlob) -> SmallBlob | None:
    """Make the sidecar from the file; return None where that fails or the index promises another one."""
    try:
        content = await format.make_sidecar(file, MemoryBody(blob.content, blob.digest))
        format.check_sidecar(file, content)
    except (Invalid, UpstreamProtocolError):
        return None
    return SmallBlob(content=content, digest=MemoryBody.of(content).digest)


def _date(file: File, response: SmallFileResponse) -> int | None:
    """Return the date of a file in seconds since the epoch: as the index has it, else as the upstream reports it."""
    date = int(file.uploaded.timestamp()) if file.uploaded else parse_http_date(response.headers.get("Last-Modified"))
    return None if date is None else min(max(0, date), int(time.time()))


async def serve(number: int) -> None:
    """Do the jobs that arrive through a socket, batch after batch, until its other end is closed."""
    with suppress(asyncio.IncompleteReadError, OSError):
        reader, writer = await asyncio.open_connection(sock=socket.socket(fileno=number))
        runner = BatchRunner(CONFIG_DECODER.decode(await receive(reader)))
        try:
            while True:
                jobs = JOBS_DECODER.decode(await receive(reader))
                send(writer, ENCODER.encode(await runner.run(jobs)))
                await writer.drain()
        finally:
            writer.close()
            runner.close()


async def serve_all(sockets: Sequence[int]) -> None:
    """Serve all sockets of this process."""
    await asyncio.gather(*map(serve, sockets))


def main(workers: Sequence[Sequence[int]]) -> None:
    """Fork into one process for each list of sockets, and serve them."""
    mine, *others = workers
    for sockets in others:
        if os.fork() == 0:
            mine = sockets
            break
    for sockets in workers:
        if sockets is not mine:
            for number in sockets:
                os.close(number)  # else its worker would never see its end
    tune_runtime()
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        runner.run(serve_all(mine))


if __name__ == "__main__":
    main([[int(number) for number in sockets.split(",")] for sockets in sys.argv[1:]])
