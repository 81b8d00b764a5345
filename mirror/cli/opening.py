"""The catalog and the store, opened for one command, also beside a running mirror."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mirror.app import Store
    from mirror.catalog import Catalog
    from mirror.config import Settings


@asynccontextmanager
async def catalog_in(path: Path) -> "AsyncIterator[Catalog]":
    """The catalog in that file; it is made, with its directory, when there is none yet."""
    from mirror.catalog import Catalog
    from mirror.catalog.sqlite import SQLite

    path.parent.mkdir(parents=True, exist_ok=True)
    database = SQLite(path)
    await database.open()
    catalog = Catalog(database)
    try:
        yield catalog
    finally:
        await catalog.close()


@asynccontextmanager
async def store_of(settings: "Settings") -> "AsyncIterator[Store]":
    """The store that the settings name; what a running mirror is writing into it is left alone."""
    from mirror.app import Store

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings)
    await store.database.open()
    try:
        yield store
    finally:
        await store.close()
