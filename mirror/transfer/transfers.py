"""All running transfers: a second request for a file joins the first."""

import asyncio
import logging
import time
from collections.abc import Collection

import msgspec

from mirror.blobs import BlobStore
from mirror.errors import Unavailable
from mirror.model import File
from mirror.transfer.interruptions import NextOrigin, OnHeld
from mirror.transfer.transfer import Transfer
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)


class TransferState(msgspec.Struct, frozen=True, kw_only=True):
    """The progress of a transfer, for people and monitors."""

    filename: str
    source: str
    size: int | None
    received: int
    """Bytes so far."""
    readers: int
    seconds: float
    """Since its start."""
    stored: bool
    """False when the disk is full and the file is not stored."""


class Transfers:
    """At most one transfer for each file, however many clients request it."""

    def __init__(self, blobs: BlobStore, *, limit: int = 32 << 30, keeps_unverified: bool = True) -> None:
        """`limit` is the size of the largest accepted file in bytes.

        `keeps_unverified` is whether files are stored that no digest of their index verifies.
        """
        self.keeps_unverified = keeps_unverified
        self.disk_space = blobs.disk_space
        """The free space for files."""
        self._blobs = blobs
        self._limit = limit
        self.running: dict[tuple[str, ...], Transfer] = {}
        """By source and SHA-256, where the index promises one: no one waits for what another source is slow to send."""
        self._tasks: dict[asyncio.Task[None], Transfer] = {}
        self._closing = False

    async def open(
        self,
        file: File,
        upstream: Upstream,
        on_held: OnHeld,
        early: bool = False,
        next_origin: NextOrigin | None = None,
    ) -> tuple[Transfer, bool]:
        """Return the file, which is a Body, and whether a running transfer was joined.

        Returns when the upstream has begun to answer, so that its refusal is raised here: NotFound,
        UpstreamUnavailable, UpstreamRefused, UpstreamProtocolError. Small files (64 KiB), and files without a promised
        SHA-256 or any known size, are first fetched whole: then also DigestMismatch and StorageFull. With `early`, the
        latter are returned once they begin to arrive, without a digest, and perhaps without a size. `next_origin` is
        asked where to go on when the upstream fails after that.
        """
        if self._closing:
            raise Unavailable("The mirror is being stopped.")
        key = _key(file)
        transfer = self._joinable(key)
        joined = transfer is not None
        if transfer is None:
            transfer = self._start(key, Transfer(file, upstream, self._blobs, self._limit, self.keeps_unverified))
        transfer.interruptions.next_origin = transfer.interruptions.next_origin or next_origin
        transfer.listeners.setdefault((file.source, file.filename), on_held)
        await transfer.wait_open(early)
        return transfer, joined

    def runs(self, file: File) -> bool:
        """Return whether the file is being fetched, so that `open` would join."""
        return self._joinable(_key(file)) is not None

    def _joinable(self, key: tuple[str, ...]) -> Transfer | None:
        transfer = self.running.get(key)
        return transfer if transfer and transfer.joinable else None

    def _start(self, key: tuple[str, ...], transfer: Transfer) -> Transfer:
        def ended(task: asyncio.Task[None]) -> None:
            del self._tasks[task]
            if task.cancelled():
                transfer.abandon()
            if self.running.get(key) is transfer:
                del self.running[key]

        self.running[key] = transfer
        task = asyncio.create_task(transfer.run(), name=f"transfer of {transfer.file.filename}")
        self._tasks[task] = transfer
        task.add_done_callback(ended)
        return transfer

    def active(self) -> tuple[TransferState, ...]:
        """Return the states of all running transfers."""
        return tuple(_state_of(transfer) for transfer in self._tasks.values())

    async def wait_ended(self, upstreams: Collection[Upstream]) -> None:
        """Wait until no transfer from any of these upstreams is running."""
        while running := [task for task, transfer in self._tasks.items() if transfer.upstream in upstreams]:
            await asyncio.wait(running)

    async def close(self, grace: float) -> None:
        """Wait up to `grace` seconds for running transfers, then stop them; no unfinished file stays behind."""
        self._closing = True
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()
            await asyncio.gather(*late, return_exceptions=True)


def _key(file: File) -> tuple[str, ...]:
    """Return what files have in common that one transfer can serve."""
    sha256 = file.digests.get("sha256")
    return (file.source, sha256) if sha256 else (file.source, file.url, file.filename)


def _state_of(transfer: Transfer) -> TransferState:
    return TransferState(
        filename=transfer.file.filename,
        source=transfer.file.source,
        size=transfer.size if transfer.is_sized else None,
        received=transfer.received,
        readers=len(transfer.readers),
        seconds=time.monotonic() - transfer.began,
        stored=transfer.storing,
    )
