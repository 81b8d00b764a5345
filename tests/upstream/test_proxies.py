"""The proxies that the environment names: which requests go through them, and with which credentials."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest
import trustme
from aiohttp import web
from yarl import URL

from mirror.doctor import IndexClient, open_session
from mirror.errors import ConfigError, UpstreamUnavailable
from mirror.model import UpstreamRequest
from mirror.upstream import ForbiddenAddress, Outgoing, Upstream, UpstreamOptions
from mirror.upstream.proxies import proxies_of
from tests.airgap.sync.test_worker_client import reaching
from tests.file_server import FileServer
from tests.tcp import tcp_server

VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@asynccontextmanager
async def proxy() -> AsyncIterator[tuple[str, list[tuple[str, str]]]]:
    """A proxy that answers everything itself: its host and port, and target and credentials of each request."""
    seen: list[tuple[str, str]] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append((request.raw_path, request.headers.get("Proxy-Authorization", "")))
        return web.Response(text="through")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"127.0.0.1:{runner.addresses[0][1]}", seen
    finally:
        await runner.cleanup()


async def get(upstream: Upstream, url: str) -> bytes:
    response = await upstream.get(UpstreamRequest(url=URL(url)))
    assert response is not None
    return response.body


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
async def test_a_proxy_of_the_environment_is_used_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    async with proxy() as (at, seen):
        monkeypatch.setenv(variable, f"http://joe:p%40ss@{at}")
        upstream = Upstream("index", URL("http://index.example/simple/"))
        assert await get(upstream, "http://index.example/simple/it/") == b"through"
        assert await get(upstream, "http://files.example/f") == b"through"
        await upstream.close()
    login = "Basic " + base64.b64encode(b"joe:p@ss").decode()
    assert seen == [("http://index.example/simple/it/", login), ("http://files.example/f", login)]


async def test_every_client_goes_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (at, seen):
        monkeypatch.setenv("HTTP_PROXY", at)  # without a scheme, as curl takes it
        async with open_session(Outgoing(URL("http://index.example/"))) as session:
            response = await IndexClient(session).get(URL("http://index.example/simple/"))
            assert response.body == b"through"
        worker = reaching("http://index.example/")
        with pytest.raises(UpstreamUnavailable, match="proxy"):  # it leaves the file to the ordinary client
            await worker.get(URL("http://files.example/f"), 100)
        worker.close()
    assert [target for target, _ in seen] == ["http://index.example/simple/"]


async def test_what_no_proxy_names_is_asked_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (at, seen), FileServer() as direct:
        monkeypatch.setenv("HTTP_PROXY", f"http://{at}")
        monkeypatch.setenv("NO_PROXY", "127.0.0.0/8")
        upstream = Upstream("index", URL(direct.url))
        assert await get(upstream, direct.put("/page", b"direct")) == b"direct"
        assert seen == []
        await upstream.close()


async def test_the_proxy_of_a_setting_replaces_those_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    async with proxy() as (at, seen):
        monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
        monkeypatch.setenv("NO_PROXY", "*")
        upstream = Upstream("index", URL("http://index.example/"), UpstreamOptions(proxy=f"http://{at}"))
        assert await get(upstream, "http://index.example/") == b"through"
        assert len(seen) == 1
        await upstream.close()


@pytest.mark.parametrize("host", ["127.0.0.2", "10.0.0.1", "169.254.169.254", "[::1]", "localhost", "0x7f000001"])
async def test_through_a_proxy_an_address_inside_is_refused_too(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    async with proxy() as (at, seen):
        monkeypatch.setenv("HTTP_PROXY", f"http://{at}")
        upstream = Upstream("index", URL("http://index.example/"), UpstreamOptions(retries=0))
        with pytest.raises(ForbiddenAddress):
            await get(upstream, f"http://{host}/latest/meta-data")
        assert seen == []
        await upstream.close()


@pytest.mark.parametrize(
    ("no_proxy", "url", "direct"),
    [
        ("*", "http://index.example/", True),
        ("index.example", "http://INDEX.example/", True),
        ("index.example", "http://files.index.example/", True),
        ("index.example", "http://myindex.example/", False),
        (".example", "http://index.example/", True),
        (".index.example", "http://index.example/", True),
        ("*.example", "http://index.example/", True),
        ("other, index.example", "http://index.example/", True),
        ("other index.example", "http://index.example/", True),
        ("index.example:8080", "http://index.example:8080/", True),
        ("index.example:8080", "http://index.example/", False),
        ("index.example:80", "http://index.example/", True),
        ("10.0.0.0/8", "http://10.1.2.3/", True),
        ("10.0.0.0/8", "http://11.1.2.3/", False),
        ("10.0.0.0/8", "http://ten.example/", False),
        ("127.0.0.1", "http://127.0.0.1:81/", True),
        ("127.0.0.1:81", "http://127.0.0.1:81/", True),
        ("127.0.0.1:81", "http://127.0.0.1/", False),
        ("::1", "http://[::1]/", True),
        ("[::1]:81", "http://[::1]:81/", True),
        ("fd00::/8", "http://[fd00::1]/", True),
        ("", "http://index.example/", False),
    ],
)
def test_every_usual_form_of_no_proxy_is_understood(no_proxy: str, url: str, direct: bool) -> None:
    for variable in ("NO_PROXY", "no_proxy"):
        proxies = proxies_of({"HTTP_PROXY": "http://proxy.example:3128", variable: no_proxy})
        assert (proxies.proxy_for(URL(url)) is None) == direct


def test_each_scheme_has_its_proxy_and_the_lower_case_wins() -> None:
    proxies = proxies_of(
        {
            "HTTP_PROXY": "http://upper.example",
            "http_proxy": "http://lower.example",
            "HTTPS_PROXY": "http://tls.example",
        }
    )
    assert proxies.proxy_for(URL("http://index.example/")) == URL("http://lower.example")
    assert proxies.proxy_for(URL("https://index.example/")) == URL("http://tls.example")
    assert not proxies_of({"HTTP_PROXY": "http://evil.example", "REQUEST_METHOD": "GET"}), "a client may set it in CGI"


@pytest.mark.parametrize("value", ["socks5://joe:secret@proxy.example:1080", "http://", "http://[::1"])
def test_a_proxy_that_cannot_be_used_is_named_without_its_secret(value: str) -> None:
    with pytest.raises(ConfigError, match="HTTPS_PROXY: is set") as raised:
        proxies_of({"HTTPS_PROXY": value})
    assert "secret" not in str(raised.value)


async def test_https_goes_through_a_tunnel_and_its_certificate_is_checked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("index.example").configure_cert(context)
    heads: list[bytes] = []

    async def safe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nsafe")
        await writer.drain()

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while chunk := await reader.read(65536):
                writer.write(chunk)
                await writer.drain()
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        there = await asyncio.open_connection("127.0.0.1", index)
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        try:
            await asyncio.gather(copy(reader, there[1]), copy(there[0], writer))
        finally:
            there[1].close()
            with suppress(OSError):
                await there[1].wait_closed()

    async with tcp_server(safe, context) as index, tcp_server(tunnel) as through:
        monkeypatch.setenv("HTTPS_PROXY", f"http://joe:secret@127.0.0.1:{through}")
        trusting = Upstream("index", URL("https://index.example/"), UpstreamOptions(ca_file=tmp_path / "ca.pem"))
        assert await get(trusting, "https://index.example/simple/") == b"safe"
        strange = Upstream("index", URL("https://index.example/"), UpstreamOptions(retries=0))
        with pytest.raises(UpstreamUnavailable):
            await get(strange, "https://index.example/simple/")
        for upstream in (trusting, strange):
            await upstream.close()
    assert heads[0].startswith(b"CONNECT index.example:443 HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic am9lOnNlY3JldA==\r\n" in heads[0]
