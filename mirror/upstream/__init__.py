"""The HTTP client of one upstream: conditional GET, streams, ranges, retries, limits and a circuit breaker.

It knows no format: pages are bytes to it. It does not cache, and it neither resumes nor verifies files, as
`mirror.transfer` does. client (requests), body (what arrives, its digests), breaker, values (options, errors, URLs),
outgoing (connections: addresses, proxies, certificates).

The surprise: there is one breaker for each host that the upstream links to, so that neither a dead file host nor one
absurd URL in a page stops requests to a healthy index.
"""

from mirror.upstream.body import Digests, RangeBody, Stream, checkable
from mirror.upstream.breaker import Breaker, BreakerState, retry_after
from mirror.upstream.client import Upstream, parse_url
from mirror.upstream.outgoing import ForbiddenAddress, Outgoing
from mirror.upstream.values import (
    Credentials,
    Origin,
    RawResponse,
    SlowBody,
    UpstreamHealth,
    UpstreamOptions,
    as_written,
    origin,
    parse_http_date,
    redirect_target,
    storable,
)

__all__ = [
    "Breaker",
    "BreakerState",
    "Credentials",
    "Digests",
    "ForbiddenAddress",
    "Origin",
    "Outgoing",
    "RangeBody",
    "RawResponse",
    "SlowBody",
    "Stream",
    "Upstream",
    "UpstreamHealth",
    "UpstreamOptions",
    "as_written",
    "checkable",
    "origin",
    "parse_http_date",
    "parse_url",
    "redirect_target",
    "retry_after",
    "storable",
]  # fmt: skip
