"""The audit trail: one log line for each event that an administrator may have to account for, at every log level.

`AuditTrail` adds what policy wants to be recorded: which files were refused to whom, and who was served a file that
upstream has removed.
"""

import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from mirror.auth.rights import Identity
from mirror.catalog import RemovedFiles
from mirror.errors import Blocked, StorageError, Unauthorized
from mirror.server.facts import facts_of

logger = logging.getLogger(__name__)

_audit = logging.getLogger("mirror.audit")
_audit.setLevel(logging.INFO)  # whatever the level of the application log is

Fact = str | int | float | bool | None


def audit(what: str, *, who: str, client: str, serial: int | None = None, **facts: Fact) -> None:
    """Write one audit line: `what` (upload, yank, token, refusal, …) `who` did from `client`, as feed entry `serial`.

    `facts` hold the details: repository, project, filename, rule, outcome.
    """
    known: dict[str, Fact] = {"what": what, "who": who, "client": client, "serial": serial, **facts}
    _audit.info("audit", extra={"facts": known})


def address_of(request: web.BaseRequest) -> str:
    """Return the client's address for logs and for the throttle of logins; `local` over a Unix socket."""
    return facts_of(request).client or "local"


class AuditTrail:
    """Records what the middleware reports of requests."""

    def __init__(
        self,
        identify: Callable[[web.BaseRequest], Awaitable[Identity]],
        removed: RemovedFiles,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._identify = identify
        self._removed = removed
        self._clock = clock

    async def record_refusal(self, request: web.Request, refusal: Blocked) -> None:
        """Record that policy refused a file."""
        audit(
            "refused", who=await self._who(request), client=address_of(request),
            repository=facts_of(request).repository, filename=refusal.filename, rule=refusal.rule,
            reason=refusal.reason,
        )  # fmt: skip

    async def record_removed(self, request: web.Request, source: str, project: str, filename: str) -> None:
        """Record that a client got a file that upstream has removed."""
        who, client = await self._who(request), address_of(request)
        audit("removed", who=who, client=client, repository=facts_of(request).repository, filename=filename)
        try:
            await self._removed.fetched(source, project, filename, client, who, self._clock())
        except StorageError as error:
            logger.warning("only the log records that the removed file %s was served: %s", filename, error)

    async def _who(self, request: web.Request) -> str:
        try:
            return str(await self._identify(request))
        except Unauthorized:
            return "unknown"
