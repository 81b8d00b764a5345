"""How much memory pages take that do not fit into it: `python -m tests.benchmarks.memory`.

An index of many projects with large pages is asked for whole, by one User-Agent after another, through a mirror with
its default settings in a process of its own. Each agent's requests are bytes that were never sent before, so each
response could be kept once more. Everything is on loopback.

It fails when the memory after the last agent is more than a tenth above that after the second, or above 200 MB.
"""

import asyncio
import gzip
import hashlib
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import click
from aiohttp import web

from tests.serving import Spawned, spawned

JSON = "application/vnd.pypi.simple.v1+json"
FILES = 855
"""Files of a project whose page has some 94 KB in gzip."""
AT_ONCE = 4
LIMIT_MB = 200


def page(project: str) -> bytes:
    """Return the page of a project, which is always the same and compresses as pages of real indexes do."""
    files = []
    for number in range(FILES):
        digest = hashlib.sha256(f"{project} {number}".encode()).hexdigest()
        filename = f"{project}-{number // 10}.{number % 10}-py3-none-any.whl"
        files.append(
            {
                "filename": filename,
                "url": f"../../packages/{digest[:2]}/{digest}/{filename}",
                "hashes": {"sha256": digest},
                "core-metadata": {"sha256": hashlib.sha256(digest.encode()).hexdigest()},
                "requires-python": ">=3.9",
                "size": 100_000 + int(digest[:4], 16),
                "upload-time": f"2026-01-{1 + number % 28:02}T00:00:00.{int(digest[:5], 16) % 10**6:06}Z",
                "yanked": False,
            }
        )
    return json.dumps({"meta": {"api-version": "1.1"}, "name": project, "versions": [], "files": files}).encode()


@asynccontextmanager
async def upstream() -> AsyncIterator[str]:
    """Serve the index; its URL."""

    async def project(request: web.Request) -> web.Response:
        etag = f'"{request.match_info["project"]}"'
        if request.headers.get("If-None-Match") == etag:
            return web.Response(status=304)
        body = await asyncio.to_thread(page, request.match_info["project"])
        return web.Response(body=body, content_type=JSON, headers={"ETag": etag})

    app = web.Application()
    app.router.add_get("/simple/{project}/", project)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}/simple/"
    finally:
        await runner.cleanup()


def resident(mirror: Spawned) -> float:
    """Return the memory of the mirror's process in MB."""
    status = Path(f"/proc/{mirror.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1000


async def ask_for_all(mirror: Spawned, pages: int, agent: str) -> None:
    """Request every page once."""
    names = iter(range(pages))

    async def client() -> None:
        for number in names:
            reply = await mirror.get(f"simple/project-{number}/", Accept=JSON, Accept_Encoding="gzip", User_Agent=agent)
            assert reply.status == 200

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))


async def measure(pages: int, agents: int, checkout: Path | None) -> list[float]:
    """Return the memory in MB after each of the agents."""
    found: list[float] = []
    async with upstream() as url:
        with tempfile.TemporaryDirectory() as directory:
            repositories = {"pypi": {"format": "pypi", "upstreams": [url]}}
            async with spawned(Path(directory) / "data", repositories, checkout=checkout) as mirror:
                print(f"{pages} pages of {len(gzip.compress(page('project-1'), 6)) / 1000:.0f} KB in gzip")
                print(f"at the start {resident(mirror):6.1f} MB", flush=True)
                for agent in range(agents):
                    began = time.monotonic()
                    await ask_for_all(mirror, pages, f"agent/{agent}")
                    found.append(resident(mirror))
                    print(f"agent {agent + 1:2}     {found[-1]:6.1f} MB  {time.monotonic() - began:5.0f} s", flush=True)
                await mirror.end()
    return found


@click.command()
@click.option("--pages", default=1500, show_default=True, help="Projects of the index.")
@click.option("--agents", default=10, show_default=True, help="User-Agents that ask for all of them in turn.")
@click.option("--checkout", type=click.Path(path_type=Path), help="Where the mirror's code is, if not here.")
def main(pages: int, agents: int, checkout: Path | None) -> None:
    """Measure the memory of a mirror whose pages do not fit into it."""
    found = asyncio.run(measure(pages, agents, checkout))
    growth = found[-1] / found[min(1, len(found) - 1)] - 1
    print(f"{100 * growth:+.1f} % from the second agent to the last, {max(found):.0f} MB at most")
    sys.exit(growth > 0.1 or max(found) > LIMIT_MB)


if __name__ == "__main__":
    main()
