"""Goes after the journal of another mirror, forever: page by page and file by file, in order, and never past a failure.

A cursor moves when everything before it has been done here. What fails is tried again, with growing pauses; what fails
often while the other mirror is there is left to whoever asks for it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from mirror.airgap.follow.remote import FeedLine, FeedPosition, HeldFileLine, Lost, RemoteMirror
from mirror.api.state import FollowState
from mirror.catalog import Cursor, Cursors
from mirror.errors import Blocked, MirrorError, NotFound, StorageFull
from mirror.policy import matches

logger = logging.getLogger(__name__)

AT_ONCE = 8
"""Projects that are worked at together."""
TRIES = 5
"""How often a part of the journal is tried, while the other mirror answers, before it goes on."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds before a failure is tried again: doubled each time."""
BROUGHT = frozenset({"file", "upload"})
"""Kinds of events after which the other mirror holds a file."""
UNTOUCHED = frozenset({"file", "sidecar", "names"})
"""Kinds of events after which the project's page is as before."""


class Applier(Protocol):
    """What the mirror that follows is told to do, for one repository."""

    async def index(self) -> None:
        """Have the list of all projects as it is now, where clients ask for that first. Raises MirrorError."""

    async def page(self, project: str) -> None:
        """Have a project's page as it is now. Raises MirrorError; NotFound when there is none any more."""

    async def file(self, project: str, filename: str) -> bool:
        """Hold a file and its sidecar; whether it was not held before. Raises MirrorError, NotFound if not listed."""


class Follower:
    """Follows one repository of another mirror."""

    def __init__(
        self,
        name: str,
        remote: RemoteMirror,
        reach: Applier,
        cursors: Cursors,
        known: Callable[[], Awaitable[Iterable[str]]],
        *,
        only: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`name` is what the cursor is kept under; `known` are the projects whose pages of that source are stored.

        `only`: canonical names or patterns.
        """
        self.name = name
        self.state = FollowState()
        self.tell: Callable[[FollowState], None] = lambda state: None
        """Called whenever the state has changed."""
        self._remote = remote
        self._reach = reach
        self._cursors = cursors
        self._known = known
        self._only = only
        self._clock = clock
        self._tries = 0

    async def catch_up(self) -> None:
        """Do all that there is to do at this moment. Raises MirrorError."""
        while self.state.behind != 0:
            await self.step()

    async def run(self) -> None:
        """Follow until cancelled."""
        pause = FIRST_PAUSE
        while True:
            try:
                await self.step(self._remote.patience)
                pause, self.state.last_error = FIRST_PAUSE, ""
            except MirrorError as error:
                if str(error) != self.state.last_error:
                    logger.warning("following %s: %s", self._remote.name, error)
                self.state.last_error, self.state.behind = str(error), None
                self.tell(self.state)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, LONGEST_PAUSE)

    async def step(self, wait: float = 0.0) -> None:
        """Ask once, waiting so many seconds for news, and do what it says. Raises MirrorError: then do it again."""
        cursor = await self._cursors.get(self.name)
        if cursor is None:
            await self.resynchronise(f"{self._remote.name} is followed from now on")
            return
        asked = time.monotonic()
        try:
            news = await self._remote.news(cursor.feed, cursor.serial, wait)
        except Lost as lost:
            await self.resynchronise(str(lost).rstrip("."))
            return
        if news.lines:
            self._behind(news.lines[0].time)
            await self._do(news.lines)
        await self._move(news.place)
        if not news.lines and time.monotonic() - asked < min(wait, FIRST_PAUSE):
            await asyncio.sleep(FIRST_PAUSE)  # it is about to end, and lets nobody wait

    async def resynchronise(self, why: str) -> None:
        """Compare all that both hold, bring what is missing, and go on from where the journal stood before."""
        logger.warning("%s: what it holds is compared with what is held here", why)
        self.state.resynchronised += 1
        self.state.behind = None
        before: FeedPosition | None = None
        seen: set[str] = set()
        await self._reach.index()
        async for place, lines in self._remote.holdings():
            before = before or place
            held: dict[str, list[str]] = {}
            for line in lines:
                if (name := self._wanted(line)) is not None:
                    held.setdefault(name, []).extend([line.filename] if line.kind == "file" else [])
            seen |= held.keys()
            await self._work(held, held.keys(), raising=False)
            self.state.comparing = next(reversed(held), self.state.comparing)
            self.tell(self.state)
        gone = [name for name in await self._known() if name not in seen and self._follows(name)]
        await self._work({name: [] for name in gone}, gone, raising=False)
        self.state.comparing = ""
        assert before is not None, "there is at least one part"
        logger.info("%s: compared; the feed is followed from serial %d on", self._remote.name, before.serial)
        await self._move(before)

    async def _do(self, lines: Iterable[FeedLine]) -> None:
        wanted: dict[str, list[str]] = {}
        changed: set[str] = set()
        for line in lines:
            if (name := self._wanted(line)) is None:
                continue
            files = wanted.setdefault(name, [])
            if line.filename and line.kind in BROUGHT:
                files.append(line.filename)
            if line.kind not in UNTOUCHED:
                changed.add(name)
        if not wanted:
            return
        self._tries += 1
        if changed:
            await self._reach.index()
        await self._work(wanted, changed, raising=self._tries < TRIES)
        self._tries = 0

    async def _work(self, wanted: Mapping[str, list[str]], changed: Iterable[str], raising: bool) -> None:
        """Bring pages and files; raise the first failure in the end, or only count failures."""
        waiting, changed = iter(wanted.items()), set(changed)
        failures: list[MirrorError] = []

        async def work() -> None:
            for name, filenames in waiting:
                try:
                    await self._bring(name, filenames, name in changed)
                except MirrorError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(AT_ONCE, len(wanted))):
                group.create_task(work())
        if failures and (raising or isinstance(failures[0], StorageFull)):
            raise failures[0]
        self.state.failed += len(failures)
        for failure in failures:
            logger.error("following %s: left to whoever asks for it: %s", self._remote.name, failure)

    async def _bring(self, name: str, filenames: Iterable[str], changed: bool) -> None:
        if changed and not await self._page(name):
            return
        for filename in dict.fromkeys(filenames):
            try:
                try:
                    self.state.files += await self._reach.file(name, filename)
                except NotFound:
                    if changed or not await self._page(name):
                        raise
                    self.state.files += await self._reach.file(name, filename)
            except (NotFound, Blocked) as error:  # a sidecar; deleted since; or not to be had here, by policy
                logger.debug("following %s: %s", self._remote.name, error)

    async def _page(self, name: str) -> bool:
        """Have a page; whether there is one."""
        try:
            await self._reach.page(name)
        except NotFound:
            return False
        self.state.pages += 1
        return True

    def _wanted(self, line: FeedLine | HeldFileLine) -> str | None:
        name = self._remote.canonical(line.project)
        return name if name is not None and self._follows(name) else None

    def _follows(self, name: str) -> bool:
        return not self._only or matches(self._only, name)

    async def _move(self, place: FeedPosition) -> None:
        """All up to a place is done."""
        cursor = await self._cursors.get(self.name)
        if cursor is None or (cursor.feed, cursor.serial) != (place.feed, place.serial):
            await self._cursors.put(self.name, Cursor(place.feed, place.serial, self._clock()))
        self.state.serial, self.state.newest = place.serial, place.newest
        if place.serial >= place.newest:
            self.state.behind = 0.0
        self.tell(self.state)

    def _behind(self, since: float) -> None:
        self.state.behind = max(0.0, self._clock() - since)
        self.tell(self.state)
