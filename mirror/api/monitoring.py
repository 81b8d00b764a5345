"""Our own endpoints, below `/-/`, and what monitors ask for. All of them are open, and so name no project."""

from collections.abc import Awaitable, Callable

import msgspec
from aiohttp import web

from mirror.api.state import MirrorState

NO_STORE = {"Cache-Control": "no-store"}


class MonitoringApi:
    """Handlers that belong to no repository."""

    def __init__(self, state: MirrorState, may_know: Callable[[web.Request], Awaitable[bool]]) -> None:
        """`may_know`: whether who asks may hear what names projects."""
        self._state = state
        self._may_know = may_know

    def table(self) -> list[web.RouteDef]:
        """The routes, to be added to an application."""
        return [
            web.get("/health", self.health),
            web.get("/ready", self.readiness),
            web.get("/metrics", self.metrics),
            web.get("/-/status", self.status),
        ]

    async def health(self, request: web.Request) -> web.Response:
        """Alive: the process answers; and whether it can keep what it fetches."""
        degraded = self._state.degraded()
        return web.Response(text=f"degraded: {degraded}\n" if degraded else "ok\n", headers=NO_STORE)

    async def readiness(self, request: web.Request) -> web.Response:
        """Able to serve: the catalog answers."""
        ready = await self._state.ready()
        return web.Response(status=200 if ready else 503, text="ready\n" if ready else "not ready\n", headers=NO_STORE)

    async def metrics(self, request: web.Request) -> web.Response:
        """What Prometheus reads."""
        body, content_type = await self._state.exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={**NO_STORE, "Content-Type": content_type})

    async def status(self, request: web.Request) -> web.Response:
        """What is held and what it saved, as JSON."""
        return web.Response(
            body=msgspec.json.encode(await self._state.status(names=await self._may_know(request))),
            content_type="application/json",
            headers=NO_STORE,
        )
