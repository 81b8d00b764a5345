"""What HTTP asks of every answer, once for all of them: negotiation, conditions, cache headers, errors.

Sending bodies and ranges stands in `send.py`; finished pages kept in memory in `answers.py`. Semantics after RFC 9110
(conditions, negotiation) and RFC 9111 (Cache-Control).
"""

import logging
import re
from collections.abc import Awaitable, Callable
from functools import lru_cache
from typing import NamedTuple

from aiohttp import web
from yarl import URL

from mirror.errors import (
    Blocked,
    ConfigError,
    Conflict,
    Forbidden,
    Invalid,
    MirrorError,
    MissingBlob,
    NotFound,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    UpstreamError,
)
from mirror.index.freshness import Freshness

logger = logging.getLogger(__name__)

_SLASHES = re.compile("/{2,}")

STATUSES: tuple[tuple[type[MirrorError], int], ...] = (
    (NotFound, 404),
    (TooLarge, 413),
    (Invalid, 400),
    (Conflict, 409),
    (Unauthorized, 401),
    (Forbidden, 403),
    (Blocked, 403),
    (StorageFull, 507),
    # 503, never 404: clients take a 404 for "no such project", and some then ask the next index.
    (Unavailable, 503),
    (UpstreamError, 502),
    (MissingBlob, 503),
    (ConfigError, 500),
)
"""Error → status; the first that fits."""

OUTCOME = web.RequestKey("outcome", str)
"""Where a handler leaves the word of X-Mirror-Cache for the log and the metrics."""
KIND = web.RequestKey("kind", str)
"""Where a handler leaves what it serves: page, file, sidecar, index, upload, other."""
REMOVED = web.RequestKey("removed", tuple[str, str, str])
"""Where a handler leaves source, project and name of the file, when upstream has taken back what it serves."""
REPOSITORY = web.RequestKey("repository", str)
"""Where a handler leaves the name of its repository."""
CLIENT = web.RequestKey("client", str)
"""The client's address, where a trusted proxy has said it."""
ORIGIN = web.RequestKey("origin", str)
"""Scheme, authority and path under which the client reached the proxy in front of us."""
PREFIX = web.RequestKey("prefix", str)
"""The last part of that: the path."""
GIVEN_ID = web.RequestKey("given_id", str)
"""The request's id, where a trusted proxy has given one."""

HOST = re.compile(r"[A-Za-z0-9._~-]{1,253}(:\d{1,5})?|\[[0-9A-Fa-f:.]{2,45}\](:\d{1,5})?")
_PARAMETER = re.compile(r"\s*q\s*=\s*([01](?:\.\d{0,3})?)\s*", re.IGNORECASE)


class RequestSummary(NamedTuple):
    """What the log and the metrics say of a request."""

    repository: str
    kind: str
    outcome: str
    method: str
    path: str
    agent: str


def note(request: web.BaseRequest) -> RequestSummary:
    """What handlers have left in a request, and what the request says itself."""
    return RequestSummary(
        request.get(REPOSITORY, ""),
        request.get(KIND, "other"),
        request.get(OUTCOME, ""),
        request.method,
        request.path_qs,
        request.headers.get("User-Agent", ""),
    )


def status_of(error: MirrorError) -> int:
    """The status under which an error goes out."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_response(error: MirrorError) -> web.Response:
    """An error as plain text: one sentence."""
    status = status_of(error)
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(max(1, round(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Basic realm="mirror"'
    return web.Response(status=status, text=f"{error}\n", headers=headers)


@lru_cache(maxsize=4096)
def qualities(header: str) -> dict[str, float]:
    """Token → weight of an Accept or Accept-Encoding header (RFC 9110 section 12.4.2). Malformed parts are left out."""
    weights: dict[str, float] = {}
    for part in header[:2000].split(","):
        token, *parameters = part.split(";")
        weight = 1.0
        for parameter in parameters:
            if match := _PARAMETER.fullmatch(parameter):
                weight = float(match[1])
        if token := token.strip().lower():
            weights[token] = max(weight, weights.get(token, 0.0))
    return weights


@lru_cache(maxsize=4096)
def negotiate(accept: str, offered: tuple[str, ...]) -> str | None:
    """The media type, of those offered in our order of preference, that an Accept header likes best; None for none.

    Without a header, the first.
    """
    if not accept:
        return offered[0]
    weights = qualities(accept)

    def weight(media_type: str) -> float:
        family = media_type.partition("/")[0] + "/*"
        return next((weights[token] for token in (media_type, family, "*/*") if token in weights), 0.0)

    best = max(offered, key=weight)  # max keeps the first of equals
    return best if weight(best) > 0 else None


@lru_cache(maxsize=4096)
def choose_encoding(accept_encoding: str, offered: tuple[str, ...]) -> str:
    """The content coding, of those offered in our order of preference, or `identity` (RFC 9110 section 12.5.3)."""
    weights = qualities(accept_encoding)
    best, best_weight = "identity", 0.0
    for coding in offered:
        weight = weights.get(coding, weights.get("*", 0.0))
        if weight > best_weight:
            best, best_weight = coding, weight
    return best


def matches(header: str, etag: str) -> bool:
    """Whether an If-None-Match header names this ETag (given with its quotes); weak comparison.

    A bare value without quotes counts too: bundler 2.5.0 to 2.5.4 send it so.
    """
    if header.strip() == "*":
        return True
    bare = etag.strip('"')
    return any(part.strip().removeprefix("W/").strip('"') == bare for part in header.split(","))


def demand_of(request: web.BaseRequest) -> Freshness:
    """How fresh a page the client asks for, by its Cache-Control or Pragma (RFC 9111 sections 5.2.1 and 5.4)."""
    header = request.headers.get("Cache-Control")
    if header is None:
        return Freshness.NOW if request.headers.get("Pragma") == "no-cache" else Freshness.USUAL
    return _demand(header)


@lru_cache(maxsize=256)
def _demand(header: str) -> Freshness:
    directives = {directive.strip().lower() for directive in header.split(",")}
    return Freshness.NOW if directives & {"no-cache", "max-age=0"} else Freshness.USUAL


def outside(request: web.BaseRequest) -> str:
    """Scheme and authority under which the client reached us (or the proxy in front, then with the path below which it
    serves us), without a slash at the end. Raises Invalid.
    """
    if ORIGIN in request:
        return str(request[ORIGIN])
    if not HOST.fullmatch(request.host):
        raise Invalid("The Host header is not a host name.")
    return f"{request.scheme}://{request.host}"


def prefix_of(request: web.BaseRequest) -> str:
    """The path below which a proxy in front serves us, without a slash at the end; mostly empty."""
    return str(request.get(PREFIX, ""))


def client_of(request: web.BaseRequest) -> str:
    """The client's address; empty over a Unix socket without a proxy."""
    return str(request.get(CLIENT) or request.remote or "")


@web.middleware
async def errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Turns what handlers raise into answers of one sentence; logs once, here."""
    try:
        return await handler(request)
    except MirrorError as error:
        response = error_response(error)
        if response.status >= 500:
            logger.warning("%s %s: %s", request.method, request.path[:200], error)
        return response
    except web.HTTPException as answer:  # aiohttp's own: no such route, no such method; or a redirect
        if answer.status == 404 and (there := await _merged(request)) is not None:
            raise web.HTTPMovedPermanently(there) from None
        if answer.status >= 400:
            answer.text = _sentence(request, answer)
            answer.headers["Cache-Control"] = "no-store"
        raise
    except Exception:
        logger.exception("%s %s failed", request.method, request.path[:200])
        if request.writer.output_size and request.transport is not None:
            request.transport.abort()  # a part of the answer is out: nobody shall take it for the whole
        text = "Something went wrong inside the mirror; its log says what.\n"
        return web.Response(status=500, text=text, headers={"Cache-Control": "no-store"})


async def _merged(request: web.Request) -> URL | None:
    """Where slashes that follow each other would lead as one, as web servers have it; None when that is nowhere.

    pipenv joins `…/simple/` and a name by a slash of its own.
    """
    path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
    if "//" not in path or request.method not in ("GET", "HEAD"):
        return None
    there = URL(f"{_SLASHES.sub('/', path)}{'?' if query else ''}{query}", encoded=True)
    found = await request.app.router.resolve(request.clone(rel_url=there))
    return None if found.http_exception else URL(f"{prefix_of(request)}{there}", encoded=True)


def _sentence(request: web.Request, answer: web.HTTPException) -> str:
    match answer.status:
        case 404:
            return f"Nothing is served at {request.path[:200]!r}.\n"
        case 405:
            return f"{request.path[:200]!r} does not take {request.method[:20]} requests.\n"
    return f"{answer.reason}.\n"
