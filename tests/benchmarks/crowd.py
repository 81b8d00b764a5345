"""A crowd at the door: ten thousand idle connections and a hundred slow readers, and one new client among them.

    python -m tests.benchmarks.crowd

Loopback only, under a minute. The mirror is a process of its own; what is measured is a new client's small page
(connection and response) without the crowd and in it, and the mirror's memory. The exit status is 1 when the best of
three runs misses a bound.
"""

import asyncio
import contextlib
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
from yarl import URL

from tests.builders import wheel
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Simulator

IDLE = 10_000
SLOW = 100
TRIES = 150
RUNS = 3
SLOWDOWN = 2.0
"""How many times longer a new client may wait in the crowd than without it."""
MEMORY_BYTES = 500_000_000
RESERVED = 600
"""Descriptors of this process for everything else."""


class Crowd(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured; times in milliseconds, memory in bytes."""

    idle: int
    slow: int
    usual: float
    crowded: float
    memory_before: int
    memory: int

    @property
    def ratio(self) -> float:
        return self.crowded / self.usual


def places() -> int:
    """How many idle connections this machine's limit of open files lets one process hold, up to IDLE."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return IDLE if hard == resource.RLIM_INFINITY else min(IDLE, hard - SLOW - RESERVED)


def memory(pid: int) -> int:
    """Resident, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) * 1024


def ask(place: tuple[str, int], path: str) -> float:
    """The milliseconds that a new client's request takes, with its connection."""
    began = time.perf_counter()
    with socket.create_connection(place, 30) as sock:
        sock.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: sock.recv(65536), b""))
    took = (time.perf_counter() - began) * 1000
    assert answer.startswith(b"HTTP/1.1 200"), answer[:100]
    return took


def usual_time(place: tuple[str, int]) -> float:
    """The median over a row of new clients; of several rows the quietest, for the machine has other work too."""
    return min(statistics.median(ask(place, "/simple/six/") for _ in range(TRIES // 3)) for _ in range(3))


@contextlib.contextmanager
def idle_clients(place: tuple[str, int], number: int) -> Iterator[None]:
    """So many connections; every second one has asked for something before it fell silent."""
    with contextlib.ExitStack() as stack:
        for at in range(number):
            sock = stack.enter_context(socket.create_connection(place, 30))
            if at % 2:
                sock.sendall(b"GET /simple/six/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
                sock.recv(65536)
        yield


@contextlib.contextmanager
def slow_readers(place: tuple[str, int], paths: list[str], number: int) -> Iterator[list[socket.socket]]:
    """So many that ask for something large and take a few bytes of it."""
    with contextlib.ExitStack() as stack:
        readers = []
        for at in range(number):
            sock = stack.enter_context(socket.socket())
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.connect(place)
            sock.sendall(f"GET {paths[at % len(paths)]} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert sock.recv(12) == b"HTTP/1.1 200"
            readers.append(sock)
        yield readers


def _measure(mirror: Spawned, paths: list[str], number: int) -> Crowd:
    url = URL(mirror.url)
    place = (str(url.host), int(url.port or 0))
    for path in ("/simple/six/", *paths):
        ask(place, path)  # now it is held
    before, usual = memory(mirror.pid), usual_time(place)
    with idle_clients(place, number), slow_readers(place, paths, SLOW) as readers:
        crowded = usual_time(place)
        for sock in readers:  # they are still served, each at its pace
            assert sock.recv(100)
        return Crowd(
            idle=number, slow=SLOW, usual=usual, crowded=crowded, memory_before=before, memory=memory(mirror.pid)
        )


async def measure(directory: Path) -> Crowd:
    """Run it once, with a fresh mirror in the directory."""
    number = places()
    directory.mkdir(parents=True, exist_ok=True)
    async with Simulator() as simulator:
        simulator.publish(wheel("six", "1.16.0"))
        large = wheel("large", "1.0", size=20_000_000)
        simulator.publish(large)
        for version in range(4000):
            simulator.publish(wheel("many", f"1.{version}"))
        paths = [f"/packages/large/{large.filename}", "/simple/many/"]
        async with spawned(
            directory / "data", repositories(simulator), limits={"idle": 600, "stall": 600, "client_share": 1.0}
        ) as mirror:
            return await asyncio.to_thread(_measure, mirror, paths, number)


def main() -> int:
    """Print the figures."""
    best: Crowd | None = None
    for _ in range(RUNS):  # the machine may be busy with something else for a while
        with tempfile.TemporaryDirectory() as directory:
            crowd = asyncio.run(measure(Path(directory)))
        print(f"{crowd.idle} idle connections, {crowd.slow} slow readers")
        print(f"a new client's small page: {crowd.usual:.2f} ms alone, {crowd.crowded:.2f} ms in the crowd")
        print(f"memory: {crowd.memory_before / 1e6:.0f} MB before, {crowd.memory / 1e6:.0f} MB in the crowd")
        best = min(best or crowd, crowd, key=lambda one: one.ratio)
        if best.ratio <= SLOWDOWN:
            break
    return 0 if best and best.ratio <= SLOWDOWN and best.memory < MEMORY_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
