"""Following the journal of another mirror: pages and files are fetched in its order.

The cursor moves when everything before it has been applied. What fails is tried again, with growing pauses; what keeps
failing while the other mirror answers is skipped, and fetched when a client requests it.
"""

import asyncio
import logging
import math
import random
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Protocol

from mirror.airgap.follow.remote import FeedLine, FeedMismatch, FeedPosition, HeldFileLine, RemoteMirror
from mirror.api.state import FollowState
from mirror.catalog import Cursor, Cursors
from mirror.errors import Blocked, LostLease, MirrorError, NotFound, StorageError, UpstreamProtocolError
from mirror.policy import matches

logger = logging.getLogger(__name__)

PROJECTS_AT_ONCE = 8
"""Projects that are worked on concurrently."""
ATTEMPTS = 5
"""The most attempts at a part of the journal while the other mirror answers; then its failures are skipped."""
FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS = 0.5, 60.0
"""The pause after a failure, doubled each time."""
NAMES_A_DAY = 1_000_000
"""The most names of another mirror that are looked at in a day, more than the public index has."""
TRIAL_NAMES = 1000
"""After so many names of which it does not have even half itself, what another mirror claims to hold is invented."""
DISTRUST_SECONDS = 3600.0
"""The pause before a mirror is asked again that sent what cannot be."""
CATCH_UP_SECONDS = 86_400.0
"""The longest time to catch up with another mirror."""
HELD_KINDS = frozenset({"file", "upload"})
"""Kinds of events after which the other mirror holds a file."""
SAME_PAGE_KINDS = frozenset({"file", "sidecar", "names"})
"""Kinds of events that do not change the project's page."""


class Applier(Protocol):
    """Fetches into one repository of the mirror that follows."""

    async def index(self) -> None:
        """Fetch the current list of all projects, where clients request that first. Raises MirrorError."""

    async def page(self, project: str) -> None:
        """Fetch the current page of a project. Raises MirrorError; NotFound when it no longer exists."""

    async def file(self, project: str, filename: str) -> bool:
        """Fetch a file and its sidecar; return whether it was not held before. Raises MirrorError, NotFound."""


class Untrustworthy(UpstreamProtocolError):
    """Another mirror sent what cannot be; it is not asked again soon."""


class Follower:
    """Follows one repository of another mirror."""

    def __init__(
        self,
        name: str,
        remote: RemoteMirror,
        applier: Applier,
        cursors: Cursors,
        known: Callable[[], Awaitable[Iterable[str]]],
        *,
        only: tuple[str, ...] = (),
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`name` is the name of the cursor; `known` returns the projects whose pages of that source are stored.

        `only`: canonical names or patterns.
        """
        self.name = name
        self.state = FollowState()
        self.on_change: Callable[[FollowState], None] = lambda state: None
        """Called whenever the state has changed."""
        self._remote = remote
        self._applier = applier
        self._cursors = cursors
        self._known = known
        self._only = only
        self._clock = clock
        self._attempts = 0
        self._names, self._names_since = 0, -math.inf
        """How many names were looked at, and since when, on the monotonic clock."""

    def under(self, cursors: Cursors) -> "Follower":
        """Return this follower with other cursors: those under a lease."""
        self._cursors = cursors
        return self

    async def catch_up(self) -> None:
        """Apply everything up to the event that is the newest one now. Raises MirrorError."""
        newest, until = math.inf, time.monotonic() + CATCH_UP_SECONDS
        while self.state.behind != 0 and self.state.serial < newest:
            await self.step()
            newest = min(newest, self.state.newest)
            if time.monotonic() > until:
                raise UpstreamProtocolError(f"{self._remote.name} changes faster than it can be followed.")

    async def run(self) -> None:
        """Follow until cancelled."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            try:
                await self.step(self._remote.wait_seconds)
                pause, self.state.last_error = FIRST_PAUSE_SECONDS, ""
            except Untrustworthy as error:
                logger.error("following %s: %s", self._remote.name, error)
                self.state.last_error, self.state.behind = str(error), None
                self.on_change(self.state)
                await asyncio.sleep(DISTRUST_SECONDS)
            except LostLease:
                raise
            except MirrorError as error:
                if str(error) != self.state.last_error:
                    logger.warning("following %s: %s", self._remote.name, error)
                self.state.last_error, self.state.behind = str(error), None
                self.on_change(self.state)
                await asyncio.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(2 * pause, MAX_PAUSE_SECONDS)

    async def step(self, wait: float = 0.0) -> None:
        """Request events, waiting up to `wait` seconds for one, and apply them. Raises MirrorError; then call again."""
        cursor = await self._cursors.get(self.name)
        if cursor is None:
            await self.resynchronise(f"{self._remote.name} is followed from now on")
            return
        started = time.monotonic()
        try:
            batch = await self._remote.events(cursor.feed, cursor.serial, wait)
        except FeedMismatch as error:
            await self.resynchronise(str(error).rstrip("."))
            return
        if batch.lines:
            self._show_delay(batch.lines[0].time)
            await self._apply(batch.lines)
        await self._move(batch.position)
        if not batch.lines and time.monotonic() - started < min(wait, FIRST_PAUSE_SECONDS):
            await asyncio.sleep(FIRST_PAUSE_SECONDS)  # the other mirror is stopping, and answers without waiting

    async def resynchronise(self, why: str) -> None:
        """Compare what both mirrors hold, fetch what is missing, and continue from the position before that."""
        logger.warning("%s: comparing what it holds with what is held here", why)
        self.state.resynchronised += 1
        self.state.behind = None
        before: FeedPosition | None = None
        seen: set[str] = set()
        pages, failed = self.state.pages, self.state.failed
        await self._applier.index()
        async for position, lines in self._remote.holdings():
            before = before or position
            held: dict[str, list[str]] = {}
            for line in lines:
                if (name := self._followed_project(line)) is not None:
                    held.setdefault(name, []).extend([line.filename] if line.kind == "file" else [])
            seen |= held.keys()
            self._count(len(held))
            await self._fetch_all(held, held.keys(), raising=False)
            found = self.state.pages - pages + self.state.failed - failed
            if len(seen) >= TRIAL_NAMES and 2 * found < len(seen):
                raise Untrustworthy(f"{self._remote.name} claims to hold names that it does not have.")
            self.state.comparing = next(reversed(held), self.state.comparing)
            self.on_change(self.state)
        gone = [name for name in await self._known() if name not in seen and self._follows(name)]
        await self._fetch_all({name: [] for name in gone}, gone, raising=False)
        self.state.comparing = ""
        assert before is not None, "there is at least one part"
        logger.info("%s: compared; following its journal from serial %d", self._remote.name, before.serial)
        await self._move(before)

    async def _apply(self, lines: Iterable[FeedLine]) -> None:
        files: dict[str, list[str]] = {}
        changed: set[str] = set()
        for line in lines:
            if (name := self._followed_project(line)) is None:
                continue
            filenames = files.setdefault(name, [])
            if line.filename and line.kind in HELD_KINDS:
                filenames.append(line.filename)
            if line.kind not in SAME_PAGE_KINDS:
                changed.add(name)
        if not files:
            return
        self._count(len(files))
        self._attempts += 1
        if changed:
            await self._applier.index()
        await self._fetch_all(files, changed, raising=self._attempts < ATTEMPTS)
        self._attempts = 0

    async def _fetch_all(self, files: Mapping[str, list[str]], changed: Iterable[str], raising: bool) -> None:
        """Fetch files by project, and changed pages; raise the first failure at the end, or only count failures."""
        waiting, changed = iter(files.items()), set(changed)
        failures: list[MirrorError] = []

        async def work() -> None:
            for name, filenames in waiting:
                try:
                    await self._fetch(name, filenames, name in changed)
                except MirrorError as error:
                    failures.append(error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(PROJECTS_AT_ONCE, len(files))):
                group.create_task(work())
        if failures and (raising or isinstance(failures[0], StorageError)):
            raise failures[0]
        self.state.failed += len(failures)
        for failure in failures:
            logger.error("following %s: skipped until a client requests it: %s", self._remote.name, failure)

    async def _fetch(self, name: str, filenames: Iterable[str], changed: bool) -> None:
        if changed and not await self._fetch_page(name):
            return
        for filename in dict.fromkeys(filenames):
            try:
                try:
                    fetched = await self._applier.file(name, filename)
                except NotFound:
                    if changed or not await self._fetch_page(name):
                        raise
                    fetched = await self._applier.file(name, filename)
                self.state.files += fetched
            except (NotFound, Blocked) as error:  # a sidecar; deleted since; or blocked by policy here
                logger.debug("following %s: %s", self._remote.name, error)

    async def _fetch_page(self, name: str) -> bool:
        """Fetch a page; return whether it exists."""
        try:
            await self._applier.page(name)
        except NotFound:
            return False
        self.state.pages += 1
        return True

    def _followed_project(self, line: FeedLine | HeldFileLine) -> str | None:
        name = self._remote.canonical(line.project)
        return name if name is not None and self._follows(name) else None

    def _follows(self, name: str) -> bool:
        return not self._only or matches(self._only, name)

    async def _move(self, position: FeedPosition) -> None:
        """Move the cursor: everything up to the position is applied."""
        cursor = await self._cursors.get(self.name)
        if cursor is None or (cursor.feed, cursor.serial) != (position.feed, position.serial):
            await self._cursors.put(self.name, Cursor(position.feed, position.serial, self._clock()))
        self.state.serial, self.state.newest = position.serial, position.newest
        if position.serial >= position.newest:
            self.state.behind, self.state.applied = 0.0, self._clock()
        self.on_change(self.state)

    def _count(self, names: int) -> None:
        """Count names that are looked at. Raises Untrustworthy when there are too many in a day."""
        now = time.monotonic()
        if now - self._names_since > 86_400:
            self._names, self._names_since = 0, now
        self._names += names
        if self._names > NAMES_A_DAY:
            raise Untrustworthy(f"{self._remote.name} names more projects in a day than there are.")

    def _show_delay(self, since: float) -> None:
        self.state.behind = max(0.0, self._clock() - since)
        self.on_change(self.state)
