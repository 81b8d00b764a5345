"""Health, readiness, metrics and status. All of them are open to everyone, and so name no project."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from mirror.api.state import MirrorState

NO_STORE = {"Cache-Control": "no-store"}


class MonitoringApi:
    """Handlers for monitoring systems, about the mirror as a whole."""

    def __init__(self, state: MirrorState, may_read_all: Callable[[web.Request], Awaitable[bool]]) -> None:
        """`may_read_all`: whether a client may read everything, and so see names of projects."""
        self._state = state
        self._may_read_all = may_read_all

    def table(self) -> list[web.RouteDef]:
        """Return the routes, to be added to an application."""
        return [
            web.get("/health", self.health),
            web.get("/ready", self.readiness),
            web.get("/metrics", self.metrics),
            web.get("/-/status", self.status),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Answer that the process is alive, and whether it can store what it fetches."""
        degraded = self._state.degraded()
        return web.Response(text=f"degraded: {degraded}\n" if degraded else "ok\n", headers=NO_STORE)

    async def readiness(self, request: web.Request) -> web.Response:
        """Answer whether the mirror can serve: whether the catalog answers."""
        ready = await self._state.ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n", headers=NO_STORE)

    async def metrics(self, request: web.Request) -> web.Response:
        """Answer in the exposition format of Prometheus."""
        body, content_type = await self._state.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})

    async def status(self, request: web.Request) -> web.Response:
        """Answer what is held and what that saved, as JSON."""
        return web.Response(
            body=msgspec.json.encode(await self._state.status(names=await self._may_read_all(request))),
            content_type="application/json",
            headers=NO_STORE,
        )
