"""A PostgreSQL server for tests, on loopback: one for each process that tests, with a database for each test.

It is started by an unprivileged user in a directory of its own and does not wait for the disk: what a crash of the
machine would lose is no concern of a test. Where there is none, tests that need it are skipped; in CI they fail.
"""

import asyncio
import itertools
import os
import pwd
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from functools import cached_property
from pathlib import Path
from typing import Self
from urllib.parse import quote

import pytest

PASSWORD = "not a secret"
START_SECONDS = 30.0
_HASTY = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
"""What a server need not do whose content is lost with it."""
_OPTIONS = {
    "shared_buffers": "32MB",
    "max_connections": "200",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "listen_addresses": "127.0.0.1",
}


class PostgresServer:
    """A running server; the superuser is `postgres`, who needs no password at the Unix socket."""

    def __init__(self, binaries: Path, directory: Path, user: str | None, options: Mapping[str, str]) -> None:
        self._binaries = binaries
        self._options = {**_OPTIONS, **options}
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
        options = self._options | {"port": str(self.port), "unix_socket_directories": str(self.directory)}
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

    def fresh(self, template: str = "template0") -> str:
        """Create an empty database, or a copy of another one, and return its name."""
        name = f"test{next(self._numbers)}"
        self.create(name, template)
        return name

    @cached_property
    def tables(self) -> str:
        """The name of a database with the tables of a catalog, of which copies are made sooner than tables."""

        async def make() -> None:
            from mirror.catalog.postgres import PostgreSQL

            database = PostgreSQL(self.url(name), lambda: None, {})
            await database.open()
            await database.close()

        name = self.fresh()
        with ThreadPoolExecutor(1) as thread:  # in a loop of its own: a test may have one that runs
            thread.submit(asyncio.run, make()).result()
        return name

    def _run(self, program: str, *words: str) -> None:
        subprocess.run(
            [self._binaries / program, *words], check=True, stdout=subprocess.DEVNULL, cwd="/", **self._as_user()
        )

    def _as_user(self) -> dict[str, object]:
        return {} if self._user is None else {"user": self._user, "group": self._user, "extra_groups": []}


chosen: PostgresServer | None = None
"""The server that keeps the catalog of each mirror that tests start, with `--catalog postgres`."""
_catalogs: dict[Path, str] = {}
"""The databases of those, by data directory."""


def chosen_catalog(data_dir: Path) -> dict[str, dict[str, str]]:
    """The settings of the catalog for a data directory: the same database each time, made by the first call."""
    if chosen is None:
        return {}
    place = data_dir.absolute()
    if place not in _catalogs:
        _catalogs[place] = chosen.fresh(chosen.tables)
    return {"catalog": {"url": chosen.url(_catalogs[place])}}


def chosen_rows(data_dir: Path, sql: str) -> str:
    """What a query returns of the catalog for a data directory, as text to be compared."""
    if chosen is not None:
        (catalog,) = chosen_catalog(data_dir).values()
        return chosen.sql(sql, catalog["url"].partition("@/")[2].partition("?")[0])
    with closing(sqlite3.connect(data_dir / "catalog.sqlite")) as embedded:
        return repr(embedded.execute(sql).fetchall())


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
def running_postgres(durable: bool = False) -> Iterator[PostgresServer]:
    """A fresh server, until the end of the block; a durable one waits for the disk."""
    binaries = postgres_binaries()
    directory = Path(tempfile.mkdtemp(prefix="mirror-postgres-"))
    server = PostgresServer(binaries, directory, _unprivileged(), {} if durable else _HASTY)
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


@contextmanager
def running_pgbouncer(server: PostgresServer) -> Iterator[int]:
    """PgBouncer in transaction mode in front of a server; its port on loopback. It logs in as the superuser."""
    program = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        missing("PgBouncer is not installed (Debian: pgbouncer)")
    assert program is not None
    port, directory = free_port(), server.directory / "bouncer"
    directory.mkdir()
    settings = directory / "pgbouncer.ini"
    settings.write_text(
        "[databases]\n"
        f"* = host={server.directory} port={server.port} user=postgres\n"
        "[pgbouncer]\n"
        f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
        "auth_type = any\npool_mode = transaction\ndefault_pool_size = 3\nserver_reset_query =\n"
    )
    user = _unprivileged()
    if user is not None:
        for path in (directory, settings):
            shutil.chown(path, user)
    with (directory / "log").open("ab") as log:
        who = {} if user is None else {"user": user, "group": user, "extra_groups": []}
        process = subprocess.Popen([program, str(settings)], stdout=log, stderr=log, cwd="/", **who)
    try:
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                if time.monotonic() > deadline or process.poll() is not None:
                    raise AssertionError((directory / "log").read_text()) from None
                time.sleep(0.05)
        yield port
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(directory, ignore_errors=True)


class PostgresProxy:
    """Stands between a client and a server, passes everything on, and can lose connections at chosen moments."""

    def __init__(self, server: PostgresServer) -> None:
        self._upstream = str(server.directory / f".s.PGSQL.{server.port}")
        self._directory = Path(tempfile.mkdtemp(prefix="mirror-proxy-"))
        self._server: asyncio.Server | None = None
        self._running: set[asyncio.Task[None]] = set()
        self.lose_commit: str | None = None
        """`before` or `after` the server gets the next COMMIT, its connection is lost: once."""
        self.silent = False
        """Whether nothing is passed on any more: connections stay open, and nothing answers."""
        self.down = False
        """Whether new connections are closed at once."""
        self.asked = 0
        """Pieces that clients have sent, one or more for each statement."""

    def url(self, database: str) -> str:
        """The URL of a database through the proxy."""
        return f"postgresql://postgres@/{database}?host={quote(str(self._directory), safe='')}&port=5432"

    def cut(self) -> None:
        """Close all connections, and each new one at once, until `down` is false again."""
        self.down = True
        for task in self._running:
            task.cancel()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_unix_server(self._serve, self._directory / ".s.PGSQL.5432")
        return self

    async def __aexit__(self, *exc: object) -> None:
        assert self._server is not None
        self.down = True  # also for those that connect at this moment
        self._server.close()
        await asyncio.sleep(0.01)
        while self._running:
            for task in list(self._running):
                task.cancel()
            await asyncio.wait(list(self._running))
        await asyncio.sleep(0.01)  # until what was closed is closed
        shutil.rmtree(self._directory, ignore_errors=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        if self.down:
            writer.close()
            return
        self._running.add(task)
        try:
            up_reader, up_writer = await asyncio.open_unix_connection(self._upstream)
        except BaseException:
            writer.close()
            self._running.discard(task)
            raise
        lost = asyncio.Event()

        async def forward() -> None:
            while data := await reader.read(65536):
                self.asked += 1
                if self.silent:
                    continue
                if b"COMMIT\0" in data and self.lose_commit is not None:
                    how, self.lose_commit = self.lose_commit, None
                    lost.set()
                    if how == "after":
                        up_writer.write(data)
                        await up_reader_done.wait()
                    return
                up_writer.write(data)

        up_reader_done = asyncio.Event()

        async def back() -> None:
            while data := await up_reader.read(65536):
                if lost.is_set():
                    up_reader_done.set()
                    return
                if not self.silent:
                    writer.write(data)

        both = [asyncio.ensure_future(forward()), asyncio.ensure_future(back())]
        try:
            await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in (writer, up_writer):
                end.close()
            for one in both:
                one.cancel()
            await asyncio.gather(*both, return_exceptions=True)
            self._running.discard(task)
