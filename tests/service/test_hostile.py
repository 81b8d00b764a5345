"""Hostile uploads: refused with the reason, in bounded time and memory, and nothing of them is kept."""

import asyncio
import hashlib
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders import Built, gem, wheel
from tests.hostile import GEM, HOSTILE, WHEEL
from tests.serving import Reply, Spawned, spawned
from tests.uploading import push, upload

BOTH = {name: {"format": name, "upstreams": []} for name in ("pypi", "rubygems")}
MEMORY = 300 << 20
"""Bytes that the process may ever have taken."""
SLOW = 10.0
"""Seconds that no upload may take on a machine that does other things too; a quiet one takes far less than one."""


@pytest.fixture
async def mirror(tmp_path: Path) -> AsyncIterator[Spawned]:
    async with spawned(tmp_path / "data", BOTH) as mirror:
        yield mirror


async def make_key(data: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "token", "create", "--right", "upload", "--data-dir", str(data),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().split()[-1]


async def send(mirror: Spawned, key: str, filename: str, content: bytes) -> Reply:
    if filename == GEM:
        return await push(mirror, key, content)
    built = Built("acme", "1.0", filename, content, b"")
    return await upload(mirror, key, built)


def most_memory(pid: int) -> int:
    """The most bytes that a process has ever had in memory."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) << 10


def held(data: Path) -> list[Path]:
    """Everything that an upload leaves behind."""
    return [path for part in ("incoming", "uploads", "blobs") for path in (data / part).rglob("*") if path.is_file()]


async def test_hostile_files_are_refused_with_the_reason_and_nothing_is_kept(mirror: Spawned, tmp_path: Path) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    assert len(HOSTILE) >= 20
    took: dict[str, float] = {}
    for what, (filename, build) in HOSTILE.items():
        content = await asyncio.to_thread(build)
        before = time.monotonic()
        reply = await send(mirror, key, filename, content)
        took[what] = time.monotonic() - before
        assert reply.status == (422 if filename == GEM else 400), f"{what}: {reply.status} {reply.text}"
        assert 10 < len(reply.text) < 1000, f"{what}: {reply.text}"
        assert "Traceback" not in reply.text
        assert str(data) not in reply.text
        assert held(data) == [], what
    assert max(took.values()) < SLOW, took
    if sys.platform == "linux":
        assert most_memory(mirror.pid) < MEMORY
    for path in ("simple/acme/", "info/acme"):
        assert (await mirror.get(path)).status == 404

    # And the mirror goes on as if nothing had been.
    for built in (wheel("acme", "1.0"), gem("acme", "1.0")):
        assert (await send(mirror, key, built.filename, built.content)).status == 200


async def test_a_large_file_passes_in_bounded_memory(mirror: Spawned, tmp_path: Path) -> None:
    key = await make_key(tmp_path / "data")
    size = 200 << 20
    built = await asyncio.to_thread(lambda: wheel("acme", "1.0", size=size))
    assert (await upload(mirror, key, built)).status == 200
    if sys.platform == "linux":
        assert most_memory(mirror.pid) < MEMORY
    reply = await mirror.get(f"packages/acme/{WHEEL}")
    assert hashlib.sha256(reply.body).hexdigest() == built.sha256


@pytest.mark.parametrize("form", [False, True], ids=["gem", "form"])
async def test_a_client_that_goes_away_leaves_nothing(mirror: Spawned, tmp_path: Path, form: bool) -> None:
    data = tmp_path / "data"
    key = await make_key(data)
    from yarl import URL

    url = URL(mirror.url)
    for close in (True, False):
        reader, writer = await asyncio.open_connection(url.host, url.port)
        content_type = "multipart/form-data; boundary=x" if form else "application/octet-stream"
        path = "/legacy/" if form else "/api/v1/gems"
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n"
        head += f"Content-Type: {content_type}\r\n"
        writer.write(f"{head}Content-Length: 3000000\r\n\r\n".encode())
        if form:
            part = 'Content-Disposition: form-data; name="content"; filename="acme-1.0-py3-none-any.whl"'
            writer.write(f"--x\r\n{part}\r\n\r\n".encode())
        for _ in range(20):
            writer.write(bytes(100_000))
            await writer.drain()
        async with asyncio.timeout(20):
            while not list((data / "incoming").iterdir()):  # noqa: ASYNC110  # another process writes it
                await asyncio.sleep(0.01)
        if close:
            writer.close()
        else:
            writer.transport.abort()
        async with asyncio.timeout(20):
            while list((data / "incoming").iterdir()):  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        del reader
    assert held(data) == []
    assert (await mirror.get("health")).status == 200
