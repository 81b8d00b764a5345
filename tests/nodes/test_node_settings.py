"""`[node] address` and `secret_file`: what cannot work ends the start with one sentence and status 2."""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from mirror.catalog import Catalog
from mirror.catalog.flights import NodeRow
from mirror.config import Settings
from tests.catalog.conftest import engine
from tests.nodes.cluster import SECRET
from tests.servers import free_ports
from tests.serving import write_settings


async def refusal(directory: Path, node: Mapping[str, object], catalog: str | None, listen: str = "127.0.0.1:0") -> str:
    """What `mirror serve` says that ends with status 2."""
    pypi = {"pypi": {"format": "pypi", "upstreams": ["http://127.0.0.1:1/simple/"]}}
    tables = {"node": node, "listen": [listen]} | ({"catalog": {"url": catalog}} if catalog else {})
    file = write_settings(directory / "data", pypi, **tables)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", "serve", "--config", str(file),
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            _, said = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 2, said.decode()
    return said.decode().splitlines()[-1]


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


async def test_an_address_without_a_shared_catalog_is_refused(tmp_path: Path, secret: str) -> None:
    said = await refusal(tmp_path, {"address": "http://127.0.0.1:8485", "secret_file": secret}, None)
    assert "nodes share a catalog in PostgreSQL" in said


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
    nowhere = {"address": "http://nowhere.invalid:8485", "secret_file": secret}
    assert "no machine has the name nowhere.invalid" in await refusal(tmp_path, nowhere, postgres_url)
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
