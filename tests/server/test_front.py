"""Who may reach the mirror under which name, and what pages of other sites may cause."""

import asyncio
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from mirror.errors import Forbidden, Invalid, Misdirected
from mirror.server.hosts import HostNames, host_of, is_same_site
from tests.builders import wheel
from tests.serving import repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form, make_token

EVIL = "http://evil.example"


# The decision


@pytest.mark.parametrize(
    ("header", "host"),
    [("localhost", "localhost"), ("LOCALHOST.:8484", "localhost"), ("[::1]:80", "::1"), ("a-b.example", "a-b.example")],
)
def test_the_host_of_a_header_has_no_port(header: str, host: str) -> None:
    assert host_of(header) == host


@pytest.mark.parametrize(
    "header",
    [
        None,
        *(
            "",
            "a b",
            "a..b",
            "..",
            ".",
            "localhost:0",
            "localhost:99999",
            "[::1",
            "[::::::::]",
            "[1.2.3.4]",
            "a:b",
            "a/b",
        ),
    ],
)
def test_a_host_that_no_one_can_have_is_invalid(header: str | None) -> None:
    with pytest.raises(Invalid):
        host_of(header)


@pytest.mark.parametrize("header", ["localhost:\u0663", "x" * 64, "\u2603", "1.2.3.4:1:1", "[fe80::1%25eth0]", "a\x00"])
def test_a_host_of_odd_characters_is_invalid(header: str) -> None:
    with pytest.raises(Invalid):
        host_of(header)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "[::1]", "sub.localhost", "localhost:1"])
def test_loopback_answers_to_its_names(host: str) -> None:
    names = HostNames([], ["127.0.0.1"])
    assert names.guards("127.0.0.1")
    names.check(host, True)


@pytest.mark.parametrize("host", ["evil.example", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example"])
def test_loopback_answers_to_no_other_name(host: str) -> None:
    with pytest.raises(Misdirected, match="allowed_hosts"):
        HostNames([], ["127.0.0.1"]).check(host, True)


def test_other_addresses_answer_to_every_name_unless_some_are_set() -> None:
    HostNames([], ["0.0.0.0"]).check("any.example", False)
    some = HostNames(["mirror.example", "*.corp.example"], ["0.0.0.0"])
    some.check("MIRROR.example:8484", False)
    some.check("a.corp.example", False)
    some.check("localhost", False)
    with pytest.raises(Misdirected):
        some.check("any.example", False)


def test_what_listens_everywhere_is_no_address_of_loopback() -> None:
    assert not HostNames([], ["0.0.0.0"]).guards("127.0.0.1")
    assert not HostNames([], ["::"]).guards("::1")
    assert not HostNames([], ["127.0.0.1"]).guards("10.0.0.1")


def test_a_name_that_it_listens_at_is_its_own() -> None:
    HostNames([], ["build.example"]).check("build.example", True)


@pytest.mark.parametrize(
    ("origin", "secure", "same"),
    [
        ("http://m.example:8484", False, True),
        ("http://M.EXAMPLE:8484", False, True),
        ("null", False, False),
        ("http://m.example", False, False),
        ("http://m.example:8484.evil.example", False, False),
        ("http://m.example:8484", True, False),
        ("https://m.example:8484", True, True),
        ("http://m.exampl]e", False, False),
        ("http://[[m]]", False, False),
        ("http://a[b]c", False, False),
    ],
)
def test_a_page_is_of_the_same_site_by_host_and_port(origin: str, secure: bool, same: bool) -> None:
    assert is_same_site(origin, "m.example:8484", secure) == same


def test_only_pages_of_this_machine_read_a_mirror_on_loopback() -> None:
    names = HostNames([], ["127.0.0.1"])
    names.check_origin("http://localhost:8000")
    for origin in (EVIL, "null", ""):
        with pytest.raises(Forbidden):
            names.check_origin(origin)


# On the wire


async def test_a_page_that_rebinds_its_name_reads_nothing(tmp_path: Path, simulator: Simulator) -> None:
    simulator.publish(wheel("six", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        assert (await mirror.get("simple/six/")).status == 200
        for path in (
            "simple/",
            "simple/six/",
            "packages/six/six-1.0-py3-none-any.whl",
            "-/feed",
            "-/holdings",
            "health",
        ):
            assert (await mirror.get(path, Host="rebound.evil.example")).status == 421, path
            assert (await mirror.get(path, Origin=EVIL)).status == 403, path


async def test_a_response_under_an_allowed_name_is_not_repeated_under_another(
    tmp_path: Path, simulator: Simulator
) -> None:
    own = "mirror.example"
    simulator.publish(wheel("six", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator), allowed_hosts=[own]) as mirror:
        url = URL(mirror.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        for host, status in (
            ("mirror.example", 200),
            ("mirror.example", 200),
            ("evil.example", 421),
            ("localhost", 200),
        ):
            writer.write(f"GET /simple/six/ HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = await reader.readuntil(b"\r\n\r\n")
            assert int(head.split()[1]) == status
            (length,) = [int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
            await reader.readexactly(length)
        writer.close()


async def test_of_a_trusted_proxy_the_name_counts_that_it_forwards(tmp_path: Path, simulator: Simulator) -> None:
    settings = {"allowed_hosts": ["mirror.example"], "proxies": {"trusted": ["127.0.0.1"]}}
    async with serving(tmp_path / "data", repositories(simulator), **settings) as mirror:
        asked = [
            (await mirror.get("health", Host=host, X_Forwarded_Host=forwarded)).status
            for host, forwarded in (("backend", "mirror.example"), ("mirror.example", "evil.example"))
        ]
        assert asked == [200, 421]
        assert (await mirror.get("health", Host="backend", X_Forwarded_For="10.0.0.1")).status == 421


async def test_a_page_cannot_name_a_proxy_of_loopback_itself(tmp_path: Path, simulator: Simulator) -> None:
    async with serving(tmp_path / "data", repositories(simulator), proxies={"trusted": ["127.0.0.1"]}) as mirror:
        assert (await mirror.get("health", Host="evil.example", X_Forwarded_Host="localhost")).status == 421
        assert (await mirror.get("health", X_Forwarded_Host="localhost")).status == 200


FOREIGN: tuple[dict[str, str], ...] = (
    {"Origin": EVIL},
    {"Origin": "null"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Origin": "http://localhost:1", "Sec_Fetch_Site": "same-origin"},
)


@pytest.mark.parametrize("foreign", FOREIGN)
async def test_a_page_of_another_site_changes_nothing(
    foreign: dict[str, str], tmp_path: Path, simulator: Simulator
) -> None:
    async with serving(tmp_path / "data", repositories(simulator), auth={"rules": [{"admin": ["everyone"]}]}) as mirror:
        login = {"Authorization": basic(await make_token(mirror))}
        built = wheel("acme", "6.6.6")

        def payload() -> Any:
            return form(fields_of(built).items(), built.filename, built.content)()

        assert (await mirror.ask("POST", "legacy/", payload(), **login, **foreign)).status == 403
        for method, path in (
            ("POST", "-/uploads/pypi/x-1.0-py3-none-any.whl/yank"),
            ("DELETE", "-/uploads/pypi/x-1.0-py3-none-any.whl"),
            ("POST", "api/v1/api_key"),
            ("POST", "api/v1/gems"),
            ("DELETE", "api/v1/gems/yank"),
            ("PUT", "api/v1/gems/unyank"),
            ("POST", "nowhere"),
        ):
            assert (await mirror.ask(method, path, b"", **login, **foreign)).status == 403, path
        assert (await mirror.get("simple/acme/")).status == 404
        assert (await mirror.ask("POST", "legacy/", payload(), **login)).status == 200  # as a package client does
        assert (await mirror.get("simple/acme/")).status == 200


async def test_only_a_client_of_http_1_0_may_leave_the_host_out(simulator: Simulator, tmp_path: Path) -> None:
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        url = URL(mirror.url)
        found = []
        for version in ("1.0", "1.1"):
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(f"GET /health HTTP/{version}\r\n\r\n".encode())
            found.append((await reader.readline()).split()[1])
            writer.close()
        assert found == [b"200", b"400"]
