"""Our own endpoints, below `/-/`, and what monitors ask for."""

from collections.abc import Awaitable, Callable, Mapping

import msgspec
from aiohttp import web

from mirror.http import KIND


class Endpoints:
    """Handlers that belong to no repository."""

    def __init__(
        self, status: Callable[[], Awaitable[Mapping[str, object]]], ready: Callable[[], Awaitable[bool]]
    ) -> None:
        self._status = status
        self._ready = ready

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application."""
        return [
            web.get("/health", self.health),
            web.get("/ready", self.readiness),
            web.get("/-/status", self.status),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Alive: the process answers."""
        request[KIND] = "other"
        return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})

    async def readiness(self, request: web.Request) -> web.Response:
        """Able to serve: the catalog answers."""
        ready = await self._ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n")

    async def status(self, request: web.Request) -> web.Response:
        """What is held and what it saved, as JSON."""
        return web.Response(
            body=msgspec.json.encode(await self._status()),
            content_type="application/json",
            headers={"Cache-Control": "no-store"},
        )
