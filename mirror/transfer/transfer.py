"""Transfers: each fetches, verifies and stores one file; a second request for a file joins the first."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import AbstractAsyncContextManager

from mirror.blobs import BlobStore, GrowingBlob, StoredBlob
from mirror.blobs.local import http_date
from mirror.errors import (
    DigestMismatch,
    MirrorError,
    NotFound,
    StorageError,
    Unavailable,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.model import File
from mirror.transfer.flights import AlreadyHeld, Flights, SharedTransfer, flight_name
from mirror.transfer.growing import READER_WAIT_SECONDS, GrowingBody
from mirror.transfer.interruptions import SILENCE_SECONDS, Interruptions, NextOrigin, OnHeld, Origin
from mirror.transfer.state import TransferState
from mirror.upstream import SlowBody, Stream, Upstream, parse_url

PROMPT_END_BYTES = 8 * 1024 * 1024
"""Bytes from which the end of a file is readable once it is verified, and not only when it is durable and recorded.

Below that the disk makes no one wait long. In a store of several nodes no end is readable before it is recorded; there
only the copy for this machine is made behind it.
"""
MORE_SECONDS = 5.0
"""The longest that a reader is sent nothing while a slow store takes a verified file: clients give up after 15 s."""
SMALL_BYTES = 256 << 10
"""Bytes up to which a file is fetched whole into memory: that costs less than a transfer, and no one waits long."""
TRANSFER_SECONDS = 24 * 3600.0
"""The longest time for a transfer, because an upstream may send a byte now and then for ever."""

logger = logging.getLogger(__name__)


def is_small(file: File) -> bool:
    """Return whether a file is for `fetch_small`: so small that its first bytes need not be sent before its last."""
    return file.size is not None and file.size <= SMALL_BYTES and "sha256" in file.digests and not file.alternatives


class Transfer:
    """One file that is being fetched."""

    def __init__(
        self, file: File, upstream: Upstream, blobs: BlobStore, limit: int, keeps_unverified: bool = True
    ) -> None:
        """`limit`: bytes of the largest accepted file; `keeps_unverified`: store files that no digest verifies."""
        self.file = file
        self.upstream = upstream
        self.listeners: dict[tuple[str, str], OnHeld] = {}
        """Called once the blob is held; by source and file name, those of the source that has delivered it."""
        self.interruptions = Interruptions()
        self.began = time.monotonic()
        self._source = file.source
        self._blobs = blobs
        self._limit = limit
        self._keeps_unverified = keeps_unverified
        self._url = parse_url(file.url)
        self.body = GrowingBody(file, self._url.host or "", blobs, limit)
        """Its bytes, for readers."""
        self.shared: SharedTransfer | None = None
        """Set where several processes may want the file, so that one of them fetches it."""
        self._growing: GrowingBlob | None = None
        """Set where the store receives the file while it still comes."""

    async def run(self) -> None:
        """Fetch the file. Never raises: readers get the error."""
        try:
            self.body.reserve()
            async with asyncio.timeout(TRANSFER_SECONDS):
                if self.shared is not None:
                    await self.shared.board()
                await self._receive()
            await self._finish()
        except TimeoutError:
            self._fail(UpstreamUnavailable(f"{self.file.filename} took longer than a day to be fetched."))
        except DigestMismatch as error:
            self.upstream.record_error(error)
            self._fail(error)
        except AlreadyHeld as held:
            self.body.fail(held)
        except MirrorError as error:
            self._fail(error)
        except Exception:
            logger.exception("fetching %s failed", self.file.filename)
            self._fail(UpstreamUnavailable(f"{self.file.filename} could not be fetched."))
        finally:
            self.body.end()
            if self._growing is not None:
                self._growing.abandon()
            if self.shared is not None:
                self.shared.leave()

    def abandon(self) -> None:
        """Fail for the readers, because the mirror is being stopped."""
        self._fail(UpstreamUnavailable("The mirror is being stopped."))
        self.body.notify()

    def _fail(self, error: MirrorError) -> None:
        self.body.fail(error)
        if self.body.started:
            # As text: a stored log record keeps no file open.
            what = "kept" if self.body.verified else "fetched"
            logger.warning("%s was not %s: %s", self.file.filename, what, str(error))

    # Fetching

    async def _receive(self) -> None:
        """Read to the end of the file, over as many connections as necessary, perhaps from another origin."""
        body = self.body
        while True:
            before = body.received
            try:
                async with self._fetch(before) as stream:
                    self._check_head(stream)
                    await self._read_stream(stream)
                if body.known_size in (None, body.received):
                    return
                error: MirrorError = UpstreamUnavailable(f"{self._url.host} ended {self.file.filename} before its end.")
            except UpstreamUnavailable as interruption:
                if body.started and body.known_size == body.received:
                    return
                error = interruption
            except (UpstreamError, NotFound) as refusal:
                error = refusal
            if self.shared is not None and self._follows:
                logger.info("%s is gone on with at byte %d: %s", self.file.filename, body.received, error)
                await self.shared.board(error)
                continue
            if not body.started:
                raise error
            blocked = self.upstream.pause(self._url)
            origin = await self.interruptions.recover(error, body.received > before, blocked, READER_WAIT_SECONDS)
            if origin is not None:
                self._go_on_at(origin)
            logger.info("%s continues at byte %d: %s", self.file.filename, body.received, error)

    def _fetch(self, start: int) -> AbstractAsyncContextManager[Stream]:
        """Open the file from an offset on: at upstream, or at the process that fetches it for all."""
        if self.shared is not None and self._follows:
            return self.shared.stream(start)
        return self.upstream.fetch(self._url, start=start, if_range=self.body.validator)

    def _go_on_at(self, origin: Origin) -> None:
        self._url = parse_url(origin.file.url)
        if origin.upstream is not self.upstream:
            self.upstream, self._source = origin.upstream, origin.file.source
            self.body.validator = None  # the digest shows whether both halves belong together
            self.body.label = origin.file.source, origin.file.filename
            self.listeners[self.body.label] = origin.record

    def _check_head(self, stream: Stream) -> None:
        """Take size, date and validator from the head of a response. Raises UpstreamProtocolError."""
        body, name = self.body, self.file.filename
        if stream.size is not None and body.known_size not in (None, stream.size):
            raise UpstreamProtocolError(f"{name} has {stream.size} bytes, but {body.known_size} are promised.")
        if (stream.size or 0) > self._limit:
            raise UpstreamProtocolError(f"{name} is larger than the {self._limit} bytes that are accepted.")
        if stream.start > body.received:
            raise UpstreamProtocolError(f"{self._url.host} sent another part of {name} than the requested one.")
        if stream.start < body.received and not body.checkable:
            body.restart(self._url.host)  # nothing would show whether both halves belong to one file
        if not body.started or stream.start == body.received == 0:
            body.known_size = body.known_size if stream.size is None else stream.size
            self.body.validator = stream.validator
            body.date = stream.date(self.file.uploaded)
            body.modified = http_date(body.date)
        elif stream.validator != self.body.validator and not body.checkable:
            raise UpstreamProtocolError(f"{name} has changed at {self._url.host} while it was fetched.")
        body.started = True
        body.notify()
        if self._growing is None and not (body.unsure or self.file.alternatives or self._follows):
            self._growing = self._blobs.begin(body.part, body.digest, body.size, body.date)

    @property
    def _follows(self) -> bool:
        """Whether the bytes come from another process, which stores them."""
        return self.shared is not None and self.shared.follows

    async def _read_stream(self, stream: Stream) -> None:
        body = self.body
        skip = body.received - stream.start
        async for chunk in self._chunks(stream):
            if skip >= len(chunk):
                skip -= len(chunk)
                continue
            fresh = chunk[skip:] if skip else chunk
            skip = 0
            if body.received + len(fresh) > (self._limit if body.known_size is None else body.known_size):
                raise UpstreamProtocolError(f"{self._url.host} sends more of {self.file.filename} than is promised.")
            if body.check is not None:
                body.check.begin(fresh)
            await body.add(fresh)  # one at a time: meanwhile the connection reads ahead
            if self._growing is not None and body.storing:
                self._growing.grow(body.received)
            elif self._growing is not None:
                self._growing.abandon()

    async def _chunks(self, stream: Stream) -> AsyncIterator[bytes]:
        """Yield bytes as they arrive. Raises UpstreamUnavailable, early where another source may have the file."""
        chunks = stream.chunks()
        impatient = self.interruptions.has_others and not self._follows
        while True:
            try:
                async with asyncio.timeout(SILENCE_SECONDS if impatient else None):
                    chunk = await anext(chunks)
            except StopAsyncIteration:
                return
            except TimeoutError:
                raise SlowBody(f"{self._url.host} has sent nothing of {self.file.filename} for a while.") from None
            yield chunk

    # Finishing

    async def _finish(self) -> None:
        unsure = self.body.unsure
        self.body.verify()
        if self.body.size >= PROMPT_END_BYTES and not self._blobs.is_shared:
            self.body.show_end()  # it can be fetched again, should the power fail just now
        if self.body.storing and self.body.check is not None and not self._keeps_unverified:
            logger.warning("%s is not kept, because nothing verifies it", self.file.filename)
        elif self.body.storing:
            showing = asyncio.create_task(self._show_more(), name=f"the end of {self.file.filename}")
            try:
                await self._store()
            except StorageError as error:
                if unsure and not self.body.readers and not self.body.verified:
                    raise
                logger.error("%s is passed on without being stored: %s", self.file.filename, error)
            finally:
                showing.cancel()
        else:
            self._blobs.disk_space.record_refusal(self.body.size)  # a file that is real and does not fit
        self.body.show_end()

    async def _show_more(self) -> None:
        """Let readers have a little more of the verified end now and then, but never all of it."""
        while True:
            await asyncio.sleep(MORE_SECONDS)
            self.body.show_more()

    async def _store(self) -> None:
        called: set[tuple[str, str]] = set()
        if self.shared is not None and not await self.shared.may_store():
            logger.warning("%s is left to the process that has taken it over", self.file.filename)
            return
        body = self.body
        await body.finish_part()
        if self.shared is not None and await self.shared.was_stored():
            called.add((self.file.source, self.file.filename))
            held = StoredBlob(digest=body.digest, size=body.size, stored=time.time())
        elif growing := self._growing or self._blobs.begin(body.part, body.digest, body.size, body.date):
            held = await growing.finish()
        else:
            held = await self._blobs.adopt(body.part, body.digest)
        # More may be added while one is called. A source has the files that it has delivered to their end.
        while waiting := {key for key in self.listeners if key[0] == self._source} - called:
            for key in waiting:
                called.add(key)
                try:
                    await self.listeners[key](held)
                except Exception:  # the bytes are right: readers get them
                    logger.exception("%s is stored, but could not be recorded in the catalog", self.file.filename)
        if body.size >= PROMPT_END_BYTES:
            body.show_end()
        await self._blobs.keep_copy(body.part, body.digest)
        found = await self._blobs.find(body.digest)  # a sweep may have withdrawn it just now: it comes back
        body.path = found.path if found else None


class Transfers:
    """At most one transfer for each file, however many clients request it."""

    def __init__(
        self, blobs: BlobStore, flights: Flights | None = None, *, limit: int = 32 << 30, keeps_unverified: bool = True
    ) -> None:
        """`flights` are those of several processes that share the store; `limit`: bytes of the largest accepted file.

        `keeps_unverified` is whether files are stored that no digest of their index verifies.
        """
        self.flights = flights
        self.keeps_unverified = keeps_unverified
        self.disk_space = blobs.disk_space
        """The free space for files."""
        self.store_state = blobs.state
        """Returns the state of the store of files."""
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
        has_others: bool = False,
        is_held: Callable[[], Awaitable[bool]] | None = None,
    ) -> tuple[GrowingBody, bool]:
        """Return the file, which is a Body, and whether a running transfer was joined.

        Returns when the upstream has begun to answer, so that its refusal is raised here: NotFound,
        UpstreamUnavailable, UpstreamRefused, UpstreamProtocolError. Small files (64 KiB), and files without a promised
        SHA-256 or any known size, are first fetched whole: then also DigestMismatch and StorageFull. With `early`, the
        latter are returned once they begin to arrive, without a digest, and perhaps without a size. `next_origin` is
        asked where to go on when the upstream fails after that; with `has_others` that may be another source, and one
        that falls silent is given up soon.
        """
        if self._closing:
            raise Unavailable("The mirror is being stopped.")
        key = _key(file)
        transfer = self._joinable(key)
        joined = transfer is not None
        if transfer is None:
            transfer = Transfer(file, upstream, self._blobs, self._limit, self.keeps_unverified)
            if self.flights is not None and is_held is not None:
                transfer.shared = SharedTransfer(self.flights, flight_name("file", *key), transfer.body, is_held)
            self._start(key, transfer)
        transfer.interruptions.next_origin = transfer.interruptions.next_origin or next_origin
        transfer.interruptions.has_others |= has_others
        transfer.listeners.setdefault((file.source, file.filename), on_held)
        await transfer.body.wait_open(early)
        return transfer.body, joined

    def runs(self, file: File) -> bool:
        """Return whether the file is being fetched, so that `open` would join."""
        return self._joinable(_key(file)) is not None

    def _joinable(self, key: tuple[str, ...]) -> Transfer | None:
        transfer = self.running.get(key)
        return transfer if transfer and transfer.body.joinable else None

    def _start(self, key: tuple[str, ...], transfer: Transfer) -> None:
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
        size=transfer.body.known_size,
        received=transfer.body.received,
        readers=len(transfer.body.readers),
        seconds=time.monotonic() - transfer.began,
        stored=transfer.body.storing,
    )
