"""An upstream that serves any files at any paths, with all faults of the simulator: for code that knows no format."""

import hashlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import datetime

import trustme
from aiohttp import web

from mirror.model import File
from tests.simulator import Request, SimulatedResponse, Simulator
from tests.simulator.wire import Representation, answer, plain

LAST_MODIFIED = "Tue, 05 May 2026 10:00:00 GMT"


class FileServer(Simulator):
    """`put` things and fixed answers; everything else is 404."""

    def __init__(self) -> None:
        super().__init__()
        self.things: dict[str, Representation | SimulatedResponse] = {}

    def put(self, path: str, thing: bytes | Representation | SimulatedResponse) -> str:
        """Serve it there (bytes get a strong ETag and a date); returns its URL."""
        if isinstance(thing, bytes):
            etag = f'"{hashlib.md5(thing).hexdigest()}"'
            thing = Representation(thing, "application/octet-stream", etag=etag, last_modified=LAST_MODIFIED)
        self.things[path] = thing
        return self.url + path.removeprefix("/")

    def file(
        self, content: bytes, filename: str = "it.whl", *, digests: dict[str, str] | None = None,
        sized: bool = True, uploaded: datetime | None = None,
    ) -> File:  # fmt: skip
        """Serve a file and return the entry that an index would have for it."""
        url = self.put(f"/files/{filename}", content)
        if digests is None:
            digests = {"sha256": hashlib.sha256(content).hexdigest()}
        size = len(content) if sized else None
        return File(filename=filename, version="1", digests=digests, url=url, size=size, uploaded=uploaded, source="s")

    def _answer(self, request: Request) -> SimulatedResponse:
        refused = super()._answer(request)
        if refused.status in (401, 405):
            return refused
        thing = self.things.get(request.path)
        if thing is None:
            return plain(404, "Not found.\n")
        if isinstance(thing, SimulatedResponse):
            return SimulatedResponse(thing.status, thing.headers.copy(), thing.body, whole=thing.whole)
        return answer(request, thing)


@asynccontextmanager
async def secure(
    authority: trustme.CA, handle: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]
) -> AsyncIterator[str]:
    """A server with a certificate of that authority; its URL."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}/"
    finally:
        await runner.cleanup()
