"""The HTTP client of a worker: it fetches small files with as little work for each as possible.

It knows the usual case alone: a complete answer, which shows by its length that it is. Everything else is an error,
which leaves the file to the ordinary client of the mirror, and an origin that keeps failing is not asked again.
"""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
from yarl import URL

from mirror.airgap.sync.workers.messages import WorkerUpstream
from mirror.errors import ConfigError, UpstreamProtocolError, UpstreamUnavailable
from mirror.upstream import ConnectionPool, HttpResponse, InvalidResponse, Origin, Outgoing, origin, redirect_target

ERROR_BYTES = 64 << 10
"""The most bytes that are read of an answer with another status than 200."""
REDIRECTS = 5
FAILURES_IN_A_ROW = 3
"""After so many failures an origin is left to the ordinary client, which has retries and a circuit breaker."""

_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})


class SmallFileResponse(msgspec.Struct, frozen=True):
    """A complete answer."""

    status: int
    headers: Mapping[str, str]
    """Case-insensitive."""
    body: bytes


class SmallFileClient:
    """Fetches small files of one upstream, over as many connections as there are calls at once."""

    def __init__(self, upstream: WorkerUpstream) -> None:
        self._authorization = upstream.authorization
        self._origin = origin(URL(upstream.url))
        self._outgoing = Outgoing(
            URL(upstream.url),
            ca_file=Path(upstream.ca_file) if upstream.ca_file else None,
            allow_hosts=upstream.allow_hosts,
            connect_timeout=upstream.connect_timeout,
        )
        self._pool = ConnectionPool(self._outgoing, upstream.user_agent, upstream.read_timeout)
        self._failures: Counter[Origin] = Counter()

    async def get(self, url: URL, limit: int) -> SmallFileResponse:
        """Return the answer to a GET, whose status is 200 and whose body has at most `limit` bytes.

        Raises UpstreamUnavailable, and UpstreamProtocolError for an address to which the upstream may not lead.
        """
        for _ in range(REDIRECTS + 1):
            response = await self._get(url, limit)
            if response.status == 200:
                return response
            if response.status not in _REDIRECT_STATUSES:
                raise UpstreamUnavailable(f"{url.host} answered {response.status}.")
            url = redirect_target(url, response.headers.get("Location"))
        raise UpstreamProtocolError(f"{url.host} redirected too often.")

    async def _get(self, url: URL, limit: int) -> SmallFileResponse:
        """Return the answer, whatever its status. Raises UpstreamUnavailable."""
        key = origin(url)
        if self._outgoing.has_proxies and self._outgoing.proxy_for(url) is not None:
            raise UpstreamUnavailable(f"{url.host} is reached through a proxy, which this client does not know.")
        if self._failures[key] >= FAILURES_IN_A_ROW:
            raise UpstreamUnavailable(f"{url.host} has failed too often.")
        headers = {"Accept-Encoding": "identity"}
        if self._authorization and key == self._origin:
            headers["Authorization"] = self._authorization
        try:
            response = await self._pool.get(url, headers)
            try:
                body = await _read(response, limit if response.status == 200 else ERROR_BYTES)
            finally:
                response.end()
        except (OSError, ConfigError, InvalidResponse) as error:
            # A silence is not tried again: each takes long.
            self._failures[key] += FAILURES_IN_A_ROW if isinstance(error, TimeoutError) else 1
            raise UpstreamUnavailable(f"{url.host} did not answer as expected.") from error
        self._failures[key] = self._failures[key] + 1 if response.status == 429 or response.status >= 500 else 0
        return SmallFileResponse(response.status, response.headers, body)

    def close(self) -> None:
        """Close the connections."""
        self._pool.close()


async def _read(response: HttpResponse, limit: int) -> bytes:
    """Return a body of at most `limit` bytes. Raises OSError, and InvalidResponse where its length is not known."""
    chunked = "chunked" in response.headers.get("Transfer-Encoding", "").lower()
    if (not chunked and response.content_length is None) or (response.content_length or 0) > limit:
        raise InvalidResponse
    body = b""
    while chunk := await response.next_chunk():
        body += chunk
        if len(body) > limit:
            raise InvalidResponse
    return body
