"""kill -9 of a mirror whose files are in an object store: at most an object without a row is left, never the reverse.

KILLS in the environment sets how often; it is set higher to look harder.
"""

import asyncio
import hashlib
import os
import random
import shutil
import signal
from pathlib import Path

import aiohttp
import pytest

from mirror.auth import digest, new_token
from tests import objects
from tests.builders import Built, wheel
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Simulator
from tests.uploading import upload

KILLS = int(os.environ.get("KILLS", "4"))
AT_ONCE = 4


async def uploaded(mirror: Spawned, secret: str, built: Built) -> Built | None:
    """The file, if its upload was answered with success."""
    try:
        reply = await upload(mirror, secret, built)
    except (aiohttp.ClientError, OSError):
        return None
    assert reply.status == 200, reply.text
    return built


async def fetched(mirror: Spawned, built: Built) -> None:
    try:
        reply = await mirror.get(f"packages/{built.name}/{built.filename}")
    except (aiohttp.ClientError, OSError):
        return
    assert reply.body == built.content


async def check(mirror: Spawned, data: Path, files: list[Built], answered: list[Built]) -> None:
    """Every file that is listed or was answered is there, read from the object store alone."""
    shutil.rmtree(data / "cache" / "blobs", ignore_errors=True)
    (data / "cache" / "blobs").mkdir(exist_ok=True)  # what is still being cached may have kept it
    for built in files:
        reply = await mirror.get(f"packages/{built.name}/{built.filename}")
        if built in answered or reply.status != 404:
            assert (reply.status, hashlib.sha256(reply.body).hexdigest()) == (200, built.sha256)


@pytest.mark.timeout(60 + 20 * KILLS)
async def test_kill_9_at_any_moment_leaves_no_row_without_an_object(simulator: Simulator, tmp_path: Path) -> None:
    data, chance, secret = tmp_path / "data", random.Random(13), new_token()
    tokens = {"ci": {"sha256": digest(secret), "rights": ["read", "upload"], "projects": ["*"]}}
    settings = {"blobs": objects.table("s3"), "auth": {"tokens": tokens}}
    ours: list[Built] = []
    theirs: list[Built] = []
    answered: list[Built] = []
    for number in range(KILLS + 1):
        async with spawned(data, repositories(simulator), **settings) as mirror:
            await check(mirror, data, ours[-AT_ONCE:], answered)
            await check(mirror, data, theirs[-AT_ONCE:], theirs)
            if number == KILLS:
                break
            sizes = [chance.randrange(1000, 7_000_000) for _ in range(AT_ONCE)]
            files = [wheel(f"ours{number}x{n}", "1.0", size=size) for n, size in enumerate(sizes)]
            cold = [wheel(f"theirs{number}x{n}", "1.0", size=size) for n, size in enumerate(sizes)]
            for built in cold:
                simulator.publish(built)
            work = [uploaded(mirror, secret, built) for built in files]
            running = asyncio.gather(*work, *(fetched(mirror, built) for built in cold))
            await asyncio.wait([running], timeout=chance.uniform(0.02, 1.0))
            await mirror.end(signal.SIGKILL)
            answered += [built for built in await running if built is not None]
            ours += files
            theirs += cold
    assert len(ours) == KILLS * AT_ONCE
