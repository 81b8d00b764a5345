"""A proxy in front of a real object store: it counts requests, and makes faults that a store does not on demand."""

import asyncio
import io
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import aiohttp
from aiohttp import web
from yarl import URL

from tests import objects


class FaultyStore:
    """The proxy; requests are signed for its own address, which it passes on as Host."""

    def __init__(self, target: str) -> None:
        self.target = URL(target)
        self.url = ""
        self.requests: Counter[str] = Counter()
        """By method."""
        self.fail: Callable[[str, str], bool] = lambda method, path: False
        """Whether a request is answered with 503."""
        self.hang: Callable[[str, str], bool] = lambda method, path: False
        """Whether a request is not answered at all."""
        self.spoil: Callable[[bytes], bytes] = bytes
        """What becomes of the body of an answer to a GET."""
        self.paths: list[str] = []
        self.table: dict[str, object] = {}
        """The section [blobs] of the settings that leads through the proxy."""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.requests[request.method] += 1
        self.paths.append(f"{request.method} {request.path_qs}")
        if self.hang(request.method, request.path):
            await asyncio.sleep(3600)
        if self.fail(request.method, request.path):
            return web.Response(status=503, text="<Error><Code>SlowDown</Code></Error>")
        url = self.target.with_path(request.raw_path.partition("?")[0], encoded=True)
        if request.query_string:
            url = URL(f"{url}?{request.raw_path.partition('?')[2]}", encoded=True)
        headers = {name: value for name, value in request.headers.items() if name != "Transfer-Encoding"}
        body = await request.read()
        async with aiohttp.ClientSession(auto_decompress=False, skip_auto_headers=["Content-Type"]) as session:
            data = io.BytesIO(body) if body else None
            asking = session.request(request.method, url, headers=headers, data=data, allow_redirects=False)
            async with asking as answer:
                content = await answer.read()
                if request.method == "GET" and "list-type" not in request.query:
                    content = self.spoil(content)
                kept = {name: value for name, value in answer.headers.items() if name != "Transfer-Encoding"}
                if request.method != "HEAD":
                    kept["Content-Length"] = str(len(content))
                return web.Response(status=answer.status, headers=kept, body=content or None)


@asynccontextmanager
async def faulty(target: str) -> AsyncIterator[FaultyStore]:
    """A proxy in front of a store, until the end of the block."""
    store = FaultyStore(target)
    application = web.Application(client_max_size=1 << 30)
    application.router.add_route("*", "/{path:.*}", store.handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    store.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield store
    finally:
        await runner.cleanup()


@asynccontextmanager
async def faulty_s3() -> AsyncIterator[FaultyStore]:
    """Such a proxy in front of SeaweedFS, with the settings of an empty bucket behind it."""
    target = objects.table("s3")
    async with faulty(target["endpoint"]) as proxy:
        proxy.table = target | {"endpoint": proxy.url}
        yield proxy
