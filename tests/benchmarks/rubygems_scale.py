"""A gem index of the public one's size: what it costs to start, to grow, to hold and to serve.

`python -m tests.benchmarks.rubygems_scale` makes a `/versions` of 23 MB and 190,000 lines, lets a mirror of its own
process follow it, and prints each figure beside its limit; the exit status is 1 when one is missed. Everything stays
on loopback. Rates are given as ratios to a small page that is held in memory, measured in turns in the same run.
"""

import asyncio
import base64
import hashlib
import random
import sys
import tempfile
import time
from pathlib import Path

from tests.file_server import FileServer
from tests.serving import Spawned, spawned
from tests.simulator.wire import Representation

LINES = 190_000
SIZE = 23_000_000
APPENDED = 100
CONNECTIONS = 8
REQUESTS = 400
"""On each connection, in each round."""
ROUNDS = 5


PAGE = b"""<!DOCTYPE html><html><head><title>small</title></head><body>
<a href="/files/small-1.0.tar.gz#sha256=%b">small-1.0.tar.gz</a></body></html>""" % (b"0" * 64)


class Upstream(FileServer):
    """An upstream that has only /versions, the page of one gem, and that of one Python project."""

    def __init__(self, body: bytes) -> None:
        super().__init__()
        self.info = b"---\n1.0 |checksum:" + b"0" * 64 + b"\n"
        self.body = body + b"small 1.0 %b\n" % _md5(self.info)
        self.put("/simple/small/", Representation(PAGE, "text/html"))
        self.offer()

    def append(self, lines: list[bytes]) -> None:
        self.body += b"".join(line + b"\n" for line in lines)
        self.offer()

    def offer(self) -> None:
        self.put("/versions", _compact(self.body))
        self.put("/info/small", _compact(self.info))


def _md5(body: bytes) -> bytes:
    return hashlib.md5(body).hexdigest().encode()


def _compact(body: bytes) -> Representation:
    digest = base64.b64encode(hashlib.sha256(body).digest()).decode()
    return Representation(
        body,
        "text/plain; charset=utf-8",
        etag=f'"{_md5(body).decode()}"',
        headers={"Repr-Digest": f"sha-256=:{digest}:"},
        gzip=False,
    )


def made() -> bytes:
    """A /versions as large as the public one: many names with few versions, few with many."""
    dice = random.Random(1)
    room = SIZE - 100
    lines = [b"created_at: 2026-11-01T00:00:00Z", b"---"]
    for number in range(LINES):
        left = (room - 45 * (LINES - number)) // (LINES - number)
        name = f"{dice.choice(('acts', 'rack', 'rails', 'omni', 'gem'))}-{dice.randrange(16**4):x}-{number}"
        count = max(1, min(400, int(dice.expovariate(1 / max(1, left / 6)))))
        versions = ",".join(f"{major // 10}.{major % 10}.{dice.randrange(20)}" for major in range(count))
        line = f"{name} {versions} {dice.getrandbits(128):032x}".encode()
        room -= len(line) + 1
        lines.append(line)
    return b"\n".join(lines) + b"\n"


class Report:
    """Figures beside their limits."""

    def __init__(self) -> None:
        self.missed = 0

    def figure(self, what: str, value: float, unit: str, most: float | None = None, least: float | None = None) -> None:
        """Print one; it is missed above `most` or below `least`."""
        bad = (most is not None and value > most) or (least is not None and value < least)
        self.missed += bad
        limit = f"at most {most:g}" if most is not None else f"at least {least:g}" if least is not None else ""
        print(f"{what:<58} {value:>10.2f} {unit:<4} {limit:<14} {'MISSED' if bad else ''}", flush=True)


async def main() -> int:
    report = Report()
    body = made()
    print(f"/versions: {len(body):,} bytes, {len(body.splitlines()):,} lines")
    with tempfile.TemporaryDirectory() as directory:
        async with Upstream(body) as upstream:
            place = Path(directory) / "data"
            repositories = {
                "rubygems": {"format": "rubygems", "upstreams": [upstream.url]},
                "pypi": {"format": "pypi", "upstreams": [upstream.simple_url]},
            }
            began = time.monotonic()
            async with spawned(place, repositories) as mirror:
                await mirror.head("versions")
                report.figure("first sync, from the start of the process", time.monotonic() - began, "s")
                report.figure("  memory at its highest", memory(mirror, "VmHWM"), "MB")
                await mirror.end()
            began = time.monotonic()
            async with spawned(place, repositories) as mirror:
                reply = await mirror.head("versions")
                report.figure("restart, until the first answer", time.monotonic() - began, "s", most=3)
                assert reply.headers["ETag"]
                await asyncio.sleep(3)
                report.figure("  memory afterwards", memory(mirror, "VmRSS"), "MB", most=300)
                report.figure("  memory at its highest", memory(mirror, "VmHWM"), "MB", most=300)
                await grow(report, upstream, mirror)
                await rates(report, mirror)
                await legacy(report, mirror)
                await everyone_at_once(report, mirror)
    return 1 if report.missed else 0


def memory(mirror: Spawned, which: str) -> float:
    """Megabytes, from the kernel's account of the process."""
    for line in Path(f"/proc/{mirror.pid}/status").read_text().splitlines():
        if line.startswith(f"{which}:"):
            return int(line.split()[1]) / 1000
    raise AssertionError(which)


async def grow(report: Report, upstream: Upstream, mirror: Spawned) -> None:
    """Upstream appends; how soon it is seen, how long others wait meanwhile, what an update costs a client."""
    for turn in range(3):
        before = await mirror.head("versions")
        size, etag = int(before.headers["Content-Length"]), before.headers["ETag"]
        await asyncio.sleep(2.1)  # a demand for an answer of now is not passed on more often
        quiet = await longest_wait(mirror, asyncio.create_task(asyncio.sleep(0.5)))
        upstream.append([b"new-%d-%d 1.0.0 %032x" % (turn, number, number) for number in range(APPENDED)])
        upstream.forget()
        asking = asyncio.create_task(seen(upstream, mirror, etag))
        waited = await longest_wait(mirror, asking)
        report.figure("an append of 100 lines is seen after it was fetched, in", await asking, "s", most=1)
        report.figure(f"  and holds others up (at rest: {quiet * 1000:.0f} ms) for", waited * 1000, "ms", most=100)
        reply = await mirror.get("versions", Range=f"bytes={size - 1}-", If_None_Match=etag)
        assert reply.status == 206
        share = 100 * len(reply.body) / len(upstream.body)
        report.figure("  a client that is one append behind receives", share, "%", most=1)
    report.figure("  memory", memory(mirror, "VmRSS"), "MB", most=300)


async def seen(upstream: Upstream, mirror: Spawned, etag: str) -> float:
    """Seconds from the last byte of upstream's answer until a client gets another log than `etag`."""
    asking = asyncio.create_task(mirror.head("versions", Cache_Control="no-cache"))
    await upstream.until(lambda: any(request.finished for request in upstream.asked("GET", "/versions")))
    began = time.monotonic()
    assert (await asking).headers["ETag"] != etag  # the answer waits for what was asked upstream for it
    return time.monotonic() - began


async def longest_wait(mirror: Spawned, until: "asyncio.Task[object]") -> float:
    """The longest that anybody waits for the smallest answer while something goes on, in seconds."""
    host, port = mirror.url.removeprefix("http://").rstrip("/").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    longest = 0.0
    while not until.done():
        began = time.monotonic()
        writer.write(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        await reader.readuntil(b"ok\n")
        longest = max(longest, time.monotonic() - began)
        await asyncio.sleep(0.002)
    writer.close()
    return longest


async def rates(report: Report, mirror: Spawned) -> None:
    """Answers from memory, beside the page of a small gem."""
    log = await mirror.head("versions")
    etag, size = log.headers["ETag"], int(log.headers["Content-Length"])
    for path in ("simple/small/", "info/small"):
        assert (await mirror.get(path)).status == 200
    questions = {
        "GET /simple/small/": "GET /simple/small/",
        "GET /info/small": "GET /info/small",
        "HEAD /versions": "HEAD /versions",
        "304 of /versions": f"GET /versions\r\nIf-None-Match: {etag}",
        "304 of /versions, over Range": f"GET /versions\r\nIf-None-Match: {etag}\r\nRange: bytes={size - 1}-",
    }
    best = dict.fromkeys(questions, 0.0)
    for _ in range(ROUNDS):
        for name, question in questions.items():
            best[name] = max(best[name], await rate(mirror, question))
    held = best["GET /simple/small/"]
    report.figure("a held small page", held, "/s")
    for name in list(questions)[1:]:
        report.figure(f"{name}, beside it", best[name] / held, "x", least=0.8)


async def rate(mirror: Spawned, question: str) -> float:
    """Answers in a second, on several connections at once."""
    method, _, rest = question.partition(" ")
    path, _, headers = rest.partition("\r\n")
    lines = [f"{method} {path} HTTP/1.1", "Host: localhost", *([headers] if headers else []), "", ""]
    text = "\r\n".join(lines).encode()
    host, port = mirror.url.removeprefix("http://").rstrip("/").split(":")

    async def client() -> None:
        reader, writer = await asyncio.open_connection(host, int(port))
        for _ in range(REQUESTS):
            writer.write(text)
            head = await reader.readuntil(b"\r\n\r\n")
            if method == "GET" and b" 304 " not in head[:20]:
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                await reader.readexactly(int(length.split(b":")[1]))
        writer.close()

    began = time.monotonic()
    await asyncio.gather(*(client() for _ in range(CONNECTIONS)))
    return CONNECTIONS * REQUESTS / (time.monotonic() - began)


async def legacy(report: Report, mirror: Spawned) -> None:
    """What old clients make us derive from the whole."""
    for path in ("specs.4.8.gz", "latest_specs.4.8.gz", "names"):
        began = time.monotonic()
        asking = asyncio.create_task(mirror.get(path))
        waited = await longest_wait(mirror, asking)
        report.figure(f"/{path}, made anew ({len((await asking).body):,} bytes)", time.monotonic() - began, "s")
        report.figure("  holds others up for", waited * 1000, "ms")
    report.figure("  memory afterwards", memory(mirror, "VmRSS"), "MB", most=300)
    report.figure("  memory at its highest", memory(mirror, "VmHWM"), "MB", most=300)


async def everyone_at_once(report: Report, mirror: Spawned) -> None:
    """Ten clients of which each fetches the whole."""
    began = time.monotonic()
    replies = await asyncio.gather(*(mirror.get("versions") for _ in range(10)))
    report.figure("ten clients fetch the whole at once, in", time.monotonic() - began, "s")
    assert len({hashlib.md5(reply.body).digest() for reply in replies}) == 1
    report.figure("  memory at its highest", memory(mirror, "VmHWM"), "MB", most=300)


if __name__ == "__main__":
    sys.exit(asyncio.run(main()))
