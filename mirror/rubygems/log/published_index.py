"""The index that one repository publishes: our own append-only `/versions`, and the info pages that it lists.

`/versions` holds the MD5 of each info page, so whatever changes a page (an
upload, a policy, another winner among the sources) has to change the log; clients follow it by Range, so it may only
grow. What changes is appended and persisted; a restart serves the same bytes, and an upstream that rewrites its own log
costs our clients nothing. The log is written in `writer`; here is what clients read, and what leads to changes of it.

The surprise: a page that is its upstream's, byte for byte, is listed as the upstream lists it, even while only an older
copy of it can be served. Where a page differs on purpose, its entry is remembered (`local_entries`), and the page is
checked again whenever upstream changes the gem, policy changes its mind, or the process starts.
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial

import msgspec
from yarl import URL

from mirror.catalog import Catalog
from mirror.errors import MirrorError, NotFound, ReservedName, UnknownProject, UpstreamError, UpstreamUnavailable
from mirror.index.cache import SingleFlight, Validity
from mirror.index.freshness import Freshness
from mirror.index.precedence import Precedence
from mirror.index.repository import Repository, View
from mirror.model import Outcome
from mirror.rubygems import pages
from mirror.rubygems.log.events import PageChange, Release, ReviewEnd, Update
from mirror.rubygems.log.local_entries import LocalEntries
from mirror.rubygems.log.policy_review import PolicyReview
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.upstream_specs import UpstreamSpecs
from mirror.rubygems.log.versions_map import HIDDEN, LocalEntry
from mirror.rubygems.log.writer import LogWriter
from mirror.rubygems.names import listed_as

logger = logging.getLogger(__name__)

FIRST_WINS = Precedence()
MOST_CHECKED = 5000
"""The most gems that change at once whose pages are checked for versions that they keep."""

POLL_SECONDS = 60.0
"""Between two requests to an upstream: the public index wants no more."""
NOW_POLL_SECONDS = 2.0
"""The same for clients that require a fresh answer."""
MOST_TRIES = 3
"""How often a page is made at once that changes while it is made; then it is listed, and checked with the next request.
"""
WAIT_SECONDS = 5.0
"""For which a client waits for an upstream while there is a log to serve."""


class PublishedIndex:
    """The log of one repository, and the pages that it lists."""

    def __init__(
        self,
        repository: Repository,
        upstreams: Sequence[UpstreamIndex],
        catalog: Catalog,
        *,
        specs: UpstreamSpecs | None = None,
        precedence: Precedence = FIRST_WINS,
        offline: bool = False,
        fresh: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fresh`: seconds after which a client waits for upstream, instead of getting the log at once."""
        self.upstreams = tuple(upstreams)
        self.specs = specs
        """The legacy index of the upstream, if there is one alone."""
        self.policies = 0
        """How often the policy changed: a page is rendered, and with it listed, again under each."""
        self._repository = repository
        self._local = LocalEntries(catalog.logs, repository.name, self._end_validity, clock)
        self._review = PolicyReview(repository, clock)
        self.writer = LogWriter(
            repository.name, self.upstreams, precedence, catalog, self._local, self._review, self._end_validity, clock
        )
        self._local.on_read = repository.forget_some
        self._offline = offline
        self._reported: set[str] = set()
        """Gems of which another process has changed uploads, or released the name."""
        self._fresh = max(fresh, POLL_SECONDS)
        self._clock = clock
        self._validity = Validity(0)
        self._background: SingleFlight[str, object] = SingleFlight()
        """Requests to upstreams, and checks of pages."""
        for at, one in enumerate(self.upstreams):
            one.listeners.append(partial(self._upstream_changed, at))
        repository.changed.append(self._page_changed)

    # For readers

    @property
    def log(self) -> PublishedLog | None:
        """The log as it stands; None until there is anything to list."""
        return self.writer.log

    @property
    def known(self) -> PublishedLog | None:
        """The log where no other process may have written more; None where `current` has to be awaited."""
        return None if self.writer.behind else self.writer.log

    @property
    def changed_at(self) -> float:
        """The time at which the log last grew, for the Last-Modified of what is derived from it."""
        return self.writer.changed_at

    @property
    def outcome(self) -> Outcome:
        """The outcome of responses that are made from the log."""
        return "offline" if self._offline else "hit"

    def validity(self) -> Validity:
        """Return for how long `current` returns the same log without any work."""
        if not self._validity.live:
            self._validity = Validity(0)
        writer = self.writer
        busy = not writer.opened.done() or not writer.idle or writer.behind or self._review.held_back
        polled = min((one.asked_at + POLL_SECONDS for one in self.upstreams), default=math.inf)
        self._validity.until = 0 if busy else min(self._local.next_due, math.inf if self._offline else polled)
        return self._validity

    def _end_validity(self) -> None:
        self._validity.live = False

    async def current(self, freshness: Freshness = Freshness.USUAL) -> PublishedLog:
        """Return the log to serve now, after asking upstreams where that is due. Raises UpstreamError."""
        writer, now_required = self.writer, freshness is Freshness.NOW
        if not writer.loaded.done():
            await asyncio.shield(writer.loaded)
        if writer.log is None or now_required:
            await writer.wait_until_open()
        if writer.opened.done():
            if not self._offline:
                await self._poll(freshness)
            # Another process may have appended, or another repository may have learned of the same change.
            if writer.behind or (now_required and not writer.idle):
                await asyncio.wait({writer.post(Update())}, timeout=WAIT_SECONDS)
            if self._review.waiting and self._review.due:
                self._background.start("review", self._review_changes)
        if self._clock() >= self._local.next_due:
            checks = self._background.start("checks", self._check_due)
            await asyncio.wait({checks}, timeout=WAIT_SECONDS)
        if writer.log is None:
            await writer.apply(Update())
        if writer.log is None:
            raise UpstreamUnavailable("The list of versions is not held here, and no upstream gives it.")
        return writer.log

    async def page(self, name: str, freshness: Freshness = Freshness.USUAL) -> tuple[View, bytes]:
        """Return a gem and the body of its info page; see `view` and `render`."""
        view = await self.view(name, freshness)
        return view, await self.render(view)

    async def view(self, name: str, freshness: Freshness = Freshness.USUAL) -> View:
        """Return a gem that has a page. Raises UnknownProject, Unavailable, UpstreamError."""
        view = await self._repository.project(name, freshness)
        if not view.project.files and not view.withheld:
            raise UnknownProject(name)
        return view

    async def render(self, view: View, *, last: bool = False) -> bytes:
        """Return the body of a gem's info page, which the log lists from now on.

        A page that has changed meanwhile is checked again instead; with `last`, it is listed all the same.
        """
        name, body, entry = view.project.name, pages.render_info(view.project), None
        if body != view.project.extra.get("body") or view.decided_until != math.inf:
            listed = self.writer.listed_upstream(name)
            entry = entry_of(view, body, listed, self._clock())
        await self._list(name, entry, None if last else view.validity)
        if last and not view.validity.live:  # what replaced the view may have been listed before
            self._local.schedule(name, 0.0)
        return body

    async def listed(self, name: str) -> bool:
        """Return whether the log has ever listed a gem, perhaps to remove it again."""
        return (await self.current(Freshness.ANY)).map.md5(name) is not None

    # Life

    def open(self) -> None:
        """Begin to read what is stored; the log comes first, and clients wait for it."""
        self.writer.on_open = self._check_named
        self.writer.start()

    async def begins_anew(self) -> bool:
        """Return whether there is no log: no one ever asked for this index, or it was lost."""
        await asyncio.shield(self.writer.loaded)
        return self.writer.log is None

    async def retire(self) -> None:
        """Append nothing any more, since another mirror goes on with the log; it can still be read."""
        await self.writer.retire()

    def resume(self) -> None:
        """Go on with the log after all, and with what pages have shown meanwhile."""
        self.writer.resume()
        self._local.mark_all_due()

    async def close(self) -> None:
        """Stop what runs in the background."""
        await self._background.close()
        if self.specs is not None:
            await self.specs.close()
        await self.writer.close()

    # What upstreams list

    async def _poll(self, freshness: Freshness) -> None:
        """Ask the upstreams that are due: waiting where the log is old, else in the background."""
        now, now_required = self._clock(), freshness is Freshness.NOW
        for upstream in self.upstreams:
            age = now - upstream.asked_at
            nothing_to_serve = upstream.map is None and self.log is None
            asking = any(key.startswith(f"{upstream.name} ") for key in self._background)
            running = now_required and asking  # its response is the one that is required
            pause = NOW_POLL_SECONDS if now_required else POLL_SECONDS
            if 0 <= age <= pause and not nothing_to_serve and not running:
                continue
            task = self._background.start(f"{upstream.name} {pause}", partial(self._refresh, upstream, pause))
            if nothing_to_serve or now_required or not 0 <= age <= self._fresh:
                await asyncio.wait({task}, timeout=None if nothing_to_serve else WAIT_SECONDS)
            if nothing_to_serve and task.done() and (error := task.exception()):
                raise error

    async def catch_up(self, upstream: URL) -> None:
        """Let the log list what an upstream lists now, however lately it was asked. Raises UpstreamError."""
        await self.writer.wait_until_open()
        for one in self.upstreams:
            if one.url == upstream and not self._offline:
                await self._refresh(one, 0.0, anew=True)

    async def _refresh(self, upstream: UpstreamIndex, pause: float, anew: bool = False) -> None:
        try:
            await upstream.refresh(pause, anew)
        except UpstreamError as error:
            logger.warning("the list of versions stays as it is: %s", error)
            raise
        await self.writer.apply(Update())
        if self._review.waiting:
            await asyncio.shield(self._background.start("review", self._review_changes))

    def _upstream_changed(self, at: int, names: Collection[str]) -> None:
        if self._repository.views or self._repository.viewing or self._local.due:
            self._repository.forget_some(names)  # else nothing is shown yet, as when the log begins
        self.writer.upstream_changed(at, frozenset(names))
        if self._repository.policy.removed == "keep" and len(names) <= MOST_CHECKED:
            for name in self._losing(names):
                self._local.schedule(name, 0.0)  # the page may go on listing what is held

    def _losing(self, names: Collection[str]) -> list[str]:
        """Return those of the gems of which no upstream lists a version any more that the log lists."""
        if self.log is None:
            return []
        listed = {name: self.writer.listed_upstream(name) for name in names}
        return [
            name
            for name, entry in listed.items()
            if not {*self.log.map.versions(name)} <= {*(entry.versions if entry else ())}
        ]

    # What pages show

    async def show(self, names: Iterable[str]) -> None:
        """Check the pages of these gems; when this returns, the log lists what they show, or they are checked later."""
        names = tuple(names)
        await self.writer.apply(Release(frozenset(names)))
        for name in names:
            self._local.schedule(name, self._clock() + POLL_SECONDS)
        await self._check(names, Freshness.ANY)

    def policy_changed(self) -> None:
        """Check the pages with entries of their own again, and those that the new policy names."""
        self.policies += 1
        self._local.mark_all_due()
        self._check_named()

    def _check_named(self) -> None:
        if self.log is not None:
            self._background.start("named", partial(self._check, self._review.named(self.log.map), Freshness.ANY))

    def recheck(self, name: str) -> None:
        """Have a page checked although upstream's list says nothing new of it."""
        self._local.schedule(name, 0.0)

    def report(self, name: str) -> None:
        """Have what another process has changed of a gem listed before the log is read the next time."""
        self._reported.add(name)
        self._local.schedule(name, 0.0)

    def outdate(self) -> None:
        """Have the log read on before it is served the next time."""
        self.writer.behind = True
        if self.specs is not None:
            self.specs.compared.behind = True
        self._end_validity()

    def _page_changed(self, name: str) -> None:
        if name in self._local.due:
            self._local.mark_due(name)

    async def _check_due(self) -> None:
        if self._reported:
            reported, self._reported = self._reported, set()
            await self.writer.apply(Release(frozenset(reported)))
        # Not `ANY`: upstream may list more than a stored page shows.
        await self._check(self._local.take_due(self._clock()), Freshness.USUAL)

    async def _check(self, names: Collection[str], freshness: Freshness) -> None:
        """Check pages, and again later those that cannot be fetched; all of them where the log cannot be stored."""
        again = self._clock() + POLL_SECONDS
        try:
            for name in names:
                if error := await self._list_page(name, freshness):
                    logger.info("the page of %s is checked again later: %s", name, error)
                    self._local.mark_due(name, again)
        except Exception:
            for name in names:
                self._local.mark_due(name, again)
            raise

    async def _review_changes(self) -> None:
        await self._review.run(self._list_page, self._end_review)

    async def _end_review(self, names: frozenset[str], failed: frozenset[str]) -> None:
        await self.writer.apply(ReviewEnd(names, failed))

    async def _list_page(self, name: str, freshness: Freshness = Freshness.USUAL) -> MirrorError | None:
        """Let the log list what a gem's page shows now; return the error if the page cannot be fetched."""
        for tried in range(MOST_TRIES):
            known = self._local.known
            try:
                await self.render(await self.view(name, freshness), last=tried == MOST_TRIES - 1)
            except ReservedName:
                await self._list(name, HIDDEN, known)
            except NotFound:
                await self._list(name, None, known)
            except MirrorError as error:
                return error
            if self._local.due.get(name) != 0.0:
                break  # else the page has changed meanwhile
        return None

    async def _list(self, name: str, entry: LocalEntry | None, of: Validity | None) -> None:
        """Let the log list a gem as its page shows it; None: as its upstream lists it.

        It is checked again instead where `of`, from which that follows, is no longer valid as it is listed.
        """
        if entry is None and name not in self._local.due:
            return
        if entry is not None:
            self._local.schedule(name, entry.until)
        if not self.writer.retired:  # else the page is checked again when it goes on
            await self.writer.apply(PageChange(name, entry, of))


def entry_of(view: View, body: bytes, listed: LocalEntry | None, now: float) -> LocalEntry:
    """Return how to list a gem whose info page is `body`, and is not its upstream's for ever.

    `listed` is how upstream lists the gem `now`, in seconds since the epoch.
    """
    raw = view.project.extra.get("body")
    if body == raw and listed is not None:
        return msgspec.structs.replace(listed, until=view.decided_until)
    current = raw is None or listed is None or listed.md5 == pages.revision(raw)
    versions = (listed_as(file) for file in view.project.files if file.yanked is None)
    return LocalEntry(tuple(versions), pages.revision(body), view.decided_until if current else now + POLL_SECONDS)
