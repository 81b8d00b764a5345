"""Requests to the other processes of the mirror, for what they are fetching.

A process that sends nothing may have nothing: its upstream is slow. So one that has been quiet for a second is asked
for a sign of life; without any it is passed over.
"""

import asyncio
import hashlib
import hmac
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import cast

import aiohttp
from yarl import URL

from mirror.catalog.flights import Flight
from mirror.errors import UpstreamUnavailable
from mirror.upstream import Stream

QUIET_SECONDS = 1.0
"""Seconds without a byte after which a process is asked for a sign of life."""
SIGN_SECONDS = 2.0
"""Seconds within which it has to give one."""
READ_AHEAD_BYTES = 256 * 1024
"""Bytes of an answer that are read ahead."""
NODE_PATH = "/-/node/"
"""The path at which a process gives a sign of life."""
INFLIGHT_PATH = "/-/inflight/"
"""In front of the name of a flight: what is being fetched; with END_PATH behind it, an answer once that has ended."""
END_PATH = "/end"
_ADDRESS = re.compile(r"http://(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\]):[0-9]{1,5}", re.ASCII)


class SilentNode(UpstreamUnavailable):
    """A process of the mirror cannot be reached, or gives no sign of life."""


class BrokenFlight(UpstreamUnavailable):
    """A process of the mirror broke off what it was sending: it has ended, or has failed itself."""


class MissingFlight(UpstreamUnavailable):
    """A process of the mirror does not know of a flight that is said to be its own: it has ended, or not begun."""


class FailedFlight(UpstreamUnavailable):
    """A process of the mirror could not fetch something either."""


class _NodeResponse(aiohttp.ClientResponse):
    """An answer of another process as an `HttpResponse`."""

    async def next_chunk(self) -> bytes:
        return await self.content.readany()

    def end(self, *, connection: bool = False) -> None:
        self.close()


def node_token(secret: bytes, address: str) -> str:
    """Return what a process shows to another one at an address; of no use at any other address."""
    return hmac.new(secret, b"node " + address.encode(), hashlib.sha256).hexdigest()


class NodeClient:
    """A client for the other processes of the mirror; it connects to nothing but their addresses."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._session: aiohttp.ClientSession | None = None

    @asynccontextmanager
    async def stream(self, flight: Flight, start: int, progress: Callable[[], object]) -> AsyncIterator[Stream]:
        """Open what the owner of a flight is fetching, from an offset on.

        `progress` returns another value after each byte. Raises SilentNode, MissingFlight and FailedFlight; in the
        block SilentNode, too, and BrokenFlight.
        """
        headers = {"Range": f"bytes={start}-"} if start else {}
        async with self._asked(flight.owner, INFLIGHT_PATH + flight.name, headers, progress) as response:

            async def read() -> bytes:
                try:
                    return await response.next_chunk()
                except (aiohttp.ClientError, OSError) as error:
                    raise BrokenFlight(f"{flight.owner} broke it off ({type(error).__name__}).") from None

            yield Stream(response, read)

    async def wait_ended(self, flight: Flight) -> None:
        """Return once a flight has ended. Raises as `stream` does."""
        async with self._asked(flight.owner, INFLIGHT_PATH + flight.name + END_PATH, {}, lambda: None):
            pass

    async def answers(self, address: str) -> bool:
        """Return whether a process gives a sign of life, as one that knows the secret."""
        try:
            async with asyncio.timeout(SIGN_SECONDS), self._get(address, NODE_PATH, {}) as response:
                return response.status == 204
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            return False

    def _get(self, address: str, path: str, headers: dict[str, str]) -> "aiohttp.client._RequestContextManager":
        """Return a request that is sent when it is entered. Raises ValueError for what is no address of a process."""
        if not _ADDRESS.fullmatch(address):
            raise ValueError("not the address of a process")
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                timeout=aiohttp.ClientTimeout(total=None),
                cookie_jar=aiohttp.DummyCookieJar(),
                read_bufsize=READ_AHEAD_BYTES,
                response_class=_NodeResponse,
                auto_decompress=False,
            )
        headers = headers | {"Authorization": f"Bearer {node_token(self._secret, address)}"}
        return self._session.get(URL(address + path, encoded=True), headers=headers, allow_redirects=False)

    @asynccontextmanager
    async def _asked(
        self, address: str, path: str, headers: dict[str, str], progress: Callable[[], object]
    ) -> AsyncIterator[_NodeResponse]:
        """Send a request, and yield its answer if it is a success."""
        limit = asyncio.timeout(None)
        try:
            async with limit:
                watching = asyncio.create_task(self._watch(address, progress, limit))
                try:
                    response = await self._opened(address, path, headers)
                    try:
                        yield response
                    finally:
                        response.end()
                finally:
                    watching.cancel()
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise _silent(address, error) from None

    async def _opened(self, address: str, path: str, headers: dict[str, str]) -> _NodeResponse:
        try:
            response = cast(_NodeResponse, await self._get(address, path, headers))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _silent(address, error) from None
        if response.status in (200, 204, 206):
            return response
        response.end()
        if response.status == 404:
            raise MissingFlight(f"{address} does not fetch it.")
        raise FailedFlight(f"{address} could not fetch it.")

    async def _watch(self, address: str, progress: Callable[[], object], limit: asyncio.Timeout) -> None:
        """Let a time limit run out once a process has stood still and gives no sign of life."""
        seen = progress()
        while True:
            await asyncio.sleep(QUIET_SECONDS)
            now = progress()
            if now == seen and not await self.answers(address):
                limit.reschedule(asyncio.get_running_loop().time())
                return
            seen = now

    async def close(self) -> None:
        """Close all connections."""
        if self._session is not None:
            await self._session.close()


def _silent(address: str, error: Exception) -> SilentNode:
    return SilentNode(f"{address} does not answer ({type(error).__name__}).")
