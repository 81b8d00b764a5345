"""The protocols of systemd spoken for real, and the units as systemd itself judges them."""

import asyncio
import fcntl
import logging
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mirror.config import load
from mirror.errors import ConfigError
from mirror.service.systemd import Notifier, listen_fds

ROOT = Path(__file__).parents[2]
UNITS = sorted(path for path in (ROOT / "systemd").iterdir() if path.suffix != ".md")
SERVICES = [unit for unit in UNITS if unit.suffix == ".service"]

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze (Debian: systemd) is not installed"
)


class Manager:
    """The service manager's end of the notify socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(30)
        self.environment = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "20000", "WATCHDOG_PID": str(os.getpid())}

    def received(self) -> list[str]:
        return self.socket.recv(4096).decode().split("\n")

    def heard_nothing(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        finally:
            self.socket.settimeout(30)
        return False


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    address = f"@mirror-test-{os.getpid()}" if request.param == "abstract" else str(tmp_path / "notify")
    manager = Manager(address)
    yield manager
    manager.socket.close()


def test_start_reload_and_stop_are_reported_as_the_protocol_has_it(manager: Manager) -> None:
    notifier = Notifier.from_environment(manager.environment)
    notifier.ready("serving 2 repositories")
    assert manager.received() == ["READY=1", "STATUS=serving 2 repositories"]
    before = time.monotonic_ns() // 1000
    notifier.reloading()
    state, moment = manager.received()
    assert state == "RELOADING=1"
    assert before <= int(moment.removeprefix("MONOTONIC_USEC=")) <= time.monotonic_ns() // 1000
    notifier.ready()
    assert manager.received() == ["READY=1"]
    notifier.ready("two\nREADY=1 lines")
    assert manager.received() == ["READY=1", "STATUS=two READY=1 lines"]
    notifier.alive()
    assert manager.received() == ["WATCHDOG=1"]
    notifier.stopping("finishing 3 answers")
    assert manager.received() == ["STOPPING=1", "STATUS=finishing 3 answers"]


def test_what_was_read_is_no_longer_there_for_children(manager: Manager) -> None:
    environment = manager.environment | {"HOME": "/root"}
    Notifier.from_environment(environment)
    assert environment == {"HOME": "/root"}


async def test_the_watchdog_is_put_off_while_the_service_is_healthy_and_only_then(
    manager: Manager, caplog: pytest.LogCaptureFixture
) -> None:
    healthy, checked = True, asyncio.Event()

    def check() -> bool:
        checked.set()
        return healthy

    notifier = Notifier.from_environment(manager.environment)
    assert notifier.watchdog == 0.02
    keeping = asyncio.create_task(notifier.keep_alive(check))
    for _ in range(3):
        assert await asyncio.to_thread(manager.received) == ["WATCHDOG=1"]
    healthy = False
    for _ in range(3):
        checked.clear()
        await asyncio.wait_for(checked.wait(), 30)
    while not manager.heard_nothing():
        pass  # what was sent before
    for _ in range(3):
        checked.clear()
        await asyncio.wait_for(checked.wait(), 30)
    assert manager.heard_nothing()
    assert caplog.text.count("not healthy") == 1
    healthy = True
    assert await asyncio.to_thread(manager.received) == ["WATCHDOG=1"]
    keeping.cancel()


@pytest.mark.parametrize(
    "changes",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "-5"}],
)
async def test_no_watchdog_is_kept_that_is_not_ours_or_not_there(manager: Manager, changes: dict[str, str]) -> None:
    notifier = Notifier.from_environment(manager.environment | changes)
    assert notifier.watchdog is None
    await asyncio.wait_for(notifier.keep_alive(), 30)
    assert manager.heard_nothing()


@pytest.mark.parametrize("address", ["", "relative/path", "vsock:2:1234"])
async def test_without_a_service_manager_nothing_is_sent_and_nothing_fails(
    address: str, caplog: pytest.LogCaptureFixture
) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000"})
    notifier.ready("here")
    notifier.stopping()
    await asyncio.wait_for(notifier.keep_alive(), 30)
    assert caplog.text == ""


def test_a_service_manager_that_went_away_costs_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    Notifier(str(tmp_path / "gone")).ready()
    assert "READY=1" in caplog.text


# systemd forks, puts the sockets at descriptors 3 and up, and executes the service. This does the same.
ACTIVATE = """
import os, sys
for at, fd in enumerate(map(int, sys.argv[2].split(",")), 3):
    os.dup2(fd, at, inheritable=True)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(at - 2), LISTEN_FDNAMES="a:b")
os.execv(sys.executable, [sys.executable, "-c", sys.argv[1]])
"""

SERVE = """
import fcntl, os
from mirror.service.systemd import listen_fds
sockets = listen_fds()
assert not any(name.startswith("LISTEN_") for name in os.environ)
assert listen_fds() == []
for passed in sockets:
    assert fcntl.fcntl(passed, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    assert passed.getblocking() is False
    passed.setblocking(True)
    client, _ = passed.accept()
    client.sendall(f"{passed.family.name} {passed.fileno()}".encode())
    client.close()
"""

REFUSE = """
from mirror.errors import ConfigError
from mirror.service.systemd import listen_fds
try:
    listen_fds()
except ConfigError as error:
    print(error)
"""


def activated(program: str, *sockets: socket.socket) -> subprocess.Popen[str]:
    # Above the places that they are to have, so that putting one into its place does not overwrite another.
    high = [fcntl.fcntl(one, fcntl.F_DUPFD, 10) for one in sockets]
    try:
        return subprocess.Popen(
            [sys.executable, "-c", ACTIVATE, program, ",".join(map(str, high))],
            pass_fds=high,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
        )
    finally:
        for fd in high:
            os.close(fd)


def test_listening_sockets_are_taken_over_in_order_with_the_connections_that_wait_in_them(tmp_path: Path) -> None:
    path = str(tmp_path / "mirror.sock")
    with socket.create_server(("127.0.0.1", 0)) as tcp, socket.socket(socket.AF_UNIX) as unix:
        unix.bind(path)
        unix.listen()
        # Connected before the service runs: this is what makes a restart lose no client.
        with socket.create_connection(tcp.getsockname(), 30) as first, socket.socket(socket.AF_UNIX) as second:
            second.settimeout(30)
            second.connect(path)
            with activated(SERVE, tcp, unix) as service:
                assert first.recv(100) == b"AF_INET 3"
                assert second.recv(100) == b"AF_UNIX 4"
                assert service.wait(30) == 0


def test_a_socket_that_does_not_listen_is_refused_with_what_to_do() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as idle, activated(REFUSE, idle) as service:
        output, _ = service.communicate(timeout=30)
    assert "Accept=no" in output


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"LISTEN_PID": "1", "LISTEN_FDS": "1"},
        {"LISTEN_PID": str(os.getpid())},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "0"},
        {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "many"},
    ],
)
def test_sockets_meant_for_another_process_are_left_alone(environment: dict[str, str]) -> None:
    assert listen_fds(environment) == []
    assert environment == {}


def test_more_sockets_than_anyone_needs_are_refused() -> None:
    with pytest.raises(ConfigError, match="100000 sockets"):
        listen_fds({"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": "100000"})


@pytest.fixture
def installed(tmp_path: Path) -> list[Path]:
    """The units as installed, with a program that exists here: systemd checks that it is there."""
    for unit in UNITS:
        (tmp_path / unit.name).write_text(unit.read_text().replace("/usr/local/bin/mirror", "/bin/true"))
    return sorted(tmp_path.iterdir())


@needs_systemd
def test_systemd_accepts_the_units(installed: list[Path]) -> None:
    output = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *installed], capture_output=True, text=True, timeout=60, check=False
    )
    assert (output.returncode, output.stdout, output.stderr) == (0, "", "")


@needs_systemd
@pytest.mark.parametrize("unit", SERVICES, ids=lambda unit: unit.name)
def test_every_service_is_exposed_less_than_2(unit: Path) -> None:
    output = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = re.search(r"Overall exposure level for .*: (\d+\.\d+)", output.stdout)
    assert found
    assert float(found[1]) < 2.0


def test_timers_and_the_socket_have_their_services() -> None:
    services = {unit.stem for unit in SERVICES}
    assert {unit.stem for unit in UNITS} == services == {"mirror", "mirror-sync", "mirror-sweep"}


def test_the_services_share_the_user_and_the_data() -> None:
    for unit in SERVICES:
        lines = unit.read_text().splitlines()
        assert {"DynamicUser=yes", "User=mirror", "StateDirectory=mirror"} <= set(lines), unit.name


@pytest.mark.parametrize("name", ["build-host.toml", "air-gap.toml"])
def test_configuration_files_for_services_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    settings = load(ROOT / "config" / name)
    assert settings.data_dir == tmp_path
    assert settings.offline is (name == "air-gap.toml")


def test_a_service_has_time_to_finish_its_answers_before_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    found = re.search(r"^TimeoutStopSec=(\d+)$", (ROOT / "systemd" / "mirror.service").read_text(), re.M)
    assert found
    assert load(ROOT / "config" / "build-host.toml").limits.shutdown_grace < int(found[1])
