"""Web addresses: which of them may be asked, where a redirect may lead, and what of them may be said."""

import base64

import aiohttp
from yarl import URL

from mirror.errors import UpstreamProtocolError
from mirror.upstream.values import Credentials


def place(url: URL) -> str:
    """A URL fit for a message: no user, no query, where signatures stand; not too long."""
    return f"{url.host}{url.path[:200]}"


def address(text: str) -> URL:
    """The address of a file, as an index gives it. Raises UpstreamProtocolError when it is none."""
    try:
        return checked(URL(text))
    except ValueError:
        raise UpstreamProtocolError(f"{text[:80]!r} is not a web address.") from None


def checked(url: URL) -> URL:
    """The URL, when it is one that can be asked. Raises UpstreamProtocolError."""
    if url.scheme not in ("http", "https") or not url.host:
        raise UpstreamProtocolError(f"{str(url)[:80]!r} is not a web address.")
    return url


def redirected(response: aiohttp.ClientResponse) -> URL:
    """Where an answer sends us. Raises UpstreamProtocolError for what no redirect may do."""
    here = response.url
    try:
        there = here.join(URL(response.headers["Location"]))
    except (KeyError, ValueError):
        raise UpstreamProtocolError(f"{place(here)} is redirected to nowhere.") from None
    if here.scheme == "https" and there.scheme != "https":
        raise UpstreamProtocolError(f"{place(here)} is redirected from https to {there.scheme}, which is refused.")
    return there


def basic(auth: Credentials) -> str:
    """What an Authorization header says (RFC 7617)."""
    return "Basic " + base64.b64encode(f"{auth.username}:{auth.password}".encode()).decode()


def origin(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port: credentials are for one origin only."""
    return url.scheme, url.host, url.port  # not URL.origin(), to which :80 and no port are different
