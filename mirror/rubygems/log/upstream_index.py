"""Our copy of an upstream's `/versions`, kept up to date by Range requests and persisted as it grows.

What to believe of a response is decided in `upstream_copy.follow`; this module requests, stores and notifies. An
upstream without a compact index is followed through its specs instead, and its info pages are made from its gemspecs.
One upstream is followed once, however many repositories show it.

What it lists decides what it has, also while it is down. A gem that it has ever listed stays known, without versions,
so that no other upstream takes over the name (`Claims`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from functools import partial

from yarl import URL

from mirror.catalog import Catalog, LogGrowth, LogPosition, SharedLog
from mirror.errors import NotFound, UpstreamProtocolError
from mirror.index import losses
from mirror.index.cache import SingleFlight
from mirror.index.page_listing import PageListing
from mirror.index.source import name_of_upstream
from mirror.index.upstream import CachedUpstream
from mirror.index.upstream_pages import UpstreamPages
from mirror.model import UpstreamRequest, UpstreamResponse
from mirror.rubygems import pages
from mirror.rubygems.index import map_from_specs
from mirror.rubygems.log.legacy_index import LIST_SECONDS, body_from_gemspecs, fetch_specs
from mirror.rubygems.log.list_losses import ListLosses
from mirror.rubygems.log.upstream_copy import (
    LEGACY,
    Append,
    Refetch,
    Refused,
    Replace,
    Unchanged,
    UpstreamCopy,
    follow,
    read_copy,
)
from mirror.rubygems.log.versions_map import EMPTY_MD5, VersionsMap, excess, names_in, parse_versions, render_versions
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

MOST_CHUNKS = 500
"""Appends after which the stored copy is written anew in one piece."""
VERSIONS_BYTES = 256 << 20
"""The most that an upstream's `/versions` may have."""
LOOK_SECONDS = 0.1
"""Between two looks at whether another process has its answer."""
UPDATE_SECONDS = 60.0
"""Age from which the list is asked for again before a gem that it lacks is said to be unknown."""
WAIT_SECONDS = 5.0
"""Time for which that is waited for."""
MOST_LOST = 500_000
"""The most gems that are remembered after they have gone."""

_NOT_MADE = "not made yet"
"""A revision that no page has, so that the page is made."""


class UpstreamIndex:
    """One upstream's list of versions."""

    def __init__(self, upstream: Upstream, name: str, catalog: Catalog, clock: Callable[[], float] = time.time) -> None:
        """The copy is stored under `name`."""
        self.name = name
        self.map: VersionsMap | None = None
        """What upstream lists; None until it has been fetched once. It is replaced, never changed."""
        self.asked_at = 0.0
        """When upstream was last asked, with or without success, in seconds since the epoch."""
        self.listeners: list[Callable[[Collection[str]], None]] = []
        """Called with the names of the gems that upstream lists otherwise than before."""
        self._pages: list[UpstreamPages] = []
        self._upstream = upstream
        self._claims = catalog.claims
        self._source = name_of_upstream(upstream)
        self._claimed: Collection[str] | None = None
        """The gems that the catalog knew to be upstream's when the copy was read; None before that."""
        self._stored = SharedLog(catalog.logs, f"upstream {name}", clock)
        self._storing = asyncio.Lock()
        self._copy: UpstreamCopy | None = None
        self._legacy = False
        self._specs: list[UpstreamResponse] = []
        self._losses = ListLosses(upstream, clock)
        self._flight: SingleFlight[str, bool] = SingleFlight()
        self._retired = False
        self._opening: asyncio.Task[None] | None = None
        self._clock = clock

    def attach_to(self, source: CachedUpstream) -> None:
        """Let a source learn from our copy which of its info pages are current, and how to make one."""
        self._pages.append(source.pages)
        source.pages.open_listing = self.open
        self._show_map()

    def _show_map(self) -> None:
        """Let the sources know what upstream lists now."""
        if self.map is not None:
            listing = PageListing(
                self.map,
                self.map.md5,
                update=self._update_if_due,
                void=EMPTY_MD5,
                complete=self.map.has_all,
            )
            if self._legacy:
                # A version whose gemspec is missing is left out of a page that is made, so none is ever complete.
                listing = PageListing(self.map, self._made_revision, self._info_from_gemspecs, self._update_if_due)
            for pages_of_source in self._pages:
                pages_of_source.listing = listing

    async def open(self) -> None:
        """Read the stored copy, once; where that failed, try it again."""
        opening = self._opening
        if opening is None or (opening.done() and (opening.cancelled() or opening.exception() is not None)):
            self._opening = opening = asyncio.create_task(self._open())
        await asyncio.shield(opening)

    async def _open(self) -> None:
        claimed = await self._claims.all_names(self._source)
        stored = await self._stored.growth()
        if not stored.content:
            self._claimed = claimed
            return
        self.map = await self._taken_over(stored, claimed)
        self._show_map()

    async def _taken_over(self, growth: LogGrowth, claimed: Collection[str]) -> VersionsMap:
        """Make what is stored our copy; return what it lists."""
        if growth.anew or self.map is None:
            # The ETag is not stored: the first request after a restart goes without, and returns one byte.
            copy, listed = await asyncio.to_thread(read_copy, growth.content)
            listed.keep_names(claimed)
        else:
            copy = self._copy and self._copy.grown(growth.content)
            listed = await asyncio.to_thread(self.map.grown, growth.content)
        self._stored.position, self._copy, self._legacy = growth.position, copy, copy is None
        return listed

    async def read_on(self) -> None:
        """Take over what other processes have stored."""
        await self.open()
        async with self._storing:
            growth = await self._stored.growth()
            if not growth.content:
                # What has been lost is fetched again as a whole.
                self._stored.position, self._copy = growth.position, None if growth.anew else self._copy
                return
            claimed = await self._claims.all_names(self._source) if growth.anew else ()
            listed = await self._taken_over(growth, claimed)
            if growth.anew:
                await self._replace_all(listed)
            else:
                self._replace_map(listed, names_in(growth.content.split(b"\n")))

    async def _store(self, content: bytes, after: LogPosition, *, anew: bool) -> bool:
        """Store what is new, or all; return False where more is stored than was known as it was asked for."""
        if self._stored.position != after:
            return False
        return await (self._stored.replace(content) if anew else self._stored.append(content, MOST_CHUNKS))

    def replace_equal(self, known: VersionsMap, shared: VersionsMap) -> None:
        """Let an equal map take the place of `known`, unless another one has already."""
        if self.map is known:
            self.map = shared
            self._show_map()

    @property
    def url(self) -> URL:
        """The upstream's address."""
        return self._upstream.url

    async def refresh(self, pause: float = 0.0, anew: bool = False) -> bool:
        """Fetch what is new, and return whether anything is. Raises UpstreamError; the copy then stays as it was.

        What another process has asked for within `pause` seconds is taken over from it. With `anew`, the response to a
        request that was sent before this call does not count.
        """
        if anew:
            await self._flight.landed()
        if self._retired:
            return False
        changed, _ = await self._flight.run(f"{pause}", partial(self._refresh, pause, anew))
        return changed

    async def _update_if_due(self) -> None:
        """Ask for the list where it is old, and wait a moment; whatever goes wrong, the old one stands in."""
        if 0 <= self._clock() - self.asked_at <= UPDATE_SECONDS or self._retired:
            return
        # Only this caller waits: while an upstream hangs, what others list is not held up by it.
        asking = self._flight.start(f"{UPDATE_SECONDS}", partial(self._refresh, UPDATE_SECONDS))
        done, _ = await asyncio.wait({asking}, timeout=WAIT_SECONDS)
        if done and (error := asking.exception()):
            logger.warning("the list of versions stays as it is: %s", error)

    async def retire(self) -> None:
        """Fetch and write nothing any more, since another mirror goes on with the copy; `map` stays."""
        self._retired = True
        await self._flight.landed()

    def resume(self) -> None:
        """Go on with the copy after all."""
        self._retired = False

    async def close(self) -> None:
        """Stop what runs in the background."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        await self._flight.close()

    async def _refresh(self, pause: float = 0.0, anew: bool = False) -> bool:
        """Ask upstream, unless another process asks now or has asked lately: then take over what it has stored."""
        known, since = self.map, math.inf
        while True:
            await self.read_on()  # also since what is stored would otherwise be replaced without a look at it
            async with self._stored.refreshing(pause, since) as state:
                if state.ours:
                    return await self._ask()
            if not state.running:
                self.asked_at = self._clock() - max(0.0, state.now - state.began)
                await self.read_on()
                if self.map is not None or since < math.inf:
                    return self.map is not known
                pause = 0.0  # who asked lately has got nothing
                continue
            since = min(since, state.now if anew else state.began)
            await asyncio.sleep(LOOK_SECONDS)

    async def _ask(self) -> bool:
        self.asked_at = self._clock()
        try:
            return await self._follow(self._copy)
        except NotFound:
            if self._copy is not None:
                raise UpstreamProtocolError(f"{self._upstream.name} no longer has its list of versions.") from None
        try:
            return await self._refresh_legacy()
        except NotFound as error:
            if error.existed or (self.map is not None and len(self.map)):
                raise UpstreamProtocolError(f"{self._upstream.name} no longer has any list of versions.") from None
        if self.map is not None:
            return False
        logger.warning("%s has no list of versions: it counts as empty, and is asked again", self._upstream.name)
        empty, after = VersionsMap(), self._stored.position
        await self._keep_names(empty)
        async with self._storing:
            if await self._store(LEGACY, after, anew=True):
                self._legacy = True
                return await self._replace_all(empty)
        await self.read_on()  # another process was first
        return True

    async def _follow(self, copy: UpstreamCopy | None) -> bool:
        after = self._stored.position
        url = self._upstream.url / "versions"
        request = UpstreamRequest(url=url, limit=VERSIONS_BYTES, timeout=LIST_SECONDS, kind="list")
        response = await self._upstream.get_raw(request, copy.request_headers() if copy else {})
        result = await asyncio.to_thread(follow, copy, response.status, response.headers, response.body)
        match result:
            case Unchanged():
                return False
            case Append(tail, grown):
                known = self.map or VersionsMap()
                await self._check_size(tail, grown.size)
                listed = await asyncio.to_thread(known.grown, tail)
                await self._losses.check(known, listed, losses.LIST.least)
                async with self._storing:
                    if await self._store(tail, after, anew=False):
                        self._copy = grown
                        logger.info("%s lists %d bytes more", self._upstream.name, len(tail))
                        self._replace_map(listed, names_in(tail.split(b"\n")))
                        return True
            case Replace(body, fetched):
                await self._check_size(body, fetched.size)
                listed = await asyncio.to_thread(parse_versions, body)
                if self.map is not None:
                    await self._losses.check(self.map, listed)
                await self._keep_names(listed)
                async with self._storing:
                    if await self._store(body, after, anew=True):
                        self._copy, self._legacy = fetched, False
                        logger.info("%s: its list was fetched as a whole, %d bytes", self._upstream.name, len(body))
                        return await self._replace_all(listed)
            case Refetch(reason):
                logger.info("%s: %s It is fetched as a whole.", self._upstream.name, reason)
                return await self._follow(None)
            case Refused(reason):
                raise UpstreamProtocolError(f"{self._upstream.name}: {reason}")
        await self.read_on()  # another process was first
        return await self._follow(self._copy)

    async def _check_size(self, lines: bytes, size: int) -> None:
        """Check new lines, and the bytes of the log with them. Raises UpstreamProtocolError."""
        reason = await asyncio.to_thread(excess, lines)
        if size > VERSIONS_BYTES:
            reason = f"it has more than {VERSIONS_BYTES:,} bytes"
        if reason:
            raise UpstreamProtocolError(f"{self._upstream.name}: its list of versions is refused: {reason}.")

    async def _keep_names(self, listed: VersionsMap) -> None:
        """Let a list that replaces ours go on knowing the gems of ours that it lacks. Raises UpstreamProtocolError."""
        known, had = self.map or VersionsMap(), len(listed)
        before = known.known() if self.map is not None else await self._names_before()
        gone = [name for name in await asyncio.to_thread(listed.keep_names, before) if name in known]
        if len(listed.known()) - had > MOST_LOST:
            raise UpstreamProtocolError(f"{self._upstream.name} has dropped more gems than can be remembered.")
        if gone:
            logger.info("%s no longer lists %d gems, whose names stay its own", self._upstream.name, len(gone))
            await self._claims.add(self._source, gone, self._clock())

    async def _names_before(self) -> Collection[str]:
        """Return the gems that upstream had before its list was ever fetched, as pages have shown."""
        if self._claimed is None or any(one.store.changed for one in self._pages):
            return await self._claims.all_names(self._source)
        return self._claimed

    async def _replace_all(self, listed: VersionsMap) -> bool:
        known = self.map or VersionsMap()
        names = await asyncio.to_thread(listed.changed, known)
        self._replace_map(listed, names)
        return bool(names)

    def _replace_map(self, listed: VersionsMap, names: Collection[str]) -> None:
        self.map, self._claimed = listed, None
        self._show_map()
        for listener in self.listeners:
            listener(names)

    # An upstream that has only the legacy index

    async def _refresh_legacy(self) -> bool:
        after, specs = self._stored.position, await fetch_specs(self._upstream, self._specs)
        if specs is None:
            return False
        listed = await asyncio.to_thread(map_from_specs, *(response.body for response in specs))
        if self.map is not None:
            await self._losses.check(self.map, listed, has_pages=False)
        for name in listed if self.map is not None and self._legacy else ():
            # The MD5 of a page that was made before stays right while the versions are the same.
            if self.map is not None and self.map.versions(name) == listed.versions(name):
                listed.set(name, listed.versions(name), self.map.md5(name))
        await self._keep_names(listed)
        body = await asyncio.to_thread(render_versions, listed, datetime.fromtimestamp(0, UTC))
        async with self._storing:
            if await self._store(LEGACY + body, after, anew=True):
                self._legacy, self._specs = True, specs
                return await self._replace_all(listed)
        await self.read_on()  # another process was first; the next request compares with what it has stored
        return True

    async def _info_from_gemspecs(self, name: str) -> UpstreamResponse:
        numbers = self.map.versions(name) if self.map is not None else ()
        if not numbers:
            raise NotFound(f"{self._upstream.name} lists no gem named {name!r}.")
        body = await body_from_gemspecs(self._upstream, name, numbers)
        await self._store_md5(name, numbers, pages.revision(body))
        return UpstreamResponse(url=str(self._upstream.url / "info" / name), content_type="text/plain", body=body)

    async def _store_md5(self, name: str, numbers: Collection[str], md5: str) -> None:
        """Store the MD5 of a page that was made, as if upstream had listed it."""
        line = f"{name} {','.join(numbers)} {md5}\n".encode()
        while True:
            async with self._storing:
                known = self.map
                if self._retired or known is None or known.versions(name) != tuple(numbers):
                    return  # upstream lists other versions by now, and the page will be made again
                if await self._store(line, self._stored.position, anew=False):
                    self._replace_map(known.grown(line), [name])
                    return
            await self.read_on()

    def _made_revision(self, name: str) -> str | None:
        """Return the MD5 of an info page that is made from gemspecs."""
        assert self.map is not None, "it is listed"
        md5 = self.map.md5(name)
        return _NOT_MADE if md5 is None and name in self.map else md5
