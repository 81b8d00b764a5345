"""Our copy of an upstream's `/versions`, kept up by Range requests and persisted as it grows.

What to believe of an answer is decided in `index.follow`; here is only asking, storing and telling. An upstream without
a compact index is followed through its specs instead, and its info pages are made from its gemspecs. One upstream is
followed once, however many repositories show it.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from itertools import zip_longest

from yarl import URL

from mirror.catalog import Logs
from mirror.errors import Invalid, NotFound, UpstreamProtocolError
from mirror.index.flight import SingleFlight
from mirror.index.upstream import CachedUpstream
from mirror.model import Page, UpstreamRequest, UpstreamResponse
from mirror.rubygems import pages
from mirror.rubygems.index import info_from_gemspecs, map_from_specs
from mirror.rubygems.log.upstream_copy import Append, Refetch, Refused, Replace, Unchanged, UpstreamCopy, follow
from mirror.rubygems.log.versions_map import VersionsMap, names_in, parse_versions, render_versions
from mirror.rubygems.marshal import Gemspec
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.names import full_name, split_number
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

MOST_CHUNKS = 500
"""Appends after which the stored copy is written anew in one piece."""
MOST_GEMSPECS = 2000
"""The most versions of a gem whose info page is made from gemspecs."""
GEMSPECS_AT_ONCE = 8

_LEGACY = b"legacy\n"
"""In front of a stored copy that was made from specs."""
_NOT_MADE = "not made yet"
"""A revision that no page has: it is to be made."""


class UpstreamIndex:
    """One upstream's list of versions."""

    def __init__(self, upstream: Upstream, name: str, logs: Logs, clock: Callable[[], float] = time.time) -> None:
        """`name` is what the copy is stored under."""
        self.name = name
        self.map: VersionsMap | None = None
        """What upstream lists; None as long as it has never been fetched. A change makes a new one."""
        self.asked = 0.0
        """When upstream was last asked, with or without success, in seconds since the epoch."""
        self.changed: list[Callable[[Collection[str]], None]] = []
        """Told the names of the gems that upstream lists otherwise than before."""
        self._upstream = upstream
        self._logs = logs
        self._log_name = f"upstream {name}"
        self._copy: UpstreamCopy | None = None
        self._legacy = False
        self._specs: list[UpstreamResponse] = []
        self._flight: SingleFlight[str, bool] = SingleFlight()
        self._retired = False
        self._opening: asyncio.Task[None] | None = None
        self._clock = clock

    def guide(self, source: CachedUpstream) -> None:
        """Let a source know by our copy which of its info pages are right, and how to get one."""
        source.guide(self._listed, self._fetch_page)

    async def open(self) -> None:
        """Read the stored copy, once."""
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
        await asyncio.shield(self._opening)

    async def _open(self) -> None:
        stored = await self._logs.read(self._log_name)
        if not stored:
            return
        self._legacy = stored.startswith(_LEGACY)
        self.map = await asyncio.to_thread(parse_versions, stored.removeprefix(_LEGACY))
        if not self._legacy:
            # The ETag is not stored: the first question after a restart goes without, and one byte comes back.
            self._copy = await asyncio.to_thread(UpstreamCopy.of, stored, None)

    @property
    def url(self) -> URL:
        """Which upstream it is."""
        return self._upstream.url

    async def refresh(self, anew: bool = False) -> bool:
        """Ask upstream what is new, and say whether anything is. Raises UpstreamError; the copy stays as it was.

        With `anew`, the answer to a question that was asked before this call does not do.
        """
        if anew:
            await self._flight.landed()
        if self._retired:
            return False
        changed, _ = await self._flight.run("", self._refresh)
        return changed

    async def retire(self) -> None:
        """Ask nothing and write nothing any more, since another one goes on with the copy; what is known stays."""
        self._retired = True
        await self._flight.landed()

    def resume(self) -> None:
        """Go on with the copy after all."""
        self._retired = False

    async def close(self) -> None:
        """Stop what runs behind."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._flight.close()

    async def _refresh(self) -> bool:
        self.asked = self._clock()
        try:
            return await self._follow(self._copy)
        except NotFound:
            if self._copy is not None:
                raise UpstreamProtocolError(f"{self._upstream.name} no longer has its list of versions.") from None
        return await self._refresh_legacy()

    async def _follow(self, copy: UpstreamCopy | None) -> bool:
        ask = pages.ask(self._upstream.url, Page("versions"))
        answer = await self._upstream.range_get(ask, copy.request_headers() if copy else {})
        verdict = await asyncio.to_thread(follow, copy, answer.status, answer.headers, answer.body)
        match verdict:
            case Unchanged():
                return False
            case Append(tail, grown):
                known = self.map or VersionsMap()
                listed = await asyncio.to_thread(known.grown, tail)
                await self._logs.append(self._log_name, tail)
                if await self._logs.chunks(self._log_name) > MOST_CHUNKS:
                    await self._logs.replace(self._log_name, [await self._logs.read(self._log_name)])
                self._copy = grown
                logger.info("%s lists %d bytes more", self._upstream.name, len(tail))
                self._tell(listed, names_in(tail.split(b"\n")))
                return True
            case Replace(body, whole):
                listed = await asyncio.to_thread(parse_versions, body)
                await self._logs.replace(self._log_name, [body])
                self._copy, self._legacy = whole, False
                logger.info("%s: its list of versions was fetched whole, %d bytes", self._upstream.name, len(body))
                return await self._replace(listed)
            case Refetch(reason):
                logger.info("%s: %s It is fetched whole.", self._upstream.name, reason)
                return await self._follow(None)
            case Refused(reason):
                raise UpstreamProtocolError(f"{self._upstream.name}: {reason}")

    async def _replace(self, listed: VersionsMap) -> bool:
        known = self.map or VersionsMap()
        names = await asyncio.to_thread(listed.changed, known)
        self._tell(listed, names)
        return bool(names)

    def _tell(self, listed: VersionsMap, names: Collection[str]) -> None:
        self.map = listed
        for listener in self.changed:
            listener(names)

    # An upstream that has only the legacy index

    async def _refresh_legacy(self) -> bool:
        specs = await self._fetch_specs()
        if specs is None:
            return False
        listed = await asyncio.to_thread(map_from_specs, *(answer.body for answer in specs))
        for name in listed if self.map is not None and self._legacy else ():
            # The MD5 of a page that was made before stays right while the versions are the same.
            if self.map is not None and self.map.versions(name) == listed.versions(name):
                listed.set(name, listed.versions(name), self.map.md5(name))
        body = await asyncio.to_thread(render_versions, listed, datetime.fromtimestamp(0, UTC))
        await self._logs.replace(self._log_name, [_LEGACY + body])
        self._legacy, self._specs = True, specs
        return await self._replace(listed)

    async def _fetch_specs(self) -> list[UpstreamResponse] | None:
        """Both specs as they are now, None when they are those of last time."""
        specs = []
        for kind, old in zip_longest(("specs", "prerelease_specs"), self._specs):
            answer = await self._upstream.get(
                pages.ask(self._upstream.url, Page(kind)),
                etag=old.etag if old else None,
                last_modified=old.last_modified if old else None,
            )
            answer = answer or old
            assert answer is not None, "an unconditional question has an answer"
            specs.append(answer)
        return specs if [one.body for one in specs] != [one.body for one in self._specs] else None

    async def _fetch_page(
        self, page: Page, ask: UpstreamRequest, etag: str | None, last_modified: str | None
    ) -> UpstreamResponse | None:
        if self._legacy and page.kind == "project":
            return await self._info_from_gemspecs(page.name)
        try:
            return await self._upstream.get(ask, etag=etag, last_modified=last_modified)
        except NotFound:
            if page.kind == "project" and self.map is not None and page.name in self.map:
                # No 404 to our clients for what upstream itself lists: they would give up the whole index.
                raise UpstreamProtocolError(
                    f"{self._upstream.name} lists {page.name}, but has no page of it."
                ) from None
            raise

    async def _info_from_gemspecs(self, name: str) -> UpstreamResponse:
        numbers = self.map.versions(name) if self.map is not None else ()
        if not numbers:
            raise NotFound(f"{self._upstream.name} lists no gem named {name!r}.")
        slots = asyncio.Semaphore(GEMSPECS_AT_ONCE)

        async def gemspec(number: str) -> Gemspec | None:
            full = full_name(name, *split_number(number))
            url = self._upstream.url / "quick/Marshal.4.8" / f"{full}.gemspec.rz"
            async with slots:
                try:
                    answer = await self._upstream.get(UpstreamRequest(url=url, limit=4 << 20))
                    assert answer is not None, "an unconditional question has an answer"
                    return read_gemspec_rz(answer.body)
                except (NotFound, Invalid) as error:
                    logger.warning("%s is left out: %s", full, error)
                    return None

        specs = await asyncio.gather(*(gemspec(number) for number in numbers[-MOST_GEMSPECS:]))
        body = info_from_gemspecs(spec for spec in specs if spec is not None)
        await self._learn(name, numbers, pages.revision(body))
        return UpstreamResponse(url=str(self._upstream.url / "info" / name), content_type="text/plain", body=body)

    async def _learn(self, name: str, numbers: Collection[str], md5: str) -> None:
        """Remember the MD5 of a page that was made, as if upstream had listed it."""
        known = self.map
        if self._retired or known is None or known.versions(name) != tuple(numbers):
            return  # upstream lists other versions by now, and the page is made anew
        line = f"{name} {','.join(numbers)} {md5}\n".encode()
        await self._logs.append(self._log_name, line)
        self._tell(known.grown(line), [name])

    def _listed(self, page: Page) -> str | None:
        """The MD5 that upstream lists for an info page."""
        if page.kind != "project" or self.map is None:
            return None
        md5 = self.map.md5(page.name)
        return _NOT_MADE if md5 is None and self._legacy and page.name in self.map else md5
