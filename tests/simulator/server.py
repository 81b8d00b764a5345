"""The process side of the simulator: sockets, the log, and sending answers well or badly."""

import asyncio
import base64
import contextlib
import dataclasses
import socket
import struct
import time
from collections.abc import Callable
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Self

from aiohttp import web
from multidict import CIMultiDict

from .faults import Fault, Injection
from .pypi import PyPI
from .rubygems import RubyGems
from .wire import Request, SimulatedResponse, plain

_CHUNK_BYTES = 64 * 1024


class Simulator:
    """A PyPI and a RubyGems upstream on one loopback port, with a second port that stands for another host.

    async with Simulator() as simulator:
        simulator.publish(wheel("six", "1.16"))
        simulator.push(gem("rack", "3.0"))
        simulator.simple_url, simulator.url       # http://127.0.0.1:PORT/simple/ and http://127.0.0.1:PORT/
        simulator.count("GET", "/simple/six/")
        simulator.inject("*.whl", Cut(after=100), times=1)

    `pypi` and `rubygems` hold the two indexes; what most tests need of them is at hand here as well.
    """

    def __init__(self, port: int = 0, clock: Callable[[], float] = time.time) -> None:
        """`port` 0 lets the system choose; `clock` gives the default time of publishing, in seconds since the epoch."""
        self._wanted_port = port
        self.requests: list[Request] = []
        """Every request since the start or the last `forget`, in the order of arrival."""
        self.faults: list[Injection] = []
        self.port = 0
        self.other_port = 0
        self.pypi = PyPI(clock)
        self.rubygems = RubyGems(clock)
        self.publish = self.pypi.publish
        self.yank = self.pypi.yank
        self.unyank = self.pypi.unyank
        self.remove = self.pypi.remove
        self.set_status = self.pypi.set_status
        self.push = self.rubygems.push
        self.yank_gem = self.rubygems.yank
        self.unyank_gem = self.rubygems.unyank
        self.rewrite = self.rubygems.rewrite
        self.load_genuine = self.rubygems.load_genuine
        self._login: str | None = None
        self._changed = asyncio.Condition()
        self._gone: list[socket.socket] = []

    # Life

    async def __aenter__(self) -> Self:
        self._server = web.Server(self._handle, handler_cancellation=True)
        self._runner = web.ServerRunner(self._server, shutdown_timeout=1)
        await self._runner.setup()
        self._main = await self._listen(self._wanted_port)
        self.port = _port(self._main)
        other = await self._listen(0)
        self.other_port = _port(other)
        self.pypi.at(self.url, self.other_url)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.heal()
        self._close_gone()
        for site in list(self._runner.sites):
            await site.stop()
        for _ in range(3):  # until what was accepted just before is a connection that can be closed
            await asyncio.sleep(0)
        self._abort_connections()
        await self._runner.cleanup()

    async def _listen(self, port: int) -> web.SockSite:
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", port))
        site = web.SockSite(self._runner, listening)
        await site.start()
        return site

    @property
    def url(self) -> str:
        """The root, which is also the RubyGems source; ends in a slash."""
        return f"http://127.0.0.1:{self.port}/"

    @property
    def other_url(self) -> str:
        """The root on the other host; it answers the same."""
        return f"http://127.0.0.1:{self.other_port}/"

    @property
    def simple_url(self) -> str:
        """The index URL for pip and uv."""
        return f"{self.url}simple/"

    async def go_down(self, how: str = "refused") -> None:
        """Stop answering on the main port, and abort what is under way. `how`:

        refused: connections are refused; silent: they are accepted and never answered; hanging: a connect
        never completes.
        """
        await self._main.stop()
        self._abort_connections()
        if how == "refused":
            return
        listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(("127.0.0.1", self.port))
        self._gone.append(listening)
        if how == "silent":
            listening.listen(128)  # the kernel completes the handshake, and nobody ever accepts
            return
        assert how == "hanging", how
        listening.listen(0)
        for _ in range(4):  # a full backlog: the kernel drops the SYN of everyone who comes now
            filler = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._gone.append(filler)

    async def come_back(self) -> None:
        """SimulatedResponse again, on the same port, with everything as it was."""
        self._close_gone()
        self._main = await self._listen(self.port)

    def _close_gone(self) -> None:
        for gone in self._gone:
            gone.close()
        self._gone.clear()

    def _abort_connections(self) -> None:
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    # What is set

    def require_login(self, username: str, password: str) -> None:
        """Basic auth on the main port; the other host asks for none, so that a leak can be seen in the log."""
        self._login = "Basic " + base64.b64encode(f"{username}:{password}".encode()).decode()

    def inject(
        self, pattern: str, fault: Fault, *, times: int | None = None, method: str | None = None, skip: int = 0
    ) -> Injection:
        """Spoil the answers to paths that match the shell pattern, `times` times, after letting `skip` pass."""
        injection = Injection(pattern, fault, method, times, skip)
        self.faults.append(injection)
        return injection

    def heal(self) -> None:
        """Take all faults away, and let everything that is stalled go on."""
        for injection in self.faults:
            injection.release()
        self.faults.clear()

    # What is seen

    def asked(self, method: str | None = None, path: str = "*", *, status: int | None = None) -> list[Request]:
        """The requests that match; `path` is a shell pattern, None stands for any."""
        return [
            request
            for request in self.requests
            if method in (None, request.method) and fnmatchcase(request.path, path) and status in (None, request.status)
        ]

    def count(self, method: str | None = None, path: str = "*", *, status: int | None = None) -> int:
        """How many requests match."""
        return len(self.asked(method, path, status=status))

    def bytes_sent(self, path: str = "*") -> int:
        """Bytes of bodies that were sent for paths that match the shell pattern."""
        return sum(request.sent for request in self.asked(None, path))

    def forget(self) -> None:
        """Empty the log."""
        self.requests.clear()

    async def until(self, true: Callable[[], bool], timeout: float = 10) -> None:
        """Wait until something in the log is true; it is asked again on each arrival, chunk sent and end."""
        async with asyncio.timeout(timeout), self._changed:
            await self._changed.wait_for(true)

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    # Answering

    async def _handle(self, http: web.BaseRequest) -> web.StreamResponse:
        assert http.transport is not None
        path, _, query = http.raw_path.partition("?")
        port = http.transport.get_extra_info("sockname")[1]
        request = Request(http.method, path, query, CIMultiDict(http.headers), port, time.time())
        self.requests.append(request)
        await self._notify()
        await http.read()
        faults = [injection for injection in self.faults if injection.takes(request)]
        understood = dataclasses.replace(request, headers=CIMultiDict(request.headers))
        for injection in faults:
            injection.fault.hide(understood.headers)
        answer = self._answer(understood)
        for injection in faults:
            injection.fault.spoil(answer)
        try:
            return await self._send(http, request, answer, [injection.released for injection in faults])
        finally:
            await self._notify()

    def _answer(self, request: Request) -> SimulatedResponse:
        if self._login and request.port == self.port and request.headers.get("Authorization") != self._login:
            return plain(401, "Who are you?\n", {"WWW-Authenticate": 'Basic realm="simulator"'})
        if request.method not in ("GET", "HEAD"):
            return plain(405, "Only reading.\n", {"Allow": "GET, HEAD"})
        found = self.pypi.answer(request) or self.rubygems.answer(request)
        return found or plain(404, "Not found.\n")

    async def _send(
        self, http: web.BaseRequest, request: Request, answer: SimulatedResponse, releases: list[asyncio.Event]
    ) -> web.StreamResponse:
        async def stalled() -> None:
            for released in releases:
                await released.wait()

        if answer.stall_before:
            await stalled()
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        if answer.until_close:
            response._length_check = False
            response.force_close()
        elif answer.chunked:
            response.enable_chunked_encoding()
        elif answer.status not in (204, 304):
            response.content_length = len(answer.body) if answer.declared is None else answer.declared
        await response.prepare(http)
        request.status = answer.status
        if request.method == "HEAD" or answer.status in (204, 304):
            request.finished = True
            return response
        body, at = memoryview(answer.body), 0
        stops = sorted(
            {place for place in (answer.stall_at, answer.cut_at) if place is not None and place <= len(body)}
        )
        with contextlib.suppress(ConnectionError):
            for stop in [*stops, len(body)]:
                at = await self._write(response, request, body, at, stop, answer.pace)
                if stop == answer.stall_at:
                    await stalled()
                if stop == answer.cut_at:
                    await self._cut(http, answer.reset)
                    return response
            if answer.declared is not None and not answer.chunked and answer.declared > len(body):
                assert http.transport is not None
                http.transport.close()
                return response
            await response.write_eof()
            request.finished = True
        return response

    async def _cut(self, http: web.BaseRequest, reset: bool) -> None:
        transport = http.transport
        if transport is None:
            return
        transport.set_write_buffer_limits(0)
        await http.writer.drain()  # with that limit: until the kernel has every byte
        if reset:
            lingering = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, lingering)
        transport.abort()

    async def _write(
        self,
        response: web.StreamResponse,
        request: Request,
        body: memoryview,
        at: int,
        stop: int,
        pace: tuple[int, float] | None,
    ) -> int:
        """Send body[at:stop]; returns where it ended."""
        chunk, pause = pace or (_CHUNK_BYTES, 0)
        while at < stop:
            if pause:
                await asyncio.sleep(pause)
            part = body[at : min(stop, at + chunk)]
            await response.write(part)
            at += len(part)
            request.sent += len(part)
            await self._notify()
        return at


def _port(site: web.SockSite) -> int:
    return int(site._sock.getsockname()[1])
