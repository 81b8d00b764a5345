"""The info page of a gem whose upstream has no compact index, made from the gemspecs of its versions."""

import asyncio
import logging
from collections.abc import Sequence

from mirror.errors import Invalid, NotFound
from mirror.model import UpstreamRequest
from mirror.rubygems.index import info_from_gemspecs
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.names import full_name, split_number
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

MOST_GEMSPECS = 2000
"""The most versions of a gem whose info page is made from gemspecs."""
GEMSPECS_AT_ONCE = 8
GEMSPEC_BYTES = 4 << 20
"""The most that one gemspec may have."""


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
