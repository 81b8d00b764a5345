"""Fuzzers of requests: targets and headers, ranges, forms."""

import asyncio
import re
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from yarl import URL

from tests.builders import gem, wheel
from tests.fuzz.fuzzer import Check, Fuzzer
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, make_token

SILENCE_SECONDS = 0.1
"""Seconds after which a server that is still waiting for the rest of a request has answered all that it will."""
LONGEST_SECONDS = 20.0
"""Seconds for any response, also on a busy machine."""
AT_ONCE = 8
"""Connections at the same time: most of them wait for a silence to end."""
BIG = wheel("acme", "1.0", size=100_000)


async def exchange(url: str, data: bytes, whole: bool) -> bytes:
    """Send bytes over a new connection and return what comes back: whole responses, or all until the end.

    Where the bytes are no `whole` request, our side is closed after a silence, so that the server stops waiting.
    """
    parts = URL(url)
    reader, writer = await asyncio.open_connection(parts.host, parts.port)
    received = bytearray()
    try:
        writer.write(data)
        for patience in (LONGEST_SECONDS,) if whole else (SILENCE_SECONDS, LONGEST_SECONDS):
            while not whole_responses(bytes(received)):
                try:
                    async with asyncio.timeout(patience):
                        chunk = await reader.read(1 << 20)
                except TimeoutError:
                    break
                if not chunk:
                    return bytes(received)
                received += chunk
            if not whole:
                writer.write_eof()  # nothing more comes: it has to end
    except OSError:
        pass
    finally:
        writer.close()
    return bytes(received)


def statuses(received: bytes) -> list[int]:
    """Return the statuses of all responses."""
    return [int(code) for code in re.findall(rb"(?:^|\r\n\r\n|\n)HTTP/1\.1 (\d{3}) [^\r\n]*\r\n", received)]


@asynccontextmanager
async def _mirror(clock: Callable[[], float] = time.time) -> AsyncIterator[Serving]:
    """A mirror that holds a wheel and a gem."""
    with tempfile.TemporaryDirectory() as directory:
        async with Simulator() as simulator:
            simulator.publish(BIG)
            simulator.push(gem("rack", "1.0"))
            async with serving(Path(directory, "data"), repositories(simulator), clock=clock) as mirror:
                for path in _PATHS:
                    await mirror.get(path)
                yield mirror


_PATHS = (
    "simple/",
    "simple/acme/",
    f"packages/acme/{BIG.filename}",
    f"packages/acme/{BIG.filename}.metadata",
    "pypi/acme/json",
    "versions",
    "info/rack",
    "names",
    "specs.4.8.gz",
    "gems/rack-1.0.gem",
    "quick/Marshal.4.8/rack-1.0.gemspec.rz",
    "api/v1/gems/rack.json",
    "api/v1/search.json?query=ra",
    "-/status",
    "-/projects/pypi/acme/",
    "-/explain?project=acme",
    "-/feed?since=0",
    "health",
    "metrics",
    "at/2026-01-01T00:00:00Z/simple/acme/",
)
_HEADERS = (
    b"Accept: application/vnd.pypi.simple.v1+json, text/html;q=0.1\r\nAccept-Encoding: gzip, zstd\r\n",
    b'If-None-Match: "x", W/"y"\r\nCache-Control: max-age=0\r\n',
    b"Range: bytes=0-99\r\nIf-Modified-Since: Tue, 05 May 2026 10:00:00 GMT\r\n",
    b"Origin: http://localhost\r\nSec-Fetch-Site: same-origin\r\nCookie: mirror-session=%b\r\n" % (b"cd" * 32),
    b"Authorization: Basic OjpYOg==\r\nX-Forwarded-For: 1.1.1.1\r\nX-Forwarded-Host: a.example\r\nVia: x\r\n",
)
_COOKIE = b"Cookie: mirror-session=%b\r\n" % (b"ab" * 32)
WORDS = [
    b"bytes=",
    b"%2e%2e",
    b"%c0%af",
    b"/simple/",
    b"/packages/",
    b"Host: a\r\n",
    b"Host: localhost:99999\r\n",
    b"Content-Length: 5\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Upgrade: websocket\r\n",
    b"Expect: 100-continue\r\n",
    b" HTTP/1.0\r\n",
    b";q=2",
    b"*/*",
    b"GET /",
    b"OPTIONS * ",
    b"If-Range: ",
    b"Tue, 05 May 9999 99:99:99 GMT",
    b"Cookie: mirror-session=",
    b"Cookie: a=b; mirror-session=%b; mirror-session=x\r\n" % (b"ab" * 32),
    b"Origin: null\r\n",
    b"Origin: http://localhost\r\n",
    b"Origin: https://other.example\r\n",
    b"Sec-Fetch-Site: cross-site\r\n",
    b"Sec-Fetch-Site: same-origin\r\n",
    b"Authorization: Bearer ",
    b"POST /-/signin",
    b"?page=",
    b"&",
]


def _request_seeds() -> list[bytes]:
    gets = [
        b"GET /%b HTTP/1.1\r\nHost: localhost\r\n%b\r\n" % (path.encode(), headers)
        for path in (*_PATHS, "-/signin")
        for headers in _HEADERS
    ]
    posts = [
        b"POST /-/%b HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost\r\n%bContent-Length: %d\r\n\r\n%b"
        % (path, _COOKIE, len(body), body)
        for path in (b"signin", b"signout")
        for body in (b"name=rita&password=correct+horse", b"")
    ]
    return [*gets, *posts, *posts]  # few beside the others


@asynccontextmanager
async def _targets() -> AsyncIterator[Check]:
    async with _mirror() as mirror:

        async def check(data: bytes) -> bool:
            received = await exchange(mirror.url, data, whole=False)
            found = statuses(received)
            assert all(status < 500 or status == 503 for status in found), received[:500]
            assert b"Traceback" not in received
            assert (await mirror.get("health")).status == 200
            return any(status < 400 for status in found)

        yield check


@asynccontextmanager
async def _ranges() -> AsyncIterator[Check]:
    async with _mirror() as mirror:

        async def check(data: bytes) -> bool:
            text = "".join(chr(byte) for byte in data if byte == 9 or 32 <= byte < 127)[:4000]
            reply = await mirror.get(f"packages/acme/{BIG.filename}", Range=text)
            if reply.status == 206:
                found = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+)", reply.headers["Content-Range"])
                assert found
                assert int(found[3]) == BIG.size
                assert reply.body == BIG.content[int(found[1]) : int(found[2]) + 1] != b""
                _check_asked(text, int(found[1]), int(found[2]) + 1)
            elif reply.status == 416:
                assert reply.headers["Content-Range"] == f"bytes */{BIG.size}"
            else:
                assert (reply.status, reply.body) == (200, BIG.content), (reply.status, reply.body[:200])
            compact = await mirror.get("versions", Range=text)
            assert compact.status in (200, 206)  # rule 2 of the compact index: never a 416
            return reply.status == 206

        yield check


def _check_asked(text: str, start: int, stop: int) -> None:
    """Check a part against what plain forms of Range ask for (RFC 9110 section 14.1.2)."""
    if found := re.fullmatch(r"bytes=(\d{1,9})-(\d{1,9})", text, re.ASCII):
        assert (start, stop) == (int(found[1]), min(BIG.size, int(found[2]) + 1))
    elif found := re.fullmatch(r"bytes=(\d{1,9})-", text, re.ASCII):
        assert (start, stop) == (int(found[1]), BIG.size)
    elif found := re.fullmatch(r"bytes=-(\d{1,9})", text, re.ASCII):
        assert (start, stop) == (max(0, BIG.size - int(found[1])), BIG.size)


# Forms

_PARTS = b"".join(
    b'--XX\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n' % (name, value)
    for name, value in (
        (b":action", b"file_upload"),
        (b"protocol_version", b"1"),
        (b"name", b"acme"),
        (b"version", b"1.0"),
        (b"filetype", b"bdist_wheel"),
        (b"pyversion", b"py3"),
        (b"metadata_version", b"2.1"),
        (b"classifiers", b"x"),
    )
)


def _form_seeds() -> list[bytes]:
    small = wheel("acme", "1.0")
    content = b'--XX\r\nContent-Disposition: form-data; name="content"; filename="%b"\r\n\r\n%b\r\n--XX--\r\n'
    gem_part = b'--XX\r\nContent-Disposition: form-data; name="gem"; filename="acme-1.0.gem"\r\n\r\n%b\r\n--XX--\r\n'
    return [
        b"\0" + _PARTS + content % (small.filename.encode(), small.content),
        b"\1" + gem_part % gem("acme", "1.0").content,
        b"\2gem_name=acme&version=1.0&platform=ruby",
        b"\3email=a%40b.example&x=1",
        b"\4name=ci&scope=push_rubygem",
        b"\5name=rita&password=correct+horse",
        b"\5name=&password=%00%ff&name=x&a=&b=&c=",
        b"\6",
    ]


_FORMS = (
    b"POST /legacy/",
    b"POST /api/v1/gems",
    b"DELETE /api/v1/gems/yank",
    b"POST /api/v1/gems/acme/owners",
    b"POST /api/v1/api_key",
    b"POST /-/signin",
    b"POST /-/signout",
)


@asynccontextmanager
async def _forms() -> AsyncIterator[Check]:
    hours = 0  # between the inputs, so that no login waits because others have failed
    async with _mirror(lambda: time.time() + 3600 * hours) as mirror:
        secret = await make_token(mirror)

        async def check(data: bytes) -> bool:
            nonlocal hours
            hours += 1
            kind, body = (data[0] if data else 0) % len(_FORMS), data[1:]
            multipart = kind < 2
            head = (
                b"%b HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: %d\r\nAuthorization: %b\r\n"
                b"Origin: http://localhost\r\nCookie: mirror-session=%b\r\nContent-Type: %b\r\n\r\n"
            ) % (
                _FORMS[kind],
                len(body),
                (basic(secret) if kind == 0 else secret).encode(),
                b"ab" * 32,
                b"multipart/form-data; boundary=XX" if multipart else b"application/x-www-form-urlencoded",
            )
            received = await exchange(mirror.url, head + body, whole=True)
            found = statuses(received)
            assert found, received[:500]
            assert found[-1] < 500, received[:500]
            return found[-1] != 400

        yield check


def whole_responses(received: bytes) -> int:
    """Return how many responses these bytes are; 0 if they end within one, or if one has no length."""
    count = 0
    while received:
        head, end, rest = received.partition(b"\r\n\r\n")
        length = re.search(rb"\r\nContent-Length: (\d+)", head, re.IGNORECASE)
        if not end or length is None or len(rest) < int(length[1]):
            return 0
        received = rest[int(length[1]) :]
        count += 1
    return count


FUZZERS = (
    Fuzzer("targets", _request_seeds, _targets, WORDS, at_once=AT_ONCE),
    Fuzzer(
        "ranges",
        lambda: [
            b"bytes=0-99",
            b"bytes=-5",
            b"bytes=99999-",
            b"bytes=100000-",
            b"bytes=1-2,4-5",
            b"bytes=0-0",
            b"items=1-2",
        ],
        _ranges,
        [b"bytes=", b"-", b",", b"99999", b"100000"],
    ),
    Fuzzer(
        "forms",
        _form_seeds,
        _forms,
        [b"--XX\r\n", b"--XX--\r\n", b"\r\n\r\n", b'filename="', b'name="content"', b"%", b"&", b"="],
        at_once=AT_ONCE,
    ),
)
"""What is sent over connections."""
