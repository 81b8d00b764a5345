"""The fuzzer of replays: the same bytes to a mirror that replays and to one that does not, which must answer alike."""

import asyncio
import hashlib
import re
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar
from unittest.mock import patch

from yarl import URL

from mirror.auth import digest
from mirror.catalog import Session
from mirror.index.cache import Worth
from mirror.server.replay import Replay, ReplayCache
from tests.builders import gem, wheel
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.fuzz.requests import AT_ONCE, SILENCE_SECONDS, WORDS, statuses, whole_responses
from tests.serving import repositories, serving
from tests.simulator import Simulator


class NoReplays(ReplayCache):
    """A cache that keeps nothing."""

    __slots__ = ()
    refused: ClassVar = 0
    """How many responses were to be kept."""

    def put(self, key: bytes, value: Replay, weight: int = 0, worth: Worth | None = None) -> None:
        NoReplays.refused += 1

    def beside(self) -> ReplayCache:
        return self


_TOKENS = {name: f"mirror_{hashlib.sha256(name.encode()).hexdigest()}" for name in ("all", "a", "b")}
_GRANTS = {"all": ["*"], "a": ["team-a"], "b": ["team-b"]}
_RIGHTS: dict[str, Any] = {
    "proxies": {"trusted": ["127.0.0.1"]},
    "auth": {
        "rules": [{"projects": ["team-*"], "read": []}],
        "tokens": {
            name: {"sha256": digest(secret), "rights": ["read"], "projects": _GRANTS[name]}
            for name, secret in _TOKENS.items()
        },
    },
}
"""What both of them are set up with: a proxy that is trusted, and three tokens, two of which may see one project."""
_SESSION = hashlib.sha256(b"session").hexdigest()
"""The secret of a browser that one of these tokens has signed in."""
_LAST = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
"""What ends each script: whether it is answered shows in which state the connection was left."""


def _now() -> float:
    """Return one moment for both, which their bodies state."""
    return 1_800_000_000.0


@asynccontextmanager
async def _replays() -> AsyncIterator[Check]:
    """Two mirrors with the same content, of which one keeps no replays: each script must read the same from both."""
    with tempfile.TemporaryDirectory() as directory:
        async with Simulator() as simulator:
            for name in ("acme", "team-a", "team-b"):
                simulator.publish(wheel(name, "1.0"))
            simulator.push(gem("rack", "1.0"))
            upstreams = repositories(simulator)
            async with AsyncExitStack() as stack:
                fast = await stack.enter_async_context(serving(Path(directory, "a"), upstreams, clock=_now, **_RIGHTS))
                with patch("mirror.service.generation.ReplayCache", NoReplays):
                    plain = await stack.enter_async_context(
                        serving(Path(directory, "b"), upstreams, clock=_now, **_RIGHTS)
                    )
                for mirror in (fast, plain):
                    session = Session(sha256=digest(_SESSION), token=digest(_TOKENS["a"]), expires=_now() + 9999)
                    await mirror.mirror.catalog.accounts.add_session(session, _now())
                    for path in ("simple/acme/", "simple/team-a/", "simple/team-b/", "versions", "names", "info/rack"):
                        for _ in range(2):
                            await mirror.get(path, Authorization=f"Bearer {_TOKENS['all']}")

                assert NoReplays.refused, "one of them would replay, were it not for its cache"

                async def check(data: bytes) -> bool:
                    parts = [*data.split(b"\x00|")[:6], _LAST]
                    for silence in (SILENCE_SECONDS, 2.0, 5.0):  # one of them may have been late
                        first = await _script(fast.url, parts, silence)
                        again = await _script(fast.url, parts, silence)
                        expected = await _script(plain.url, parts, silence)
                        if _comparable(first) == _comparable(again) == _comparable(expected):
                            break
                    assert _comparable(first) == _comparable(expected), (first[:800], expected[:800])
                    assert _comparable(again) == _comparable(expected), (again[:800], expected[:800])
                    return any(status < 400 for status in statuses(first))

                yield check


async def _script(url: str, parts: list[bytes], silence: float) -> bytes:
    """Send the parts over one connection, each after the response to the one before (or after a silence)."""
    where = URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    received = bytearray()
    try:
        for part in parts:
            writer.write(part)
            before = len(received)
            while whole_responses(bytes(received[before:])) < max(1, part.count(b" HTTP/1.")):
                async with asyncio.timeout(silence):
                    chunk = await reader.read(1 << 20)
                if not chunk:
                    return bytes(received) + b"\n(closed)"
                received += chunk
    except (TimeoutError, ConnectionError):
        pass
    finally:
        writer.close()
    return bytes(received)


_VARIABLE = re.compile(rb"\r\n(Date|Server|X-Request-Id|Age|X-Mirror-Cache): [^\r\n]*", re.IGNORECASE)


def _comparable(received: bytes) -> bytes:
    """Return a response without what depends on the moment or on how it came about."""
    return _VARIABLE.sub(b"", received)


def _script_seeds() -> list[bytes]:
    page = b"GET /simple/acme/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
    log = b"GET /versions HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n"
    json = b"GET /simple/acme/ HTTP/1.1\r\nHost: localhost\r\nAccept: application/vnd.pypi.simple.v1+json\r\n\r\n"
    post = b"POST /simple/acme/ HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\n\r\nabcd"
    chunked = b"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nabcd\r\n0\r\n\r\n"
    etag = b'GET /simple/acme/ HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: "x"\r\n\r\n'
    proxied = b"X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: a.example\r\n"
    behind, below, standard = (
        b"GET /simple/acme/ HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % lines
        for lines in (
            b"%bX-Request-ID: abc\r\nUser-Agent: pip/24.0\r\nConnection: keep-alive\r\n" % proxied,
            b"%bX-Forwarded-Prefix: /python\r\nX-Real-IP: 192.0.2.7\r\n" % proxied,
            b'Forwarded: for=192.0.2.7;proto=https;host="a.example"\r\nUser-Agent: uv/0.5\r\n',
        )
    )
    everyone, a, b = (
        b"GET /simple/team-a/ HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer %b\r\n\r\n" % token.encode()
        for token in _TOKENS.values()
    )
    other = b.replace(b"team-a", b"team-b")
    anonymous = b"GET /simple/team-a/ HTTP/1.1\r\nHost: localhost\r\n\r\n"
    session = _SESSION.encode()
    cookies = (session, b"%b; a=b" % session, session.upper(), b'"%b"' % session, b"x; mirror-session=" + session)
    signed = anonymous[:-2] + b"Cookie: a=b; mirror-session=%b\r\n\r\n" % session
    closing = page[:-2] + b"Connection: close\r\n\r\n"
    old = page.replace(b"HTTP/1.1", b"HTTP/1.0")
    scripts = (
        [behind, page, behind, below, standard],
        [below, behind, below, page, standard, behind],
        [everyone, a, b, other, anonymous, a],
        [other, b, a, everyone, page[:-2] + a.partition(b"Host: localhost\r\n")[2]],
        [page, closing, page],
        [page, old, page],
        [page, page[:-2] + b"Cookie: a=b\r\n\r\n", page],
        [signed, a, signed, anonymous, b, signed],
        [anonymous[:-2] + b"Cookie: mirror-session=%b\r\n\r\n" % cookie for cookie in cookies],
        [b"HEAD" + page[3:], page, b"HEAD" + page[3:]],
        [page, page, page],
        [log, page, log],
        [json, json, page],
        [page, post, page],
        [chunked, page],
        [page, etag, page, etag],
    )
    return [b"\x00|".join(script) for script in scripts] + [
        page + page,
        page[:-2],
        page + b"GET /simple/other/ HTTP/1.1\r\nVia: \x00|" + page,
        page + b"\x00|" + page[:20] + b"\x00|" + page[20:],
    ]


_HEADER_WORDS = [
    b"User-Agent: ",
    b"Connection: close\r\n",
    b"Connection: keep-alive, Upgrade\r\n",
    b"X-Forwarded-For: ",
    b"X-Forwarded-Host: b.example\r\n",
    b"X-Forwarded-Prefix: /x\r\n",
    b"X-Forwarded-Proto: https\r\n",
    b"Forwarded: for=1.2.3.4;host=b.example\r\n",
    b"X-Request-ID: ",
    b"X-Real-IP: ",
    *(b"Authorization: Bearer %b\r\n" % token.encode() for token in _TOKENS.values()),
    b"Authorization: Bearer wrong\r\n",
    b"Cookie: mirror-session=%b\r\n" % _SESSION.encode(),
    b"mirror-session=",
    b"\t",
    b" :",
    b"\r\n\t",
    b"TE: trailers\r\n",
    b"HTTP/1.1\r\n",
]

FUZZERS = (
    Fuzzer(
        "replays", _script_seeds, _replays, [*WORDS, *_HEADER_WORDS, b"\x00|", b"\r\n\r\n", b"\r\n "], at_once=AT_ONCE
    ),
)
"""What is sent to both."""
