"""What this process is fetching, for the other processes of the mirror: on a listener of its own, for them alone.

Every request shows what only a process with the mirror's secret can know; without it, the answer is the same for every
path. The surprise: a file that breaks off here breaks off for those who follow as well, by closing the connection, so
that none of them takes a part for the whole.
"""

import asyncio
import hmac
import logging
import socket

from aiohttp import web

from mirror.errors import MirrorError
from mirror.transfer import GrowingBody
from mirror.transfer.flights import Flights
from mirror.transfer.nodes import END_PATH, INFLIGHT_PATH, NODE_PATH

logger = logging.getLogger(__name__)

MOST_REQUESTS = 10_000
"""The most requests at a time; all processes of the mirror together have fewer for what is fetched at once."""
MOST_CONNECTIONS = 4096
"""The most connections at a time, those of strangers included."""
STRANGER_SECONDS = 5.0
"""Seconds after which a connection is closed that has not shown the secret."""
STALL_SECONDS = 60.0
"""Seconds after which a process that takes nothing of what it has asked for is given up."""
CLOSE_SECONDS = 0.1
"""Seconds that requests have to end once the process ends."""


class InflightServer:
    """Answers the other processes of the mirror."""

    def __init__(self, flights: Flights, token: str) -> None:
        """`token` is what the others have to show."""
        self._flights = flights
        self._expected = f"Bearer {token}".encode()
        self._requests = 0
        self._server = web.Server(self._handle, access_log=None)
        self._strangers: dict[web.RequestHandler, asyncio.TimerHandle] = {}
        """The connections that have not shown the secret yet, with what will close them."""
        self._listening: asyncio.Server | None = None

    async def start(self, listening: socket.socket) -> None:
        """Answer at a listening socket."""
        self._listening = await asyncio.get_running_loop().create_server(self._connect, sock=listening)

    def _connect(self) -> web.RequestHandler:
        """Return the protocol of a new connection, which has little time to show the secret."""
        connection = self._server()
        seconds = STRANGER_SECONDS if len(self._server.connections) < MOST_CONNECTIONS else 0.0
        timer = asyncio.get_running_loop().call_later(seconds, self._close_stranger, connection)
        self._strangers[connection] = timer
        return connection

    def _close_stranger(self, connection: web.RequestHandler) -> None:
        del self._strangers[connection]
        if connection.transport is not None:
            connection.transport.abort()

    async def close(self) -> None:
        """Answer no more, and break off what is being sent."""
        if self._listening is not None:
            self._listening.close()
        for timer in self._strangers.values():
            timer.cancel()
        await self._server.shutdown(CLOSE_SECONDS)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        shown = request.headers.get("Authorization", "").encode(errors="replace")
        if not hmac.compare_digest(shown, self._expected) or request.method != "GET":
            return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})
        if (timer := self._strangers.pop(request.protocol, None)) is not None:
            timer.cancel()
        if request.path == NODE_PATH:
            return web.Response(status=204)
        name, slash, rest = request.path.removeprefix(INFLIGHT_PATH).partition("/")
        led = await self._flights.leading(name)
        if led is None or slash + rest not in ("", END_PATH):
            return web.Response(status=404)
        if self._requests >= MOST_REQUESTS:
            return web.Response(status=503)
        self._requests += 1
        try:
            if rest:
                await led.ended.wait()
                return web.Response(status=204)
            return web.Response(status=502) if led.body is None else await self._send(request, led.body)
        finally:
            self._requests -= 1

    async def _send(self, request: web.BaseRequest, body: GrowingBody) -> web.StreamResponse:
        """Send a file as it comes, from the offset that is asked for."""
        try:
            await body.wait_open(early=True)
        except MirrorError:
            return web.Response(status=502)
        start = _start(request.headers.get("Range", ""), body)
        response = web.StreamResponse(status=206 if start else 200, headers=_headers(body))
        if body.is_sized:
            response.content_length = body.size - start
            if start:
                response.headers["Content-Range"] = f"bytes {start}-{body.size - 1}/{body.size}"
        else:
            response.enable_chunked_encoding()
        await response.prepare(request)
        source = body.label
        try:
            async for chunk in body.read(start):
                if body.label != source:
                    break  # it goes on from a source that those who follow may not have
                async with asyncio.timeout(STALL_SECONDS):
                    await response.write(chunk)
            else:
                await response.write_eof()
                return response
        except (MirrorError, TimeoutError) as error:
            logger.debug("a file that another process follows breaks off: %s", error)
        if request.transport is not None:
            request.transport.abort()
        return response


def _start(byte_range: str, body: GrowingBody) -> int:
    """Return the offset of a range to the end of a file; 0 where there is none, or it cannot be answered."""
    text = byte_range.removeprefix("bytes=").removesuffix("-")
    start = int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0
    return start if body.is_sized and start < body.size else 0


def _headers(body: GrowingBody) -> dict[str, str]:
    """Return what those who follow need to go on upstream: the validator that it has given."""
    headers = {"Content-Type": "application/octet-stream"}
    if body.validator is not None and body.validator.startswith('"'):
        headers["ETag"] = body.validator
        if body.modified is not None:
            headers["Last-Modified"] = body.modified
    elif body.validator is not None:
        headers["Last-Modified"] = body.validator
    return headers
