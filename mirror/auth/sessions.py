"""Sessions of browsers: the cookie by which the pages for people know who looks at them.

A browser that is signed in by a password of HTTP goes on sending it until it is closed, and with the forms of other
sites too. A session ends by signing out, by itself after half a day, and with the password or the token that began it.
Package clients have none.
"""

import re

from aiohttp import web

from mirror.server.facts import facts_of
from mirror.server.middleware import SAFE_METHODS

COOKIE = "mirror-session"
SESSION_SECONDS = 12 * 3600.0
"""How long a browser stays signed in."""

_SECRET = re.compile(r"[0-9a-f]{64}")


def session_secret(request: web.BaseRequest) -> str:
    """Return the secret of the session that a request belongs to; empty for none.

    What may change something has to say which page it comes from, as every browser does; the middleware has compared.
    """
    headers = request.headers
    if "Cookie" not in headers:
        return ""
    if request.method not in SAFE_METHODS and not ("Origin" in headers or "Sec-Fetch-Site" in headers):
        return ""
    secret = request.cookies.get(COOKIE, "")
    return secret if _SECRET.fullmatch(secret) else ""


def keep_session(request: web.BaseRequest, response: web.StreamResponse, secret: str) -> None:
    """Let the browser keep the secret of a session; an empty one makes it forget what it has."""
    facts = facts_of(request)
    response.set_cookie(
        COOKIE,
        secret,
        max_age=int(SESSION_SECONDS) if secret else 0,
        path=f"{facts.prefix}/",
        httponly=True,
        samesite="Strict",
        secure=facts.origin.startswith("https:") if facts.origin else request.secure,
    )
