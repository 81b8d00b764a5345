"""Gems that earlier rules named otherwise are renamed when their mirror starts.

`tests/data/misnamed.tar.xz` is the data directory of the last version that dropped the C library from the platforms of
gems. It had been pushed acme 1.0 for ruby, x86_64-linux-gnu, aarch64-linux-gnu, x86_64-linux-musl and java, and 1.1 for
arm-linux-gnueabihf; then 1.0 for aarch64-linux-gnu was yanked.
"""

import asyncio
import hashlib
import json
import logging
import tarfile
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from mirror.index.rebuild import UploadRebuild
from mirror.index.records import Records
from mirror.rubygems.log.versions_map import parse_versions
from tests.builders import gem
from tests.serving import Serving, serving, write_settings
from tests.uploading import make_token, push

ARCHIVE = Path(__file__).parent.parent / "data" / "misnamed.tar.xz"
REPOSITORIES: dict[str, Any] = {"rubygems": {"format": "rubygems", "upstreams": []}}
BEFORE = ["1.0", "1.0-x86_64-linux", "1.0-x86_64-linux-musl", "1.0-java", "1.1-arm-linux"]
AFTER = ["1.0", "1.0-x86_64-linux-gnu", "1.0-x86_64-linux-musl", "1.0-java", "1.1-arm-linux-gnueabihf"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    return tmp_path / "data"


def recorded(data: Path) -> set[str]:
    return {path.name.removesuffix(".gem.json") for path in (data / "uploads/rubygems/acme").iterdir()}


async def listed(mirror: Serving) -> list[str]:
    """What the page lists; the log of all versions agrees with it."""
    info = await mirror.get("info/acme")
    versions = [line.split()[0] for line in info.text.splitlines()[1:]]
    log = parse_versions((await mirror.get("versions")).body)
    assert sorted(log.versions("acme")) == sorted(versions)
    assert log.md5("acme") == hashlib.md5(info.body).hexdigest()
    return versions


async def test_they_are_renamed_once_and_the_log_says_so(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert "acme-1.0-x86_64-linux" in recorded(data)
    log = b"1.0-x86_64-linux,"
    with caplog.at_level(logging.WARNING):
        async with serving(data, REPOSITORIES) as mirror:
            await mirror.mirror.published_indexes["rubygems"].show(["acme"])
            assert sorted(await listed(mirror)) == sorted(AFTER)
            assert log in (await mirror.get("versions")).body, "clients learn of it by a few lines more"
            built = gem("acme", "1.0", platform="x86_64-linux-gnu")
            assert (await mirror.get(f"gems/{built.filename}")).body == built.content
            assert (await mirror.get("gems/acme-1.0-x86_64-linux.gem")).status == 404
            assert (await mirror.get("quick/Marshal.4.8/acme-1.1-arm-linux-gnueabihf.gemspec.rz")).status == 200
            generic = gem("acme", "1.0", platform="x86_64-linux")
            assert (await push(mirror, await make_token(mirror), generic.content)).status == 200, "its name is free now"
    renamed = [record.getMessage() for record in caplog.records if "is named" in record.getMessage()]
    assert renamed == [
        "rubygems: acme-1.0-aarch64-linux.gem is named acme-1.0-aarch64-linux-gnu.gem from now on",
        "rubygems: acme-1.0-x86_64-linux.gem is named acme-1.0-x86_64-linux-gnu.gem from now on",
        "rubygems: acme-1.1-arm-linux.gem is named acme-1.1-arm-linux-gnueabihf.gem from now on",
    ]
    assert recorded(data) == {f"acme-{one}" for one in (*AFTER, "1.0-aarch64-linux-gnu", "1.0-x86_64-linux")}
    record = json.loads((data / "uploads/rubygems/acme/acme-1.0-aarch64-linux-gnu.gem.json").read_text())
    assert record["yanked"] == ""
    caplog.clear()
    async with serving(data, REPOSITORIES) as mirror:
        assert sorted(await listed(mirror)) == sorted([*AFTER, "1.0-x86_64-linux"])
    assert "is named" not in caplog.text


@pytest.mark.parametrize("step", ["replace", "remove"])
async def test_a_loss_of_power_between_record_and_catalog_is_made_good(
    data: Path, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        raise OSError("the power is gone")

    with monkeypatch.context() as patch:
        patch.setattr(Records, step, stop)
        with pytest.raises(OSError, match="power"):
            async with serving(data, REPOSITORIES):
                pass
    async with serving(data, REPOSITORIES) as mirror:
        await mirror.mirror.published_indexes["rubygems"].show(["acme"])
        assert sorted(await listed(mirror)) == sorted(AFTER)
        await UploadRebuild(mirror.mirror.publishers["rubygems"]).rebuild()
        assert sorted(await listed(mirror)) == sorted(AFTER)
    assert recorded(data) == {f"acme-{one}" for one in (*AFTER, "1.0-aarch64-linux-gnu")}


async def test_without_a_catalog_they_are_renamed_as_their_records_are_read(data: Path) -> None:
    for path in data.glob("catalog.sqlite*"):
        path.unlink()
    async with serving(data, REPOSITORIES) as mirror:
        assert sorted(await listed(mirror)) == sorted(AFTER)
    assert recorded(data) == {f"acme-{one}" for one in (*AFTER, "1.0-aarch64-linux-gnu")}


async def test_a_bundle_of_an_earlier_version_is_imported_under_the_names_of_today(data: Path, tmp_path: Path) -> None:
    there = write_settings(tmp_path / "b", REPOSITORIES)
    bundle = tmp_path / "bundle"
    for words in (
        ["export", "--all", "--unsigned", "-o", bundle, "--config", write_settings(data, REPOSITORIES)],
        ["import", bundle, "--unsigned", "--config", there],
    ):
        assert await asyncio.to_thread(main, [*map(str, words)]) == 0
    async with serving(tmp_path / "b", REPOSITORIES) as mirror:
        assert sorted(await listed(mirror)) == sorted(AFTER)
    assert recorded(tmp_path / "b") == {f"acme-{one}" for one in (*AFTER, "1.0-aarch64-linux-gnu")}
