"""Blob stores of every kind, for the contract that all of them keep."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from mirror.blobs import BlobStore
from mirror.blobs.local import LocalBlobs
from mirror.config import Settings
from mirror.service.blobs import blob_store
from tests import objects


class MemoryNumbers:
    """The numbers of a catalog in memory."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}

    async def get(self, name: str) -> int | None:
        return self.values.get(name)

    async def settle(self, name: str, value: int) -> int:
        return self.values.setdefault(name, value)


class Stores:
    """Makes stores of one kind, all over the same place."""

    def __init__(self, kind: str, directory: Path) -> None:
        self.kind = kind
        self.directory = directory
        self.numbers = MemoryNumbers()
        self.table = {} if kind == "directory" else objects.table(kind)
        self.opened: list[BlobStore] = []

    def open(self, node: str = "a", **changes: object) -> BlobStore:
        """A store, as the node of that name sees it; `changes` are settings of [blobs]."""
        directory = self.directory / ("a" if self.kind == "directory" else node)
        store: BlobStore
        if self.kind == "directory":
            store = LocalBlobs(directory)
        else:
            settings = Settings.model_validate({"data_dir": str(directory), "blobs": {**self.table, **changes}})
            store = blob_store(settings, self.numbers)
        self.opened.append(store)
        return store


@pytest.fixture(params=["directory", *objects.KINDS])
async def stores(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stores]:
    made = Stores(request.param, tmp_path)
    yield made
    for store in made.opened:
        await store.close()


@pytest.fixture
def store(stores: Stores) -> BlobStore:
    return stores.open()
