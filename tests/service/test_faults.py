"""What happens to a running process: killed, stopped, started twice, its disk damaged, its memory.

The mirror is a process of its own here, as a user runs it.
"""

import asyncio
import hashlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from tests.builders import Built, wheel
from tests.contract.pypi import eventually
from tests.serving import Spawned, spawned
from tests.simulator import Drip, Simulator, Stall

ROUNDS = int(os.environ.get("KILL_ROUNDS", "5"))
"""How often the mirror is killed; set it higher to look harder."""
CLIENTS = 20


def only_pypi(simulator: Simulator) -> dict[str, Any]:
    return {"pypi": {"format": "pypi", "upstreams": [simulator.simple_url]}}


def path_of(built: Built) -> str:
    return f"packages/{built.name}/{built.filename}"


def blobs(data_dir: Path) -> dict[str, Path]:
    """Digest → file, as the store names them."""
    return {path.name: path for path in (data_dir / "blobs").glob("*/*")}


def check_blobs(data_dir: Path) -> None:
    for digest, path in blobs(data_dir).items():
        assert hashlib.sha256(path.read_bytes()).hexdigest() == digest


# kill -9


@pytest.mark.timeout(60 + 20 * ROUNDS)
async def test_kill_9_leaves_nothing_wrong_and_loses_nothing_that_was_answered(
    simulator: Simulator, tmp_path: Path
) -> None:
    data, chance = tmp_path / "data", random.Random(9)
    answered: list[Built] = []
    simulator.inject("*.whl", Drip(piece=20_000, pause=0.002))
    for number in range(ROUNDS):
        files = [wheel(f"file{number}x{one}", "1.0", size=chance.randrange(1000, 400_000)) for one in range(CLIENTS)]
        for built in files:
            simulator.publish(built)
        enough = chance.randrange(sum(built.size for built in files))
        async with spawned(data, only_pypi(simulator)) as mirror:
            assert not list((data / "incoming").iterdir())
            check_blobs(data)
            for built in answered[-CLIENTS:]:
                reply = await mirror.get(path_of(built))
                assert (reply.outcome, reply.body) == ("hit", built.content)
            answered += await download_until_killed(mirror, files, enough)
        check_blobs(data)
        for built in files:
            simulator.remove(built.name)
    async with spawned(data, only_pypi(simulator), "--offline") as mirror:
        for built in answered:
            assert (await mirror.get(path_of(built))).body == built.content


async def download_until_killed(mirror: Spawned, files: list[Built], enough: int) -> list[Built]:
    """Ask for all files at once, and kill the mirror when `enough` bytes have come; the files that came whole."""
    got, whole = 0, []

    async def download(session: aiohttp.ClientSession, built: Built) -> None:
        nonlocal got
        content = b""
        try:
            async with session.get(mirror.url + path_of(built)) as response:
                async for chunk in response.content.iter_any():
                    content += chunk
                    got += len(chunk)
                    if got >= enough and mirror.process.returncode is None:
                        mirror.process.kill()
        except aiohttp.ClientError:
            return
        if len(content) == response.content_length:
            assert content == built.content
            whole.append(built)

    async with aiohttp.ClientSession() as session:
        await asyncio.gather(*(download(session, built) for built in files))
    await mirror.end(signal.SIGKILL)
    return whole


async def test_a_page_that_a_kill_loses_is_fetched_again_and_no_file_is_left_without_its_page(
    simulator: Simulator, tmp_path: Path
) -> None:
    built = [wheel(f"many-{number}", "1.0") for number in range(12 * ROUNDS)]
    for one in built:
        simulator.publish(one)
    data, answered = tmp_path / "data", 0
    for number in range(ROUNDS):
        last = 1 + 5 * number % 12
        async with spawned(data, only_pypi(simulator)) as mirror:
            answered = 0

            async def install(one: Built, mirror: Spawned = mirror, last: int = last) -> None:
                nonlocal answered
                page = await mirror.get(f"/simple/{one.name}/")
                assert (page.status, one.filename in page.text) == (200, True)
                answered += 1
                if answered == last and mirror.process.returncode is None:
                    mirror.process.kill()  # at once: writing what was just answered takes longer
                assert (await mirror.get(path_of(one))).body == one.content

            installs = (install(one) for one in built[12 * number :][:12])
            ends = await asyncio.gather(*installs, return_exceptions=True)
            assert [end for end in ends if not isinstance(end, aiohttp.ClientError | None)] == []
            assert answered >= last
            await mirror.end(signal.SIGKILL)
    with closing(sqlite3.connect(data / "catalog.sqlite")) as catalog:
        assert catalog.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        lonely = "SELECT project FROM files WHERE project NOT IN (SELECT name FROM pages WHERE kind = 'project')"
        assert catalog.execute(lonely).fetchall() == []
        assert catalog.execute("SELECT name FROM pages WHERE length(body) = 0").fetchall() == []
    async with spawned(data, only_pypi(simulator)) as mirror:
        for one in built:
            assert one.filename in (await mirror.get(f"/simple/{one.name}/")).text
            assert (await mirror.get(path_of(one))).body == one.content


# SIGTERM


async def test_sigterm_lets_running_answers_finish(simulator: Simulator, tmp_path: Path) -> None:
    big = wheel("big", "1.0", size=2_000_000)
    simulator.publish(big)
    stalled = simulator.inject("*.whl", Stall(after=1_000_000))
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror, aiohttp.ClientSession() as session:
        response = await session.get(mirror.url + path_of(big))
        start = await response.content.readexactly(500_000)
        mirror.process.terminate()

        async def refuses() -> bool:
            try:
                await mirror.get("health")
            except aiohttp.ClientConnectorError:
                return True
            return False

        await eventually(refuses)
        stalled.release()
        assert start + await response.read() == big.content
        assert await mirror.end() == 0
    assert set(blobs(tmp_path / "data")) == {big.sha256}
    assert not list((tmp_path / "data" / "incoming").iterdir())


async def test_sigterm_does_not_wait_for_ever(simulator: Simulator, tmp_path: Path) -> None:
    big = wheel("big", "1.0", size=2_000_000)
    simulator.publish(big)
    simulator.inject("*.whl", Stall(after=1_000_000))
    limits = {"shutdown_grace": 0.2}
    async with (
        spawned(tmp_path / "data", only_pypi(simulator), limits=limits) as mirror,
        aiohttp.ClientSession() as session,
    ):
        response = await session.get(mirror.url + path_of(big))
        await response.content.readexactly(500_000)
        assert await mirror.end() == 0
        with pytest.raises(aiohttp.ClientError):
            await response.read()
    assert not blobs(tmp_path / "data")


# Starting


def serve(*words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`mirror serve`, which is expected to end by itself."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    return subprocess.run(
        [sys.executable, "-m", "mirror", "serve", "--listen", "127.0.0.1:0", *words],
        env=clean | environment, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60,
    )  # fmt: skip


async def test_a_second_mirror_on_the_same_data_is_refused_in_one_line(simulator: Simulator, tmp_path: Path) -> None:
    data = tmp_path / "data"
    async with spawned(data, only_pypi(simulator)) as mirror:
        second = await asyncio.to_thread(serve, "--data-dir", str(data))
        assert second.returncode == 2
        assert second.stderr == f"mirror: data_dir: another mirror is serving from {data}; stop it or choose another.\n"
        assert (await mirror.get("health")).status == 200


def test_a_data_directory_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    ended = serve("--data-dir", str(tmp_path / "file" / "data"))
    assert ended.returncode == 2
    assert ended.stderr.startswith("mirror: ")
    assert "data_dir" in ended.stderr
    assert ended.stderr.count("\n") == 1


async def test_a_taken_port_is_one_line(simulator: Simulator, tmp_path: Path) -> None:
    ended = await asyncio.to_thread(
        serve, "--data-dir", str(tmp_path / "data"), "--listen", f"127.0.0.1:{simulator.port}"
    )
    assert ended.returncode == 2
    assert "cannot listen" in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    "sent", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"\x16\x03\x01\x00"]
)
async def test_what_is_no_http_is_a_400_and_no_traceback(simulator: Simulator, tmp_path: Path, sent: bytes) -> None:
    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        url = URL(mirror.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(sent + b" " * 40_000)
        writer.write_eof()
        answer = b""
        with suppress(ConnectionResetError):  # it need not read what follows before it hangs up
            answer = await reader.read()
        writer.close()
        assert answer == b"" or answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
        assert (await mirror.get("health")).status == 200
        await mirror.end()
    assert "Traceback" not in (tmp_path / "data.log").read_text()


# A damaged catalog


@pytest.mark.parametrize("how", ["nonsense", "cut", "pages"])
async def test_a_mirror_with_a_damaged_catalog_starts_says_so_and_serves(
    simulator: Simulator, tmp_path: Path, how: str
) -> None:
    data, thing = tmp_path / "data", wheel("thing", "1.0", size=100_000)
    simulator.publish(thing)
    async with spawned(data, only_pypi(simulator)) as mirror:
        await mirror.get(path_of(thing))
        await mirror.end()
    catalog = data / "catalog.sqlite"
    content = bytearray(catalog.read_bytes())
    if how == "nonsense":
        content = bytearray(b"not a database" * 1000)
    elif how == "cut":
        del content[len(content) // 2 :]
    else:
        content[5000:] = bytes(len(content) - 5000)
    catalog.write_bytes(content)
    async with spawned(data, only_pypi(simulator)) as mirror:
        reply = await mirror.get(path_of(thing))
        assert reply.body == thing.content
        assert reply.outcome == "hit"  # the page was asked for again, the bytes are still there
        await mirror.end()
    assert "catalog is damaged" in (tmp_path / "data.log").read_text()
    assert list(data.glob("catalog.sqlite.damaged-*"))
    assert simulator.count("GET", "*.whl") == 1


# Memory


def resident(pid: int) -> int:
    """Bytes of memory that a process has at this moment."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmRSS"))


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc to see memory")
@pytest.mark.timeout(300)
async def test_memory_does_not_grow_with_the_file(simulator: Simulator, tmp_path: Path) -> None:
    big = wheel("big", "1.0", size=150_000_000)
    simulator.publish(big)
    most = 0

    async with spawned(tmp_path / "data", only_pypi(simulator)) as mirror:
        await mirror.get("simple/big/")
        before = resident(mirror.pid)

        async def follow(session: aiohttp.ClientSession) -> str:
            nonlocal most
            seen = hashlib.sha256()
            async with session.get(mirror.url + path_of(big)) as response:
                async for chunk in response.content.iter_chunked(1 << 20):
                    seen.update(chunk)
                    most = max(most, resident(mirror.pid))
            return seen.hexdigest()

        async with aiohttp.ClientSession() as session:
            digests = await asyncio.gather(*(follow(session) for _ in range(5)))
    assert set(digests) == {big.sha256}
    assert most - before < 60_000_000
    assert simulator.count("GET", "*.whl") == 1


# Seeing


async def test_status_and_health_say_how_it_goes(simulator: Simulator, tmp_path: Path) -> None:
    thing = wheel("thing", "1.0", size=100_000)
    simulator.publish(thing)
    async with spawned(tmp_path / "data", only_pypi(simulator), network={"retries": 0}) as mirror:
        assert (await mirror.get("health")).text == "ok\n"
        for _ in range(3):
            await mirror.get(path_of(thing))
        await simulator.go_down()
        await mirror.get("simple/other/")
        command = [sys.executable, "-m", "mirror", "status", "--url", mirror.url]
        ended = await asyncio.to_thread(
            subprocess.run, command, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60
        )
    assert ended.returncode == 0
    report = dict(line.split(": ", 1) for line in ended.stdout.splitlines())
    assert report["projects"] == "1"
    assert report["files"] == "1"
    assert report["bytes held"] == f"{thing.size / 1000:.1f} kB"
    assert report["hit"] == "2 (67%)"
    assert report["miss"] == "1 (33%)"
    (upstream,) = [value for name, value in report.items() if name.startswith("upstream")]
    assert "cannot be reached" in upstream
