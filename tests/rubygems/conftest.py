"""Ruby itself, the oracle of these tests: this machine's, and a newer one where TEST_RUBIES has one."""

import json
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.clients.ruby import newer_rubies

Ruby = Callable[..., Any]
HERE = Path("/")


def run_ruby(script: str, given: object = None, root: Path = HERE) -> Any:
    """Run a script that finds `input` and answers with `answer(value)`; both travel as JSON."""
    program = (
        "require 'json'; require 'rubygems/package'; require 'zlib'; require 'stringio'\n"
        "def answer(value) = $stdout.write(JSON.generate(value))\n"
        "input = JSON.parse($stdin.read)\n" + script
    )
    done = subprocess.run(
        [*([] if root == HERE else ["chroot", str(root)]), "ruby", "-e", program],
        input=json.dumps(given).encode(),
        capture_output=True,
        timeout=60,
        env={"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture(scope="session", params=[HERE, *newer_rubies()], ids=lambda root: root.name or "machine")
def ruby(request: pytest.FixtureRequest) -> Ruby:
    """`run_ruby` with each Ruby that is here."""
    return partial(run_ruby, root=request.param)


@pytest.fixture(scope="session", params=newer_rubies(), ids=lambda root: root.name)
def newer_ruby(request: pytest.FixtureRequest) -> Ruby:
    """`run_ruby` with each Ruby of 2024 or later; without one, the test is skipped."""
    return partial(run_ruby, root=request.param)
