"""PostgreSQL as the engine: what is refused at the start, lost connections, outages, and a pooler in between."""

import asyncio
import importlib.util
import os
import re
import signal
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from mirror.catalog import START, Catalog, HeldFile, User
from mirror.catalog.migration import Migration, migrations
from mirror.catalog.sqlite import SQLite
from mirror.config import Settings
from mirror.doctor.database import check_database
from mirror.errors import ConfigError, StorageUnavailable
from mirror.maintenance.backup import back_up, restore
from mirror.model import Event
from mirror.service.store import catalog_copier, catalog_engine
from tests.catalog.conftest import REPOSITORIES, EngineOpener
from tests.postgres import PASSWORD, PostgresProxy, PostgresServer, free_port, running_pgbouncer, running_postgres
from tests.serving import write_settings

if importlib.util.find_spec("asyncpg") is None and os.environ.get("CI") != "true":
    pytest.skip("asyncpg is not installed (mirror[postgres])", allow_module_level=True)

COUNT = "SELECT value FROM counters WHERE name = 'n'"


@pytest.fixture
async def proxy(postgres: PostgresServer) -> AsyncIterator[PostgresProxy]:
    async with PostgresProxy(postgres) as running:
        yield running


def state(postgres: PostgresServer, database: str) -> str:
    """Everything that a start could change."""
    tables = "SELECT table_schema, table_name, column_name, data_type FROM information_schema.columns"
    seen = postgres.sql(f"{tables} WHERE table_schema = 'public' ORDER BY 1, 2, 3", database)
    for table in ("schema_version", "repositories", "commits"):
        if f"|{table}|" in seen:
            seen += postgres.sql(f"SELECT * FROM {table} ORDER BY 1", database)
    return seen


async def start(url: str, repositories: dict[str, str] = REPOSITORIES, password: str | None = None) -> None:
    from mirror.catalog.postgres import PostgreSQL

    database = PostgreSQL(url, lambda: password, repositories)
    try:
        await database.open()
    finally:
        await database.close()


# The start


async def test_four_nodes_that_start_at_once_make_the_tables_once(postgres: PostgresServer) -> None:
    name = postgres.fresh()
    await asyncio.gather(*(start(postgres.url(name)) for _ in range(4)))
    numbers = postgres.sql("SELECT number FROM schema_version ORDER BY 1", name).split()
    assert [int(number) for number in numbers] == [migration.number for migration in migrations()]


async def test_statements_are_kept_prepared_where_no_pooler_is(
    open_engine: EngineOpener, postgres: PostgresServer
) -> None:
    assert (await open_engine(postgres.url(postgres.fresh())))._server.statements > 0


async def test_a_migration_that_is_new_is_applied_to_a_catalog_in_use(
    open_engine: EngineOpener, postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = postgres.fresh()
    older = await open_engine(postgres.url(name))
    every = [*migrations(), Migration(9000, "9000_new.sql", "ALTER TABLE feed ADD COLUMN more TEXT;")]
    monkeypatch.setattr("mirror.catalog.postgres.schema.migrations", lambda: every)
    await start(postgres.url(name))
    await Catalog(older).feed.append(Event(serial=0, at=1, source="up", project="six", kind="page"))
    assert len(await Catalog(older).feed.since(0)) == 1, "the version before goes on beside it"
    collation = (
        "SELECT collation_name FROM information_schema.columns WHERE table_name = 'feed' AND column_name = 'more'"
    )
    assert postgres.sql(collation, name) == "C"


async def refused(url: str, repositories: dict[str, str] = REPOSITORIES, password: str | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        await start(url, repositories, password)
    sentence = str(caught.value)
    assert sentence.startswith("catalog.url: ")
    assert sentence.endswith(".")
    assert "\n" not in sentence
    assert PASSWORD not in sentence
    return sentence


async def test_a_server_that_does_not_answer_is_refused() -> None:
    assert "cannot be reached" in await refused(f"postgresql://mirror@127.0.0.1:{free_port()}/mirror")


async def test_a_wrong_password_and_a_database_that_is_none_are_refused(postgres: PostgresServer) -> None:
    name = postgres.fresh()
    assert "refuses the login" in await refused(postgres.tcp_url(name), password="wrong")
    assert "no such database" in await refused(postgres.url("nothing"))
    await start(postgres.tcp_url(name), password=PASSWORD)


async def test_a_role_without_rights_is_refused_and_has_changed_nothing(postgres: PostgresServer) -> None:
    name = postgres.fresh()
    postgres.sql("DROP ROLE IF EXISTS guest; CREATE ROLE guest LOGIN")
    before = state(postgres, name)
    assert "not enough rights" in await refused(postgres.url(name, "guest"))
    assert state(postgres, name) == before
    await start(postgres.url(name))
    before = state(postgres, name)
    assert "not enough rights" in await refused(postgres.url(name, "guest"))
    assert state(postgres, name) == before


async def test_a_catalog_of_a_newer_version_is_refused(postgres: PostgresServer) -> None:
    name = postgres.fresh()
    await start(postgres.url(name))
    postgres.sql("INSERT INTO schema_version VALUES (9000, '9000_new.sql', 0)", name)
    before = state(postgres, name)
    assert "newer version" in await refused(postgres.url(name))
    assert state(postgres, name) == before


@pytest.mark.parametrize("other", [{"team": "pypi"}, {"pypi": "rubygems"}], ids=["other names", "another format"])
async def test_the_catalog_of_another_mirror_is_refused(postgres: PostgresServer, other: dict[str, str]) -> None:
    name = postgres.fresh()
    await start(postgres.url(name))
    before = state(postgres, name)
    assert "belongs to another mirror" in await refused(postgres.url(name), other)
    assert state(postgres, name) == before
    await start(postgres.url(name), REPOSITORIES | {"team": "pypi"})
    await start(postgres.url(name), {"team": "pypi"})


@pytest.mark.parametrize("table", ["files (id int)", "schema_version (version text)"])
async def test_tables_of_something_else_are_left_alone(postgres: PostgresServer, table: str) -> None:
    name = postgres.fresh()
    postgres.sql(f"CREATE TABLE {table}", name)
    before = state(postgres, name)
    assert "something else" in await refused(postgres.url(name))
    assert state(postgres, name) == before


async def test_a_database_that_is_not_utf8_is_refused(postgres: PostgresServer) -> None:
    postgres.sql("CREATE DATABASE latin TEMPLATE template0 ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C'")
    assert "LATIN1" in await refused(postgres.url("latin"))


async def test_serve_ends_with_status_2_and_one_sentence(tmp_path: Path) -> None:
    url = f"postgresql://mirror:{PASSWORD.replace(' ', '%20')}@127.0.0.1:{free_port()}/mirror"
    file = write_settings(tmp_path / "data", None, catalog={"url": url})
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "serve", "--config", str(file), stdout=-1, stderr=-1
    )
    output, errors = await process.communicate()
    assert (process.returncode, output) == (2, b"")
    assert re.fullmatch(rb".*catalog\.url: the database server cannot be reached: .*\.\n", errors)
    assert b"secret" not in errors


def test_without_the_extra_the_settings_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in sys.modules if name.startswith(("asyncpg", "mirror.catalog.postgres"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncpg", None)
    settings = Settings.model_validate({"data_dir": tmp_path, "catalog": {"url": "postgresql://db.example/mirror"}})
    with pytest.raises(ConfigError, match=re.escape("pip install 'mirror[postgres]'")):
        catalog_engine(settings)


# Values


@pytest.mark.parametrize("value", ["a\0b", "\udc80", 1 << 63, -(1 << 63) - 1])
async def test_what_the_database_cannot_keep_is_refused_in_queries_too(
    open_engine: EngineOpener, postgres_url: str, value: str | int
) -> None:
    database = await open_engine(postgres_url)
    with pytest.raises((UnicodeEncodeError, OverflowError)):
        await database.read("SELECT 1 FROM feed WHERE source = $1", value)
    with pytest.raises((UnicodeEncodeError, OverflowError)):
        await database.write(("DELETE FROM feed WHERE source = $1", (value,)))


async def test_whole_numbers_of_64_bits_are_kept(open_engine: EngineOpener, postgres_url: str) -> None:
    database = await open_engine(postgres_url)
    catalog = Catalog(database)
    await catalog.counters.add({"most": (1 << 63) - 1, "least": -(1 << 63)})
    counters = await catalog.counters.all()
    assert (counters["most"], counters["least"]) == ((1 << 63) - 1, -(1 << 63))


# Connections that are lost


@pytest.mark.parametrize("how", ["before", "after"])
async def test_a_commit_whose_connection_is_lost_counts_once(
    open_engine: EngineOpener, postgres: PostgresServer, proxy: PostgresProxy, how: str
) -> None:
    name = postgres.fresh()
    database = await open_engine(proxy.url(name))
    catalog = Catalog(database)
    await catalog.counters.add({"n": 1})
    proxy.lose_commit = how
    serials = await asyncio.gather(
        catalog.counters.add({"n": 10}), catalog.feed.append(Event(serial=0, at=1, source="u", project="p", kind="k"))
    )
    assert proxy.lose_commit is None
    assert await database.read(COUNT) == [(11,)]
    assert [event.serial for event in await catalog.feed.since(0)] == [serials[1]]


async def test_connections_that_the_server_closes_are_not_noticed(
    open_engine: EngineOpener, postgres: PostgresServer
) -> None:
    name = postgres.fresh()
    database = await open_engine(postgres.url(name))
    catalog = Catalog(database)
    for number in range(5):
        await asyncio.gather(*(catalog.feed.bounds() for _ in range(10)))
        await asyncio.to_thread(
            postgres.sql, f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'"
        )
        await asyncio.gather(catalog.counters.add({"n": 1}), *(catalog.feed.bounds() for _ in range(10)))
        assert await database.read(COUNT) == [(number + 1,)]


@pytest.mark.parametrize("stage", ["between statements", "in a statement"])
async def test_a_node_that_stops_in_the_middle_of_a_transaction_holds_up_the_others_for_seconds(
    open_engine: EngineOpener, postgres: PostgresServer, stage: str
) -> None:
    import asyncpg

    from mirror.catalog.postgres.schema import BEGIN

    name = postgres.fresh()
    database = await open_engine(postgres.url(name))
    stopped = await asyncpg.connect(postgres.url(name))
    await stopped.execute(BEGIN)
    if stage == "in a statement":
        await stopped.prepare("SELECT 1")
    began = time.monotonic()
    await Catalog(database).counters.add({"n": 1})
    assert 1 < time.monotonic() - began < 8
    stopped.terminate()


async def test_transactions_that_are_in_each_others_way_are_tried_again(
    open_engine: EngineOpener, postgres: PostgresServer
) -> None:
    name = postgres.fresh()
    nodes = [await open_engine(postgres.url(name)) for _ in range(3)]
    catalogs = [Catalog(node) for node in nodes]
    held = [HeldFile(source="up", project="six", filename=f"{n}.whl", digest="d" * 64, size=1) for n in range(20)]
    await catalogs[0].files.add_all([(one, "file") for one in held])
    uses = [("up", "six", one.filename, 1, 5.0) for one in held]
    await asyncio.gather(
        *(catalog.files.used(uses[:: 1 if number % 2 else -1]) for number in range(10) for catalog in catalogs),
        *(catalog.feed.append(Event(serial=0, at=1, source="u", project="p", kind="k")) for catalog in catalogs * 10),
    )
    assert {one.uses for one in await catalogs[0].files.all()} == {30}


# Outages


@pytest.fixture
def own_postgres() -> Iterator[PostgresServer]:
    """A server that a test may stop."""
    with running_postgres() as server:
        yield server


async def answers(catalog: Catalog) -> None:
    """Wait until the database takes changes again."""
    while True:
        try:
            await catalog.counters.add({"n": 1})
            return
        except StorageUnavailable:
            await asyncio.sleep(0.05)


async def test_while_the_server_is_away_everything_fails_at_once_and_recovers_by_itself(
    open_engine: EngineOpener,
    own_postgres: PostgresServer,
) -> None:
    database = await open_engine(own_postgres.url(own_postgres.fresh()))
    catalog = Catalog(database)
    await catalog.counters.add({"n": 1})
    own_postgres.stop(signal.SIGINT)  # a crash would lose the tables, as the disk is not waited for
    for attempt in range(2):
        began = time.monotonic()
        for question in (catalog.feed.bounds(), catalog.counters.add({"n": 1})):
            with pytest.raises(StorageUnavailable) as caught:
                await question
            assert caught.value.retry_after > 0
        assert time.monotonic() - began < (0.1 if attempt else 5)
    assert not database.available
    await asyncio.to_thread(own_postgres.start)
    async with asyncio.timeout(10):
        await answers(catalog)
    assert database.available
    assert await database.read(COUNT) == [(2,)]


async def test_a_server_that_is_silent_is_noticed_and_what_waits_is_broken_off(
    open_engine: EngineOpener, postgres: PostgresServer, proxy: PostgresProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.catalog.postgres.outage.SLOW_SECONDS", 0.2)
    monkeypatch.setattr("mirror.catalog.postgres.connecting.CONNECT_SECONDS", 0.3)
    database = await open_engine(proxy.url(postgres.fresh()))
    catalog = Catalog(database)
    await catalog.counters.add({"n": 1})
    await catalog.feed.bounds()
    proxy.silent = True
    async with asyncio.timeout(10):
        results = await asyncio.gather(
            catalog.feed.bounds(), catalog.feed.bounds(), catalog.counters.add({"n": 1}), return_exceptions=True
        )
    assert [type(result) for result in results] == [StorageUnavailable] * 3
    proxy.silent = False
    async with asyncio.timeout(10):
        await answers(catalog)


# Beside running nodes


async def test_a_backup_has_the_catalog_as_a_file_of_sqlite(
    open_engine: EngineOpener, postgres: PostgresServer, tmp_path: Path
) -> None:
    name = postgres.fresh()
    catalog = Catalog(await open_engine(postgres.url(name)))
    many = [HeldFile(source="up", project="é", filename=f"{n}", digest=f"{n:064x}", size=1 << 40) for n in range(1200)]
    await catalog.files.add_all([(one, "file") for one in many])
    await catalog.logs.append("v", bytes(range(256)), START)
    await catalog.accounts.add_user(User(name="ann", password="x"))
    settings = Settings.model_validate({"data_dir": tmp_path / "data", "catalog": {"url": postgres.url(name)}})
    (tmp_path / "data").mkdir()
    saved = await asyncio.to_thread(back_up, tmp_path / "data", tmp_path / "backup", catalog_copier(settings))
    assert saved.missing == ()
    restore(tmp_path / "backup", tmp_path / "restored")
    database = SQLite(tmp_path / "restored" / "catalog.sqlite")
    await database.open()
    restored = Catalog(database)
    assert sorted(await restored.files.all(), key=str) == sorted(await catalog.files.all(), key=str)
    assert await restored.feed.since(0, 5000) == await catalog.feed.since(0, 5000)
    assert await restored.logs.read("v") == bytes(range(256))
    assert await restored.accounts.users() == await catalog.accounts.users()
    assert await restored.counters.all() == await catalog.counters.all()
    await database.close()


async def test_the_doctor_measures_the_database(open_engine: EngineOpener, postgres: PostgresServer) -> None:
    from mirror.catalog.postgres.inspection import inspect_database

    name = postgres.fresh()
    assert (await inspect_database(postgres.url(name), lambda: None)).schema == 0
    catalog = Catalog(await open_engine(postgres.url(name)))
    await catalog.feed.append(Event(serial=0, at=7, source="up", project="six", kind="page"))
    seen = await inspect_database(postgres.url(name), lambda: None)
    assert (seen.trouble, seen.schema, seen.newest) == ("", seen.known, 7.0)
    assert abs(seen.offset) < 5
    assert 0 < seen.latency < 5
    away = await inspect_database(f"postgresql://127.0.0.1:{free_port()}/x", lambda: None)
    assert "cannot be reached" in away.trouble


@pytest.mark.parametrize(
    ("facts", "fails"),
    [
        (("", 0.001, 0.1, 15, 15), set()),
        (("", 0.001, 0.1, 0, 15), set()),
        (("", 0.2, 0.1, 15, 15), {"mirror/database-latency"}),
        (("", 0.001, -3600.0, 15, 15), {"mirror/database-clock"}),
        (("", 0.001, 0.1, 16, 15), {"mirror/catalog"}),
        (("it does not answer", 0.0, 0.0, 0, 15), {"mirror/catalog"}),
    ],
)
def test_the_doctor_judges_the_database(facts: tuple[str, float, float, int, int], fails: set[str]) -> None:
    found = check_database(*facts)
    assert {one.name for one in found if one.verdict == "fails"} == fails
    assert all(one.verdict != "unknown" for one in found)


# A pooler


async def test_pgbouncer_in_transaction_mode_may_stand_in_between(
    open_engine: EngineOpener, postgres: PostgresServer
) -> None:
    name = postgres.fresh()
    with running_pgbouncer(postgres) as port:
        url = f"postgresql://mirror@127.0.0.1:{port}/{name}?sslmode=disable"
        nodes = [await open_engine(url) for _ in range(3)]
        catalogs = [Catalog(node) for node in nodes]
        assert {node._server.statements for node in nodes} == {0}, "a prepared statement belongs to a session"
        await asyncio.gather(
            *(catalog.counters.add({"n": 1}) for catalog in catalogs for _ in range(30)),
            *(catalog.feed.bounds() for catalog in catalogs for _ in range(30)),
            *(catalog.leases.take(f"{number}", 0.0, 60) for catalog in catalogs for number in range(10)),
        )
        assert await nodes[1].read(COUNT) == [(90,)]
        assert await nodes[1].read("SELECT count(DISTINCT name), count(*) FROM leases") == [(10, 10)]
        for node in nodes:
            await node.close()
