"""Python's clients: pip as old and as new as matters, uv, bandersnatch, each in a virtual environment made for it.

What this machine's Python lacks is installed from the package index that the machine is set up for, once in a run.
"""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from tests.clients import require_client
from tests.servers import made_once

PATIENCE = 300
"""Seconds for one command, on a slow machine."""


def environment() -> dict[str, str]:
    """The variables of a user who has configured nothing: what this machine says of indexes does not count."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "UV_", "MIRROR_"))}
    return kept | {"PIP_CONFIG_FILE": os.devnull, "UV_NO_CONFIG": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


def run(*words: str | Path, **variables: str) -> str:
    """What a command prints; an assertion fails unless it succeeds."""
    done = subprocess.run(
        [str(word) for word in words], env=environment() | variables, capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, f"{' '.join(map(str, words))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


async def running(*words: str | Path, **variables: str) -> str:
    """`run` beside an event loop that has to go on."""
    return await asyncio.to_thread(run, *words, **variables)


def _interpreters() -> Iterator[Path]:
    yield Path(sys.executable)
    for minor in range(20, 8, -1):
        if found := shutil.which(f"python3.{minor}"):
            yield Path(found)
        root = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
        yield from sorted(root.glob(f"versions/3.{minor}.*/bin/python3"))


@cache
def _version(python: Path) -> tuple[int, int]:
    """(0, 0) for what does not run or cannot make virtual environments."""
    question = "import ensurepip, sys, venv; print(*sys.version_info[:2])"
    done = subprocess.run([python, "-c", question], capture_output=True, text=True)
    if done.returncode:
        return 0, 0
    major, minor = done.stdout.split()
    return int(major), int(minor)


def interpreter(least: tuple[int, int], most: tuple[int, int]) -> Path:
    """A Python of this machine within these versions; without one as `require_client`."""
    for python in _interpreters():
        if least <= _version(python) <= most:
            return python
    return _missing(f"a Python from {least} to {most}")


def _missing(what: str) -> Path:
    if os.environ.get("CI") == "true":
        pytest.fail(f"missing: {what}", pytrace=False)
    pytest.skip(f"missing: {what}")


@asynccontextmanager
async def secured(url: str, directory: Path) -> AsyncIterator[tuple[str, Path]]:
    """A reverse proxy that adds https, for clients that insist: its URL, and the file with the authority to trust."""
    authority = trustme.CA()
    trusted = directory / "authority.pem"
    authority.cert_pem.write_to_path(trusted)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)

    async def forward(request: web.BaseRequest) -> web.StreamResponse:
        headers = request.headers.copy()
        headers["X-Forwarded-Proto"] = "https"
        there = URL(url.rstrip("/") + request.raw_path, encoded=True)
        async with session.request(request.method, there, headers=headers, allow_redirects=False) as answer:
            response = web.StreamResponse(status=answer.status, headers=answer.headers)
            await response.prepare(request)
            async for chunk in answer.content.iter_any():
                await response.write(chunk)
            return response

    runner = web.ServerRunner(web.Server(forward))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    async with aiohttp.ClientSession(auto_decompress=False) as session:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/", trusted
        await runner.cleanup()


def having(requirement: str, least: tuple[int, int] = (3, 9), most: tuple[int, int] = (3, 99)) -> Path:
    """The `bin` directory of an environment with the newest release that meets that requirement.

    It is made once for all tests of a session.
    """
    name = "client-" + re.sub(r"\W+", "-", f"{requirement}-{most[1]}")
    made = made_once(name, lambda home: _environment(home, requirement, least, most))
    return Path(made["bin"]) if "bin" in made else _missing(made["missing"])


def _environment(place: Path, requirement: str, least: tuple[int, int], most: tuple[int, int]) -> dict[str, str]:
    subprocess.run([interpreter(least, most), "-m", "venv", place], check=True, timeout=PATIENCE)
    done = subprocess.run(  # with this machine's own configuration
        [place / "bin" / "python", "-m", "pip", "install", "--quiet", "--upgrade", requirement],
        capture_output=True, text=True, timeout=PATIENCE,
    )  # fmt: skip
    if done.returncode:
        return {"missing": f"{requirement}, which cannot be installed: {done.stderr.strip()[-300:]}"}
    return {"bin": str(place / "bin")}


def uv() -> str:
    """uv, which the tests' own environment has."""
    return require_client("uv")
