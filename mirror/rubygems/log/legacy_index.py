"""An upstream without a compact index: its lists of gems, and info pages made from the gemspecs of versions."""

import asyncio
import logging
from collections.abc import Sequence
from itertools import zip_longest

from mirror.errors import Invalid, NotFound
from mirror.model import UpstreamRequest, UpstreamResponse
from mirror.rubygems.index import info_from_gemspecs
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.names import full_name, split_number
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

MOST_GEMSPECS = 2000
"""The most versions of a gem whose info page is made from gemspecs."""
LIST_SECONDS = 600.0
"""For a list of everything, ten megabytes compressed: it has to arrive over a slow line, too."""
SPECS_BYTES = 64 << 20
"""The most that an upstream's `specs.4.8.gz` may have."""
GEMSPECS_AT_ONCE = 8
GEMSPEC_BYTES = 4 << 20
"""The most that one gemspec may have."""


async def fetch_specs(upstream: Upstream, known: Sequence[UpstreamResponse]) -> list[UpstreamResponse] | None:
    """Return both lists as they are now, None when they are the known ones. Raises NotFound, UpstreamError."""
    specs = []
    for kind, old in zip_longest(("specs", "prerelease_specs"), known):
        url = upstream.url / f"{kind}.4.8.gz"
        response = await upstream.get(
            UpstreamRequest(url=url, limit=SPECS_BYTES, timeout=LIST_SECONDS, kind="list"),
            etag=old.etag if old else None,
            last_modified=old.last_modified if old else None,
        )
        response = response or old
        assert response is not None, "an unconditional request has a response"
        specs.append(response)
    return specs if [one.body for one in specs] != [one.body for one in known] else None


async def body_from_gemspecs(upstream: Upstream, name: str, numbers: Sequence[str]) -> bytes:
    """Return an info page of these versions, without those whose gemspec is missing. Raises UpstreamError."""
    slots = asyncio.Semaphore(GEMSPECS_AT_ONCE)

    async def gemspec(number: str) -> Gemspec | None:
        full = full_name(name, *split_number(number))
        url = upstream.url / "quick/Marshal.4.8" / f"{full}.gemspec.rz"
        async with slots:
            try:
                response = await upstream.get(UpstreamRequest(url=url, limit=GEMSPEC_BYTES, kind="sidecar"))
                assert response is not None, "an unconditional request has a response"
                return read_gemspec_rz(response.body)
            except (NotFound, Invalid) as error:
                logger.warning("%s is left out: %s", full, error)
                return None

    specs = await asyncio.gather(*(gemspec(number) for number in numbers[-MOST_GEMSPECS:]))
    return info_from_gemspecs(spec for spec in specs if spec is not None)
