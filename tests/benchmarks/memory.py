"""Memory after many large pages by many clients: `python -m tests.benchmarks.memory [PAGES] [CLIENTS]`.

1,500 pages of some 94 KB (gzip) are requested by ten clients in turn that differ only in their User-Agent, with the
default settings. Whatever the mirror keeps for each kind of client has to stay within its budget: the exit status is 1
when its resident memory after the last client is more than 10 % above that after the second, or above 200 MB.
"""

import asyncio
import json
import random
import sys
import tempfile
from pathlib import Path

from aiohttp import web

from tests.benchmarks.content import entry
from tests.benchmarks.site import JSON, resident
from tests.serving import Spawned, spawned

PAGES = 1500
CLIENTS = 10
FILES = 1050
"""Files on a page, which make some 94 KB of gzip."""
AT_ONCE = 8
MOST_BYTES = 200_000_000
GROWTH = 1.1
NAME = "large-0000"


def body() -> bytes:
    """The page of one project; those of the others differ in the name."""
    chance = random.Random(NAME)
    entries = [
        entry(NAME, f"{NAME.replace('-', '_')}-1.{number}-py3-none-any.whl", f"{chance.getrandbits(256):064x}", 1234)
        | {"core-metadata": {"sha256": f"{chance.getrandbits(256):064x}"}}
        for number in range(FILES)
    ]
    return json.dumps({"meta": {"api-version": "1.1"}, "name": NAME, "files": entries}).encode()


async def upstream() -> tuple[web.AppRunner, str]:
    """An index of such pages; its runner and its URL."""
    page = body()

    async def answer(request: web.Request) -> web.Response:
        name = request.match_info["name"]
        own = page.replace(NAME.encode(), name.encode()).replace(NAME.replace("-", "_").encode(), name.encode())
        return web.Response(body=own, content_type=JSON, headers={"ETag": f'"{name}"'})

    app = web.Application()
    app.add_routes([web.get("/simple/{name}/", answer)])
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return runner, f"http://127.0.0.1:{runner.addresses[0][1]}/simple/"


async def visit(mirror: Spawned, agent: str, pages: int) -> int:
    """Request every page as one client; the bytes of the last."""
    sizes: list[int] = []
    numbers = iter(range(pages))

    async def work() -> None:
        for number in numbers:
            reply = await mirror.get(
                f"/simple/large-{number:04}/", Accept=JSON, Accept_Encoding="gzip", User_Agent=agent
            )
            assert reply.status == 200, reply.text
            sizes.append(len(reply.body))

    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return sizes[-1]


async def measure(directory: Path, pages: int, clients: int) -> list[int]:
    """The resident memory after each client."""
    runner, url = await upstream()
    memory: list[int] = []
    try:
        async with spawned(
            directory / "data", {"pypi": {"format": "pypi", "mount": "/", "upstreams": [url]}}
        ) as mirror:
            for number in range(clients):
                size = await visit(mirror, f"client/{number}", pages)
                memory.append(resident(mirror.pid))
                print(f"client {number + 1}: {memory[-1] / 1e6:.0f} MB ({pages} pages of {size} bytes)", flush=True)
    finally:
        await runner.cleanup()
    return memory


def main() -> int:
    """Print the figures."""
    words = sys.argv[1:]
    pages = int(words[0]) if words else PAGES
    clients = int(words[1]) if len(words) > 1 else CLIENTS
    with tempfile.TemporaryDirectory() as directory:
        memory = asyncio.run(measure(Path(directory), pages, clients))
    return 0 if memory[-1] <= GROWTH * memory[1] and memory[-1] < MOST_BYTES else 1


if __name__ == "__main__":
    sys.exit(main())
