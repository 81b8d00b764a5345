"""The settings, the catalog and the store, opened for one command, also beside a running mirror."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from mirror.catalog import Catalog
    from mirror.config import Settings
    from mirror.service.store import Store

T = TypeVar("T")


def shared_options(command: Callable[..., T]) -> Callable[..., T]:
    """--config and --data-dir, which say whose catalog and store they are."""
    config = click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings (TOML). [env: MIRROR_CONFIG]"
    )
    directory = click.option(
        "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where everything is kept."
    )
    return config(directory(command))


def settings_of(config: Path | None, data_dir: Path | None) -> "Settings":
    """The settings, with the log going where the server's goes. Raises ConfigError."""
    from mirror.config import load
    from mirror.telemetry import log

    settings = load(config, {"data_dir": data_dir} if data_dir else None)
    log.configure(settings.log.format, settings.log.level)
    return settings


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
    from mirror.service.store import Store

    settings.data_dir.mkdir(parents=True, exist_ok=True)
    store = Store(settings)
    await store.database.open()
    try:
        yield store
    finally:
        await store.close()
