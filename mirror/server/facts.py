"""The facts of a request that its headers do not hold, and those that are needed often, in one typed object.

`mirror.server.connection` attaches a `RequestFacts` to each request when it begins. The middleware adds what a trusted
proxy reports, handlers add what they serve, and the access log, the metrics and the audit trail read it.
"""

import re
from collections.abc import Callable
from operator import itemgetter
from typing import Literal

import msgspec
from aiohttp import web

from mirror.errors import Invalid
from mirror.index.freshness import Freshness
from mirror.model import Outcome

RequestKind = Literal["page", "file", "sidecar", "index", "upload", "other"]
"""The kind of resource: a project's page, a file, its sidecar, an index as a whole, an upload, anything else."""

HOST = re.compile(r"[A-Za-z0-9._~-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?", re.ASCII)


class RequestFacts(msgspec.Struct):
    """The facts of one request; handlers change it."""

    method: str = ""
    path: str = ""
    """The path with its query."""
    agent: str = ""
    """The User-Agent header."""
    freshness: Freshness = Freshness.USUAL
    """The freshness that the client asks for."""
    client: str = ""
    """The client's address, which a trusted proxy may have reported; empty over a Unix socket without a proxy."""
    guarded: bool = False
    """Whether the connection may only use the names of loopback for the mirror; see `mirror.server.hosts`."""
    private: bool = False
    """Whether the response depends on who the client is, so that no cache may give it to another one."""
    rights: int = 0
    """The number of what the client may read, on which a private response may depend; 0 where that is not certain."""
    host: str = ""
    """The host with its port under which the client reaches a trusted proxy in front; empty without one."""
    origin: str = ""
    """Scheme, authority and path below which the client reaches a trusted proxy in front; empty without one."""
    prefix: str = ""
    """The path at the end of `origin`, without a slash at its end; mostly empty."""
    request_id: str = ""
    """The identifier of the request that a trusted proxy gave; empty without one."""
    repository: str = ""
    """The name of the repository that answers; empty for none."""
    kind: RequestKind = "other"
    outcome: Outcome | Literal[""] = ""
    """The value of X-Mirror-Cache; empty where the header is not sent."""
    maybe_outdated: bool = False
    """Whether other nodes may have changed what is served from memory, as the catalog does not answer."""
    removed: tuple[str, str, str] | None = None
    """Source, project and name of the file that is served although upstream has removed it."""


class ResponseRecord(msgspec.Struct, frozen=True):
    """One response that was sent, for the access log and the metrics."""

    at: float
    """Seconds since the epoch: when its last byte was written."""
    facts: RequestFacts
    """Of this request, or of the one whose response was replayed; what is below is of this one."""
    client: str
    """The client's address."""
    agent: str
    """The User-Agent header."""
    request_id: str
    """The identifier of the request that a trusted proxy gave; empty without one."""
    status: int
    sent: int
    """Bytes of the body."""
    seconds: float
    """Until the last of them."""


FACTS = web.RequestKey("facts", RequestFacts)

facts_of: Callable[[web.BaseRequest], RequestFacts] = itemgetter(FACTS)
"""Return the facts of a request."""


def public_url(request: web.BaseRequest) -> str:
    """Return scheme and authority under which the client reached us, without a slash at the end.

    With a trusted proxy in front, those of the proxy, and the path below which it serves us. Raises Invalid.
    """
    if origin := facts_of(request).origin:
        return origin
    if not HOST.fullmatch(request.headers.get("Host", "")):
        raise Invalid("The Host header is not a host name.")
    return f"{request.scheme}://{request.host}"
