"""The HTTP client of one upstream: conditional GET, streams, ranges, retries, limits and a circuit breaker.

It knows no format: pages are bytes to it. It does not cache, it does not verify digests, and it never resumes
a file; `mirror.transfer` does.

The surprise: there is one breaker for each host that the upstream sends us to, so that a dead file host does not
close the way to a healthy index, nor does one absurd URL in a page.
"""

from mirror.upstream.addresses import address
from mirror.upstream.breaker import Breaker, BreakerState, retry_after
from mirror.upstream.client import Upstream
from mirror.upstream.ranges import RangeBody
from mirror.upstream.stream import Stream, moment
from mirror.upstream.values import Credentials, RawAnswer, UpstreamOptions, UpstreamState

__all__ = [
    "Breaker",
    "BreakerState",
    "Credentials",
    "RangeBody",
    "RawAnswer",
    "Stream",
    "Upstream",
    "UpstreamOptions",
    "UpstreamState",
    "address",
    "moment",
    "retry_after",
]
