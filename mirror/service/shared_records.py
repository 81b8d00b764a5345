"""Folders of OSV records that one process reads for all that share the catalog.

The process that has the lease of a folder looks at its own copy, and stores in the catalog what it has found; all
others take that up within a second, so that every node hides the same. A process whose copy cannot be read passes the
lease on, and the others go on with what is stored.

The surprise: at the start, a process reads its own copy unless another one is at it, or what is stored was read from
files that look the same. What was stored before a long pause must not let through what the files refuse since.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from mirror.catalog import START, Catalog, Lease, LogPosition
from mirror.config import Settings
from mirror.errors import ConfigError, LostLease, StorageError, StorageUnavailable
from mirror.index.journal import Journal
from mirror.policy import osv_folders
from mirror.policy.osv import Advisory, OsvIndex
from mirror.policy.records import Policies, RecordSource, stamp
from mirror.service.store import Store

logger = logging.getLogger(__name__)

FORMAT_VERSION = 1
"""To be raised when records are read or stored in another way: what is stored then is read anew from the folders."""
MOST_STORED_BYTES = 256 << 20
"""Bytes that the records of a folder may take in the catalog before they are compressed."""
LEASE_TURNS = 2
"""Looks at a folder that its reader may miss before another process takes its place."""
PAUSE_SECONDS = 1.0
"""The least time between two looks at what is stored."""


class SharedRecords:
    """The records of folders, read by one process for all."""

    def __init__(
        self, folders: RecordSource, catalog: Catalog, journal: Journal, clock: Callable[[], float], every: float
    ) -> None:
        """`every`: seconds between two looks at a folder."""
        self._folders = folders
        self._catalog = catalog
        self._clock = clock
        self._every = every
        self._stored: dict[str, tuple[LogPosition, str]] = {}
        """What the catalog is known to have of a folder: where that ends, and the digest of the records."""
        self._leased: set[str] = set()
        self._news = asyncio.Event()
        self._stop_listening = journal.on_log_change(self._news.set)

    async def read(self, folder: str) -> OsvIndex:
        """Return the records of a folder. Raises ConfigError when it cannot be read, and StorageUnavailable."""
        stored = await self._read_stored(folder)
        if stored is None:
            return await self._folders.read(folder)
        if await self._catalog.leases.elsewhere(_lease_name(folder), self._clock()):
            return stored
        if await asyncio.to_thread(stamp, Path(folder)) == stored.stamp:
            return stored
        return await self._folders.read(folder)

    async def look(self, folder: str, known: OsvIndex) -> OsvIndex:
        """Return the records of a folder as they are now: read here under the lease, else as they are stored.

        Raises ConfigError and OSError when it is this process's turn and its folder cannot be read.
        """
        name = _lease_name(folder)
        try:
            known = await self.newest(folder, known)
            lease = await self._catalog.leases.take(name, self._clock(), LEASE_TURNS * self._every)
        except StorageUnavailable:
            return await self._folders.look(folder, known)  # cut off from the others, its own copy counts
        if lease is None:
            self._leased.discard(name)
            return known
        self._leased.add(name)
        try:
            found = await self._folders.look(folder, known)
            await self._store(folder, found, lease)
        except LostLease:
            return await self.newest(folder, known)
        except (ConfigError, OSError):
            await self._give_back(name)
            raise
        return found

    async def newest(self, folder: str, known: OsvIndex) -> OsvIndex:
        """Return the records that are stored, or those that are known where none are. Raises StorageUnavailable."""
        position, digest = self._stored.get(folder, (START, ""))
        unchanged = (await self._catalog.logs.position(_log_name(folder))).last == position.last
        if unchanged and known.digest == digest:
            return known
        return await self._read_stored(folder) or known

    async def follow(self, policies: Policies) -> None:
        """Look at the folders every few minutes, and at what is stored as soon as it changes, until cancelled."""
        due = 0.0
        while True:
            self._news.clear()
            if time.monotonic() >= due:
                due = time.monotonic() + self._every
                await policies.check_folders()
            else:
                await policies.renew(self.newest)
            await asyncio.sleep(min(PAUSE_SECONDS, self._every))
            with suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), max(0.0, due - time.monotonic()))

    async def close(self) -> None:
        """Leave the folders to other processes."""
        self._stop_listening()
        for name in list(self._leased):
            await self._give_back(name)

    async def _give_back(self, name: str) -> None:
        self._leased.discard(name)
        with suppress(StorageError):  # it ends by itself
            await self._catalog.leases.give_back(name)

    async def _read_stored(self, folder: str) -> OsvIndex | None:
        """Return the records that are stored; None where there are none, or they cannot be read."""
        growth = await self._catalog.logs.read_on(_log_name(folder), START)
        if not growth.content:
            return None
        try:
            stored = await asyncio.to_thread(unpack, growth.content)
        except msgspec.MsgspecError as error:
            logger.error("The stored OSV records of %s cannot be read, and are stored anew: %s", folder, error)
            self._stored[folder] = growth.position, ""
            return None
        self._stored[folder] = growth.position, stored.digest
        return stored

    async def _store(self, folder: str, found: OsvIndex, lease: Lease) -> None:
        """Let the other processes have these records, unless they do. Raises ConfigError and LostLease."""
        after, digest = self._stored.get(folder, (START, ""))
        if digest == found.digest:
            return
        content = await asyncio.to_thread(pack, found)
        logs = self._catalog.under(lease).logs
        try:
            position = await logs.replace(_log_name(folder), content, after, self._clock())
        except StorageError as error:
            logger.warning("%s: its OSV records do not reach the other processes yet: %s", folder, error)
            return
        if position is not None and not position.waiting:  # else it is tried again with the next look
            self._stored[folder] = position, found.digest


class _Head(msgspec.Struct, frozen=True, kw_only=True):
    """The first of the lines that are stored."""

    digest: str
    stamp: str
    records: int
    skipped: int


def _lease_name(folder: str) -> str:
    return f"records {folder!r}"


def _log_name(folder: str) -> str:
    return f"records {FORMAT_VERSION} {folder}"


def pack(records: OsvIndex) -> bytes:
    """Return records as lines of JSON, so that no step of reading them takes long. Raises ConfigError. Blocking."""
    head = _Head(digest=records.digest, stamp=records.stamp, records=records.records, skipped=records.skipped)
    lines, size = [msgspec.json.encode(head)], 0
    for (ecosystem, project), advisories in records.projects.items():
        lines.append(msgspec.json.encode((ecosystem, project, advisories)))
        size += len(lines[-1])
        if size > MOST_STORED_BYTES:
            raise ConfigError(f"A folder of OSV records holds more than {MOST_STORED_BYTES} bytes for the other nodes.")
    return b"\n".join(lines)


def unpack(content: bytes) -> OsvIndex:
    """Return the records that were packed. Raises MsgspecError. Blocking."""
    lines = _lines(content)
    head = msgspec.json.decode(next(lines), type=_Head)
    decode = msgspec.json.Decoder(tuple[str, str, tuple[Advisory, ...]]).decode
    projects = {(ecosystem, project): advisories for ecosystem, project, advisories in map(decode, lines)}
    return OsvIndex(**msgspec.structs.asdict(head), projects=projects)


def shared_records(settings: Settings, store: Store, folders: RecordSource) -> SharedRecords | None:
    """Return the records that processes share; None where there is one process alone, or no rule reads any."""
    if not (store.database.shared or settings.node.count > 1) or not osv_folders(settings.policy):
        return None
    return SharedRecords(folders, store.catalog, store.journal, store.clock, settings.policies.records_every)


def _lines(content: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(content):
        end = content.find(b"\n", start)
        end = len(content) if end < 0 else end
        yield content[start:end]
        start = end + 1
