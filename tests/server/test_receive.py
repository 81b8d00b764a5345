"""Receiving forms: who is asked for credentials when, and how much memory forms may take."""

import asyncio
from pathlib import Path

import pytest
from yarl import URL

from mirror.errors import Unavailable
from mirror.server.proxies import network_of
from mirror.server.receive import FormMemory
from tests.builders import wheel
from tests.serving import repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form, make_token

FORM = "multipart/form-data; boundary=x"
SMALL = "application/x-www-form-urlencoded"
ROUTES = [
    *(("POST", path, FORM) for path in ("/legacy/", "/legacy", "/", "/simple/", "/simple", "/api/v1/gems")),
    ("POST", "/api/v1/gems", "application/octet-stream"),
    ("DELETE", "/api/v1/gems/yank", SMALL),
    ("PUT", "/api/v1/gems/unyank", SMALL),
    ("POST", "/api/v1/gems/rack/owners", SMALL),
    ("DELETE", "/api/v1/gems/rack/owners", SMALL),
    ("POST", "/api/v1/api_key", SMALL),
]


async def test_credentials_are_asked_for_before_any_of_a_body(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        url = URL(mirror.url)
        for method, path, content_type in ROUTES:
            for login in ("", f"Authorization: Bearer mirror_{'0' * 64}\r\n"):
                reader, writer = await asyncio.open_connection(url.host, url.port)
                head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{login}Content-Type: {content_type}\r\n"
                writer.write(f"{head}Content-Length: 60000\r\n\r\n".encode())
                async with asyncio.timeout(20):  # nothing of the body is sent
                    assert (await reader.readline()).startswith(b"HTTP/1.1 401"), path
                writer.close()


async def test_fields_take_no_more_than_the_memory_for_all_forms(tmp_path: Path, simulator: Simulator) -> None:
    limits = {"forms": 300_000, "client_share": 1.0, "shutdown_grace": 2}
    async with serving(tmp_path / "data", repositories(simulator), limits=limits) as mirror:
        token = await make_token(mirror)
        url, built = URL(mirror.url), wheel("acme", "1.0")

        async def upload(description: str) -> int:
            fields = [*fields_of(built).items(), ("description", description)]
            data = form(fields, built.filename, built.content)()
            return (await mirror.ask("POST", "legacy/", data, Authorization=basic(token))).status

        assert await upload("x" * 400_000) == 503
        _, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST /legacy/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: {basic(token)}\r\n"
        head += f"Content-Type: {FORM}\r\n"
        part = b'--x\r\nContent-Disposition: form-data; name="description"\r\n\r\n' + b"y" * 150_000
        writer.write(f"{head}Content-Length: 190000\r\n\r\n".encode() + part)
        memory = mirror.endpoints.form_memory
        async with asyncio.timeout(20):
            while memory.held < 150_000:  # noqa: ASYNC110  # it is counted, not announced
                await asyncio.sleep(0.01)
        assert await upload("x" * 120_000) == 503, "the unfinished form of the other connection counts"
        writer.close()
        async with asyncio.timeout(20):
            while memory.held:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        assert await upload("x" * 120_000) == 200
        assert memory.held == 0


def test_one_client_may_take_its_share_of_the_memory_for_forms() -> None:
    memory = FormMemory(1000, 0.25)
    with memory.claim("10.0.0.1") as one, memory.claim("10.0.0.1") as same, memory.claim("10.0.0.2") as other:
        one(200)
        with pytest.raises(Unavailable):
            same(100)
        same(50)
        other(250)
        assert memory.held == 500
    assert memory.held == 0
    with memory.claim("10.0.0.1") as again:
        again(250)


def test_what_is_given_back_can_be_claimed_again() -> None:
    memory = FormMemory(100, 1.0)
    with memory.claim("x") as claim:
        claim(100)
        claim(-60)
        claim(60)
        with pytest.raises(Unavailable):
            claim(1)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8::ffff:1", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("nonsense", "nonsense"),
    ],
)
def test_a_network_of_64_counts_as_one_client(address: str, network: str) -> None:
    assert network_of(address) == network
