"""Where an index may lead the mirror: to public addresses, to itself, and to what the operator names."""

import asyncio
import ipaddress
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
import trustme
from aiohttp import web
from yarl import URL

from mirror.airgap.sync.workers.client import SmallFileClient
from mirror.airgap.sync.workers.messages import WorkerUpstream
from mirror.errors import ConfigError, UpstreamProtocolError, UpstreamUnavailable
from mirror.model import UpstreamRequest
from mirror.upstream import ForbiddenAddress, Outgoing, Upstream, UpstreamOptions, parse_url
from mirror.upstream.addresses import AllowedHosts, is_internal, literal
from mirror.upstream.certificates import Certificates
from mirror.upstream.failures import ConnectFailure
from tests.file_server import FileServer, secure
from tests.simulator.wire import redirect
from tests.tcp import tcp_server

PUBLIC = ["1.1.1.1", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101", "2002:101:101::"]
INTERNAL = [
    *("127.0.0.1", "10.0.0.1", "172.31.0.1", "192.168.1.1", "169.254.1.1", "0.0.0.0", "224.0.0.1", "240.0.0.1"),
    *("255.255.255.255", "100.64.0.1", "198.18.0.1", "::1", "::", "fe80::1", "fc00::1", "fec0::1", "ff02::1"),
    *("2001:db8::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1", "64:ff9b:1::101:101"),
    *("2002:7f00:1::", "2001:0:4136:e378:8000:63bf:3fff:fdd2"),
    *("169.254.169.254", "168.63.129.16", "100.100.100.200", "fd00:ec2::254", "::ffff:169.254.169.254"),
]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """A resolver that knows these names alone; how often each was resolved stands under the name with a `?`."""
    known: dict[str, list[str]] = {}

    async def resolve(
        self: asyncio.BaseEventLoop, host: str, port: int, **options: object
    ) -> list[tuple[int, int, int, str, tuple[object, ...]]]:
        known.setdefault(f"{host}?", []).append("")
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "unknown")
        found = []
        for text in known[host]:
            six = ":" in text
            at: tuple[object, ...] = (text, port, 0, 0) if six else (text, port)
            found.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, 6, "", at))
        return found

    monkeypatch.setattr(asyncio.BaseEventLoop, "getaddrinfo", resolve)
    return known


@asynccontextmanager
async def listening(host: str) -> AsyncIterator[tuple[str, list[str]]]:
    """A server at another address of loopback: its URL, and the paths that it was asked for."""
    seen: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(request.raw_path)
        return web.Response(text="secret")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, host, 0).start()
    try:
        yield f"http://{host}:{runner.addresses[0][1]}/", seen
    finally:
        await runner.cleanup()


@asynccontextmanager
async def index(url: str, *allow_hosts: str, **options: object) -> AsyncIterator[Upstream]:
    upstream = Upstream("index", URL(url), UpstreamOptions(retries=0, allow_hosts=allow_hosts, **options))  # type: ignore[arg-type]
    try:
        yield upstream
    finally:
        await upstream.close()


async def get(upstream: Upstream, url: str) -> bytes:
    response = await upstream.get(UpstreamRequest(url=URL(url, encoded=True), kind="list"))
    assert response is not None
    return response.body


@pytest.mark.parametrize("text", PUBLIC)
def test_an_address_of_the_public_network_is_not_internal(text: str) -> None:
    assert not is_internal(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", INTERNAL)
def test_every_other_address_is_internal_in_whatever_form(text: str) -> None:
    assert is_internal(ipaddress.ip_address(text))


@pytest.mark.parametrize(
    "text", ["127.1", "0x7f000001", "2130706433", "0177.0.0.1", "127.0.0.1.", "localhost", "a.LOCALHOST."]
)
def test_a_spelling_of_an_address_is_that_address(text: str) -> None:
    assert literal(text) == ipaddress.ip_address("127.0.0.1")
    assert literal("index.example") is None


def test_hosts_addresses_and_networks_can_be_allowed() -> None:
    allowed = AllowedHosts(["Files.example", "*.corp.example", "10.1.0.0/16", "::1"])
    assert allowed.names("files.example.")
    assert allowed.names("a.b.corp.example")
    assert not allowed.names("corp.example")
    assert not allowed.names("myfiles.example")
    assert allowed.contains(ipaddress.ip_address("10.1.2.3"))
    assert allowed.contains(ipaddress.ip_address("::ffff:10.1.2.3"))
    assert not allowed.contains(ipaddress.ip_address("10.2.0.1"))


async def test_a_link_into_the_network_is_refused_and_not_asked_for(
    file_server: FileServer, names: dict[str, list[str]]
) -> None:
    names["0x7f000002"] = names["2130706434"] = ["127.0.0.2"]  # as resolvers take them
    async with listening("127.0.0.2") as (inside, seen), index(file_server.url) as upstream:
        with pytest.raises(ForbiddenAddress, match="allow_hosts"):
            await get(upstream, f"{inside}latest/meta-data")
        for spelling in ("0x7f000002", "2130706434", "[::ffff:127.0.0.2]"):
            with pytest.raises(UpstreamProtocolError):
                await get(upstream, inside.replace("127.0.0.2", spelling) + "latest/meta-data")
        assert seen == []


async def test_each_hop_of_a_redirect_is_checked(file_server: FileServer) -> None:
    async with listening("127.0.0.2") as (inside, seen), index(file_server.url) as upstream:
        file_server.put("/away", redirect(f"{inside}admin"))
        file_server.put("/first", redirect("/away"))
        with pytest.raises(ForbiddenAddress):
            await get(upstream, f"{file_server.url}first")
        with pytest.raises(ForbiddenAddress):
            async with upstream.fetch(URL(f"{file_server.url}first")):
                pass
        assert seen == []


@pytest.mark.parametrize("allowed", ["127.0.0.2", "127.0.0.0/8", "files.example", "*.example"])
async def test_what_the_operator_allows_is_asked_for(
    file_server: FileServer, names: dict[str, list[str]], allowed: str
) -> None:
    names["files.example"] = ["127.0.0.2"]
    async with listening("127.0.0.2") as (inside, seen), index(file_server.url, allowed) as upstream:
        url = inside if "127" in allowed else inside.replace("127.0.0.2", "files.example")
        assert await get(upstream, f"{url}it") == b"secret"
        assert seen == ["/it"]


async def test_an_index_inside_may_lead_to_its_own_address_under_any_name_and_port(
    file_server: FileServer, names: dict[str, list[str]]
) -> None:
    names["index.corp"] = names["files.corp"] = ["127.0.0.1"]
    names["other.corp"] = ["127.0.0.2"]
    file_server.put("/page", b"page")
    base = file_server.url.replace("127.0.0.1", "index.corp")
    async with index(base) as upstream:
        assert await get(upstream, f"http://files.corp:{file_server.other_port}/page") == b"page"
        assert await get(upstream, f"{file_server.other_url}page") == b"page"
        assert await get(upstream, f"{base}page") == b"page"
        with pytest.raises(ForbiddenAddress):
            await get(upstream, f"http://other.corp:{file_server.port}/page")


async def test_a_name_that_turns_to_an_inside_address_later_is_refused(
    file_server: FileServer, names: dict[str, list[str]]
) -> None:
    names["index.example"] = ["192.0.1.1"]
    base = file_server.url.replace("127.0.0.1", "index.example")
    outgoing = Outgoing(URL(base))
    assert await outgoing.addresses("index.example", 80) == ["192.0.1.1"]
    names["index.example"] = ["127.0.0.1"]
    with pytest.raises(ForbiddenAddress):
        await outgoing.addresses("index.example", 80)


async def test_only_checked_addresses_of_a_name_are_connected_to_and_it_is_resolved_once(
    file_server: FileServer, names: dict[str, list[str]]
) -> None:
    outgoing = Outgoing(URL("http://127.0.0.1/"), allow_hosts=["127.0.0.3"])
    names["mixed.example"] = ["127.0.0.2", "127.0.0.3", "1.1.1.1", "::ffff:127.0.0.2"]
    assert await outgoing.addresses("mixed.example", 80) == ["127.0.0.3", "1.1.1.1"]
    file_server.put("/page", b"page")
    names["files.example"] = ["127.0.0.1"]
    async with index("http://127.0.0.9/", "files.example") as upstream:
        assert await get(upstream, f"http://files.example:{file_server.port}/page") == b"page"
    assert len(names["files.example?"]) == 1


async def test_a_metadata_service_is_never_where_an_index_is(names: dict[str, list[str]]) -> None:
    names["index.example"] = ["169.254.169.254"]
    with pytest.raises(ForbiddenAddress):
        await Outgoing(URL("http://index.example/")).addresses("index.example", 80)
    assert await Outgoing(URL("http://169.254.169.254/")).addresses("169.254.169.254", 80) == ["169.254.169.254"]


async def test_over_https_an_index_is_where_its_certificate_is(names: dict[str, list[str]], tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("index.corp").configure_cert(context)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        pass

    names["index.corp"] = names["files.corp"] = names["evil.example"] = ["127.0.0.1"]
    async with tcp_server(answer, context) as port:
        at_home = Outgoing(URL(f"https://index.corp:{port}/"), ca_file=tmp_path / "ca.pem")
        assert await at_home.addresses("files.corp", 80) == ["127.0.0.1"]
        elsewhere = Outgoing(URL(f"https://evil.example:{port}/"), ca_file=tmp_path / "ca.pem")
        with pytest.raises(ForbiddenAddress):
            await elsewhere.addresses("files.corp", 80)
        with pytest.raises(ForbiddenAddress):
            await elsewhere.addresses("evil.example", 80)


async def test_a_socket_to_an_address_that_nobody_checked_is_refused() -> None:
    outgoing = Outgoing(URL("http://index.example/"))
    with pytest.raises(ForbiddenAddress):
        outgoing.open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 80)))
    outgoing.open_socket((socket.AF_INET, socket.SOCK_STREAM, 6, "", ("1.1.1.1", 80))).close()


# Certificates of the environment


async def test_certificates_of_the_environment_are_trusted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")

    async def handle(request: web.BaseRequest) -> web.Response:
        return web.Response(text="safe")

    async with secure(authority, handle) as url:
        async with index(url) as upstream:
            with pytest.raises(UpstreamUnavailable, match="ca_file"):
                await get(upstream, url)
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(tmp_path / "ca.pem"))
        async with index(url) as upstream:
            assert await get(upstream, url) == b"safe"
    environment = {"SSL_CERT_FILE": str(tmp_path / "ca.pem")}
    assert Outgoing(URL(url), environment=environment)


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"])
def test_certificates_that_cannot_be_read_are_named(variable: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=variable):
        Outgoing(URL("https://index.example/"), environment={variable: str(tmp_path / "none.pem")})


def test_certificates_are_loaded_once_for_all_that_trust_them_until_they_change(tmp_path: Path) -> None:
    file, other = tmp_path / "ca.pem", tmp_path / "other.pem"
    for path in (file, other):
        trustme.CA().cert_pem.write_to_path(path)
    first = Certificates("index.example", file, {}).context()
    assert Certificates("files.example", file, {"REQUESTS_CA_BUNDLE": "unused"}).context() is first
    assert Certificates("index.example", None, {"REQUESTS_CA_BUNDLE": str(file)}).context() is first
    assert Certificates("index.example", other, {}).context() is not first
    file.write_bytes(file.read_bytes() + other.read_bytes())
    assert len(Certificates("index.example", file, {}).context().get_ca_certs()) == 2


async def test_certificates_that_plain_http_does_not_need_fail_the_request_that_does(tmp_path: Path) -> None:
    bundle = tmp_path / "ca.pem"
    bundle.write_text("nothing")
    environment = {"REQUESTS_CA_BUNDLE": str(bundle)}
    outgoing = Outgoing(URL("http://127.0.0.1/"), environment=environment)
    with pytest.raises(ConnectFailure, match="REQUESTS_CA_BUNDLE"):
        await outgoing.open_connection(asyncio.Protocol, "127.0.0.1", 443, tls=True)
    with pytest.raises(ConnectFailure, match="REQUESTS_CA_BUNDLE"):
        await outgoing.open_session({}, True, UpstreamOptions(), aiohttp.ClientResponse)
    with pytest.raises(ConfigError, match="REQUESTS_CA_BUNDLE"):
        Outgoing(URL("https://127.0.0.1/"), environment=environment)


# Links as they are written

SPELLINGS = [
    "/a%7Euser/it.whl?Expires=1",
    "/it%27s/it.whl?x=%2fa%3d&y=",
    "/a%20%281%29/it.whl?d=2026%3A00%40x",
    "/1%211.0/2.0%2Bcpu/it.whl?a=b%2Cc%3Bd",
    "/it.whl?response-content-disposition=attachment%3B%20filename%3D%22x.whl%22&sig=ab%2Bcd%2F%3D",
    "/it.whl?a[]=b|c&d={e}^`f",
    "/a/../b/./it.whl",
    "//double//slash",
]


@pytest.mark.parametrize("target", SPELLINGS)
async def test_links_and_redirects_are_asked_for_byte_for_byte(file_server: FileServer, target: str) -> None:
    path = target.partition("?")[0]
    file_server.put(path, b"content")
    file_server.put("/away", redirect(target if not target.startswith("//") else f"{file_server.url[:-1]}{target}"))
    async with index(file_server.url) as upstream:
        assert await get(upstream, file_server.url[:-1] + target) == b"content"
        if "/../" not in target:  # a relative link is resolved (RFC 3986, section 5.2.4)
            assert await get(upstream, f"{file_server.url}away") == b"content"
    asked = [f"{one.path}?{one.query}" if one.query else one.path for one in file_server.asked("GET", "*")]
    assert {one for one in asked if one != "/away"} == {target}


async def test_what_may_not_stand_in_a_request_is_encoded_and_nothing_else(file_server: FileServer) -> None:
    file_server.put("/a%7E%C3%A9%20b", b"content")
    file_server.put("/away", redirect("/a%7E\u00e9 b"))
    async with index(file_server.url) as upstream:
        assert await get(upstream, f"{file_server.url}away") == b"content"
        for location in ("http://127.0.0.1\n.example/", "http://h:99999/", "http://[::1/"):
            with pytest.raises(UpstreamProtocolError):
                parse_url(location)


@pytest.fixture
async def file_server() -> AsyncIterator[FileServer]:
    async with FileServer() as running:
        yield running


@pytest.fixture
async def session() -> AsyncIterator[Callable[[Outgoing], aiohttp.ClientSession]]:
    opened: list[aiohttp.ClientSession] = []

    def open_session(outgoing: Outgoing) -> aiohttp.ClientSession:
        opened.append(aiohttp.ClientSession(connector=outgoing.connector()))
        return opened[-1]

    yield open_session
    for one in opened:
        await one.close()


async def test_any_session_over_the_connector_keeps_the_rules(
    session: Callable[[Outgoing], aiohttp.ClientSession], names: dict[str, list[str]]
) -> None:
    names["files.example"] = ["127.0.0.2"]
    async with listening("127.0.0.2") as (inside, seen):
        client = session(Outgoing(URL("http://1.1.1.1/")))
        for url in (inside, inside.replace("127.0.0.2", "files.example")):
            with pytest.raises(ForbiddenAddress):
                await client.get(url)
        assert seen == []


async def test_the_client_of_sync_workers_keeps_the_rules_at_each_hop(file_server: FileServer) -> None:
    async with listening("127.0.0.2") as (inside, seen):
        file_server.put("/away", redirect(f"{inside}admin"))
        worker, allowed = (
            SmallFileClient(
                WorkerUpstream(
                    url=file_server.url, authorization=None, user_agent="mirror", ca_file=None, allow_hosts=hosts,
                    connect_timeout=10, read_timeout=10,
                )
            )
            for hosts in ((), ("127.0.0.0/8",))
        )  # fmt: skip
        for url in (f"{inside}admin", f"{file_server.url}away"):
            with pytest.raises(ForbiddenAddress):
                await worker.get(URL(url), 100)
        assert seen == []
        assert (await allowed.get(URL(f"{file_server.url}away"), 100)).body == b"secret"
        for client in (worker, allowed):
            client.close()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_a_connection_is_not_used_again_after_a_pause(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was taken out of service may go on to answer where it was reached before."""
    monkeypatch.setattr("mirror.upstream.outgoing.IDLE_SECONDS", 0.05)
    opened = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal opened
        opened += 1
        while await reader.readline():
            if (await reader.readuntil(b"\r\n\r\n")) is not None:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with tcp_server(serve) as port:
        url = URL(f"http://{host}:{port}/")
        upstream = Upstream("index", url)
        for pause in (0.0, 0.2, 0.0):
            await upstream.get(UpstreamRequest(url=url, limit=100))
            await asyncio.sleep(pause)
        assert opened == 2
        await upstream.close()
