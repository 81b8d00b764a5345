"""The one middleware around every handler: reads what trusted proxies report, and turns errors into responses.

Which error becomes which status stands in one table here. Each error is logged once, here.
"""

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from types import MappingProxyType
from typing import Protocol

from aiohttp import HttpVersion11, hdrs, web
from aiohttp.typedefs import Middleware
from yarl import URL

from mirror.errors import (
    Blocked,
    ConfigError,
    Conflict,
    Forbidden,
    Invalid,
    MirrorError,
    Misdirected,
    MissingBlob,
    NotFound,
    StorageFull,
    TooLarge,
    Unauthorized,
    Unavailable,
    UpstreamError,
)
from mirror.index.change_counter import COUNTER_BYTES
from mirror.index.journal import Journal
from mirror.server.facts import RequestFacts, facts_of
from mirror.server.hosts import HostNames, is_same_site
from mirror.server.proxies import TrustedProxies
from mirror.server.rules import NO_SNIFFING, OPEN_TO_PAGES
from mirror.upstream.pacing import client_wait

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

STATUSES: tuple[tuple[type[MirrorError], int], ...] = (
    (NotFound, 404),
    (TooLarge, 413),
    (Invalid, 400),
    (Conflict, 409),
    (Unauthorized, 401),
    (Forbidden, 403),
    (Misdirected, 421),
    (Blocked, 403),
    (StorageFull, 507),
    # 503, never 404: clients take a 404 for "no such project", and some then ask the next index.
    (Unavailable, 503),
    (UpstreamError, 502),
    (MissingBlob, 503),
    (ConfigError, 500),
)
"""Error → status; the first that fits."""

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
"""Those that change nothing (RFC 9110 section 9.2.1), so that a page of another site may cause them."""

PREFLIGHT = (
    ("Access-Control-Allow-Methods", "GET, HEAD"),
    (
        "Access-Control-Allow-Headers",
        "Accept, Cache-Control, If-Modified-Since, If-None-Match, If-Range, Pragma, Range",
    ),
    ("Access-Control-Max-Age", "86400"),
)
"""What the pages of other sites may send; never Authorization."""

CREDENTIALS = frozenset({hdrs.AUTHORIZATION, hdrs.COOKIE})
"""The headers by which a client says who it is."""

_SLASHES = re.compile("/{2,}")


class RequestAuditor(Protocol):
    """Records what an administrator may have to account for; `mirror.auth.audit` has one."""

    async def record_refusal(self, request: web.Request, refusal: Blocked) -> None:
        """Record that policy refused a file."""

    async def record_removed(self, request: web.Request, source: str, project: str, filename: str) -> None:
        """Record that a client got a file that upstream has removed."""


def request_middleware(
    proxies: TrustedProxies,
    hosts: HostNames,
    audit: RequestAuditor,
    journal: Journal,
    repositories: Mapping[object, str] = MappingProxyType({}),
) -> Middleware:
    """Return the middleware.

    `repositories` has the name of the repository that a handler answers for, empty for several; a handler that is not
    in it depends on nothing that other nodes may have changed.
    """
    changes = journal.changes

    async def handle(request: web.Request, handler: Handler) -> web.StreamResponse:
        known = True
        if changes.memory[:COUNTER_BYTES] != changes.seen:  # another process has answered something that must be seen
            known = await journal.catch_up()
        others, repository = changes.others, repositories.get(handler)
        if others is not None and repository is not None:
            credentials = not CREDENTIALS.isdisjoint(request.headers)
            if others.concern(repository, credentials):
                known = await others.ask() and known
        facts = facts_of(request)
        facts.maybe_outdated = not known
        if proxies.trusts(facts.client):
            proxies.read_headers(request, facts)
        _check_site(request, facts, hosts)
        try:
            response = await handler(request)
        except Blocked as refusal:
            await audit.record_refusal(request, refusal)
            raise
        if facts.removed is not None and request.method == "GET" and response.status < 300:
            await audit.record_removed(request, *facts.removed)
        return response

    @web.middleware
    async def answer(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handle(request, handler)
        except MirrorError as error:
            response = error_response(error)
            if response.status >= 500:
                logger.warning("%s %s: %s", request.method, request.path[:200], error)
            return response
        except web.HTTPException as error:  # aiohttp's own: no such route, no such method; or a redirect
            if error.status == 405 and request.method == "OPTIONS":
                return _options(request, error)
            if error.status == 404 and (url := await _without_double_slashes(request)) is not None:
                raise web.HTTPMovedPermanently(url) from None
            if error.status >= 400:
                error.text = _sentence(request, error)
                error.headers["Cache-Control"] = "no-store"
            raise
        except Exception:
            logger.exception("%s %s failed", request.method, request.path[:200])
            if request.writer.output_size and request.transport is not None:
                request.transport.abort()  # a part has been sent: no client may take it for the whole
            text = "Something went wrong inside the mirror; its log says what.\n"
            return web.Response(status=500, text=text, headers={"Cache-Control": "no-store"})

    return answer


def _check_site(request: web.Request, facts: RequestFacts, hosts: HostNames) -> None:
    """Raise Invalid, Misdirected or Forbidden for a request that a page of another site may have caused.

    Browsers send Origin with everything that may change something, package clients never do.
    """
    headers = request.headers
    host = headers.get("Host")
    if facts.host:
        hosts.check(facts.host, facts.guarded)
    if host is None and request.version < HttpVersion11:
        pass  # as load balancers look whether we live; no browser does, and RFC 9112 section 3.2 is about 1.1
    elif not (facts.host and hosts.explicit):  # between a proxy and us, the settings cannot know every name
        hosts.check(host, facts.guarded)
    if request.method in SAFE_METHODS:
        if facts.guarded and "Origin" in headers:
            hosts.check_origin(headers["Origin"])
        return
    if headers.get("Sec-Fetch-Site", "none") not in ("none", "same-origin"):
        raise Forbidden("A page of another site may not change anything here.")
    origin = headers.get("Origin")
    secure = facts.origin.startswith("https:") if facts.origin else request.secure
    if origin is not None and not is_same_site(origin, facts.host or host or "", secure):
        raise Forbidden("A page of another site may not change anything here.")


async def finish_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Complete the headers of a response that aiohttp writes; those of `mirror.server.respond` are complete."""
    facts, headers = facts_of(request), response.headers
    headers.setdefault(*NO_SNIFFING)
    if facts.private:
        headers.setdefault("Cache-Control", "private, no-cache")
        headers.setdefault("Vary", "Authorization, Cookie")
    elif facts.repository and request.method in SAFE_METHODS:
        headers.setdefault(*OPEN_TO_PAGES)


def _options(request: web.Request, error: web.HTTPException) -> web.Response:
    """Return the response to OPTIONS: the methods, and to browsers what the pages of other sites may send.

    Reading without a login is all of it; whether that is allowed is decided for the request itself.
    """
    allowed = sorted({*error.headers["Allow"].split(","), "OPTIONS"})
    headers = {"Allow": ", ".join(allowed), "Cache-Control": "no-store"}
    if "GET" in allowed and "Access-Control-Request-Method" in request.headers:  # Fetch standard, section 3.3.2
        headers |= dict((OPEN_TO_PAGES, *PREFLIGHT))
    return web.Response(status=204, headers=headers)


def status_of(error: MirrorError) -> int:
    """Return the status with which an error is answered."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


def error_response(error: MirrorError) -> web.Response:
    """Return the response to a request that ended in an error: one sentence of plain text."""
    status = status_of(error)
    headers: dict[str, str] = {"Cache-Control": "no-store"}
    if isinstance(error, Unavailable):
        headers["Retry-After"] = str(round(client_wait(error.retry_after)))
    if isinstance(error, Unauthorized):
        headers["WWW-Authenticate"] = 'Basic realm="mirror"'
    return web.Response(status=status, text=f"{error}\n", headers=headers)


async def _without_double_slashes(request: web.Request) -> URL | None:
    """Return where a path leads with each run of slashes as one, as web servers have it; None when that is nowhere.

    pipenv joins `…/simple/` and a name by a slash of its own.
    """
    path, query = request.rel_url.raw_path, request.rel_url.raw_query_string
    if "//" not in path or request.method not in ("GET", "HEAD"):
        return None
    url = URL(f"{_SLASHES.sub('/', path)}{'?' if query else ''}{query}", encoded=True)
    found = await request.app.router.resolve(request.clone(rel_url=url))
    return None if found.http_exception else URL(f"{facts_of(request).prefix}{url}", encoded=True)


def _sentence(request: web.Request, error: web.HTTPException) -> str:
    match error.status:
        case 404:
            return f"Nothing is served at {request.path[:200]!r}.\n"
        case 405:
            return f"{request.path[:200]!r} does not take {request.method[:20]} requests.\n"
    return f"{error.reason}.\n"
