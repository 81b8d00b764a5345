"""What the tests of a session share: real servers on loopback, and whatever else takes long to make.

It is made by the first test that needs it. Workers of one session are processes of their own; they share it through a
directory that the first process makes, which ends and deletes all of it. Where a server is not installed its tests are
skipped, and fail in CI.
"""

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

DIRECTORY = "TEST_SERVERS"
"""The variable with the directory of what is shared."""
START_SECONDS = 40.0
KEPT_PORTS = range(18_000, 32_000)
"""Below those of outgoing connections (net.ipv4.ip_local_port_range)."""

_started: list[subprocess.Popen[bytes]] = []
"""Those that this process has started."""


def open_session() -> None:
    """Make the directory of what is shared; called in the first process of a session."""
    os.environ[DIRECTORY] = tempfile.mkdtemp(prefix="servers-")


def close_session() -> None:
    """End all servers that were started, and delete all that was made."""
    directory = Path(os.environ.pop(DIRECTORY))
    for file in directory.glob("*.json"):
        with suppress(ProcessLookupError, KeyError):
            os.killpg(json.loads(file.read_text())["pid"], signal.SIGKILL)
    for process in _started:
        process.wait()
    shutil.rmtree(directory, ignore_errors=True)


def leave_session() -> None:
    """Let the servers that this process has started run on for the others; called at the end of each worker."""
    for process in _started:
        process.returncode = 0  # or it is complained of as left behind


def shared(name: str, start: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `start` returned in the process of this session that was first to call it, for a directory of its own.

    It holds the `pid` of the server, which leads a process group.
    """
    return made_once(name, lambda home: _started_again(start, home))


def made_once(name: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `make` returned in the process of this session that was first to call it, for a directory of its own."""
    directory = Path(os.environ[DIRECTORY])
    file = directory / f"{name}.json"
    with (directory / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not file.exists():
            home = directory / name
            home.mkdir(exist_ok=True)
            file.write_text(json.dumps(make(home)))
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def _started_again(start: Callable[[Path], dict[str, Any]], home: Path) -> dict[str, Any]:
    """Start a server; once more where another program has taken one of its ports."""
    try:
        return start(home)
    except AssertionError:
        return start(home)


def missing(what: str) -> None:
    """Skip the test because a server is not installed; in CI it is a failure."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is not installed: .ci/run and the extra `test` should install it", pytrace=False)
    pytest.skip(f"{what} is not installed")


def launch(command: Sequence[str | Path], log: Path, port: int, **options: Any) -> int:
    """Start a server, wait until it accepts connections at a port, and return its process id."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in command], stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True, **options,
        )  # fmt: skip
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                _started.append(process)
                return process.pid
        time.sleep(0.05)
    process.kill()
    raise AssertionError(f"{command[0]} does not answer:\n{log.read_text()[-2000:]}")


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nothing listens at."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def kept_ports(count: int) -> list[int]:
    """Ports of loopback for servers that come back to them: outgoing connections are given none of these meanwhile."""
    numbers = random.sample(range(KEPT_PORTS.start, KEPT_PORTS.stop), 20 * count)
    found: list[int] = []
    for number in numbers:
        with socket.socket() as one, suppress(OSError):
            one.bind(("127.0.0.1", number))
            found.append(number)
    return found[:count]
