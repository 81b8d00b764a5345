"""Two mirrors without a connection, and the commands that carry content from one to the other."""

import asyncio
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from tests.serving import Client, repositories, write_settings
from tests.simulator import Simulator

PROGRAM = (sys.executable, "-m", "mirror")
ROOT = Path(__file__).parents[3]


class Node:
    """A data directory with its settings."""

    def __init__(self, simulator: Simulator, directory: Path, name: str, **settings: Any) -> None:
        self.data_dir = directory / name
        self.repositories = repositories(simulator)
        self.settings = write_settings(self.data_dir, self.repositories, **settings)

    async def __call__(self, capsys: pytest.CaptureFixture[str], *words: str | Path, status: int = 0) -> str:
        """Run a command on it; return what it prints on both outputs."""
        capsys.readouterr()
        ended = await asyncio.to_thread(main, [*map(str, words), "--config", str(self.settings)])
        said = capsys.readouterr()
        assert ended == status, said
        return said.out + said.err

    async def spawn(self, *words: str | Path) -> asyncio.subprocess.Process:
        """Run a command on it in a process of its own."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        return await asyncio.create_subprocess_exec(
            *PROGRAM, *map(str, words), "--config", str(self.settings), cwd=ROOT, env=environment,
            stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip


async def trusting(a: Node, b: Node, capsys: pytest.CaptureFixture[str]) -> None:
    """Let B trust the signatures of A."""
    printed = await a(capsys, "key", "create", "--name", "a")
    line = next(line for line in printed.splitlines() if line.startswith("mirror-ed25519 "))
    await b(capsys, "key", "trust", line)


async def pages(mirror: Client, paths: Sequence[str], **headers: str) -> dict[str, tuple[int, bytes]]:
    """Return status and body of each path."""
    answers = {}
    for path in paths:
        reply = await mirror.get(path, **headers)
        answers[path] = (reply.status, reply.body)
    return answers
