"""Errors of the upstream client, and what an answer or an error of the network means. Pure."""

from collections.abc import Collection, Mapping

import aiohttp
from yarl import URL

from mirror.errors import (
    GoneForGood,
    MirrorError,
    NotFound,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from mirror.upstream.addresses import AllowedHosts
from mirror.upstream.pacing import client_wait, retry_after
from mirror.upstream.values import describe


class ConnectFailure(OSError):
    """An attempt to connect that failed; its text is why, without addresses."""


class InvalidResponse(Exception):
    """An answer that is not HTTP, or whose head is too large."""


FAILURES = (TimeoutError, aiohttp.ClientError, OSError, InvalidResponse)
"""What a client raises when no answer comes, or none that can be read."""
_TEMPORARY = frozenset({429, 502, 503, 504})
"""Statuses that may be different a moment later."""


class TemporaryFailure(UpstreamUnavailable):
    """A failure that may be over in a moment."""

    wait = 0.0
    """The Retry-After in seconds, or 0."""
    limited = False
    """Whether the upstream asked for fewer requests (429)."""


class ResponseTimeout(UpstreamUnavailable):
    """No answer came in time."""

    cause = "timeout"


class ServerFailure(UpstreamUnavailable):
    """The upstream reports an error of its own."""

    cause = "status"


class SlowBody(UpstreamUnavailable):
    """The bytes of a file arrive more slowly than the settings accept."""

    cause = "slow"


class RequestPause(UpstreamUnavailable):
    """The upstream is not asked at the moment."""

    cause = "paused"


def trouble(status: int, url: URL, headers: Mapping[str, str], now: float) -> UpstreamUnavailable:
    """Return the error for a 429 or 5xx; `now` is in seconds since the epoch."""
    message = f"{url.host} answered {status}."
    wait = retry_after(headers.get("Retry-After", ""), now)
    if status not in _TEMPORARY:
        return ServerFailure(message, client_wait(wait))
    failure = TemporaryFailure(message, client_wait(wait))
    failure.cause, failure.wait, failure.limited = "status", wait, status == 429
    return failure


def refusal(status: int, url: URL, upstream: str, missing: bool) -> MirrorError:
    """Return the error for any other status that is of no use; with `missing`, a 403 stands for a 404."""
    if status in (404, 410) or (missing and status == 403):
        return (GoneForGood if status == 410 else NotFound)(f"{describe(url)} does not exist.")
    if status == 403:
        return UpstreamRefused(
            f"{describe(url)} answered 403: check the credentials set for {upstream}, or set forbidden_means_missing "
            "if it answers so for what it does not have."
        )
    if status == 401:
        return UpstreamRefused(f"{describe(url)} answered 401: check the credentials set for {upstream}.")
    return UpstreamProtocolError(f"{describe(url)} answered {status}.")


def redirect_refusal(url: URL, target: URL, upstream: str, allowed: Collection[str]) -> UpstreamRefused | None:
    """Return the error for the page of a project that is redirected to another host, unless that is allowed."""
    if target.host in (None, url.host) or AllowedHosts(allowed).names(target.host):
        return None
    return UpstreamRefused(
        f"{describe(url)} is redirected to {target.host}, which may have other projects of that name: check the "
        f"credentials set for {upstream}, or add the host to its allow_page_redirects."
    )


def network_error(url: URL, error: Exception, seconds: float) -> UpstreamError:
    """Return an error of a client as one of the mirror's, without IP addresses or secrets in its text.

    `seconds` is for how long the upstream is to be left alone.
    """
    match error:
        case TimeoutError():
            return ResponseTimeout(f"{url.host} took too long to answer.", client_wait(seconds))
        case aiohttp.ClientResponseError() | aiohttp.InvalidURL() | InvalidResponse():
            return UpstreamProtocolError(f"{describe(url)} did not answer in HTTP.")
        case _:
            return TemporaryFailure(f"{url.host} {_text(error)}.", client_wait(seconds))


def _text(error: Exception) -> str:
    """Return an error of a client as the rest of a sentence that begins with the host."""
    match error:
        case ConnectFailure():
            return f"cannot be reached: {error}"
        case aiohttp.ClientProxyConnectionError():
            return "cannot be reached: the proxy does not answer"
        case aiohttp.ClientConnectorCertificateError() | aiohttp.ClientConnectorSSLError():
            return "cannot be reached: no trusted TLS connection (a private authority needs ca_file)"
        case aiohttp.ClientConnectorDNSError():
            return "cannot be reached: its name is not known to the resolver"
        case aiohttp.ClientConnectorError():
            return f"cannot be reached: {error.os_error.strerror or 'no connection'}"
        case _:
            return "hung up before its answer was complete"
