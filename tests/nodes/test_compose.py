"""config/compose, as processes of this machine: clients work through nginx while nodes are restarted."""

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from tests import objects
from tests.nodes.compose import FOLDER, roll
from tests.simulator import Simulator

SECONDS = float(os.environ.get("TEST_ROLL_SECONDS", "0"))
"""How long nodes are restarted one after the other, each once at least: a minute on demand."""


@pytest.mark.clients
async def test_promise_9_clients_install_and_publish_while_one_node_after_the_other_is_restarted(
    tmp_path: Path, simulator: Simulator, postgres_url: str, report: Callable[[str], None]
) -> None:
    report(await roll(tmp_path, simulator, postgres_url, objects.table("s3"), SECONDS))


def test_the_files_of_the_set_up_name_the_same_addresses() -> None:
    given = re.findall(r"ipv4_address: (\S+)", (FOLDER / "compose.yaml").read_text())
    assert len(set(given)) == len(given) == 5
    for name in ("nginx.conf", "mirror.toml"):
        named = re.findall(r"\b172\.30\.84\.\d+", (FOLDER / name).read_text())
        assert named
        assert set(named) <= set(given)
