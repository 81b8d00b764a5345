"""Asking: many times as fast as it goes (wrk), at a steady pace (for latencies), and for whole files."""

import asyncio
import re
import selectors
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final
from urllib.parse import urlsplit

import msgspec

WRK: Final = shutil.which("wrk")
_PIECE = 1 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}

Headers = Mapping[str, str]


class Load(msgspec.Struct, frozen=True):
    """What a server did in a while."""

    requests: float
    """Per second."""
    received: float
    """Bytes per second."""
    p99: float = 0.0
    """Milliseconds within which 99 of 100 responses came; 0 where that was not measured."""


class Download(msgspec.Struct, frozen=True):
    """One file by one client. Seconds since all of them began."""

    first: float
    whole: float
    size: int
    """Bytes of body."""


async def load(
    url: str, clients: int, seconds: float, headers: Headers | None = None, status: int = 200, script: str = ""
) -> Load:
    """Ask for one URL again and again with that many keep-alive clients. Raises unless all answers have `status`.

    `script` is one for wrk that makes the requests; our own client, where wrk is not installed, does without.
    """
    headers = headers or {}
    if url.startswith("http:"):  # of the others, wrk says whether they were answered
        head, size = await asyncio.to_thread(ask, url, headers)
        assert head.startswith(f"HTTP/1.1 {status}"), f"{url} answers {head.splitlines()[0]}"
    if WRK is None:
        return await asyncio.to_thread(_load, url, clients, seconds, headers, size)
    words = [word for name, value in headers.items() for word in ("-H", f"{name}: {value}")]
    process = await asyncio.create_subprocess_exec(
        WRK, "-t1", f"-c{clients}", f"-d{max(1, round(seconds))}s", "--latency", *(("-s", script) if script else ()),
        *words, url, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    assert process.returncode == 0, said
    assert "Non-2xx" not in said, said
    requests = re.search(r"Requests/sec:\s+([\d.]+)", said)
    received = re.search(r"Transfer/sec:\s+([\d.]+)([KMG]?)B", said)
    assert requests is not None, said
    assert received is not None, said
    slow = re.search(r"99%\s+([\d.]+)(us|ms|s)", said)
    assert slow is not None, said
    p99 = float(slow[1]) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[slow[2]]
    return Load(float(requests[1]), float(received[1]) * _UNITS[received[2]], p99)


def request(url: str, headers: Headers) -> tuple[tuple[str, int], bytes]:
    """Where to send a GET, and its bytes."""
    parts = urlsplit(url)
    lines = [f"GET {parts.path} HTTP/1.1", f"Host: {parts.netloc}", *(f"{name}: {headers[name]}" for name in headers)]
    return (parts.hostname or "", parts.port or 80), ("\r\n".join(lines) + "\r\n\r\n").encode()


def ask(url: str, headers: Headers) -> tuple[str, int]:
    """The head of an answer, and the bytes of its body."""
    place, asked = request(url, headers)
    with socket.create_connection(place, 60) as connection:
        connection.sendall(asked)
        head, got = _head(connection)
        size = _length(head)
        while got < size:
            got += len(connection.recv(_PIECE))
    return head, size


def _head(connection: socket.socket) -> tuple[str, int]:
    """The head of an answer, and how many bytes of its body have come with it."""
    content = b""
    while (end := content.find(b"\r\n\r\n")) < 0:
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the server hung up")
        content += piece
    return content[:end].decode("latin-1"), len(content) - end - 4


def _length(head: str) -> int:
    found = re.search(r"^content-length: *(\d+)", head, re.IGNORECASE | re.MULTILINE)
    return int(found[1]) if found else 0


class _Client:
    """One of several clients in one loop: what it has had of its answer."""

    def __init__(self, place: tuple[str, int], asked: bytes) -> None:
        self.connection = socket.create_connection(place, 60)
        self.connection.setblocking(False)
        self.asked = asked
        self.begin()

    def begin(self) -> None:
        """Send the request."""
        self.head = b""
        self.size = -1  # of the body
        self.got = 0
        self.first = 0.0
        self.connection.send(self.asked)

    def take(self, buffer: bytearray) -> int:
        """Read what is there; the bytes of the body are counted and thrown away. Returns how many came."""
        if self.size < 0:
            piece = self.connection.recv(4096)
            self.head += piece
            end = self.head.find(b"\r\n\r\n")
            if end >= 0:
                self.size = _length(self.head[:end].decode("latin-1"))
                self.got = len(self.head) - end - 4
            count = len(piece)
        else:
            # The kernel drops them: a client that costs nothing leaves the machine to the server.
            count = self.connection.recv_into(buffer, _PIECE, getattr(socket, "MSG_TRUNC", 0))
            self.got += count
        if not count:
            raise ConnectionError("the server hung up")
        if self.got and not self.first:
            self.first = time.perf_counter()
        return count

    @property
    def status(self) -> int:
        return int(self.head.split(b" ", 2)[1])

    @property
    def done(self) -> bool:
        return 0 <= self.size <= self.got


@contextmanager
def _clients(url: str, number: int, headers: Headers) -> Iterator[tuple[selectors.BaseSelector, list[_Client]]]:
    place, asked = request(url, headers)
    with selectors.DefaultSelector() as selector:
        clients = []
        for _ in range(number):
            clients.append(client := _Client(place, asked))
            selector.register(client.connection, selectors.EVENT_READ, client)
        try:
            yield selector, clients
        finally:
            for client in clients:
                client.connection.close()


def _load(url: str, number: int, seconds: float, headers: Headers, size: int) -> Load:
    began, answers, received, buffer = time.perf_counter(), 0, 0, bytearray(_PIECE)
    with _clients(url, number, headers) as (selector, _):
        while time.perf_counter() - began < seconds:
            for key, _ in selector.select(1):
                received += key.data.take(buffer)
                if key.data.done:
                    answers += 1
                    key.data.begin()
    took = time.perf_counter() - began
    # Bodies that are still on their way count in part; a 304 has none.
    return Load(max(answers, received / size if size else 0) / took, received / took)


def download(url: str, number: int, headers: Headers | None = None) -> list[Download]:
    """The same file by so many clients, who all ask at the same moment. Blocking."""
    began, buffer = time.perf_counter(), bytearray(_PIECE)
    done: list[Download] = []
    with _clients(url, number, headers or {}) as (selector, _):
        while len(done) < number:
            ready = selector.select(60)
            assert ready, "no byte in a minute"
            for key, _ in ready:
                client = key.data
                client.take(buffer)
                if client.done:
                    selector.unregister(client.connection)
                    done.append(Download(client.first - began, time.perf_counter() - began, client.got))
    return done


class Pulse(threading.Thread):
    """Asks for one URL at a steady pace, so that what holds up the server is seen, and notes how long each took."""

    def __init__(self, url: str, pause: float = 0.004) -> None:
        super().__init__(daemon=True)
        self._url, self._pause = url, pause
        self._over = threading.Event()
        self.times: list[float] = []

    def run(self) -> None:
        place, asked = request(self._url, {})
        with socket.create_connection(place, 60) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self._over.wait(self._pause):
                began = time.perf_counter()
                connection.sendall(asked)
                head, got = _head(connection)
                size = _length(head)
                while got < size:
                    got += len(connection.recv(_PIECE))
                self.times.append(time.perf_counter() - began)

    def end(self) -> list[float]:
        """Stop, and return the seconds of each answer."""
        self._over.set()
        self.join(60)
        return self.times


def percentile(times: Sequence[float], part: float) -> float:
    """The value below which `part` of the values lie."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def one_of_each(url: str, paths: Sequence[str], number: int, headers: Headers) -> list[float]:
    """Ask for each path once, in order, with so many connections; returns the seconds of each answer. Blocking."""
    left = list(reversed(paths))
    times: list[float] = []
    buffer = bytearray(_PIECE)
    with _clients(url + left[-1], 0, headers) as (selector, _):
        for _ in range(min(number, len(left))):
            client = _Client(*request(url + left.pop(), headers))
            selector.register(client.connection, selectors.EVENT_READ, [client, time.perf_counter()])
        while selector.get_map():
            ready = selector.select(60)
            assert ready, "no byte in a minute"
            for key, _ in ready:
                client, began = key.data
                client.take(buffer)
                if not client.done:
                    continue
                assert client.status == 200, client.status
                times.append(time.perf_counter() - began)
                if not left:
                    selector.unregister(client.connection)
                    client.connection.close()
                    continue
                client.asked = request(url + left.pop(), headers)[1]
                key.data[1] = time.perf_counter()
                client.begin()
    return times
