"""What `mirror move` refuses with nothing changed, and what it makes good."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.catalog import Catalog, Leases, User
from mirror.catalog.sqlite import SQLite
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.maintenance.backup import back_up, restore
from mirror.maintenance.move import MoveProgress
from mirror.service.move import MoveResult, move
from mirror.service.move_targets import MoveTargets
from mirror.service.open import Mode, open_mirror
from mirror.service.presence import MOVING
from tests.builders import wheel
from tests.maintenance.stores import upload
from tests.objects import table
from tests.serving import repositories, serving
from tests.simulator import Simulator


class Interruption(MoveProgress):
    """A progress that breaks a move off at a table."""

    def __init__(self, name: str = "") -> None:
        self._name = name

    def on_table(self, name: str, rows: int) -> None:
        if name == self._name:
            raise InterruptedError(name)

    def on_rows(self, count: int) -> None: ...
    def on_files(self, count: int, size: int) -> None: ...
    def on_copied(self, count: int, size: int) -> None: ...


def settings(data: Path, simulator: Simulator, **more: Any) -> Settings:
    return Settings.model_validate({"data_dir": str(data), "repositories": repositories(simulator), **more})


async def moved(
    data: Path, simulator: Simulator, to_catalog: Path | str | None, to_blobs: Path | str | None,
    interrupted: str = "", endpoint: str | None = None, **more: Any,
) -> MoveResult:  # fmt: skip
    catalog, blobs = (None if target is None else str(target) for target in (to_catalog, to_blobs))
    targets = MoveTargets(catalog, blobs, endpoint)
    return await move(settings(data, simulator, **more), targets, Interruption(interrupted))


async def with_upload(data: Path, simulator: Simulator, name: str = "ours", **more: Any) -> None:
    async with serving(data, repositories(simulator), **more) as mirror:
        await upload(mirror, wheel(name, "1.0", size=2_000_000))


async def page(data: Path, simulator: Simulator, name: str = "ours", **more: Any) -> int:
    """The status of a project's page; its file can be downloaded, too."""
    async with serving(data, repositories(simulator), **more) as mirror:
        reply = await mirror.get(f"/simple/{name}/")
        assert (
            reply.status != 200 or (await mirror.get(f"/packages/{name}/{wheel(name, '1.0').filename}")).status == 200
        )
        return reply.status


async def test_what_is_served_or_something_elses_is_refused(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    data, other = tmp_path / "data", tmp_path / "other"
    await with_upload(data, simulator)
    await with_upload(other, simulator, "theirs")
    async with serving(data, repositories(simulator)):
        with pytest.raises(ConfigError, match="another mirror is serving"):
            await moved(data, simulator, postgres_url, None)
    with pytest.raises(ConfigError, match="holds a mirror's data already"):
        await moved(data, simulator, other, other)
    with pytest.raises(ConfigError, match="is there already"):
        await moved(data, simulator, data, None)
    with pytest.raises(ConfigError, match="--to-blobs: is needed as well"):
        await moved(data, simulator, tmp_path / "third", None)
    with pytest.raises(ConfigError, match="should name the same directory"):
        await moved(data, simulator, tmp_path / "third", tmp_path / "fourth")
    with pytest.raises(ConfigError, match="--to-catalog: should be the URL of a database"):
        await moved(data, simulator, "mysql://somewhere/mirror", None)
    with pytest.raises(ConfigError, match="Nothing is to be moved"):
        await moved(data, simulator, None, None)
    with pytest.raises(InterruptedError):
        await moved(data, simulator, postgres_url, None, "uploads")
    with pytest.raises(ConfigError, match="move of another mirror has begun there"):
        await moved(other, simulator, postgres_url, None)
    await moved(data, simulator, postgres_url, None)
    with pytest.raises(ConfigError, match="holds a mirror's data already"):
        await moved(other, simulator, postgres_url, None)
    assert await page(data, simulator, catalog={"url": postgres_url}) == 200
    assert await page(data, simulator, "theirs", catalog={"url": postgres_url}) == 404


async def test_a_database_that_a_node_serves_from_is_refused(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    await with_upload(tmp_path / "data", simulator)
    catalog = {"url": postgres_url}
    async with serving(tmp_path / "node", repositories(simulator), catalog=catalog):
        with pytest.raises(ConfigError, match="a node serves from this database"):
            await moved(tmp_path / "data", simulator, postgres_url, None)
        with pytest.raises(ConfigError, match="a node serves from this database"):
            await moved(tmp_path / "idle", simulator, tmp_path / "back", tmp_path / "back", catalog=catalog)
        with pytest.raises(ConfigError, match="`mirror move` is copying this catalog"):
            async with _moving(postgres_url), serving(tmp_path / "second", repositories(simulator), catalog=catalog):
                pass
    await moved(tmp_path / "idle", simulator, tmp_path / "back", tmp_path / "back", catalog=catalog)


@asynccontextmanager
async def _moving(url: str) -> AsyncIterator[None]:
    """The lease of a move from a database."""
    from mirror.catalog.postgres import PostgreSQL

    database = PostgreSQL(url, lambda: None, {"pypi": "pypi"})
    await database.open()
    try:
        async with Leases(database).held(MOVING, time.time, 10) as lease:
            assert lease is not None
            yield
    finally:
        await database.close()


async def test_files_alone_are_moved_to_a_bucket_and_back(tmp_path: Path, simulator: Simulator) -> None:
    data, there = tmp_path / "data", table("s3")
    await with_upload(data, simulator)
    await with_upload(tmp_path / "other", simulator, "theirs")
    result = await moved(data, simulator, None, there["url"], endpoint=there["endpoint"])
    assert result.files is not None
    assert (result.files.files, result.files.missing) == (2, ())
    assert await page(data, simulator, blobs=there) == 200
    with pytest.raises(ConfigError, match="holds the files of another mirror"):
        await moved(tmp_path / "other", simulator, None, there["url"], endpoint=there["endpoint"])
    for path in (data / "blobs").glob("??/*"):
        path.unlink()
    await moved(data, simulator, None, data, blobs=there)
    assert await page(data, simulator) == 200


async def test_a_bucket_that_is_half_full_is_not_served_from(
    tmp_path: Path, simulator: Simulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, there = tmp_path / "data", table("s3")
    await with_upload(data, simulator)

    async def fail(*_: object) -> None:
        raise InterruptedError

    with monkeypatch.context() as patched:
        patched.setattr("mirror.blobs.copying.BlobCopier._copy_large", fail)
        with pytest.raises(InterruptedError):
            await moved(data, simulator, None, there["url"], endpoint=there["endpoint"])
    with pytest.raises(ConfigError, match="has not copied everything"):
        await page(data, simulator, blobs=there)
    await moved(data, simulator, None, there["url"], endpoint=there["endpoint"])
    assert await page(data, simulator, blobs=there) == 200


async def test_what_changes_between_two_runs_is_there_in_the_end(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    data = tmp_path / "data"
    await with_upload(data, simulator)
    with pytest.raises(InterruptedError):
        await moved(data, simulator, postgres_url, None, "feed, compared")
    await with_upload(data, simulator, "added")
    async with open_mirror(settings(data, simulator), Mode.BESIDE) as opened:
        await opened.catalog.accounts.add_user(User(name="ann", password="hashed"))
    await moved(data, simulator, postgres_url, None)
    for name in ("ours", "added"):
        assert await page(data, simulator, name, catalog={"url": postgres_url}) == 200


async def test_an_upload_that_is_damaged_is_named_and_left_behind(tmp_path: Path, simulator: Simulator) -> None:
    data = tmp_path / "data"
    await with_upload(data, simulator)
    digest = wheel("ours", "1.0", size=2_000_000).sha256
    path = data / "blobs" / digest[:2] / digest
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    result = await moved(data, simulator, tmp_path / "there", tmp_path / "there")
    assert result.files is not None
    assert result.files.missing == result.files.damaged == (digest,)
    assert not (tmp_path / "there" / "blobs" / digest[:2] / digest).exists()


async def test_a_restored_backup_becomes_a_shared_catalog(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    there = {"catalog": {"url": postgres_url}, "blobs": table("s3")}
    await with_upload(tmp_path / "data", simulator)
    await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup")
    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "restored")
    await moved(
        tmp_path / "restored", simulator, postgres_url, there["blobs"]["url"], endpoint=there["blobs"]["endpoint"]
    )
    assert await page(tmp_path / "node", simulator, **there) == 200


async def test_large_rows_are_copied_few_at_a_time_and_small_ones_many(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mirror.catalog import tables

    database = SQLite(tmp_path / "catalog.sqlite")
    await database.open()
    catalog = Catalog(database)
    try:
        sizes = [10, 10, 10, tables.BATCH_BYTES, 2 * tables.BATCH_BYTES, 10]
        for number, size in enumerate(sizes):
            insert = "INSERT INTO logs (name, seq, body) VALUES ('log', $1, $2)"
            await database.write((insert, (number, b"x" * size)))
        (shape,) = (one for one in tables.table_shapes() if one.name == "logs")
        counts = [len(rows) async for rows in tables.batches(database, shape)]
        assert counts == [2, 1, 1, 1, 1]
        assert await tables.last_key(database, shape) == ("log", len(sizes) - 1)
    finally:
        await catalog.close()
