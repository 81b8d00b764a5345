"""Ending a server without breaking off a request: connections are drained before they are closed."""

import asyncio
from contextlib import suppress
from typing import Any

from aiohttp import web, web_response

from mirror.server.connection import ConnectionProtocol, access_logger, request_factory
from mirror.server.group import ConnectionGroup

DRAIN_SECONDS = 1.0
"""Seconds for which connections in use get one more response, which announces that it is their last."""
CLOSE_SECONDS = 0.5
"""Seconds that a request has to end once it is cancelled."""
NEVER_SECONDS = 365 * 86_400.0
"""Longer than any connection lasts."""
POLL_SECONDS = 0.05
"""Seconds between two checks whether connections are still in use."""


# aiohttp names itself, Python and both versions in every response; there is no setting for it.
vars(web_response)["SERVER_SOFTWARE"] = "mirror"


class ConnectionRunner(web.AppRunner):
    """An AppRunner whose connections are a `ConnectionGroup`.

    It needs no sites: the listener that accepts connections calls `connect`. How long an idle connection stays open is
    decided by `mirror.server.connections`, for aiohttp sees only some requests of a connection.
    """

    def __init__(self, app: web.Application, group: ConnectionGroup, **options: Any) -> None:
        super().__init__(app, access_log_class=access_logger(group), keepalive_timeout=NEVER_SECONDS, **options)
        self._group = group

    @property
    def server(self) -> Any:
        """The protocol factory, for sites."""
        return None if super().server is None else self.connect

    def connect(self) -> ConnectionProtocol:
        """Return the protocol of a new connection."""
        make_inner = super().server
        assert make_inner is not None, "set up"
        return ConnectionProtocol(make_inner, self._group)

    async def setup(self) -> None:
        """Set up the application, with requests that the group knows of."""
        await super().setup()
        server = super().server
        assert server is not None, "set up"
        server.request_factory = request_factory(self._group, server.request_factory)

    async def cleanup(self) -> None:
        """Close all connections, those too that aiohttp has never seen."""
        await super().cleanup()
        for connection in list(self._group.open):
            connection.close_idle()

    async def drain(self) -> None:
        """Let connections in use end with a response that announces it, not in the middle of a request.

        See RFC 9112 section 9.6. Takes at most DRAIN_SECONDS; `cleanup` waits for responses that are being sent.
        """
        self._group.draining = True
        for _ in range(int(DRAIN_SECONDS / POLL_SECONDS)):
            now = self._group.connections.clock()
            if not any(connection.in_use(now) for connection in self._group.open):
                break
            await asyncio.sleep(POLL_SECONDS)

    async def finish(self, until: float) -> None:
        """Let running requests be answered until a time on the event loop's clock, then close what is left."""
        self._group.draining = True
        for connection in list(self._group.open):
            connection.close_idle()
        with suppress(TimeoutError):
            async with asyncio.timeout_at(until):
                while self._group.open:
                    self._group.lost.clear()
                    await self._group.lost.wait()
        await self.cleanup()

    async def retire(self) -> None:
        """Take no new requests, and wait until the running ones have been answered, however long that takes."""
        await self.drain()
        for connection in list(self._group.open):
            connection.close_idle()
        while self._group.open:
            self._group.lost.clear()
            await self._group.lost.wait()
        await self.cleanup()
