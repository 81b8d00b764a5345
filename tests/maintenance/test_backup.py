"""Backup and restore."""

import asyncio
import hashlib
import sqlite3
from pathlib import Path
from urllib.parse import urljoin

import pytest

from mirror.errors import Conflict, Invalid, NotFound
from mirror.index.rebuild import UploadRebuild
from mirror.maintenance.backup import back_up, restore
from tests.builders import sdist, wheel
from tests.maintenance.stores import upload
from tests.serving import repositories, serving
from tests.simulator import Simulator

JSON = "application/vnd.pypi.simple.v1+json"


async def test_a_backup_of_a_serving_mirror_is_restored(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await upload(mirror, wheel("ours", "1.0", size=10_000))
        assert (await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup")).blobs == 2
        await upload(mirror, wheel("ours", "1.1", size=10_000))
        saved = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup")
        assert saved.blobs == 2
        before = (await mirror.get("/simple/ours/", Accept=JSON)).body
    restored = await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "again")
    assert restored.blobs == 4
    async with serving(tmp_path / "again", repositories(simulator)) as mirror:
        page = await mirror.get("/simple/ours/", Accept=JSON)
        assert page.body == before
        for entry in page.json()["files"]:
            reply = await mirror.get(urljoin("/simple/ours/", entry["url"]))
            assert hashlib.sha256(reply.body).hexdigest() == entry["hashes"]["sha256"]


async def test_backups_made_while_files_are_uploaded_and_deleted_are_whole(
    tmp_path: Path, simulator: Simulator
) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        writer = mirror.mirror.publishers["pypi"]

        async def change() -> None:
            for number in range(30):
                await upload(mirror, wheel(f"ours{number}", "1.0", size=20_000))
                if number % 3 == 0:
                    await writer.delete(wheel(f"ours{number}", "1.0").filename)

        changing = asyncio.create_task(change())
        while not changing.done():
            saved = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup")
            assert saved.missing == ()
        await changing
    await asyncio.to_thread(restore, tmp_path / "backup", tmp_path / "again")
    async with serving(tmp_path / "again", repositories(simulator)) as mirror:
        names = [one["name"] for one in (await mirror.get("/simple/", Accept=JSON)).json()["projects"]]
        assert names
        for name in names:
            for entry in (await mirror.get(f"/simple/{name}/", Accept=JSON)).json()["files"]:
                assert (await mirror.get(urljoin(f"/simple/{name}/", entry["url"]))).status == 200
        assert (await UploadRebuild(mirror.mirror.publishers["pypi"]).rebuild()).faults == ()


async def test_a_backup_says_which_file_is_lost(tmp_path: Path, simulator: Simulator) -> None:
    ours = sdist("ours", "1.0")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await upload(mirror, ours)
        (tmp_path / "data" / "blobs" / ours.sha256[:2] / ours.sha256).unlink()
        assert back_up(tmp_path / "data", tmp_path / "backup").missing == (ours.sha256,)


def test_a_restore_never_overwrites(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "backup").mkdir()
    with pytest.raises(Invalid, match="not a backup"):
        restore(tmp_path / "backup", tmp_path / "data")
    sqlite3.connect(tmp_path / "backup" / "catalog.sqlite").close()
    (tmp_path / "data" / "something").touch()
    with pytest.raises(Conflict, match="not empty"):
        restore(tmp_path / "backup", tmp_path / "data")
    with pytest.raises(NotFound, match="no catalog"):
        back_up(tmp_path / "nowhere", tmp_path / "backup")
