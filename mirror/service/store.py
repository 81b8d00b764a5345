"""What is stored: the catalog, the blobs, the records of uploads and the journal. It outlives every reload.

Light on purpose: a command that changes one row imports this module and no HTTP.
"""

import asyncio
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING

from mirror.blobs import BlobStore
from mirror.catalog import Catalog
from mirror.catalog.database import Engine
from mirror.catalog.sqlite import SQLite
from mirror.catalog.tables import MoveSteps
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.index.change_counter import ChangeCounter
from mirror.index.journal import Journal
from mirror.index.packing import PAGES_VERSION
from mirror.isolation.processes import IsolatedProcesses
from mirror.service.blobs import blob_store, upload_records
from mirror.service.directory import make, new_secret
from mirror.service.shared_clock import SharedClock

if TYPE_CHECKING:
    from mirror.server.disk_cache import DiskCache

PLACES_SHARE = 8
"""The part of the memory for pages in which it is kept where pages are on disk: an eighth."""


def places_memory(settings: Settings) -> int:
    """Return the bytes of memory for the places of rendered pages on disk."""
    return settings.pages.memory // PLACES_SHARE if settings.pages.disk else 0


class Store:
    """The contents of a data directory."""

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time, secret: bytes = b"") -> None:
        """Name the parts, opening nothing; `clock` is the time for everything that pages and policies depend on.

        `secret` is that of a process which others share the data directory with; empty: a new one.
        """
        self.data_dir = settings.data_dir
        self.shared_clock = SharedClock() if settings.catalog.url is not None and clock is time.time else None
        """The clock of a database that machines share."""
        self.clock = self.shared_clock or clock
        self.secret = secret or new_secret()
        """By which this process proves to commands that it has the data directory."""
        self.database = catalog_engine(settings)
        self.catalog = Catalog(self.database)
        self.records = upload_records(settings)
        self.changes = ChangeCounter()
        self.journal = Journal(self.catalog.feed, self.changes)
        if self.database.shared:
            self.journal.share(self.catalog.leases, clock)
        self.isolated = IsolatedProcesses()
        self._open_blobs = partial(blob_store, settings, self.catalog.counters)

    @cached_property
    def rendered(self) -> "DiskCache":
        """Rendered pages, for the process that serves; not open in any other one."""
        from mirror.server.disk_cache import DiskCache

        return DiskCache(self.data_dir / "rendered", PAGES_VERSION)

    @cached_property
    def blobs(self) -> BlobStore:
        """The blobs, whose directories are made when they are first needed: not for a command about accounts.

        Raises ConfigError.
        """
        return self._open_blobs()

    async def open(self) -> None:
        """Open the catalog, made or brought up to date as needed. Raises ConfigError and OSError."""
        make(self.data_dir)
        self.changes.open(self.data_dir / "changes")
        await self.database.open()
        await self.follow_clock()
        if await MoveSteps(self.database).source() is not None:
            raise ConfigError(
                "`mirror move` has not copied everything to this catalog: run it again, it goes on where it was."
            )

    async def follow_clock(self) -> None:
        """Set the clock by that of a database that machines share. Raises StorageUnavailable."""
        if self.shared_clock is not None:
            await self.shared_clock.learn(self.catalog.leases)

    async def keep_rendered(self, settings: Settings) -> None:
        """Keep rendered pages on disk as these settings say; only for the process that serves."""
        from mirror.server.disk_cache import RECORD_BYTES

        await self.rendered.resize(settings.pages.disk, places_memory(settings) // RECORD_BYTES)

    async def clean(self) -> None:
        """Remove what a crash left behind; only for the process that holds the data directory's lock.

        Raises ConfigError when the store of blobs is not this mirror's.
        """
        await self.blobs.clean_incoming()
        await self.blobs.claim()

    async def close(self) -> None:
        """Finish what is being written, and close the catalog."""
        if "rendered" in self.__dict__:
            await self.rendered.close()
        await self.isolated.close()
        if "blobs" in self.__dict__:  # else they were not needed
            await self.blobs.close()
        if self.changes.others is not None:
            await self.changes.others.close()
        await self.catalog.close()
        self.changes.close()


def catalog_engine(settings: Settings) -> Engine:
    """Return the engine that the settings choose, not yet open. Raises ConfigError where it is not installed."""
    if settings.catalog.url is None:
        return SQLite(settings.catalog_file)
    try:
        from mirror.catalog.postgres import PostgreSQL
    except ModuleNotFoundError:
        raise ConfigError("catalog.url: PostgreSQL needs an extra: pip install 'mirror[postgres]'") from None

    formats = {name: one.format for name, one in settings.repositories.items()}
    return PostgreSQL(settings.catalog.url, catalog_password(settings), formats)


def catalog_copier(settings: Settings) -> Callable[[Path], None] | None:
    """Return what writes a copy of the catalog to a new file, blocking; None where it is a file of the data directory.

    Raises ConfigError where the engine is not installed, and what is returned where the database cannot be read.
    """
    url = settings.catalog.url
    if url is None:
        return None
    catalog_engine(settings)
    from mirror.catalog.postgres.copying import copy_database

    return lambda target: asyncio.run(copy_database(url, catalog_password(settings), target))


def catalog_password(settings: Settings) -> Callable[[], str | None]:
    """Return what reads the password of the catalog's database, each time from where it is kept."""

    def read() -> str | None:
        secret = settings.catalog.secret()
        return None if secret is None else secret.get_secret_value()

    return read
