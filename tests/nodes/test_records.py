"""The records of uploads are where the files are, so that every node has them."""

from pathlib import Path

import pytest

from mirror.blobs.objects_connect import connect
from mirror.catalog import Upload
from mirror.config import Settings
from mirror.errors import Invalid, StorageUnavailable
from mirror.index.object_records import ObjectRecords
from mirror.index.records import DamagedRecord, Records
from tests import objects
from tests.builders import wheel
from tests.postgres import PostgresServer
from tests.serving import serving
from tests.uploading import basic, make_token, upload

ONLY_OURS = {"pypi": {"format": "pypi", "upstreams": []}}


def upload_of(filename: str, **more: object) -> Upload:
    values = {"repository": "pypi", "project": "six", "digest": "0" * 64, "size": 1, "uploaded": 1.0, "changed": 1.0}
    return Upload(**values | {"filename": filename, "uploader": "ann", "origin": "::1"} | more)  # type: ignore[arg-type]


def records_at(table: dict[str, str], tmp_path: Path) -> ObjectRecords:
    settings = Settings.model_validate({"data_dir": str(tmp_path), "blobs": table})
    return ObjectRecords(lambda: connect(settings.blobs))


def test_records_in_an_object_store_are_kept_once_for_each_name(tmp_path: Path) -> None:
    records = records_at(objects.table("s3"), tmp_path)
    assert not records.any("pypi")
    ours, odd = upload_of("six-1.0.tar.gz"), upload_of("six-1.0+é%.tar.gz", project="sïx")
    assert records.add_all([ours, odd]) == [ours, odd]
    rival = upload_of("six-1.0.tar.gz", digest="1" * 64)
    assert records.add_all([rival]) == [ours]
    records.replace(upload_of("six-1.0.tar.gz", yanked="broken"))
    found = list(records.read("pypi"))
    assert sorted((one.filename, one.yanked) for one in found if isinstance(one, Upload)) == [
        ("six-1.0+é%.tar.gz", None), ("six-1.0.tar.gz", "broken"),
    ]  # fmt: skip
    assert not records.any("pyp")
    records._store.put("uploads/pypi/six/other.json", b"{")
    assert sum(isinstance(one, DamagedRecord) for one in records.read("pypi")) == 1
    records.remove(odd)
    assert records.any("pypi")
    with pytest.raises(Invalid):
        records.check(upload_of("../etc"))


def test_records_in_an_object_store_that_is_away_are_an_error(tmp_path: Path) -> None:
    table = objects.table("s3")
    records = records_at(table | {"url": "s3://missing-bucket/x", "endpoint": "http://127.0.0.1:9"}, tmp_path)
    with pytest.raises(StorageUnavailable):
        records.replace(upload_of("six-1.0.tar.gz"))


async def test_a_catalog_that_was_lost_is_made_again_by_another_node_from_the_object_store(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    blobs, built, gone = objects.table("s3"), wheel("ours", "1.0"), wheel("ours", "0.9")
    database = postgres.fresh()
    catalog = {"url": postgres.url(database)}
    async with serving(tmp_path / "one", ONLY_OURS, blobs=blobs, catalog=catalog) as first:
        token = await make_token(first, ("upload", "admin"))
        for one in (built, gone):
            assert (await upload(first, token, one)).status == 200
        at = f"/-/uploads/pypi/{gone.filename}"
        assert (await first.ask("DELETE", at, Authorization=basic(token))).status == 200
        page = await first.get("/simple/ours/")
        identity = await first.mirror.catalog.counters.get("objects identity")
    assert not (tmp_path / "one" / "uploads").exists()
    postgres.sql(f'DROP DATABASE "{database}" WITH (FORCE)')
    postgres.create(database)
    owner = tmp_path / "two" / "cache" / "owner"
    owner.parent.mkdir(parents=True, mode=0o700)
    (tmp_path / "two").chmod(0o700)
    owner.write_text(f"{identity:x}\n")
    async with serving(tmp_path / "two", ONLY_OURS, blobs=blobs, catalog=catalog) as second:
        assert (await second.get("/simple/ours/")).body == page.body
        assert (await second.get(f"/packages/ours/{built.filename}")).body == built.content


async def test_records_of_a_data_directory_go_to_the_object_store_with_the_next_start(tmp_path: Path) -> None:
    blobs, local = objects.table("s3"), Records(tmp_path / "data" / "uploads")
    async with serving(tmp_path / "data", ONLY_OURS, blobs=blobs) as mirror:
        assert (await upload(mirror, await make_token(mirror), wheel("ours", "1.0"))).status == 200
    there = records_at(blobs, tmp_path)
    (record,) = there.read("pypi")
    assert isinstance(record, Upload)
    there.remove(record)  # as an earlier version had it, in the data directory
    local.replace(record)
    async with serving(tmp_path / "data", ONLY_OURS, blobs=blobs) as mirror:
        assert (await mirror.get("/simple/ours/")).status == 200
    assert list(there.read("pypi")) == [record]
    assert not local.any("pypi")
