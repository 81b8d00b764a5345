"""A running mirror for tests: in this process (`serving`), or as a process of its own (`spawned`).

Both take the settings as the file would hold them, and listen on any free port of loopback. In this process a test can
look inside (`.mirror`) and move the clock; the other one is what a user runs, and can be killed.
"""

import asyncio
import json
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from mirror.config import Settings
from mirror.service.endpoints import Endpoints
from mirror.service.open import Mode, open_mirror
from mirror.service.services import Mirror
from tests.objects import chosen_blobs
from tests.postgres import chosen_catalog
from tests.simulator import Simulator

Table = Mapping[str, Any]

START = 30.0
"""Seconds within which a process has to be ready, on a slow machine with everything else running."""


def repositories(simulator: Simulator, **changes: Table) -> dict[str, dict[str, Any]]:
    """Both repositories, with the simulator as their upstream; `changes` are keys by repository name."""
    both: dict[str, dict[str, Any]] = {
        "pypi": {"format": "pypi", "upstreams": [simulator.simple_url]},
        "rubygems": {"format": "rubygems", "upstreams": [simulator.url]},
    }
    for name, change in changes.items():
        both[name] = {**both.get(name, {"format": name}), **change}
    return both


class Client:
    """What plain HTTP requests to a mirror need: its URL and a session that takes every answer as it comes."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url.rstrip("/") + "/"
        """Ends in a slash."""
        self.session = session

    async def ask(self, method: str, path: str, data: Any = None, **headers: str) -> "Reply":
        """One request; `path` goes out as it is written. Header names are given with `_` for `-`."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = URL(self.url + path.removeprefix("/"), encoded=True)
        asking = self.session.request(method, url, data=data, headers=named, allow_redirects=False)
        async with asking as response:
            return Reply(response.status, response.headers, await response.read(), response.reason or "")

    async def get(self, path: str, **headers: str) -> "Reply":
        """`ask` with GET."""
        return await self.ask("GET", path, **headers)

    async def head(self, path: str, **headers: str) -> "Reply":
        """`ask` with HEAD."""
        return await self.ask("HEAD", path, **headers)


class Reply:
    """An answer that was read to its end, not decompressed."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes, reason: str = "") -> None:
        self.status = status
        self.reason = reason
        self.headers = headers
        self.body = body

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def outcome(self) -> str:
        """The word of X-Mirror-Cache."""
        return self.headers.get("X-Mirror-Cache", "")

    def json(self) -> Any:
        return json.loads(self.body)


class Serving(Client):
    """A mirror in this process."""

    def __init__(self, url: str, session: aiohttp.ClientSession, mirror: Mirror, endpoints: Endpoints) -> None:
        super().__init__(url, session)
        self.mirror = mirror
        self.endpoints = endpoints

    async def written(self) -> None:
        """Wait until the catalog has all pages that were answered ahead of the disk."""
        for sources in self.mirror.cached_upstreams.values():
            for source in sources:
                await source.pages.store.written()


class Spawned(Client):
    """A mirror in a process of its own."""

    def __init__(self, url: str, session: aiohttp.ClientSession, process: asyncio.subprocess.Process) -> None:
        super().__init__(url, session)
        self.process = process

    @property
    def pid(self) -> int:
        return self.process.pid

    async def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal and wait for the end; its exit status."""
        if self.process.returncode is None:
            self.process.send_signal(how)
        return await self.process.wait()


@asynccontextmanager
async def serving(
    data_dir: Path, repositories: Table, *, clock: Callable[[], float] = time.time, **settings: Any
) -> AsyncIterator[Serving]:
    """A mirror in this process, until the end of the block; `clock` says what time it is for it."""
    table = {"log": {"access": False}, "limits": {"shutdown_grace": 2}} | settings
    table["pages"] = {"recheck": 0} | settings.get("pages", {})  # so that a test need not wait to see a change
    table |= {"listen": ["127.0.0.1:0"], "data_dir": str(data_dir), "repositories": repositories}
    table = chosen_catalog(data_dir) | chosen_blobs(data_dir) | table
    validated = Settings.model_validate(table)
    async with open_mirror(validated, Mode.SERVE, clock=clock) as opened, _session() as session:
        assert opened.endpoints
        yield Serving(opened.urls[0], session, await opened.mirror(), opened.endpoints)


@asynccontextmanager
async def spawned(
    data_dir: Path,
    repositories: Table | None,
    *words: str,
    checkout: Path | None = None,
    code: str = "",
    **settings: Any,
) -> AsyncIterator[Spawned]:
    """`mirror serve` with further words for its command line, until it ends or the block does.

    `checkout` is where its code is, this checkout if none is given; `code` is run in place of the command.

    `repositories` None are those of a mirror that is not configured. Its settings stand beside `data_dir`, what it says
    in `<data_dir>.log`.
    """
    if checkout is None:
        settings["pages"] = {"recheck": 0} | settings.get("pages", {})
    file = write_settings(data_dir, repositories, **settings)
    said = data_dir.with_suffix(".log")
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    with said.open("ab") as log:
        before = said.stat().st_size
        process = await asyncio.create_subprocess_exec(
            sys.executable, *(("-c", code) if code else ("-m", "mirror")), "serve", "--config", str(file), *words,
            stdout=log, stderr=log, env=environment, cwd=checkout or Path(__file__).parent.parent,
        )  # fmt: skip
    try:
        async with _session() as session:
            yield Spawned(await _ready(process, said, before), session, process)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def write_settings(data_dir: Path, repositories: Table | None, **settings: Any) -> Path:
    """The settings of `spawned` as a file beside `data_dir`, for commands."""
    table: dict[str, Any] = {"log": {"access": False}, "listen": ["127.0.0.1:0"]}
    table |= chosen_catalog(data_dir) | chosen_blobs(data_dir) | settings | {"data_dir": str(data_dir)}
    if repositories is not None:
        table["repositories"] = repositories
    file = data_dir.with_suffix(".toml")
    file.write_text("".join(f"{key} = {_toml(value)}\n" for key, value in table.items()))
    return file


async def _ready(process: asyncio.subprocess.Process, said: Path, before: int) -> str:
    """The URL that the process prints when it listens."""
    async with asyncio.timeout(START):
        while True:
            text = said.read_bytes()[before:].decode()
            if found := re.search(r"^The mirror is ready: (https?://[^\s,]+)", text, re.MULTILINE):
                return found[1]
            if process.returncode is not None:
                raise AssertionError(f"the mirror ended with {process.returncode}:\n{text}")
            await asyncio.sleep(0.02)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Accept-Encoding", "User-Agent"])


def _toml(value: object) -> str:
    """A value as TOML writes it inline: JSON but for tables."""
    match value:
        case Mapping():
            return "{" + ", ".join(f"{json.dumps(key)} = {_toml(inner)}" for key, inner in value.items()) + "}"
        case list() | tuple():
            return "[" + ", ".join(map(_toml, value)) + "]"
        case _:
            return json.dumps(value)
