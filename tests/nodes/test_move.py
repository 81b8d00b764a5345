"""Promise 12: an embedded mirror is moved to where nodes can share it, and back, whatever interrupts it."""

import asyncio
import contextlib
import hashlib
import os
import random
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from mirror.blobs import SmallBlob
from mirror.blobs.objects_client import PART_BYTES
from mirror.catalog import HeldFile, User
from mirror.catalog.tables import table_shapes
from mirror.index.rebuild import UploadRebuild
from tests.builders import gem, wheel
from tests.maintenance.test_commands import run
from tests.objects import table
from tests.serving import Serving, repositories, serving, write_settings
from tests.simulator import Simulator
from tests.uploading import make_token, push, upload

JSON = "application/vnd.pypi.simple.v1+json"
PATHS = (
    "/simple/", "/simple/six/", "/simple/ours/", "/simple/gone/", "/versions", "/info/rack", "/info/mine", "/names",
    "/api/v1/versions/mine.json", "/specs.4.8.gz", "/pypi/ours/json",
)  # fmt: skip
HEADERS = ("ETag", "Content-Type", "X-PyPI-Last-Serial")
FILES = 40
"""Files of an upstream that clients have fetched."""
MORE_FILES = int(os.environ.get("TEST_MOVE_FILES", "600"))
"""Files that are held besides: 10,000 on demand."""
KILLS = int(os.environ.get("TEST_MOVE_KILLS", "3"))
"""How often each move is killed: 10 times on demand."""

NAMED: dict[str, Any] = {"allowed_hosts": ["mirror.example"]}
"""Documents with absolute links do not depend on the port."""

Answers = dict[tuple[str, str], tuple[int, bytes, tuple[str | None, ...]]]


async def answers(mirror: Serving) -> Answers:
    """What clients see: pages in both forms, and the files with their dates."""
    found: Answers = {}
    for path in PATHS:
        for accept in ("text/html", JSON) if path.startswith("/simple/") else ("*/*",):
            reply = await mirror.get(path, Accept=accept, Host="mirror.example")
            found[path, accept] = reply.status, reply.body, tuple(map(reply.headers.get, HEADERS))
    page = await mirror.get("/simple/six/", Accept=JSON)
    for entry in page.json()["files"][:20]:
        for path in (urljoin("/simple/six/", entry["url"] + ending) for ending in ("", ".metadata")):
            reply = await mirror.get(path)
            found[path, ""] = reply.status, reply.body, (reply.headers.get("Last-Modified"), reply.outcome)
    return found


async def filled(
    data: Path, simulator: Simulator, files: int = FILES, more: int = MORE_FILES, size: int = 3_000_000
) -> tuple[Answers, str, bytes]:
    """Fill a data directory with everything that a mirror has; what it answers, a token, and its list of versions.

    `size` is that of a large file; `more` files are held besides those that clients have fetched.
    """
    large = wheel("six", "2.0", size=size)
    simulator.publish(large)
    simulator.rubygems.push(gem("rack", "3.0.0"))
    for number in range(files):
        simulator.publish(wheel("six", f"1.{number}", size=2_000 + number))
    async with serving(data, repositories(simulator), **NAMED) as mirror:
        token = await make_token(mirror)
        for built in (wheel("ours", "1.0", size=2_000_000), wheel("ours", "1.1"), wheel("gone", "1.0")):
            assert (await upload(mirror, token, built)).status == 200
        for pushed in (gem("mine", "1.0"), gem("mine", "1.1")):
            assert (await push(mirror, token, pushed.content)).status == 200
        await mirror.mirror.publishers["pypi"].delete(wheel("gone", "1.0").filename)
        await mirror.mirror.publishers["rubygems"].yank(gem("mine", "1.0").filename)
        await mirror.mirror.catalog.accounts.add_user(User(name="ann", password="hashed"))
        page = await mirror.get("/simple/six/", Accept=JSON)
        for entry in page.json()["files"]:
            assert (await mirror.get(urljoin("/simple/six/", entry["url"]))).status == 200
        assert (await mirror.get("/gems/rack-3.0.0.gem")).status == 200
        await hold(mirror, more)
        await answers(mirror)  # fetches what is not held yet
        expected = await answers(mirror)
    return expected, token, expected["/versions", "*/*"][1]


async def hold(mirror: Serving, count: int) -> None:
    """Store so many files as if clients had fetched them."""
    for start in range(0, count, 500):
        contents = [f"file {number}".encode() * 200 for number in range(start, min(start + 500, count))]
        blobs = [
            SmallBlob(content=content, digest=hashlib.sha256(content).hexdigest(), label=("held", f"{start}-{at}.whl"))
            for at, content in enumerate(contents)
        ]
        await mirror.mirror.store.blobs.store_all(blobs)
        rows = [
            HeldFile(source="held", project=f"held{start}", filename=blob.label[1], digest=blob.digest,
                     size=len(blob.content), stored=1.0)
            for blob in blobs
        ]  # fmt: skip
        await mirror.mirror.catalog.files.add_all([(row, "file") for row in rows])


async def moved(config: Path, *words: str | Path, kills: int) -> list[str]:
    """Run `mirror move` to its end, and kill it so often before; the lines that it prints in its last run."""
    lines = 2 * len(table_shapes())
    for number in range(kills):
        await killed(config, *words, after=random.randint(1, 4) + number * lines // max(1, kills))
    status, said, complained = await run("move", "--config", config, *words)
    assert status == 0, complained
    return said.splitlines()


async def killed(config: Path, *words: str | Path, after: int) -> None:
    """Run `mirror move`, and kill it once it has printed so many lines; it may have ended before."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "move", "--config", config, *words,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert process.stderr is not None
    for _ in range(after):
        if not await process.stderr.readline():
            break
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    await process.communicate()


@pytest.mark.timeout(3600)
async def test_promise_12_a_mirror_is_moved_to_shared_stores_and_back(
    tmp_path: Path, simulator: Simulator, postgres_url: str
) -> None:
    data, back = tmp_path / "data", tmp_path / "back"
    expected, token, versions = await filled(data, simulator)
    before = contents(data)
    blobs = table("s3")
    there = {"catalog": {"url": postgres_url}, "blobs": blobs}
    config = write_settings(data, repositories(simulator))
    targets = ["--to-catalog", postgres_url, "--to-blobs", blobs["url"], "--endpoint", blobs["endpoint"]]
    await killed(config, *targets, after=3)
    shared = write_settings(tmp_path / "node", repositories(simulator), **there)
    status, _, complained = await run("status", "--config", shared)
    assert (status, complained.count("`mirror move` has not copied everything")) == (2, 1)
    said = await moved(config, *targets, kills=KILLS - 1)
    assert f'url = "{postgres_url}"' in said
    assert contents(data) == before
    status, said, _ = await run("move", "--config", config, *targets)
    assert (status, said.splitlines()[0]) == (0, "everything has been moved there before")

    async with serving(tmp_path / "node", repositories(simulator), **NAMED, **there) as mirror:
        assert await answers(mirror) == expected
        assert (await push(mirror, token, gem("mine", "1.2").content)).status == 200
        rest = await mirror.get("/versions", Range=f"bytes={len(versions) - 1}-")
        assert rest.status == 206
        grown = (await mirror.get("/versions")).body
        assert grown == versions[:-1] + rest.body
        assert len(grown) > len(versions)
        expected = await answers(mirror)
        assert [user.name for user in await mirror.mirror.catalog.accounts.users()] == ["ann"]

    home = ["--to-catalog", back, "--to-blobs", back]
    await moved(shared, *home, kills=KILLS)
    async with serving(back, repositories(simulator), **NAMED) as mirror:
        assert await answers(mirror) == expected
        assert (await push(mirror, token, gem("mine", "1.3").content)).status == 200
        assert (await mirror.get("/versions", Range=f"bytes={len(grown) - 1}-")).status == 206
        assert [user.name for user in await mirror.mirror.catalog.accounts.users()] == ["ann"]
        for publisher in mirror.mirror.publishers.values():
            assert (await UploadRebuild(publisher).rebuild()).faults == ()


@pytest.mark.parametrize("kind", ["azure", "google"])
async def test_promise_12_files_are_moved_to_azure_and_google_and_back(
    tmp_path: Path, simulator: Simulator, kind: str
) -> None:
    data, back, blobs = tmp_path / "data", tmp_path / "back", table(kind)
    expected, token, _ = await filled(data, simulator, files=4, more=20, size=PART_BYTES + 1_000_000)
    there = {"blobs": blobs}
    await moved(
        write_settings(data, repositories(simulator)), "--to-blobs", blobs["url"], "--endpoint", blobs["endpoint"],
        kills=1,
    )  # fmt: skip
    async with serving(data, repositories(simulator), **NAMED, **there) as mirror:
        assert await answers(mirror) == expected
        assert (await push(mirror, token, gem("mine", "1.2").content)).status == 200
        expected = await answers(mirror)
    shared = write_settings(data, repositories(simulator), **there)
    await moved(shared, "--to-catalog", back, "--to-blobs", back, kills=0)
    async with serving(back, repositories(simulator), **NAMED) as mirror:
        assert await answers(mirror) == expected


def contents(directory: Path) -> dict[str, str]:
    """The digests of everything below a directory."""
    return {
        str(path.relative_to(directory)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in directory.rglob("*")
        if path.is_file()
        and path.name not in ("lock", "running", "changes", "catalog.sqlite-wal", "catalog.sqlite-shm")
    }
