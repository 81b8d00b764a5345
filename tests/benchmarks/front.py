"""The front: behind a proxy, with credentials, of many clients, on new connections, and how long the slowest wait.

The mirror and what stands beside it run on one core, which they have for themselves; the proxy in front and the client
share the other one.
"""

import base64
import hashlib
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
import trustme

from mirror.auth import digest, new_token
from mirror.auth.passwords import hash_password
from tests.benchmarks import content
from tests.benchmarks.load import WRK, Headers, Load, load
from tests.benchmarks.nginx import Nginx, cache_of, free_port, index_of, nginx
from tests.benchmarks.site import JSON, PIP, Site, asked, bind, client_core, in_turn, mirror_of, processes, processor
from tests.benchmarks.table import Row
from tests.serving import Spawned

GUIDE = Path(__file__).parents[2] / "systemd" / "README.md"
CLIENTS = 32
AGENTS = 1000
SECONDS = 1.0
"""How long each side is asked at a time."""
SMALL = f"/simple/{content.SMALL}/"
TEN_KB = f"/packages/{content.TEN_KB}/{content.TEN_KB.replace('-', '_')}-1.0-py3-none-any.whl"
ASKED = {"Accept": JSON, **PIP}
PASSWORD = "correct horse battery staple"
TRUSTED: Mapping[str, Any] = {"trusted": ["127.0.0.1"]}


def block(server: str) -> tuple[str, str]:
    """The guide's block for nginx before a server, without TLS: what stands in `http` and in `server`."""
    found = re.search(r"```nginx\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert found, "the guide has a block for nginx"
    upstream, _, rest = found[1].replace("127.0.0.1:8484", urlsplit(server).netloc).partition("server {\n    listen")
    location = rest[: rest.rindex("}")]
    lines = [line for line in location.splitlines()[1:] if "ssl_certificate" not in line and "server_name" not in line]
    return upstream, "\n".join(lines)


async def row(site: Site, what: str, target: float, ours: "Loading", other: "Loading") -> Row:
    """Two ways to be asked, in turn."""
    with client_core():
        mine, others, figure = await in_turn(site.loads, ours, other, lambda one: one.requests)
    return Row(what=what, ours=f"{mine:.0f}/s", beside=f"{others:.0f}/s", figure=figure, target=target)


Loading = Callable[[], Awaitable[Load]]


def loading(url: str, headers: Headers, script: str = "") -> Loading:
    """A second of as many requests as are answered."""
    return lambda: load(url, CLIENTS, SECONDS, headers, script=script)


async def proxied(site: Site) -> AsyncIterator[Row]:
    """Behind nginx as the guide has it; beside it, the same nginx before an nginx that is a cache."""
    http, location = cache_of(site.upstream.url, place := site.place("cache"))
    async with (
        mirror_of(site.upstream, site.place("mirror"), proxies=TRUSTED) as mirror,
        nginx(place, location, http) as cache,
    ):
        fronts = []
        for behind in (mirror.url, cache.url):
            upstream, location = block(behind)
            fronts.append(nginx(site.place("front"), location, upstream))
        async with fronts[0] as ours, fronts[1] as other:
            for server, number in ((mirror, 1), (cache, 1), (ours, 0), (other, 0)):
                bind(server, number)
            await asked(mirror, SMALL, ASKED)
            await asked(mirror, TEN_KB, {})
            for what, path, headers, target in (
                ("small page behind nginx, 32 clients", SMALL, ASKED, 0.6),
                ("10 KB file behind nginx, 32 clients", TEN_KB, {}, 0.5),
            ):
                yield await row(
                    site, what, target, loading(ours.url + path, headers), loading(other.url + path, headers)
                )


async def credentials(site: Site) -> AsyncIterator[Row]:
    """With a token, and with a password; beside it nginx, which compares an unsalted SHA-1."""
    secret = new_token()
    rights = {"rights": ["read"], "repositories": ["*"], "projects": ["*"]}
    auth = {
        "rules": [{"read": ["authenticated"]}],
        "tokens": {"ci": {"sha256": digest(secret), **rights}},
        "users": {"rita": {"password_hash": hash_password(PASSWORD)}},
    }
    async with mirror_of(site.upstream, site.place("mirror"), auth=auth) as mirror:
        for what, user, password in (("a token", "__token__", secret), ("a password", "rita", PASSWORD)):
            headers = {**ASKED, "Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}
            place = site.place("passwords")
            place.write_text(f"{user}:{{SHA}}{base64.b64encode(hashlib.sha1(password.encode()).digest()).decode()}\n")
            async with beside(site, mirror, headers, f'auth_basic "x"; auth_basic_user_file {place};') as other:
                yield await row(
                    site, f"small page with {what}, 32 clients", 0.4,
                    loading(mirror.url.rstrip("/") + SMALL, headers), loading(other.url, headers),
                )  # fmt: skip


@asynccontextmanager
async def beside(
    site: Site, mirror: Spawned, headers: Headers, guard: str = "", listen: str = ""
) -> AsyncIterator[Nginx]:
    """An nginx that gives at its URL the small page as the mirror gives it now, both on the servers' core.

    `guard` is what stands in the page's location besides, `listen` in the server.
    """
    reply = await asked(mirror, SMALL, headers)
    place = site.place("captured")
    place.mkdir()
    (place / "answer").write_bytes(reply.body)
    encoding = reply.headers.get("Content-Encoding", "")
    location = f"""
        {listen}
        location = /answer {{
            root {place};
            default_type "{reply.headers["Content-Type"]}";
            {f'add_header Content-Encoding "{encoding}";' if encoding else ""}
            {guard}
        }}
        {index_of(site.tree.root)}
    """
    async with nginx(site.place("nginx"), location) as server:
        bind(server, 1)
        bind(mirror, 1)
        yield msgspec.structs.replace(server, url=f"{server.url}/answer")


async def agents(site: Site) -> AsyncIterator[Row]:
    """As a thousand clients, each with a User-Agent of its own."""
    script = site.directory / "agents.lua"
    script.write_text(f"""
        local requests, n = {{}}, 0
        init = function(args)
            for i = 1, {AGENTS} do
                wrk.headers["User-Agent"] = "pip/24." .. i .. " {{\\"ci\\":true,\\"cpu\\":\\"x86_64\\"}}"
                requests[i] = wrk.format()
            end
        end
        request = function()
            n = n % {AGENTS} + 1
            return requests[n]
        end
    """)
    async with beside(site, site.mirror, ASKED) as other:
        yield await row(
            site, f"small page, {AGENTS:,} User-Agents, 32 clients", 0.35,
            loading(site.url(SMALL), ASKED, str(script)), loading(other.url, ASKED, str(script)),
        )  # fmt: skip


async def connecting(site: Site) -> AsyncIterator[Row]:
    """A new connection for each request, and for each a handshake where it is TLS.

    The client works as long on a handshake as the server, so that it would be measured too: with TLS it is the
    processor time of the server that counts. Both speak TLS 1.3, as browsers and package clients do: an nginx before
    1.23.4 does so only when it is told, and otherwise resumes the sessions of wrk, whose handshakes then cost 130 µs.

    The bound of 0.8 is at the edge of what Python reaches on uvloop. On 2026-11-27, on 2 cores that did nothing else
    (OpenSSL 3.0.19, ECDSA P-256), two runs gave 0.76 and 0.81 x (nginx 355 and 324 µs, the mirror 455 and 390 µs). By a
    profile 240 µs of it are the handshake in OpenSSL (196 after the client's first message), the same for both; 80 are
    the kernel's, 75 Python's and 25 uvloop's. Since then `mirror.service.tls` spares the loop what OpenSSL is asked in
    vain, and the wait for the client's close_notify: over 14 pairs on a busy machine, where all figures are lower, 0.65
    instead of 0.63 x. Without session tickets it would be 20 µs less; where the certificate is of RSA, a client that
    resumes its session spares the server many times that.
    """
    if WRK is None:
        return  # our own client keeps its connections, and knows no TLS
    closing = {**ASKED, "Connection": "close"}
    async with beside(site, site.mirror, ASKED) as other:
        yield await row(
            site, "new connections, http, 32 clients", 0.5,
            loading(site.url(SMALL), closing), loading(other.url, closing),
        )  # fmt: skip
    pair = site.place("certificate")
    trustme.CA().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(str(pair))
    port = free_port()
    listen = f"""
        listen 127.0.0.1:{port} ssl;
        ssl_protocols TLSv1.2 TLSv1.3;
        ssl_certificate {pair};
        ssl_certificate_key {pair};
    """
    async with (
        mirror_of(site.upstream, site.place("mirror"), tls={"certificate": str(pair)}) as mirror,
        beside(site, site.mirror, ASKED, listen=listen) as other,
    ):
        bind(mirror, 1)
        yield await row(
            site, "new connections, https, in a second of the server's core", 0.8,
            working(mirror, loading(mirror.url.rstrip("/") + SMALL, closing)),
            working(other, loading(f"https://127.0.0.1:{port}/answer", closing)),
        )  # fmt: skip


def working(server: Spawned | Nginx, loading: Loading) -> Loading:
    """The same load, by the seconds that the server with its worker has worked instead of those that went by."""

    async def measured() -> Load:
        before = sum(map(processor, processes(server)))
        began = time.perf_counter()
        one = await loading()
        passed, worked = time.perf_counter() - began, sum(map(processor, processes(server))) - before
        return msgspec.structs.replace(one, requests=one.requests * passed / worked)

    return measured


async def saturated(site: Site) -> AsyncIterator[Row]:
    """The slowest of a hundred responses, while 32 clients ask as fast as they are answered.

    It needs a machine that does nothing else: where others want both cores, nginx needs 9 to 14 ms as well. In
    processor time of the server, from one request of a connection to the next, it was 1.2 to 1.5 ms on 2026-11-27;
    before the access log was written in small parts, 2.3 ms. Two runs on a machine that did nothing else gave 1.23 and
    1.99 ms, where nginx had 1.66 and 3.09 ms.
    """
    if WRK is None:
        return  # our own client does not measure it
    async with beside(site, site.mirror, ASKED) as other:
        with client_core():
            mine, others, _ = await in_turn(
                site.loads, loading(site.url(SMALL), ASKED), loading(other.url, ASKED), lambda one: one.p99
            )
    yield Row(
        what="small page at saturation, 32 clients: p99",
        ours=f"{mine:.2f} ms", beside=f"{others:.2f} ms", figure=mine, unit="ms", target=1.2, better="less",
    )  # fmt: skip


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {
    "proxied": proxied,
    "credentials": credentials,
    "agents": agents,
    "connecting": connecting,
    "saturated": saturated,
}
