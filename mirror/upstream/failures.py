"""What the network does to us, as errors of ours."""

import aiohttp
from yarl import URL

from mirror.errors import UpstreamUnavailable

FAILURES = (TimeoutError, aiohttp.ClientError, OSError)
"""What aiohttp raises when no answer comes, or none that can be read."""


class Passing(UpstreamUnavailable):
    """A failure that may be over in a moment; `asked` is the Retry-After in seconds, or 0."""

    def __init__(self, message: str, retry_after: float, url: URL, asked: float = 0.0) -> None:
        super().__init__(message, retry_after)
        self.url = url
        self.asked = asked


class Late(UpstreamUnavailable):
    """Nothing came in time."""

    cause = "timeout"


class Failing(UpstreamUnavailable):
    """The upstream says itself that it is in trouble."""

    cause = "status"


class Paused(UpstreamUnavailable):
    """It is not asked at the moment: its breaker is open."""

    cause = "paused"


def what_happened(error: Exception) -> str:
    """An error of aiohttp as the rest of a sentence that begins with the host."""
    match error:
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
