"""Promise 13: `mirror doctor` says of each fault between nodes what it is, in one sentence."""

import asyncio
import json
import sys
from pathlib import Path

from tests import objects
from tests.postgres import PostgresServer
from tests.serving import serving, write_settings


async def examine(file: Path) -> dict[str, tuple[str, str]]:
    """What the doctor says of this mirror: verdict and what was seen, by the name of the finding."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "doctor", "--json", "--config", str(file), stdout=asyncio.subprocess.PIPE
    )
    said, _ = await process.communicate()
    findings = json.loads(said)["sections"][0]["findings"]
    assert any(one["name"].startswith("mirror/catalog") for one in findings), findings[0]["seen"]
    return {one["name"]: (one["verdict"], one.get("seen", "")) for one in findings}


async def test_promise_13_the_doctor_says_that_catalog_and_bucket_are_those_of_another_mirror(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    table = {"pypi": {"format": "pypi", "upstreams": []}}
    catalog, blobs = {"url": postgres.url(postgres.fresh())}, objects.table("s3")
    async with serving(tmp_path / "one", table, catalog=catalog, blobs=blobs):
        pass
    other = {"ruby": {"format": "rubygems", "upstreams": []}}
    found = await examine(write_settings(tmp_path / "two", other, catalog=catalog))
    assert found["mirror/catalog"][0] == "fails"
    assert "belongs to another mirror, with the repositories pypi" in found["mirror/catalog"][1]
    mine = {"url": postgres.url(postgres.fresh())}
    async with serving(tmp_path / "three", table, catalog=mine, blobs=objects.table("s3")):
        pass
    found = await examine(write_settings(tmp_path / "three", table, catalog=mine, blobs=blobs))
    assert found["mirror/object-store"] == (
        "fails", f"{blobs['url']} has the files of another mirror: give each a prefix of its own",
    )  # fmt: skip
    found = await examine(write_settings(tmp_path / "one", table, catalog=catalog, blobs=blobs))
    assert found["mirror/object-store"][0] == "ok"
