"""Fixtures that any test may use, and the guard that keeps every test on loopback."""

import ipaddress
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

import tests.postgres
from tests import objects, servers
from tests.postgres import PostgresServer, running_postgres
from tests.simulator import Simulator

LONG = ("tests/clients/", "tests/nodes/", "tests/service/", "tests/web/test_browser.py", "tests/airgap/", "tests/fuzz/")
"""The tests that take longest, by the beginnings of their names, in groups that take about as long."""

_strays: list[str] = []
_guarding = False


class NotLoopback(OSError):
    """A test tried to reach something that is not this machine."""


def _is_loopback(host: object) -> bool:
    text = host.decode() if isinstance(host, bytes) else str(host)
    if text in ("", "None", "localhost"):
        return True
    try:
        return ipaddress.ip_address(text.partition("%")[0]).is_loopback
    except ValueError:
        return False


def _watch(event: str, args: tuple[object, ...]) -> None:
    # An audit hook, because it sees every library and every thread; uvloop alone goes around it.
    if not _guarding or event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        return
    if event == "socket.getaddrinfo":
        host = args[0]
        if _is_address(host):  # no question leaves the machine
            return
    else:
        address = args[1]
        if not isinstance(address, tuple):  # a Unix socket
            return
        host = address[0]
    if not _is_loopback(host):
        _strays.append(f"{event} {host!r}")
        raise NotLoopback(f"tests reach nothing but loopback, not {host!r}")


def _is_address(host: object) -> bool:
    try:
        ipaddress.ip_address(host.decode() if isinstance(host, bytes) else str(host))
    except ValueError:
        return False
    return True


sys.addaudithook(_watch)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the choice of the catalog for the suites of what is served."""
    parser.addoption(
        "--catalog", choices=("sqlite", "postgres"), default="sqlite",
        help="which engine has the catalogs of the mirrors that tests start",
    )  # fmt: skip
    parser.addoption(
        "--blobs", choices=("directory", *objects.KINDS), default="directory",
        help="which store has the files of the mirrors that tests start",
    )  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def chosen_catalog(request: pytest.FixtureRequest) -> None:
    """Start the server that `--catalog` asks for."""
    if request.config.getoption("--catalog") == "postgres":
        tests.postgres.chosen = request.getfixturevalue("postgres")


@pytest.fixture(scope="session", autouse=True)
def chosen_blobs(request: pytest.FixtureRequest) -> None:
    """Start the server that `--blobs` asks for."""
    if (kind := request.config.getoption("--blobs")) != "directory":
        objects.choose(kind)


def pytest_configure(config: pytest.Config) -> None:
    """Prepare for servers that all workers share."""
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # or each process that tests start compiles the mirror anew
    if not hasattr(config, "workerinput"):
        servers.open_session()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End the servers that were started."""
    if hasattr(config, "workerinput"):
        servers.leave_session()
    else:
        servers.close_session()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Let each worker begin with some of what takes long: what comes last is waited for by all others."""
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    if workers == 1:
        return
    rest = [item for item in items if not item.nodeid.startswith(LONG)]
    groups = [[item for item in items if item.nodeid.startswith(place)] for place in LONG]
    ordered: list[pytest.Item] = []
    for number in range(workers):  # each is given an equal part of the whole list; who has finished takes from others
        own = [item for group in groups[number::workers] for item in group]
        more = max(0, (len(items) - len(ordered)) // (workers - number) - len(own))
        ordered += own + rest[:more]
        rest = rest[more:]
    items[:] = ordered + rest


@pytest.fixture(autouse=True)
def only_loopback(request: pytest.FixtureRequest) -> Iterator[None]:
    """A test that is not marked `public` and connects elsewhere fails, even if the code under test forgives it."""
    global _guarding
    _strays.clear()
    _guarding = request.node.get_closest_marker("public") is None
    yield
    _guarding = False
    if _strays:
        pytest.fail("reached out from a test: " + ", ".join(_strays), pytrace=False)


@pytest.fixture(autouse=True)
def usual_umask() -> Iterator[None]:
    """Commands that run in this process change it."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
async def simulator() -> AsyncIterator[Simulator]:
    """A fresh upstream of both kinds, empty."""
    async with Simulator() as running:
        yield running


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server, for all tests of this process."""
    with running_postgres() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of an empty database of the test's own."""
    return postgres.url(postgres.fresh())


@pytest.fixture
def catalog_url(postgres: PostgresServer) -> str:
    """The URL of a database of the test's own, with the empty tables of a catalog."""
    return postgres.url(postgres.fresh(postgres.tables))


@pytest.fixture
def embedded(request: pytest.FixtureRequest) -> None:
    """Skip a test that looks into a data directory with catalog and files, where `--catalog` or `--blobs` move them."""
    if request.config.getoption("--catalog") != "sqlite" or request.config.getoption("--blobs") != "directory":
        pytest.skip("it looks into a data directory that has the catalog and the files")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """The data directory, on a file system of its own with 50 MB."""
    disk = tmp_path / "data"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=50m", "tmpfs", disk], capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"only root may mount a file system: {mounted.stderr.strip()}")
    try:
        yield disk
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


@pytest.fixture
def report(record_property: Callable[[str, object], None]) -> Callable[[str], None]:
    """For results of a test that passes: a figure, the versions it ran with. They are printed in the end."""
    return lambda text: record_property("report", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests reported."""
    reported = [
        (report.nodeid.rpartition("::")[2], text)
        for report in terminalreporter.stats.get("passed", [])
        if report.when == "call"
        for name, text in report.user_properties
        if name == "report"
    ]
    if reported:
        terminalreporter.section("reported by tests")
        for test, text in reported:
            terminalreporter.line(f"{test}: {text}")
