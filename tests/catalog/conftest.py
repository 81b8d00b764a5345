"""The engines of the catalog: what this directory tests holds for each of them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite

if TYPE_CHECKING:
    from mirror.catalog.postgres import PostgreSQL

REPOSITORIES = {"pypi": "pypi", "rubygems": "rubygems"}

Opener = Callable[[], Awaitable[Catalog]]
EngineOpener = Callable[[str], Awaitable["PostgreSQL"]]


@pytest.fixture(params=["sqlite", "postgresql"])
async def open_catalog(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Opener]:
    """Opens one catalog, each time as another process would; what is open in the end is closed."""
    opened: list[Catalog] = []
    url = request.getfixturevalue("catalog_url") if request.param == "postgresql" else ""

    async def open_one() -> Catalog:
        database = engine(url) if url else SQLite(tmp_path / "catalog.sqlite")
        await database.open()
        opened.append(Catalog(database))
        return opened[-1]

    yield open_one
    for catalog in opened:
        await catalog.close()


@pytest.fixture
async def catalog(open_catalog: Opener) -> Catalog:
    """An empty catalog."""
    return await open_catalog()


def engine(url: str) -> "PostgreSQL":
    """The engine for a database of tests."""
    from mirror.catalog.postgres import PostgreSQL

    return PostgreSQL(url, lambda: None, REPOSITORIES)


@pytest.fixture
async def open_engine() -> AsyncIterator[EngineOpener]:
    """Opens a database of PostgreSQL, each time as another process would; what is open in the end is closed."""
    opened: list[PostgreSQL] = []

    async def open_one(url: str) -> "PostgreSQL":
        opened.append(engine(url))
        await opened[-1].open()
        return opened[-1]

    yield open_one
    for one in opened:
        await one.close()
