"""The set-up of config/compose as processes of this machine: nginx, nodes, PostgreSQL and SeaweedFS.

    python -m tests.nodes.compose [SECONDS]

runs what config/compose/README.md describes, without a container engine: clients install and publish through nginx
while one node after the other is restarted. What differs from the containers are addresses, and the upstreams, which
are simulated.
"""

import asyncio
import json
import os
import re
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import aiohttp

from tests import objects, servers
from tests.builders import Built, gem, sdist, wheel
from tests.clients import require_client
from tests.clients.python import environment
from tests.clients.ruby import Home, Ruby
from tests.nginx import RunningNginx, running_nginx
from tests.postgres import running_postgres
from tests.servers import kept_ports
from tests.simulator import Simulator

CHECKOUT = Path(__file__).parent.parent.parent
FOLDER = CHECKOUT / "config" / "compose"
START_SECONDS = 30.0
PAUSE_SECONDS = 0.5
"""Time between two commands of one client."""
LOG_FORMAT = "$request_method $request_uri $status $upstream_addr $upstream_status"


class ComposedNode:
    """One node: `mirror serve` with config/compose/mirror.toml, and the variables that say where it is."""

    def __init__(self, number: int, directory: Path, variables: Mapping[str, str]) -> None:
        port, own_port = kept_ports(2)
        self.address = f"127.0.0.1:{port}"
        self._data = directory / f"node{number}"
        self._variables = dict(variables) | {
            "MIRROR_LISTEN": self.address,
            "MIRROR_DATA_DIR": str(self._data),
            "MIRROR_NODE__ADDRESS": f"http://127.0.0.1:{own_port}",
        }
        self._process: asyncio.subprocess.Process | None = None

    def command(self, *words: str) -> list[str]:
        """A command line, with the settings of this node."""
        return [sys.executable, "-m", "mirror", *words, "--config", str(FOLDER / "mirror.toml")]

    @property
    def environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
        return kept | self._variables

    async def start(self) -> None:
        """Start it, and wait until it is ready."""
        with self._data.with_suffix(".log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self.command("serve"), env=self.environment, cwd=CHECKOUT, stdout=log, stderr=log
            )
        end = time.monotonic() + START_SECONDS
        async with aiohttp.ClientSession() as session:
            while time.monotonic() < end and self._process.returncode is None:
                try:
                    async with session.get(f"http://{self.address}/ready") as response:
                        if response.status == 200:
                            return
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.02)
        raise AssertionError(self._data.with_suffix(".log").read_text()[-3000:])

    async def end(self) -> None:
        """Have it end as an orchestrator does (SIGTERM), and wait for that."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)
            await self._process.wait()

    async def restart(self) -> None:
        """End and start it."""
        await self.end()
        await self.start()


class Composition:
    """What runs: where clients reach it, and its nodes."""

    def __init__(self, front: RunningNginx, nodes: Sequence[ComposedNode]) -> None:
        self.url = front.url
        """That of nginx; ends in a slash."""
        self.nodes = nodes
        self._log = front.log

    def failures(self) -> list[str]:
        """The lines of nginx's log about answers of 500 and more."""
        return [line for line in self._log.read_text().splitlines() if line.split()[2] >= "500"]

    async def command(self, *words: str) -> str:
        """What `mirror …` prints, run with the settings of the first node."""
        node = self.nodes[0]
        process = await asyncio.create_subprocess_exec(
            *node.command(*words), env=node.environment, cwd=CHECKOUT, stdout=asyncio.subprocess.PIPE
        )
        said, _ = await process.communicate()
        assert process.returncode == 0, words
        return said.decode()

    async def restart_in_turn(self, seconds: float) -> int:
        """Restart one node after the other for so long, each once at least; how many restarts it were."""
        end, count = time.monotonic() + seconds, 0
        while count < len(self.nodes) or time.monotonic() < end:
            await self.nodes[count % len(self.nodes)].restart()
            count += 1
        return count


@asynccontextmanager
async def composition(
    directory: Path, simulator: Simulator, database: str, blobs: objects.BlobsTable, count: int = 2
) -> AsyncIterator[Composition]:
    """nginx before so many nodes, over a database and a store of objects."""
    secret = directory / "node-secret"
    secret.write_text("0123456789abcdef" * 4)
    password = directory / "database-password"
    password.write_text("not a secret")
    variables = {
        "MIRROR_CATALOG__URL": database,
        "MIRROR_CATALOG__PASSWORD_FILE": str(password),
        "MIRROR_BLOBS__URL": blobs["url"],
        "MIRROR_BLOBS__ENDPOINT": blobs["endpoint"],
        "MIRROR_NODE__SECRET_FILE": str(secret),
        "MIRROR_PROXIES__TRUSTED": "127.0.0.1",
        "MIRROR_REPOSITORIES": json.dumps(
            {
                "pypi": {"format": "pypi", "upstreams": [simulator.simple_url]},
                "rubygems": {"format": "rubygems", "upstreams": [simulator.url]},
            }
        ),
    }
    nodes = [ComposedNode(number, directory, variables) for number in range(count)]
    try:
        await nodes[0].start()  # which makes the tables
        await asyncio.gather(*(node.start() for node in nodes[1:]))
        http = partial(_configuration, [node.address for node in nodes])
        async with running_nginx(directory / "nginx", http, LOG_FORMAT) as front:
            yield Composition(front, nodes)
    finally:
        await asyncio.gather(*(node.end() for node in nodes))


def _configuration(nodes: Sequence[str], address: str) -> str:
    """Return config/compose/nginx.conf, with the addresses of the nodes and that of nginx."""
    text = (FOLDER / "nginx.conf").read_text().replace("listen 80;", f"listen {address};")
    servers_in_it = re.findall(r"^ *server \S+:8484 (.*);\n", text, re.MULTILINE)
    assert len(servers_in_it) == 2
    lines = "".join(f"    server {node} {servers_in_it[0]};\n" for node in nodes)
    return re.sub(r"(^ *server \S+:8484 .*;\n)+", lines, text, flags=re.MULTILINE)


# Clients


class Shift:
    """Clients that install and publish again and again, until they are told to end; none may fail."""

    def __init__(self, composition: Composition, directory: Path, token: str, ruby: Home) -> None:
        self._url = composition.url
        self._directory = directory
        self._token = token
        self._ruby = ruby
        self._ended = asyncio.Event()
        self.rounds: dict[str, int] = {}
        """How often each of them has succeeded."""

    async def work(self) -> None:
        """Let all of them work, until `end`; raise what the first failure of one says."""
        clients = (self._pip, self._uv, self._uv_publish, self._gem, self._bundle, self._gem_push)
        async with asyncio.TaskGroup() as group:
            for client in clients:
                group.create_task(self._repeat(client))

    def end(self) -> None:
        """Have each client finish what it does."""
        self._ended.set()

    async def _repeat(self, client: Callable[[int], Awaitable[None]]) -> None:
        name = client.__name__.strip("_")  # type: ignore[attr-defined]
        while not self._ended.is_set():
            number = self.rounds.get(name, 0)
            await client(number)
            self.rounds[name] = number + 1
            with suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), PAUSE_SECONDS)

    async def _pip(self, number: int) -> None:
        await _run(
            require_client("pip"), "install", "--no-cache-dir", "--quiet", "--retries", "0", "--index-url",
            f"{self._url}simple/", "--target", str(self._directory / f"pip{number}"), "app",
        )  # fmt: skip

    async def _uv(self, number: int) -> None:
        await _run(
            require_client("uv"), "pip", "install", "--no-cache", "--default-index", f"{self._url}simple/", "--target",
            str(self._directory / f"uv{number}"), "app", UV_PYTHON=sys.executable, UV_HTTP_RETRIES="0",
        )  # fmt: skip

    async def _uv_publish(self, number: int) -> None:
        built = wheel("published", f"1.{number}")
        await _run(
            require_client("uv"), "publish", "--publish-url", f"{self._url}legacy/", "--check-url",
            f"{self._url}simple/", "--token", self._token, "--trusted-publishing", "never", str(self._put(built)),
            UV_HTTP_RETRIES="0",
        )  # fmt: skip

    async def _gem(self, number: int) -> None:
        await self._ruby.run("gem", "install", "rails-like", "--install-dir", f"gems{number}", "--clear-sources",
                             "--source", self._url)  # fmt: skip

    async def _bundle(self, number: int) -> None:
        await self._ruby.bundle("config", "set", "--global", "path", f"bundled{number}", gemfile='gem "rails-like"\n')
        await self._ruby.run("bundle", "install", "--retry", "0", "--no-cache")

    async def _gem_push(self, number: int) -> None:
        built = gem("pushed", f"1.{number}")
        (self._ruby.place / built.filename).write_bytes(built.content)
        host = self._url.rstrip("/")
        await self._ruby.run("gem", "push", built.filename, "--host", host, GEM_HOST_API_KEY=self._token)

    def _put(self, built: Built) -> Path:
        path = self._directory / built.filename
        path.write_bytes(built.content)
        return path


async def _run(*words: str, **variables: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *words, env=environment() | variables, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, f"{' '.join(words)}\n{said.decode()}"


def publish_upstream(simulator: Simulator) -> None:
    """What the clients install: one project of each kind with dependencies."""
    names = [f"part{number}" for number in range(6)]
    for name in names:
        simulator.publish(wheel(name, "1.0", size=200_000))
        simulator.rubygems.push(gem(name, "1.0", size=100_000))
    simulator.publish(sdist("part0", "1.0"))
    simulator.publish(wheel("app", "1.0", requires=names))
    simulator.rubygems.push(gem("rails-like", "1.0", dependencies=dict.fromkeys(names, ">= 0")))


async def check_published(composition: Composition, shift: Shift) -> None:
    """Check that everything that was published is on the pages of every node."""
    async with aiohttp.ClientSession() as session:
        for node in composition.nodes:
            async with session.get(f"http://{node.address}/simple/published/") as response:
                page = await response.text()
            async with session.get(f"http://{node.address}/info/pushed") as response:
                info = await response.text()
            assert page.count("</a>") == shift.rounds["uv_publish"]
            assert len(info.splitlines()) - 1 == shift.rounds["gem_push"]


async def roll(directory: Path, simulator: Simulator, database: str, blobs: objects.BlobsTable, seconds: float) -> str:
    """Run all of it for so long; what happened, in a sentence. An assertion fails where a client failed."""
    publish_upstream(simulator)
    async with composition(directory, simulator, database, blobs) as running:
        rights = ("--right", "upload", "--right", "yank")
        token = (await running.command("token", "create", *rights)).split()[-1]
        with Ruby().home(running.url) as home:
            (directory / "clients").mkdir()
            shift = Shift(running, directory / "clients", token, home)
            working = asyncio.create_task(shift.work())
            restarts = await running.restart_in_turn(seconds)
            shift.end()
            await working
        await check_published(running, shift)
        assert running.failures() == []
        rounds = ", ".join(f"{name} {count}" for name, count in sorted(shift.rounds.items()))
        return f"{restarts} restarts of 2 nodes, and no client failed: {rounds}"


async def main(seconds: float) -> None:
    """Run it, and print what happened."""
    with tempfile.TemporaryDirectory() as name, running_postgres() as server:
        async with Simulator() as simulator:
            print(await roll(Path(name), simulator, server.url(server.fresh()), objects.table("s3"), seconds))


if __name__ == "__main__":
    servers.open_session()
    try:
        asyncio.run(main(float(sys.argv[1]) if len(sys.argv) > 1 else 60.0))
    finally:
        servers.close_session()
