"""The index that one repository publishes: our own append-only `/versions`, and what is derived from it.

The one asymmetry between the ecosystems. `/versions` holds the MD5 of each info page, so whatever changes a page (an
upload, a policy, another winner among the sources) has to change the log; clients follow it by Range, so it may only
grow. On each change the wanted map is computed and the difference appended and persisted; a restart serves the same
bytes, and an upstream that rewrites its own log costs our clients nothing.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from mirror.catalog import Logs
from mirror.errors import UpstreamError, UpstreamUnavailable
from mirror.flight import SingleFlight
from mirror.freshness import Demand
from mirror.policy import matches
from mirror.rubygems import pages
from mirror.rubygems.following import Followed
from mirror.rubygems.index import PublishedLog, VersionsMap

logger = logging.getLogger(__name__)

POLL = 60.0
"""Seconds between two questions to an upstream: the public index asks for no more."""
WAIT = 600.0
"""Seconds after which a client waits for the answer instead of getting the stored log at once."""
DEMANDED = 2.0
"""As POLL, for clients that demand an answer of now."""
MOST_CHUNKS = 2000
"""Appends after which the stored log is written anew in one piece: the same bytes, in fewer rows."""


class Published:
    """The log, and the sources whose maps it says."""

    def __init__(
        self,
        name: str,
        followed: Sequence[Followed],
        logs: Logs,
        *,
        private: Sequence[str] = (),
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.log: PublishedLog | None = None
        """What is served; None until there is anything to say."""
        self.changed_at = clock()
        """When the log last grew; for Last-Modified of what is derived from it."""
        self.followed = tuple(followed)
        self._own: dict[str, tuple[tuple[str, ...], str]] = {}
        """Gems whose page here is not their upstream's: name → versions and MD5. Without versions: hidden."""
        self._logs = logs
        self._log_name = f"published {name}"
        self._private = tuple(private)
        self._offline = offline
        self._clock = clock
        self._publishing = asyncio.Lock()
        self._behind: SingleFlight[str, bytes] = SingleFlight()
        self._opening: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Begin to read the persisted log and the copies of the upstreams' lists; whoever asks meanwhile waits."""
        self._opening = asyncio.create_task(self._open())

    async def _open(self) -> None:
        for one in self.followed:
            await one.open()
        stored = await self._logs.read(self._log_name)
        if stored:
            self.log = await asyncio.to_thread(PublishedLog.from_bytes, stored)

    async def current(self, demand: Demand = Demand.USUAL) -> PublishedLog:
        """The log to serve now, after asking upstreams where that is due. Raises UpstreamUnavailable."""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if not self._offline:
            await self._keep_up(demand)
        if self.log is None:
            if not any(one.map is not None for one in self.followed) and self.followed:
                raise UpstreamUnavailable("The list of versions is not held here, and no upstream gives it.")
            await self.publish()
        assert self.log is not None, "publishing makes a log"
        return self.log

    async def _keep_up(self, demand: Demand) -> None:
        now = self._clock()
        for one in self.followed:
            age = now - one.checked
            if one.map is None or age > WAIT or (demand is Demand.NOW and age > DEMANDED):
                try:
                    if await one.refresh():
                        await self.publish()
                except UpstreamError as error:
                    if one.map is None and self.log is None:
                        raise
                    logger.warning("serving the stored list of versions: %s", error)
            elif age > POLL:
                one.start_refresh(self._refreshed)

    def _refreshed(self, changed: bool) -> None:
        if changed:
            self._behind.start("", self.publish)

    async def publish(self) -> bytes:
        """Append what has changed to the log, persisted before it is seen; the bytes by which it grew."""
        async with self._publishing:
            wanted = await asyncio.to_thread(self._wanted)
            if self.log is None:
                log = await asyncio.to_thread(PublishedLog.begin, wanted, datetime.fromtimestamp(self._clock(), UTC))
                tail = log.slice()
                await self._logs.replace(self._log_name, [tail])
            else:
                log, tail = await asyncio.to_thread(self.log.updated, wanted)
                if not tail:
                    return b""
                await self._logs.append(self._log_name, tail)
                if await self._logs.chunks(self._log_name) > MOST_CHUNKS:
                    await self._logs.replace(self._log_name, [log.slice()])
            self.log = log
            self.changed_at = self._clock()
            return tail

    async def override(self, name: str, versions: Sequence[str], body: bytes) -> bytes:
        """Say what a gem's page shows here, where it is not its upstream's; the bytes by which the log grew."""
        if self.log is None:
            await self.current(Demand.ANY)
        said = tuple(versions), pages.revision(body)
        listed = self._listed_upstream(name)
        if listed == said:
            if self._own.pop(name, None) is None:
                return b""
        elif self._own.get(name) == said:
            return b""
        else:
            self._own[name] = said
        return await self.publish()

    def _listed_upstream(self, name: str) -> tuple[tuple[str, ...], str] | None:
        if matches(self._private, name):
            return None
        for one in self.followed:
            if one.map is not None and name in one.map:
                return one.map.versions(name), one.map.md5(name) or ""
        return None

    def _wanted(self) -> VersionsMap:
        """What the log should say: the first source that lists a gem, and our own word over all of them."""
        maps = [one.map for one in self.followed if one.map is not None]
        if len(maps) == 1 and not self._own and not self._private:
            return maps[0]
        wanted = maps[0].copy() if maps else VersionsMap()
        for other in maps[1:]:
            for name in other:
                if name not in wanted:
                    wanted.set(name, other.versions(name), other.md5(name))
        if self._private:
            for name in [name for name in wanted if matches(self._private, name)]:
                wanted.remove(name)
        for name, (versions, md5) in self._own.items():
            if versions:
                wanted.set(name, versions, md5)
            else:
                wanted.remove(name)
        return wanted

    async def close(self) -> None:
        """Stop what runs behind."""
        if self._opening is not None:
            self._opening.cancel()
        await self._behind.close()
        for one in self.followed:
            await one.close()
