"""`[node] address` and `secret_file`: what cannot work ends the start with one sentence and status 2."""

import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.catalog import Catalog
from mirror.catalog.flights import NodeRow
from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.service.open import Mode, open_mirror
from tests.catalog.conftest import engine
from tests.nodes.cluster import SECRET
from tests.servers import free_ports
from tests.serving import write_settings


def settings_of(directory: Path, node: Mapping[str, object], catalog: str) -> Settings:
    """The settings of a node."""
    pypi = {"pypi": {"format": "pypi", "upstreams": ["http://127.0.0.1:1/simple/"]}}
    tables = {"node": node, "listen": ["127.0.0.1:0"], "catalog": {"url": catalog}, "log": {"access": False}}
    return Settings.model_validate({"data_dir": str(directory / "data"), "repositories": pypi} | tables)


async def refusal(directory: Path, node: Mapping[str, object], catalog: str) -> str:
    """Why a node cannot start."""
    with pytest.raises(ConfigError) as refused:
        async with open_mirror(settings_of(directory, node, catalog), Mode.SERVE):
            pass
    return str(refused.value)


@pytest.fixture
def secret(tmp_path: Path) -> str:
    """A file with the secret."""
    file = tmp_path / "secret"
    file.write_text(SECRET)
    return str(file)


DATABASE = "postgresql://nowhere.invalid/mirror"


@pytest.mark.parametrize(
    ("node", "why"),
    [
        ({"address": "http://127.0.0.1:8485"}, "has an address, but no secret_file"),
        ({"secret_file": "SECRET"}, "has a secret_file, but no address"),
        ({"address": "https://127.0.0.1:8485", "secret_file": "SECRET"}, 'should be "http://HOST:PORT"'),
        ({"address": "http://127.0.0.1", "secret_file": "SECRET"}, 'should be "http://HOST:PORT"'),
        ({"address": "http://127.0.0.1:8485/path", "secret_file": "SECRET"}, 'should be "http://HOST:PORT"'),
        ({"address": "http://0.0.0.0:8485", "secret_file": "SECRET"}, "should name the one address of this machine"),
        ({"address": "http://127.0.0.1:8484", "secret_file": "SECRET"}, "has the address of `listen`"),
        ({"address": "http://127.0.0.1:8485", "secret_file": "SHORT"}, "finds fewer than 32 characters"),
        ({"address": "http://127.0.0.1:8485", "secret_file": "EMPTY"}, "finds nothing in secret_file"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, secret: str, node: dict[str, str], why: str) -> None:
    (tmp_path / "short").write_text("short")
    (tmp_path / "empty").write_text("\n")
    files = {"SECRET": secret, "SHORT": str(tmp_path / "short"), "EMPTY": str(tmp_path / "empty")}
    table = {key: files.get(value, value) for key, value in node.items()}
    with pytest.raises(ValueError, match=why):
        Settings.model_validate({"node": table, "catalog": {"url": DATABASE}})


def test_an_address_without_a_shared_catalog_ends_the_start_with_status_2(tmp_path: Path, secret: str) -> None:
    node = {"address": "http://127.0.0.1:8485", "secret_file": secret}
    file = write_settings(tmp_path / "data", None, node=node)
    words = [sys.executable, "-m", "mirror", "serve", "--config", str(file)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "nodes share a catalog in PostgreSQL" in done.stderr


@asynccontextmanager
async def database(url: str) -> AsyncIterator[Catalog]:
    """The catalog in a database."""
    opened = engine(url)
    await opened.open()
    catalog = Catalog(opened)
    yield catalog
    await catalog.close()


async def test_an_address_that_is_not_this_machines_or_is_taken_is_refused(
    postgres_url: str, tmp_path: Path, secret: str
) -> None:
    elsewhere = {"address": "http://192.0.2.7:8485", "secret_file": secret}  # RFC 5737: no machine has it
    assert "this machine does not have the address 192.0.2.7" in await refusal(tmp_path, elsewhere, postgres_url)
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        taken = {"address": f"http://127.0.0.1:{port}", "secret_file": secret}
        assert f"another process listens at 127.0.0.1:{port}" in await refusal(tmp_path, taken, postgres_url)


async def test_a_node_with_another_secret_than_the_others_is_refused(
    postgres_url: str, tmp_path: Path, secret: str
) -> None:
    async with database(postgres_url) as catalog:
        await catalog.nodes.show(NodeRow("http://127.0.0.1:9", "other", "another fingerprint"), first=True)
    (port,) = free_ports(1)
    said = await refusal(tmp_path, {"address": f"http://127.0.0.1:{port}", "secret_file": secret}, postgres_url)
    assert "the node at http://127.0.0.1:9 has another secret; all nodes need the same" in said
