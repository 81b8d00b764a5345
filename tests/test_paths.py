"""How many files of `mirror/` a request goes through: what somebody has to read to follow it.

The mirror, its upstream and its client run in this process. A file counts when a function or method that is written in
it is entered, or a coroutine of it resumed, between the moment when the client sends the first byte of the request and
the moment when it has the last byte of the response; constructors, properties and comprehensions count like any other
function, in all threads. Code that runs once, when a module is imported, does not count, nor does what dataclass,
msgspec and enum generate. Each request is traced several times under new names, and the smallest number stands: a task
of the background that happens to wake meanwhile is no part of the request. So the access log and the metrics do not
count, which take in many responses at once a moment later. Nor does the formatting of the application's log, which the
mirror here does not configure: an upload writes one line, of the audit trail.

Every request has a header of its own that the mirror does not know, so that none is answered by repeating an earlier
answer.
"""

import asyncio
import itertools
import logging
import re
import sqlite3
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from yarl import URL

from mirror.errors import MirrorError
from mirror.model import UpstreamRequest
from mirror.server.group import RECORD_SECONDS
from tests.builders import gem, wheel
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import basic, fields_of, form, make_token

pytestmark = pytest.mark.skipif(sys.version_info < (3, 12), reason="sys.monitoring came with Python 3.12")

PACKAGE = str(Path(__file__).parent.parent / "mirror") + "/"
ATTEMPTS = 4

LIMITS = {
    "cold page": 16,
    "held page": 8,
    "cold file": 15,
    "held file": 8,
    "first /versions": 14,
    "cold /info": 17,
    "upload": 19,
}
"""How many files a request may visit: what one may expect somebody to read at a time."""
GATHERS = 1
"""How often a repository collects what its sources have of a project, for one cold page."""
SELECTS = 3
"""How many SELECT statements a cold page runs."""


@dataclass
class Trace:
    """What one request went through."""

    files: dict[str, str] = field(default_factory=dict)
    """File → the first function that was entered in it, in that order."""
    moves: int = 0
    """How often the next function was in another file than the last one."""
    entered: list[str] = field(default_factory=list)
    """The qualified name of each function that was called."""
    statements: list[str] = field(default_factory=list)
    """The SQL that ran."""
    _last: str = ""

    def enter(self, code: CodeType, resumed: bool) -> None:
        if not code.co_filename.startswith(PACKAGE) or code.co_name == "<module>":
            return
        file = code.co_filename.removeprefix(PACKAGE)
        self.files.setdefault(file, code.co_qualname)
        self.moves += file != self._last
        self._last = file
        if not resumed:
            self.entered.append(code.co_qualname)

    @property
    def selects(self) -> list[str]:
        return [sql for sql in self.statements if re.match(r"\s*(SELECT|WITH)\b", sql, re.IGNORECASE)]

    def __str__(self) -> str:
        lines = [f"{len(self.files)} files, {self.moves} moves, {len(self.selects)} SELECTs"]
        return "\n  ".join(lines + [f"{file}  {function}" for file, function in self.files.items()])


_current: Trace | None = None


@contextmanager
def tracing() -> Iterator[Trace]:
    """Record what is entered in the block, in every thread."""
    global _current
    monitoring = sys.monitoring
    tool = monitoring.PROFILER_ID
    _current = trace = Trace()
    monitoring.use_tool_id(tool, "paths")
    events = monitoring.events
    monitoring.register_callback(tool, events.PY_START, lambda code, _: trace.enter(code, False))
    monitoring.register_callback(tool, events.PY_RESUME, lambda code, _: trace.enter(code, True))
    monitoring.set_events(tool, events.PY_START | events.PY_RESUME)
    try:
        yield trace
    finally:
        monitoring.set_events(tool, 0)
        monitoring.free_tool_id(tool)
        _current = None


@pytest.fixture(autouse=True)
def without_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set aside the handlers that an earlier test in this process may have given to the application's log."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])


@pytest.fixture(autouse=True)
def traced_statements(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every SQLite connection report its statements to the trace that is running."""
    connect = sqlite3.connect

    def report(sql: str) -> None:
        if _current is not None:
            _current.statements.append(sql)

    def connect_traced(*arguments: Any, **options: Any) -> sqlite3.Connection:
        connection = connect(*arguments, **options)
        connection.set_trace_callback(report)
        return connection

    monkeypatch.setattr(sqlite3, "connect", connect_traced)


class Connection:
    """One kept connection of a client that sends a header of its own with each request."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)

    async def send(self, method: str, path: str, body: bytes = b"", **headers: str) -> Trace:
        """Send one request, read its response, which has to be a success, and return what it went through."""
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost", f"X-Number: {next(self._numbers)}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}"] if body else []
        request = "\r\n".join([*lines, "", ""]).encode() + body
        await asyncio.sleep(1.5 * RECORD_SECONDS)  # what earlier requests left to be done, such as their records
        with tracing() as trace:
            self._writer.write(request)
            head = (await self._reader.readuntil(b"\r\n\r\n")).decode()
            if length := re.search(r"(?im)^content-length: *(\d+)", head):
                await self._reader.readexactly(int(length[1]))
            else:
                while size := int(await self._reader.readline(), 16):
                    await self._reader.readexactly(size + 2)
                await self._reader.readline()
        assert head.split()[1] == "200", head
        return trace


@asynccontextmanager
async def connected(simulator: Simulator, data_dir: Path) -> AsyncIterator[tuple[Serving, Connection]]:
    """A mirror of the simulator as anybody starts it, which has answered a page, and a client."""
    simulator.publish(wheel("warm", "1.0"))
    async with serving(data_dir, repositories(simulator)) as mirror:
        url = URL(mirror.url)
        reader, writer = await asyncio.open_connection(url.host, url.port)
        connection = Connection(reader, writer)
        await connection.send("GET", "/simple/warm/")
        for upstream in mirror.mirror.upstreams.values():  # each opens its session once in its life
            with suppress(MirrorError):
                await upstream.get(UpstreamRequest(url=upstream.url, kind="list"))
        try:
            yield mirror, connection
        finally:
            writer.close()


async def shortest(attempts: int, attempt: Callable[[int], Awaitable[Trace]]) -> Trace:
    """The trace with the fewest files of several attempts."""
    return min([await attempt(number) for number in range(attempts)], key=lambda trace: len(trace.files))


def judge(name: str, trace: Trace, report: Callable[[str], None]) -> None:
    """Print a trace, and compare the number of its files with the limit."""
    limit = LIMITS[name]
    print(f"{name}: {trace}")
    report(f"{name}: {len(trace.files)} files (limit {limit}), {trace.moves} moves")
    assert len(trace.files) <= limit, str(trace)


async def test_a_page_and_a_file_of_python(simulator: Simulator, tmp_path: Path, report: Callable[[str], None]) -> None:
    built = [wheel(f"cold{number}", "1.0", size=400_000) for number in range(ATTEMPTS)]  # too large for `fetch_small`
    kept = wheel("held", "1.0", size=200_000)  # too large for a replay, and too small for `sendfile`
    for one in (*built, kept):
        simulator.publish(one)
    async with connected(simulator, tmp_path / "data") as (_, connection):

        async def page(number: int) -> Trace:
            return await connection.send("GET", f"/simple/cold{number}/")

        async def file(number: int) -> Trace:
            return await connection.send("GET", f"/packages/cold{number}/{built[number].filename}")

        cold = await shortest(ATTEMPTS, page)
        judge("cold page", cold, report)
        gathers = sum(bool(re.fullmatch(r"Repository\._?gather", name)) for name in cold.entered)
        report(f"cold page: gathered {gathers} times, {len(cold.selects)} SELECTs")
        assert gathers == GATHERS
        assert len(cold.selects) <= SELECTS, "\n".join(cold.selects)
        judge("held page", await shortest(ATTEMPTS, page), report)
        judge("cold file", await shortest(ATTEMPTS, file), report)

        async def held_file(number: int) -> Trace:
            return await connection.send("GET", f"/packages/held/{kept.filename}")

        judge("held file", await shortest(ATTEMPTS, held_file), report)


async def test_the_compact_index_of_ruby(simulator: Simulator, tmp_path: Path, report: Callable[[str], None]) -> None:
    for number in range(ATTEMPTS):
        simulator.push(gem(f"cold{number}", "1.0"))
    firsts: list[Trace] = []
    for attempt in range(3):  # it is first once in the life of a data directory
        async with connected(simulator, tmp_path / f"data{attempt}") as (_, connection):
            firsts.append(await connection.send("GET", "/versions"))
            if attempt == 0:

                async def info(number: int, connection: Connection = connection) -> Trace:
                    return await connection.send("GET", f"/info/cold{number}")

                judge("cold /info", await shortest(ATTEMPTS, info), report)
    judge("first /versions", min(firsts, key=lambda trace: len(trace.files)), report)


async def test_an_upload(simulator: Simulator, tmp_path: Path, report: Callable[[str], None]) -> None:
    async with connected(simulator, tmp_path / "data") as (mirror, connection):
        token = await make_token(mirror)

        async def upload(number: int) -> Trace:
            built = wheel(f"own{number}", "1.0")
            payload = form(fields_of(built).items(), built.filename, built.content)()
            body = await payload.as_bytes()
            return await connection.send(
                "POST", "/legacy/", body, Content_Type=payload.content_type, Authorization=basic(token)
            )

        judge("upload", await shortest(ATTEMPTS, upload), report)
