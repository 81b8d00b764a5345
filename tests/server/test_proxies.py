"""Reverse proxies: their headers count from trusted addresses, and from no others."""

import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from mirror.errors import Invalid
from mirror.server.proxies import ForwardedRequest, TrustedProxies
from tests.builders import gem, wheel
from tests.nginx import running_nginx
from tests.serving import Spawned, repositories, serving, spawned
from tests.simulator import Simulator

ROOT = Path(__file__).parents[2]
PROXIES = TrustedProxies(["10.0.0.0/8", "127.0.0.1", "2001:db8::/32"])


def forwarded(peer: str, *headers: tuple[str, str], proxies: TrustedProxies = PROXIES) -> ForwardedRequest | None:
    return proxies.forwarded(peer, CIMultiDictProxy(CIMultiDict(headers)))


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ([("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
        ([("X-Forwarded-For", "6.6.6.6, 203.0.113.7")], "203.0.113.7"),  # the first was written by the client
        ([("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.1.1.1")], "203.0.113.7"),  # two proxies of ours
        ([("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
        ([("X-Forwarded-For", "10.1.1.1")], "10.1.1.1"),
        ([("X-Forwarded-For", "[2001:db9::1]:4711")], "2001:db9::1"),
        ([("X-Forwarded-For", "203.0.113.7:80")], "203.0.113.7"),
        ([("X-Forwarded-For", "nonsense\t")], ""),
        ([("Forwarded", "for=203.0.113.7;proto=https")], "203.0.113.7"),
        ([("Forwarded", 'for=6.6.6.6, for="[2001:db9::1]:4711";by=10.1.1.1')], "2001:db9::1"),
        ([("Forwarded", 'for="_hidden, for=6.6.6.6"')], ""),
        ([("Forwarded", "for=6.6.6.6"), ("X-Forwarded-For", "203.0.113.7")], "203.0.113.7"),
    ],
)
def test_the_last_address_that_is_no_proxy_of_ours_is_the_client(headers: list[tuple[str, str]], client: str) -> None:
    found = forwarded("10.9.9.9", *headers)
    assert found is not None
    assert found.client == client


def test_scheme_host_and_prefix_are_those_of_the_hop_of_the_client() -> None:
    found = forwarded(
        "127.0.0.1",
        ("X-Forwarded-For", "6.6.6.6, 203.0.113.7, 10.1.1.1"),
        ("X-Forwarded-Proto", "ftp, https, http"),
        ("X-Forwarded-Host", "evil.example, mirror.example, inner.example"),
        ("X-Forwarded-Prefix", "/python/"),
    )
    assert found == ForwardedRequest("203.0.113.7", "https", "mirror.example", "/python")
    found = forwarded(
        "127.0.0.1", ("Forwarded", 'for=6.6.6.6;host=evil.example, for=1.2.3.4;proto=HTTPS;host="a.example:8443"')
    )
    assert found == ForwardedRequest("1.2.3.4", "https", "a.example:8443")


@pytest.mark.parametrize("peer", ["203.0.113.7", "", "11.0.0.1", "::1", "nonsense"])
def test_no_other_address_is_trusted(peer: str) -> None:
    assert forwarded(peer, ("X-Forwarded-For", "1.2.3.4"), ("Forwarded", "for=1.2.3.4")) is None


@pytest.mark.parametrize("peer", ["10.1.2.3", "127.0.0.1", "2001:db8::5", "::ffff:10.1.2.3"])
def test_networks_of_both_kinds_can_be_trusted(peer: str) -> None:
    assert PROXIES.trusts(peer)


def test_a_unix_socket_can_be_trusted() -> None:
    assert forwarded("", ("X-Forwarded-For", "1.2.3.4"), proxies=TrustedProxies(["unix"])) == ForwardedRequest(
        "1.2.3.4"
    )


def test_from_a_proxy_that_sets_forwarded_no_other_header_counts() -> None:
    proxies = TrustedProxies(["127.0.0.1"], standard=True)
    headers = [("Forwarded", "for=203.0.113.7"), ("X-Forwarded-For", "6.6.6.6"), ("X-Forwarded-Host", "evil.example")]
    assert forwarded("127.0.0.1", *headers, proxies=proxies) == ForwardedRequest("203.0.113.7")
    assert forwarded("127.0.0.1", *headers[1:], proxies=proxies) is None


@pytest.mark.parametrize(
    "header",
    [
        ("X-Forwarded-Proto", "javascript"),
        ("X-Forwarded-Host", "evil.example/path"),
        ("X-Forwarded-Host", 'a"onclick="b'),
        ("X-Forwarded-Prefix", "//evil.example"),
        ("X-Forwarded-Prefix", "/a/../../b"),
        ("X-Forwarded-Prefix", "/<script>"),
        ("Forwarded", 'host="a b"'),
    ],
)
def test_what_would_break_a_link_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(Invalid):
        forwarded("127.0.0.1", header)


def test_hostile_headers_are_read_in_bounded_time() -> None:
    for text in ('"' * 15_000, "\\" * 15_000, ",;" * 7_000, 'for="' + "\\a" * 7_000, "=" * 15_000):
        forwarded("127.0.0.1", ("Forwarded", text))
        forwarded("127.0.0.1", ("X-Forwarded-For", text))


FORWARDED = {
    "X_Forwarded_For": "203.0.113.7",
    "X_Forwarded_Proto": "https",
    "X_Forwarded_Host": "mirror.example",
    "X_Forwarded_Prefix": "/python",
}


async def links(mirror: Any, headers: Mapping[str, str]) -> list[str]:
    """The beginning of every absolute link that responses contain."""
    six = json.loads((await mirror.get("pypi/six/json", **headers)).body)
    rack = json.loads((await mirror.get("api/v1/gems/rack.json", **headers)).body)
    return [six["urls"][0]["url"], rack["gem_uri"]]


async def test_links_and_clients_are_those_of_the_proxy_and_forged_headers_mean_nothing(
    tmp_path: Path, simulator: Simulator
) -> None:
    simulator.publish(wheel("six", "1.16.0"))
    simulator.push(gem("rack", "3.0.0"))
    settings: dict[str, Any] = {"proxies": {"trusted": ["127.0.0.1"]}, "allowed_hosts": ["mirror.example"]}
    async with serving(tmp_path / "trusting", repositories(simulator), **settings) as mirror:
        for _ in range(3):  # what is kept for the one must not be sent to the other
            for link in await links(mirror, FORWARDED):
                assert link.startswith("https://mirror.example/python/")
            for link in await links(mirror, {}):
                assert link.startswith(mirror.url)
        moved = await mirror.get("simple/Six", **FORWARDED)
        assert (moved.status, moved.headers["Location"]) == (301, "/python/simple/six/")
        moved = await mirror.get("simple//six/", **FORWARDED)
        assert (moved.status, moved.headers["Location"]) == (301, "/python/simple/six/")
        assert (await mirror.get("health", X_Forwarded_Host="a b")).status == 400
    async with serving(tmp_path / "wary", repositories(simulator)) as mirror:
        for _ in range(3):
            for link in await links(mirror, FORWARDED):
                assert link.startswith(mirror.url)
        assert (await mirror.get("health", X_Forwarded_Host="a b")).status == 200


@pytest.mark.parametrize("trusted", [True, False])
async def test_the_access_log_and_refusals_name_the_client(tmp_path: Path, simulator: Simulator, trusted: bool) -> None:
    simulator.publish(wheel("six", "1.16.0"))
    proxies = {"trusted": ["127.0.0.1"] if trusted else []}
    async with spawned(tmp_path / "data", repositories(simulator), proxies=proxies, log={"format": "json"}) as mirror:
        for _ in range(3):
            await mirror.get("simple/six/", X_Forwarded_For="203.0.113.7", X_Request_ID="given-1")
        basic = aiohttp.encode_basic_auth("alice", "wrong")
        await mirror.get("-/account", X_Forwarded_For="203.0.113.7", Authorization=basic)
        await mirror.get("health")
        await mirror.head("health")
        await mirror.end()
    said = [json.loads(line) for line in (tmp_path / "data.log").read_text().splitlines() if line.startswith("{")]
    assert [line["bytes"] for line in said if line.get("path") == "/health"] == [3, 0]
    lines = [line for line in said if line.get("path") == "/simple/six/"]
    assert len(lines) == 3
    assert {line["client"] for line in lines} == {"203.0.113.7" if trusted else "127.0.0.1"}
    assert {line["id"] for line in lines} == {"given-1"} if trusted else len({line["id"] for line in lines}) == 3


def snippet() -> str:
    """The nginx configuration that the guide in systemd shows for a mirror behind nginx."""
    found = re.findall(r"```nginx\n(.*?)```", (ROOT / "systemd" / "README.md").read_text(), re.DOTALL)
    (proxying,) = [block for block in found if "proxy_pass" in block]
    return str(proxying)


async def test_the_nginx_configuration_in_the_guide_works(tmp_path: Path, simulator: Simulator) -> None:
    simulator.publish(wheel("six", "1.16.0", size=2_000_000))
    simulator.push(gem("rack", "3.0.0"))
    async with spawned(
        tmp_path / "data", repositories(simulator), proxies={"trusted": ["127.0.0.1"]}, log={"format": "json"},
        allowed_hosts=["mirror.example"],
    ) as mirror:  # fmt: skip

        def site(address: str) -> str:
            text = snippet().replace("127.0.0.1:8484", URL(mirror.url).authority)
            return re.sub(r"\n *ssl_[^;]*;", "", re.sub(r"listen [^;]*;", f"listen {address};", text))

        async with running_nginx(tmp_path / "nginx", site) as front:
            await check_through(front.url.rstrip("/"), mirror)
        await mirror.end()
    assert (tmp_path / "data.log").read_text().count('"client":"127.0.0.1"') > 0


async def check_through(base: str, mirror: Spawned) -> None:
    async with aiohttp.ClientSession(headers={"Host": "mirror.example"}) as session:
        async with session.get(f"{base}/simple/six/") as page:
            assert page.status == 200
            (link,) = re.findall(r'href="([^"#]+)', await page.text())
        url = URL(f"{base}/simple/six/").join(URL(link))
        async with session.get(url) as file:
            assert file.status == 200
            assert len(await file.read()) > 2_000_000
        async with session.get(url, headers={"Range": "bytes=-100"}) as part:
            assert part.status == 206
        async with session.get(f"{base}/pypi/six/json", headers={"Forwarded": "host=evil.example"}) as response:
            assert (await response.json())["urls"][0]["url"].startswith("http://mirror.example/packages/")
        async with session.post(f"{base}/legacy/", data=io.BytesIO(b"x" * 3_000_000)) as response:
            assert response.status in (400, 401)  # ours, not the proxy's 413
    del mirror
