"""Held files arrive on systems that have less than Linux."""

import importlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.server import platform
from tests.builders import wheel
from tests.serving import repositories, serving
from tests.simulator import Simulator


@pytest.fixture(autouse=True)
def this_platform() -> Iterator[None]:
    yield
    importlib.reload(platform)


@pytest.mark.parametrize("missing", [["MSG_MORE"], ["MSG_MORE", "sendfile"]], ids=["as macOS", "neither"])
async def test_a_large_held_file_arrives_without_what_only_linux_has(
    missing: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, simulator: Simulator
) -> None:
    for name in missing:
        for module in (socket, os):
            monkeypatch.delattr(module, name, raising=False)
    importlib.reload(platform)
    assert platform.HEAD_FLAGS == 0
    simulator.publish(built := wheel("big", "1.0", size=3_000_000))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        for _ in range(2):
            reply = await mirror.get(f"packages/big/{built.filename}")
            assert reply.body == built.content
        assert reply.outcome == "hit"
        part = await mirror.get(f"packages/big/{built.filename}", Range="bytes=500000-2500000")
        assert part.body == built.content[500000:2500001]
    monkeypatch.undo()
