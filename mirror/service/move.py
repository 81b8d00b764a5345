"""Opening both ends of a move, so that nothing else works with either, and making the copy usable in the end.

The order decides what a killed move leaves behind. The store and the catalog that are filled are marked as unfinished
before anything is copied, and no mirror opens what is marked; the marks go last, that of the catalog behind the other.
"""

import os
import shutil
import socket
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from mirror.blobs import BlobStore
from mirror.catalog import Catalog, Leases
from mirror.catalog.database import Database, Engine
from mirror.catalog.tables import MoveSteps, identity_of, newest_serial
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.maintenance.move import (
    CatalogCopy,
    FilesCopy,
    MoveProgress,
    begun_before,
    copy_catalog,
    copy_files,
    copy_records,
)
from mirror.service.blobs import blob_store, upload_records
from mirror.service.directory import lock
from mirror.service.move_targets import MoveTargets, store_mark
from mirror.service.presence import MOVING, check_unserved
from mirror.service.store import Store, catalog_engine, catalog_password

INCOMING = "moving"
"""The directory for files on their way to an object store, in the data directory."""
LEASE_SECONDS = 15.0
"""How long this process alone may work with a shared catalog, renewed while it does."""


class MoveResult(msgspec.Struct, frozen=True):
    """The result of a move; None for what stayed where it was, or had been moved before."""

    catalog: CatalogCopy | None
    files: FilesCopy | None


async def move(settings: Settings, targets: MoveTargets, progress: MoveProgress) -> MoveResult:
    """Move a mirror that no process serves. Raises ConfigError where one does, or a target has something else."""
    end = targets.settings(settings)
    place = f"{socket.gethostname()}:{settings.data_dir.resolve()}"  # whose lock this process has
    async with AsyncExitStack() as stack:
        for directory in dict.fromkeys([settings.data_dir, end.data_dir]):
            stack.callback(os.close, lock(directory))
        source = Store(settings)
        stack.push_async_callback(source.close)
        await source.open()
        await stack.enter_async_context(_alone(source.database, place))
        identity = await identity_of(source.database, place)
        mark = None if targets.blobs is None else await store_mark(end, source.catalog, identity)
        if targets.catalog is None:
            assert mark is not None, "something is moved"
            await mark.reserve(may_have_files=True)
            alone = await _move_files(settings, end, source, progress)
            await copy_records(source.catalog, upload_records(end).replace)
            await mark.finish()
            for name, value in mark.numbers.items():
                await source.catalog.counters.settle(name, value)
            return MoveResult(None, alone)
        there = await stack.enter_async_context(_catalog(end))
        steps, ended = MoveSteps(there.database), f"{identity} {await newest_serial(source.database)}"
        if await steps.ended() == ended:
            return MoveResult(None, None)
        begun = await begun_before(there.database, identity)
        if mark is not None:
            await mark.reserve(may_have_files=begun)
        if not begun:
            await steps.begin(identity)
        rows = await copy_catalog(source.database, there.database, progress)
        if end.catalog.url is None or mark is not None:
            await copy_records(there, upload_records(end).replace)
        files = None
        if mark is not None:
            files = await _move_files(settings, end, source, progress)
            await mark.finish()
        await steps.finish(ended, mark.numbers if mark is not None else {})
        return MoveResult(rows, files)


async def _move_files(settings: Settings, end: Settings, source: Store, progress: MoveProgress) -> FilesCopy:
    async with _blobs(settings, end) as blobs:
        return await copy_files(source.catalog, source.blobs, blobs, progress)


@asynccontextmanager
async def _alone(database: Database, holder: str) -> AsyncIterator[None]:
    """Keep nodes from serving from a shared catalog, and other moves away. Raises ConfigError where one does."""
    if not database.shared:
        yield  # the lock of the data directory does it
        return
    leases = Leases(database, holder)
    async with leases.held(MOVING, time.time, LEASE_SECONDS) as lease:
        if lease is None:
            raise ConfigError("catalog.url: another `mirror move` works with this database: let it end first.")
        await check_unserved(leases, time.time())
        yield


@asynccontextmanager
async def _catalog(end: Settings) -> AsyncIterator[Catalog]:
    """Open the catalog that is filled; one of another version is not brought up to date, which would change it."""
    database: Engine = catalog_engine(end)
    if end.catalog.url is not None:
        from mirror.catalog.postgres.inspection import inspect_database

        found = await inspect_database(end.catalog.url, catalog_password(end))
        if found.trouble:
            raise ConfigError(f"--to-catalog: {found.trouble}")
        if found.schema not in (0, found.known):
            raise ConfigError("--to-catalog: it holds the data of another version of the mirror: name an empty one.")
    try:
        await database.open()
        await check_unserved(Leases(database), time.time())
        yield Catalog(database)
    finally:
        await database.close()


@asynccontextmanager
async def _blobs(settings: Settings, end: Settings) -> AsyncIterator[BlobStore]:
    """Open the store that is filled. What is on its way to an object store has a directory of its own, and no cache."""
    if end.blobs.url is None:
        blobs = blob_store(end, None)
        await blobs.clean_incoming()
        yield blobs
        return
    directory = settings.data_dir / INCOMING
    shutil.rmtree(directory, ignore_errors=True)
    plain = end.blobs.model_copy(update={"cache": 0, "redirect": "never"})
    blobs = blob_store(end.model_copy(update={"data_dir": directory, "blobs": plain}), None)
    try:
        yield blobs
    finally:
        await blobs.close()
        shutil.rmtree(directory, ignore_errors=True)
