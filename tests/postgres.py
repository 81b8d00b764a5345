"""A PostgreSQL server for tests, on loopback: one for each process that tests, with a database for each test.

It is started by an unprivileged user in a directory of its own and does not wait for the disk: what a crash of the
machine would lose is no concern of a test. Where there is none, tests that need it are skipped; in CI they fail.
"""

import hashlib
import itertools
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

import pytest

PASSWORD = "not a secret"
START_SECONDS = 30.0
_OPTIONS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "listen_addresses": "127.0.0.1",
}


class PostgresServer:
    """A running server; the superuser is `postgres`, who needs no password at the Unix socket."""

    def __init__(self, binaries: Path, directory: Path, user: str | None) -> None:
        self._binaries = binaries
        self._user = user
        self.directory = directory
        """Also the directory of its Unix socket."""
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None
        self._numbers = itertools.count()

    def initialize(self) -> None:
        """Make the files of an empty server."""
        password = self.directory / "password"
        password.write_text(PASSWORD)
        if self._user is not None:
            shutil.chown(self.directory, self._user)
            shutil.chown(password, self._user)
        self._run(
            "initdb", "--pgdata", str(self.directory / "data"), "--username=postgres", f"--pwfile={password}",
            "--auth-local=trust", "--auth-host=scram-sha-256", "--encoding=UTF8", "--locale=en_US.UTF-8"
            if "en_US.utf8" in _locales() else "--locale=C.UTF-8", "--no-sync",
        )  # fmt: skip

    def start(self) -> None:
        """Start it, and wait until it answers."""
        options = _OPTIONS | {"port": str(self.port), "unix_socket_directories": str(self.directory)}
        words = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self.directory / "data", *words],
                stdout=log, stderr=log, cwd="/", **self._as_user(),
            )  # fmt: skip
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                self.sql("SELECT 1")
                return
            except subprocess.CalledProcessError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise AssertionError((self.directory / "log").read_text()) from None
                time.sleep(0.05)

    def stop(self, how: int = 3) -> None:
        """Stop it, by default at once (SIGQUIT)."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def sql(self, statements: str, database: str = "postgres") -> str:
        """Run statements as the superuser, and return what psql prints, without decoration."""
        done = subprocess.run(
            ["psql", "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", self.directory, "-p", str(self.port), "-U", "postgres",
             "-d", database, "-c", statements],
            capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        return done.stdout.strip()

    def url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database, by the Unix socket."""
        return f"postgresql://{user}@/{database}?host={quote(str(self.directory), safe='')}&port={self.port}"

    def tcp_url(self, database: str, user: str = "postgres") -> str:
        """The URL of a database, by loopback: there a password is needed."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def create(self, database: str, template: str = "template0") -> None:
        """Create a database."""
        self.sql(f'CREATE DATABASE "{database}" TEMPLATE "{template}"')

    def fresh(self) -> str:
        """Create an empty database, and return its name."""
        name = f"test{next(self._numbers)}"
        self.create(name)
        return name

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self._binaries / program, *words], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as_user()
        )

    def _as_user(self) -> dict[str, object]:
        return {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}


chosen: PostgresServer | None = None
"""The server that keeps the catalog of each mirror that tests start, with `--catalog postgres`."""


def chosen_catalog(data_dir: Path) -> dict[str, dict[str, str]]:
    """The settings of the catalog for a data directory: the same database each time, made by the first call."""
    if chosen is None:
        return {}
    name = f"mirror-{hashlib.sha256(bytes(data_dir.absolute())).hexdigest()[:16]}"
    if not chosen.sql(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):
        chosen.create(name)
    return {"catalog": {"url": chosen.url(name)}}


def postgres_binaries() -> Path:
    """The directory of the server's programs; skips the test where there is none, or fails it in CI."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/postgres")]
    on_path = shutil.which("postgres")
    if on_path:
        found.append(Path(on_path).parent)
    if not found or not shutil.which("psql"):
        missing("no PostgreSQL server is installed (Debian: postgresql)")
    try:
        import asyncpg  # noqa: F401
    except ImportError:
        missing("asyncpg is not installed (mirror[postgres])")
    return max(found)


def missing(what: str) -> None:
    """Skip the test because something is missing; in CI that is a failure."""
    if os.environ.get("CI") == "true":
        pytest.fail(what)
    pytest.skip(what)


@contextmanager
def running_postgres() -> Iterator[PostgresServer]:
    """A fresh server, until the end of the block."""
    binaries = postgres_binaries()
    directory = Path(tempfile.mkdtemp(prefix="mirror-postgres-"))
    server = PostgresServer(binaries, directory, _unprivileged())
    try:
        server.initialize()
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(directory, ignore_errors=True)


def free_port() -> int:
    """A TCP port of loopback that is free at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _unprivileged() -> str | None:
    """A user to whom the server's processes can belong: it refuses to run as root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        try:
            return pwd.getpwnam(name).pw_name
        except KeyError:
            continue
    pytest.skip("there is no unprivileged user for a PostgreSQL server")


def _locales() -> str:
    return subprocess.run(["locale", "-a"], capture_output=True, text=True, check=False).stdout
