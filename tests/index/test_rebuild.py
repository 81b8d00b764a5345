"""The catalog can be lost: uploads are made again from the files and the records beside them."""

import asyncio
import json
import os
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from mirror.index.rebuild import UploadRebuild
from tests.builders import Built, gem, noise, sdist, wheel
from tests.pypi.test_upload import attestation
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import change_gem, make_token, push, upload

EMPTIED = ("DELETE FROM uploads", "DELETE FROM feed", "UPDATE counters SET value = 0")
"""What a catalog is like that was replaced in use."""
JSON = "application/vnd.pypi.simple.v1+json"
BOTH: dict[str, dict[str, Any]] = {name: {"format": name, "upstreams": []} for name in ("pypi", "rubygems")}


def hundred() -> list[Built]:
    """A hundred files: projects of wheels and sdists, and gems of several platforms."""
    builts: list[Built] = []
    for project in range(5):
        for version in range(5):
            builts.append(wheel(f"Acme_{project}", f"1.{version}", requires=["six>=1"], requires_python=">=3.8"))
            builts.append(sdist(f"acme-{project}", f"1.{version}", summary="Über <b>"))
    for project in range(5):
        for version in range(5):
            builts.append(gem(f"acme_{project}", f"1.{version}", dependencies={"rack": ">= 1"}, required_ruby=">= 3"))
            builts.append(gem(f"acme_{project}", f"1.{version}", platform="java"))
    return builts


async def uploaded(mirror: Serving, builts: list[Built]) -> None:
    """Upload all, yank some with reasons, un-yank one, delete others."""
    secret = await make_token(mirror)
    python, ruby = mirror.mirror.publishers["pypi"], mirror.mirror.publishers["rubygems"]
    for number, built in enumerate(builts):
        if built.filename.endswith(".gem"):
            reply = await push(mirror, secret, built.content)
        else:
            more = {"attestations": attestation(built)} if number == 0 else {}
            reply = await upload(mirror, secret, built, **more)
        assert reply.status == 200, reply.text
    await python.yank(builts[2].filename, 'leaks "secrets"')
    await python.yank(builts[3].filename)
    await python.yank(builts[4].filename, "by mistake")
    await python.unyank(builts[4].filename)
    for number in (5, 10, 11):
        await python.delete(builts[number].filename)
    assert (await change_gem(mirror, secret, "yank", "acme_0", "1.1")).status == 200
    await ruby.delete("acme_1-1.0.gem")


async def pages(mirror: Serving, builts: list[Built]) -> dict[str, bytes]:
    """Every page about what was uploaded, and every sidecar."""
    paths = ["simple/", "names", "specs.4.8", "latest_specs.4.8"]
    for name in (f"acme-{number}" for number in range(5)):
        paths += [f"simple/{name}/", f"pypi/{name}/json", f"pypi/{name}/1.3/json"]
    for name in (f"acme_{number}" for number in range(5)):
        paths += [f"info/{name}", f"api/v1/gems/{name}.json", f"api/v1/versions/{name}.json"]
    for built in builts:
        if built.filename.endswith(".gem"):
            paths += [f"gems/{built.filename}", f"quick/Marshal.4.8/{built.filename.removesuffix('.gem')}.gemspec.rz"]
        else:
            name = built.name.lower().replace("_", "-")
            paths += [f"packages/{name}/{built.filename}", f"packages/{name}/{built.filename}.metadata"]
    paths += [f"integrity/acme-0/1.0/{builts[0].filename}/provenance"]
    found = {}
    for path in paths:
        for accept in (JSON, "text/html") if path.startswith("simple/") else ("*/*",):
            reply = await mirror.get(path, Accept=accept, Host="localhost")
            assert reply.status in (200, 403, 404), path  # 403: a yanked gem of ours
            found[f"{path} {accept}"] = reply.body if reply.status == 200 else b"404"
    assert sum(body == b"404" for body in found.values()) > 4, "some were deleted"
    assert sum(body != b"404" for body in found.values()) > 200
    return found


async def listed(mirror: Serving) -> dict[str, str]:
    """Gem → MD5, as the list of versions says last."""
    lines = (await mirror.get("versions")).text.partition("---\n")[2].splitlines()
    return {line.split()[0]: line.split()[-1] for line in lines}


def lose(data: Path) -> None:
    """The catalog is no more."""
    for part in data.glob("catalog.sqlite*"):
        part.unlink()


@asynccontextmanager
async def hundred_uploads(data: Path) -> AsyncIterator[tuple[list[Built], dict[str, bytes], dict[str, str]]]:
    """What was uploaded, the pages that showed it, and the MD5s of the info pages; the mirror has ended."""
    builts = hundred()
    async with serving(data, BOTH) as mirror:
        await uploaded(mirror, builts)
        before, log = await pages(mirror, builts), await listed(mirror)
    yield builts, before, log


@pytest.mark.usefixtures("embedded")
async def test_after_mirror_rebuild_every_page_is_byte_for_byte_what_it_was(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "data"
    async with hundred_uploads(data) as (builts, before, log):
        lose(data)
        settings = tmp_path / "mirror.toml"
        settings.write_text(
            f'data_dir = "{data}"\n'
            + "".join(f'[repositories.{name}]\nformat = "{name}"\nupstreams = []\n' for name in BOTH)
        )
        assert await asyncio.to_thread(main, ["rebuild", "--config", str(settings)]) == 0
        assert capsys.readouterr().out == "pypi: 50 uploads\nrubygems: 50 uploads\n"
        async with serving(data, BOTH) as mirror:
            assert await pages(mirror, builts) == before
            assert await listed(mirror) == log
            secret = await make_token(mirror)
            reply = await upload(mirror, secret, builts[5])
            assert (reply.status, "deleted here" in reply.text) == (400, True)


async def test_a_mirror_that_starts_with_an_empty_catalog_makes_it_again_itself(tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with hundred_uploads(data) as (builts, before, log):
        lose(data)
        async with serving(data, BOTH) as mirror:
            assert await pages(mirror, builts) == before
            assert await listed(mirror) == log


@pytest.mark.usefixtures("embedded")
async def test_a_mirror_that_starts_with_a_damaged_catalog_makes_it_again_itself(
    simulator: Simulator, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    simulator.publish(wheel("acme", "9.0"))
    simulator.push(gem("acme", "9.0"))
    async with serving(data, repositories(simulator)) as mirror:
        secret = await make_token(mirror)
        await upload(mirror, secret, wheel("acme", "1.0"))
        await push(mirror, secret, gem("acme", "1.0").content)
        page, info = (await mirror.get("simple/acme/")).body, (await mirror.get("info/acme")).body
    catalog = data / "catalog.sqlite"
    catalog.write_bytes(noise(catalog.stat().st_size))
    async with serving(data, repositories(simulator)) as mirror:
        assert (await mirror.get("simple/acme/")).body == page
        assert (await mirror.get("info/acme")).body == info
        assert len(list(data.glob("catalog.sqlite.damaged-*"))) >= 1
    assert simulator.asked(path="*acme*") == []


@asynccontextmanager
async def catalog_lost(simulator: Simulator, data: Path) -> AsyncIterator[tuple[Serving, bytes]]:
    """A mirror whose catalog is emptied in use, and the page of `acme` as it was before, which upstream has as well."""
    simulator.publish(wheel("acme", "9.0"))
    async with serving(data, repositories(simulator)) as mirror:
        await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))
        page = (await mirror.get("simple/acme/")).body
        await mirror.mirror.store.database.write(*((sql, ()) for sql in EMPTIED))
        yield mirror, page
    assert simulator.asked(path="*acme*") == []


async def test_a_catalog_that_is_lost_in_use_never_lets_an_uploaded_name_go_upstream(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with catalog_lost(simulator, tmp_path / "data") as (mirror, page):
        mirror.mirror.repositories["pypi"].forget("acme")
        assert (await mirror.get("simple/acme/")).status == 503
        async with asyncio.timeout(20):
            while (reply := await mirror.get("simple/acme/")).status != 200:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert reply.body == page


async def test_an_upload_into_a_catalog_that_was_just_lost_lets_no_earlier_name_go_upstream(
    simulator: Simulator, tmp_path: Path
) -> None:
    async with catalog_lost(simulator, tmp_path / "data") as (mirror, page):
        repository = mirror.mirror.repositories["pypi"]
        repository.sources[0].forget("other")  # as after any upload: all names are read again
        repository.forget("acme")
        reply = await mirror.get("simple/acme/")
        assert reply.status == 503 or reply.body == page, "until it is rebuilt, and then"


async def test_a_rebuild_of_what_is_right_changes_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", BOTH) as mirror:
        await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))
        serial = mirror.mirror.journal.serial
        assert (await UploadRebuild(mirror.mirror.publishers["pypi"]).rebuild()).uploads == 1
        assert mirror.mirror.journal.serial == serial


@pytest.mark.usefixtures("embedded")
async def test_records_and_files_that_cannot_be_used_are_named_and_the_rest_is_shown(tmp_path: Path) -> None:
    data = tmp_path / "data"
    builts = [wheel("acme", f"1.{number}") for number in range(5)]
    async with serving(data, BOTH) as mirror:
        secret = await make_token(mirror)
        for built in builts:
            await upload(mirror, secret, built)
    lose(data)
    records = data / "uploads/pypi/acme"
    (records / f"{builts[0].filename}.json").write_text("{")
    (data / "blobs" / builts[1].sha256[:2] / builts[1].sha256).unlink()
    os.truncate(data / "blobs" / builts[2].sha256[:2] / builts[2].sha256, 100)
    moved = json.loads((records / f"{builts[3].filename}.json").read_text())
    (records / f"{builts[3].filename}.json").write_text(json.dumps({**moved, "filename": "../../x"}))
    async with serving(data, BOTH) as mirror:
        rebuilt = await UploadRebuild(mirror.mirror.publishers["pypi"]).rebuild()
        assert rebuilt.uploads == 1
        assert len(rebuilt.faults) == 4
        files = (await mirror.get("simple/acme/", Accept=JSON)).json()["files"]
        assert [file["filename"] for file in files] == [builts[4].filename]


async def test_the_order_in_which_files_came_outlives_the_catalog(tmp_path: Path) -> None:
    data = tmp_path / "data"
    versions = [f"1.{number}" for number in range(12)]
    random.Random(7).shuffle(versions)
    async with serving(data, BOTH) as mirror:
        secret = await make_token(mirror)
        for version in versions:
            await push(mirror, secret, gem("acme", version).content)
        info = (await mirror.get("info/acme")).body
        assert [line.split()[0].decode() for line in info.splitlines()[1:]] == versions
    lose(data)
    async with serving(data, BOTH) as mirror:
        assert (await mirror.get("info/acme")).body == info
