"""Takes down what policy wants to be known: who was refused what, and who fetched what upstream has taken back.

A middleware inside of the one that turns errors into answers, so that no handler has to think of it.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web
from aiohttp.typedefs import Middleware

from mirror.auth import Guard, address_of
from mirror.catalog import RemovedFiles
from mirror.errors import Blocked, StorageFull, Unauthorized
from mirror.server.negotiate import REMOVED, REPOSITORY
from mirror.telemetry import log

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class AuditMiddleware:
    """Sees every request and its answer."""

    def __init__(self, guard: Guard, removed: RemovedFiles, clock: Callable[[], float] = time.time) -> None:
        self._guard = guard
        self._removed = removed
        self._clock = clock

    def middleware(self) -> Middleware:
        """What the application is given."""

        @web.middleware
        async def witnessed(request: web.Request, handler: Handler) -> web.StreamResponse:
            try:
                response = await handler(request)
            except Blocked as refusal:
                log.audit(
                    "refused", who=await self._who(request), client=address_of(request),
                    repository=request.get(REPOSITORY, ""), filename=refusal.filename, rule=refusal.rule,
                    reason=refusal.reason,
                )  # fmt: skip
                raise
            if (removed := request.get(REMOVED)) and request.method == "GET" and response.status < 300:
                await self._fetched(request, *removed)
            return response

        return witnessed

    async def _fetched(self, request: web.Request, source: str, project: str, filename: str) -> None:
        who, client = await self._who(request), address_of(request)
        log.audit("removed", who=who, client=client, repository=request.get(REPOSITORY, ""), filename=filename)
        try:
            await self._removed.fetched(source, project, filename, client, who, self._clock())
        except StorageFull as error:
            logger.warning("that %s was fetched stands only in the log: %s", filename, error)

    async def _who(self, request: web.Request) -> str:
        try:
            return str(await self._guard.identify(request))
        except Unauthorized:
            return "unknown"
