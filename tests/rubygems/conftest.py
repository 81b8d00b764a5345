"""Ruby itself, the oracle of these tests."""

import json
import subprocess
from collections.abc import Callable
from typing import Any

import pytest

Ruby = Callable[..., Any]


@pytest.fixture(scope="session")
def ruby() -> Ruby:
    """Runs a script that finds `input` and answers with `answer(value)`; both travel as JSON."""

    def run(script: str, given: object = None) -> Any:
        program = (
            "require 'json'; require 'rubygems/package'; require 'zlib'; require 'stringio'\n"
            "def answer(value) = $stdout.write(JSON.generate(value))\n"
            "input = JSON.parse($stdin.read)\n" + script
        )
        done = subprocess.run(
            ["ruby", "-e", program],
            input=json.dumps(given).encode(),
            capture_output=True,
            timeout=60,
            env={"LANG": "C.UTF-8", "PATH": "/usr/local/bin:/usr/bin:/bin"},
        )
        assert done.returncode == 0, done.stderr.decode()
        return json.loads(done.stdout)

    return run
