"""Our copy of an upstream's `/versions`, kept up by Range requests and persisted as it grows.

What to believe of an answer is decided in `index.follow`; here is only asking, storing and waking. An upstream without
a compact index is followed through its specs instead, and its info pages are made from its gemspecs.
"""

import asyncio
import hashlib
import logging
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from mirror.catalog import Logs
from mirror.errors import NotFound, UpstreamProtocolError
from mirror.flight import SingleFlight
from mirror.model import Answer, Ask, Page
from mirror.rubygems import index, marshal, pages
from mirror.rubygems.index import UpstreamCopy, VersionsMap
from mirror.rubygems.names import full_name, split_number
from mirror.sources import CachedUpstream

logger = logging.getLogger(__name__)

MOST_CHUNKS = 500
"""Appends after which the stored copy is written anew in one piece."""
MOST_GEMSPECS = 2000
"""The most versions of a gem whose info page is made from gemspecs."""


class Followed:
    """One upstream's list of versions."""

    def __init__(self, source: CachedUpstream, logs: Logs, clock: Callable[[], float] = time.time) -> None:
        self.source = source
        self.map: VersionsMap | None = None
        """What upstream lists; None as long as it has never been fetched."""
        self.checked = 0.0
        """When upstream last confirmed it, in seconds since the epoch."""
        self.changed: Callable[[Iterable[str] | None], None] = lambda names: None
        """Told which gems upstream lists otherwise than before; None for all of them."""
        self._logs = logs
        self._log_name = f"upstream {source.name}"
        self._copy: UpstreamCopy | None = None
        self._legacy = False
        self._flight: SingleFlight[str, bool] = SingleFlight()
        self._clock = clock
        source.listed = self._listed
        source.fetch_page = self._fetch_page

    async def open(self) -> None:
        """Read the stored copy."""
        stored = await self._logs.read(self._log_name)
        if not stored:
            return
        # The ETag is not stored: the first question after a restart goes without, and one byte comes back.
        self.map, self._copy = await asyncio.to_thread(lambda: (_parsed(stored), UpstreamCopy.of(stored, None)))
        self._legacy = stored.startswith(b"legacy")

    async def refresh(self) -> bool:
        """Ask upstream what is new, and say whether anything is. Raises UpstreamError; the copy stays as it was."""
        changed, _ = await self._flight.run("", self._refresh)
        return changed

    def start_refresh(self, then: Callable[[bool], None]) -> None:
        """Refresh without waiting; `then` hears whether anything is new, and nothing when upstream fails."""

        def done(task: asyncio.Task[bool]) -> None:
            if not task.cancelled() and task.exception() is None:
                then(task.result())

        if "" not in self._flight:
            self._flight.start("", self._refresh).add_done_callback(done)

    async def close(self) -> None:
        await self._flight.close()

    async def _refresh(self) -> bool:
        if self._legacy:
            return await self._refresh_legacy()
        try:
            changed = await self._follow(self._copy)
        except NotFound:
            self._legacy = True
            return await self._refresh_legacy()
        self.checked = self._clock()
        return changed

    async def _follow(self, copy: UpstreamCopy | None) -> bool:
        upstream = self.source.upstream
        ask = pages.ask(upstream.url, Page("versions"))
        answer = await upstream.range_get(ask, copy.request_headers() if copy else {})
        verdict = await asyncio.to_thread(index.follow, copy, answer.status, answer.headers, answer.body)
        match verdict:
            case index.Unchanged():
                return False
            case index.Append(tail, grown):
                known = self.map or VersionsMap()
                self.map = await asyncio.to_thread(_applied, known, tail)
                self._copy = grown
                self.changed({line.partition(b" ")[0].decode("utf-8", "replace") for line in tail.split(b"\n")})
                await self._logs.append(self._log_name, tail)
                if await self._logs.chunks(self._log_name) > MOST_CHUNKS:
                    await self._logs.replace(self._log_name, [await self._logs.read(self._log_name)])
                logger.info("%s lists %d bytes more", upstream.name, len(tail))
                return True
            case index.Replace(body, whole):
                self.map = await asyncio.to_thread(_parsed, body)
                self._copy = whole
                self.changed(None)
                await self._logs.replace(self._log_name, [body])
                logger.info("%s: its list of versions was fetched whole, %d bytes", upstream.name, len(body))
                return True
            case index.Refetch(reason):
                logger.info("%s: %s It is fetched whole.", upstream.name, reason)
                return await self._follow(None)
            case index.Refused(reason):
                raise UpstreamProtocolError(reason)

    # An upstream that has only the legacy index

    async def _refresh_legacy(self) -> bool:
        upstream = self.source.upstream
        bodies = []
        for kind in ("specs", "prerelease_specs"):
            answer = await upstream.get(pages.ask(upstream.url, Page(kind)))
            assert answer is not None, "an unconditional question has an answer"
            bodies.append(answer.body)
        self.checked = self._clock()
        digest = hashlib.sha256(b"\0".join(bodies)).hexdigest()
        if self._copy is not None and self._copy.etag == digest:
            return False
        listed = await asyncio.to_thread(index.map_from_specs, *bodies)
        known = self.map
        if known is not None:
            for name in listed:  # the MD5 of pages that were made before stays right while the versions are the same
                if known.versions(name) == listed.versions(name):
                    listed.set(name, known.versions(name), known.md5(name))
        self.map = listed
        self.changed(None)
        body = b"legacy\n" + await asyncio.to_thread(_rendered, listed)
        self._copy = UpstreamCopy.of(body, digest)
        await self._logs.replace(self._log_name, [body])
        return True

    async def _fetch_page(self, page: Page, ask: Ask, etag: str | None, last_modified: str | None) -> Answer | None:
        if not self._legacy or page.kind != "project":
            return await self.source.upstream.get(ask, etag=etag, last_modified=last_modified)
        return await self._info_from_gemspecs(page)

    async def _info_from_gemspecs(self, page: Page) -> Answer:
        upstream = self.source.upstream
        numbers = self.map.versions(page.name) if self.map is not None else ()
        if not numbers:
            raise NotFound(f"{upstream.name} lists no gem named {page.name!r}.")
        slots = asyncio.Semaphore(8)

        async def gemspec(number: str) -> marshal.Gemspec | None:
            full = full_name(page.name, *split_number(number))
            url = upstream.url / "quick/Marshal.4.8" / f"{full}.gemspec.rz"
            async with slots:
                try:
                    answer = await upstream.get(Ask(url=url, limit=4 << 20))
                except NotFound:
                    return None
            assert answer is not None, "an unconditional question has an answer"
            return marshal.read_gemspec_rz(answer.body)

        specs = await asyncio.gather(*(gemspec(number) for number in numbers[-MOST_GEMSPECS:]))
        body = index.info_from_gemspecs(spec for spec in specs if spec is not None)
        if self.map is not None:
            self.map.set(page.name, numbers, pages.revision(body))
        return Answer(url=str(upstream.url / "info" / page.name), content_type="text/plain", body=body)

    def _listed(self, page: Page) -> str | None:
        """The MD5 that upstream lists for an info page."""
        if page.kind != "project" or self.map is None:
            return None
        return self.map.md5(page.name)


def _parsed(stored: bytes) -> VersionsMap:
    return index.parse_versions(stored.removeprefix(b"legacy\n"))


def _applied(known: VersionsMap, tail: bytes) -> VersionsMap:
    versions = known.copy()
    versions.apply(tail.split(b"\n"))
    return versions


def _rendered(listed: VersionsMap) -> bytes:
    return index.render_versions(listed, datetime.fromtimestamp(0, UTC))
