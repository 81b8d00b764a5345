"""The index that one repository publishes: our own append-only `/versions`, and the info pages that it speaks of.

The one asymmetry between the ecosystems. `/versions` holds the MD5 of each info page, so whatever changes a page (an
upload, a policy, another winner among the sources) has to change the log; clients follow it by Range, so it may only
grow. What changes is appended and persisted; a restart serves the same bytes, and an upstream that rewrites its own log
costs our clients nothing.

What may surprise: a page that is its upstream's, byte for byte, is listed as the upstream lists it, even while we can
only serve an older copy. Where a page of ours differs on purpose, what it says is remembered (`own`), and the page is
looked at again whenever upstream changes the gem, policy changes its mind, or the process starts.

What is not here: what several upstreams list together (`upstreams`), and which of their changes wait for policy
(`judging`).
"""

import asyncio
import logging
import math
import time
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import UTC, datetime
from functools import partial

import msgspec
from yarl import URL

from mirror.catalog import Logs
from mirror.errors import MirrorError, NotFound, UnknownProject, UpstreamError, UpstreamUnavailable
from mirror.index.cache import Validity
from mirror.index.flight import SingleFlight
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import Outcome
from mirror.rubygems import pages
from mirror.rubygems.log.local_entries import LocalEntries, LocalEntry
from mirror.rubygems.log.policy_review import PolicyReview
from mirror.rubygems.log.published_log import PublishedLog
from mirror.rubygems.log.upstream_index import UpstreamIndex
from mirror.rubygems.log.upstream_indexes import UpstreamIndexes
from mirror.rubygems.log.versions_map import VersionsMap, diff, names_in
from mirror.rubygems.names import number

logger = logging.getLogger(__name__)

POLL = 60.0
"""Seconds between two questions to an upstream: the public index asks for no more."""
DEMANDED = 2.0
"""As POLL, for clients that demand an answer of now."""
PATIENCE = 5.0
"""Seconds for which a client waits for an upstream while there is a log to serve."""
MOST_CHUNKS = 2000
"""Appends after which the stored log is written anew in one piece: the same bytes, in fewer rows."""
SLACK = 4 << 20
"""Bytes that the log may be longer than twice its shortest form, before it is begun anew."""


class PublishedIndex:
    """The log of one repository, and what it says of which gem."""

    def __init__(
        self,
        repository: Repository,
        followed: Sequence[UpstreamIndex],
        logs: Logs,
        *,
        private: Sequence[str] = (),
        offline: bool = False,
        fresh: float = 600.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`fresh`: the seconds after which a client waits for upstream, instead of getting the log at once."""
        self.log: PublishedLog | None = None
        """What is served; None until there is anything to say."""
        self.changed_at = clock()
        """When the log last grew; for Last-Modified of what is derived from it."""
        self.followed = tuple(followed)
        self._repository = repository
        self._logs = logs
        self._log_name = f"published {repository.name}"
        self._upstreams = UpstreamIndexes(self.followed, tuple(private))
        self._own = LocalEntries(logs, repository.name, sooner=self._expire)
        self._judging = PolicyReview(repository, self._look, self._judged, clock)
        self._unsaid: set[str] | None = None
        """The gems of which upstreams say something else than the log perhaps does; None: all of them."""
        self._offline = offline
        self._fresh = max(fresh, POLL)
        self._clock = clock
        self._validity = Validity(0)
        self._publishing = asyncio.Lock()
        self._retired = False
        self._behind: SingleFlight[str, object] = SingleFlight()
        self._reading: asyncio.Task[None] | None = None
        self._opening: asyncio.Task[None] | None = None
        for one in self.followed:
            one.changed.append(self._upstream_changed)
        repository.changed.append(self._page_changed)

    @property
    def outcome(self) -> Outcome:
        """How answers come about that are made from the log."""
        return "offline" if self._offline else "hit"

    def validity(self) -> Validity:
        """For how long `current` gives the same log without a thought."""
        if not self._validity.live:
            self._validity = Validity(0)
        busy = self._opening is not None or self._judging.busy
        polled = min((one.asked + POLL for one in self.followed), default=math.inf)
        self._validity.until = 0 if busy else min(self._own.next_look, math.inf if self._offline else polled)
        return self._validity

    def _expire(self) -> None:
        self._validity.live = False

    # Life

    def open(self) -> None:
        """Begin to read what is persisted; whoever asks meanwhile waits for the log, which comes first."""
        self._reading = asyncio.create_task(self._read())
        self._opening = asyncio.create_task(self._open(self._reading))

    async def begins_anew(self) -> bool:
        """Whether there is no log: nothing was ever asked of this index, or what it said is lost."""
        if self._reading is not None:
            await asyncio.shield(self._reading)
        return self.log is None

    async def _read(self) -> None:
        stored = await self._logs.read(self._log_name)
        if stored:
            # Compressing takes as long as all the rest, and nobody has to wait for it.
            self.log = await asyncio.to_thread(partial(PublishedLog.from_bytes, stored, packed=False))
        await self._own.read()

    async def _open(self, reading: asyncio.Task[None]) -> None:
        await reading
        await asyncio.gather(*(one.open() for one in self.followed))
        if self.log is not None:
            async with self._publishing:
                self.log = await asyncio.to_thread(self.log.packed)
                self._expire()
            await self._hold_changes()
            await self.publish()  # a crash may have come between an upstream's change and ours
        self._opening = None
        self._judge_named()

    async def _hold_changes(self) -> None:
        """What upstreams have changed since the log was written waits for policy, too."""
        maps = self._upstreams.known()
        if maps is not None and self.log is not None and self._repository.policy.rules + self._repository.policy.listed:
            wanted = await asyncio.to_thread(self._upstreams.wanted, maps, dict(self._own.said))
            self._judging.hold_back(names_in(await asyncio.to_thread(diff, self.log.map, wanted)))

    async def retire(self) -> None:
        """Append nothing any more, since another one goes on with the log; what is said stays."""
        async with self._publishing:
            self._retired = True

    def resume(self) -> None:
        """Go on with the log after all."""
        self._retired = False

    async def close(self) -> None:
        """Stop what runs behind."""
        for task in (self._reading, self._opening):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        await self._behind.close()

    # The log

    async def current(self, demand: Freshness = Freshness.USUAL) -> PublishedLog:
        """The log to serve now, after asking upstreams where that is due. Raises UpstreamError."""
        if self._reading is not None:
            await asyncio.shield(self._reading)
            self._reading = None
        if self._opening is not None and (self.log is None or demand is Freshness.NOW):
            await asyncio.shield(self._opening)
        if self._opening is None and not self._offline:
            await self._keep_up(demand)
        if demand is Freshness.NOW and "publish" in self._behind:  # another repository has heard of the same upstream
            await asyncio.wait({self._behind.start("publish", self.publish)}, timeout=PATIENCE)
        if self._judging.due and self._opening is None:
            self._behind.start("judging", self._judging.judge)
        if self._clock() >= self._own.next_look:
            looking = self._behind.start("own pages", self._look_again)
            await asyncio.wait({looking}, timeout=PATIENCE)
        if self.log is None:
            await self.publish()
        if self.log is None:
            raise UpstreamUnavailable("The list of versions is not held here, and no upstream gives it.")
        return self.log

    async def _keep_up(self, demand: Freshness) -> None:
        """Ask the upstreams that were not asked for long: waiting where the log is old, else behind."""
        now = self._clock()
        for one in self.followed:
            since = now - one.asked
            never = one.map is None and self.log is None
            asking = demand is Freshness.NOW and one.name in self._behind  # its answer is the one that is demanded
            if 0 <= since <= (DEMANDED if demand is Freshness.NOW else POLL) and not never and not asking:
                continue
            task = self._behind.start(one.name, lambda one=one: self._refresh(one))  # type: ignore[misc]
            if never or demand is Freshness.NOW or not 0 <= since <= self._fresh:
                await asyncio.wait({task}, timeout=None if never else PATIENCE)
            if never and task.done() and (error := task.exception()):
                raise error

    async def catch_up(self, upstream: URL) -> None:
        """Let the log say what an upstream lists now, however lately it was asked. Raises UpstreamError."""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        for one in self.followed:
            if one.url == upstream and not self._offline:
                await self._refresh(one, anew=True)

    async def _refresh(self, one: UpstreamIndex, anew: bool = False) -> None:
        try:
            await one.refresh(anew)
        except UpstreamError as error:
            logger.warning("the list of versions stays as it is: %s", error)
            raise
        if self._judging.waiting:
            await asyncio.shield(self._behind.start("judging", self._judging.judge))
        await self.publish()

    async def publish(self) -> bytes:
        """Append what has changed to the log, persisted before it is seen; the bytes by which it grew."""
        async with self._publishing:
            names, self._unsaid = self._unsaid, set()
            try:
                return await self._publish(names)
            except BaseException:
                self._unsaid = None
                raise

    async def _publish(self, names: set[str] | None) -> bytes:
        maps = self._upstreams.known()
        if maps is None or self._retired:
            self._unsaid = None
            return b""
        if self.log is None or names is None:
            wanted = await asyncio.to_thread(self._upstreams.wanted, maps, self._own_word())
            if self.log is None or self.log.size > 2 * wanted.size + SLACK:
                return await self._begin(wanted)
            log, tail = await asyncio.to_thread(self.log.updated, wanted)
            if not tail:
                await self._upstreams.share(log.map)
        else:
            wanted = self._upstreams.wanted([one.only(names) for one in maps], self._own_word(names))
            tail = b"".join(line + b"\n" for line in diff(self.log.map.only(names), wanted))
            log = await asyncio.to_thread(self.log.appended, tail)
        if not tail:
            return b""
        await self._logs.append(self._log_name, tail)
        if await self._logs.chunks(self._log_name) > MOST_CHUNKS:
            await self._logs.replace(self._log_name, [log.slice()])
        self._adopt(log)
        if names is None:
            await self._upstreams.share(log.map)
        return tail

    def _adopt(self, log: PublishedLog) -> None:
        # Last-Modified knows whole seconds: two states of one second would be the same to a client.
        self.log, self.changed_at = log, max(self._clock(), math.floor(self.changed_at) + 1)
        self._expire()

    async def _begin(self, wanted: VersionsMap) -> bytes:
        """Write the log anew, in its shortest form."""
        log = await asyncio.to_thread(PublishedLog.begin, wanted, datetime.fromtimestamp(self._clock(), UTC))
        content = log.slice()
        await self._logs.replace(self._log_name, [content])
        self._adopt(log)
        await self._upstreams.share(log.map)
        return content

    def _own_word(self, names: set[str] | None = None) -> dict[str, LocalEntry]:
        """Our own word on these gems, or on all: what our pages say, and what the log says of those held back."""
        said, held_back = self._own.said, self._judging.held_back
        if names is not None:
            said, held_back = {name: said[name] for name in names if name in said}, held_back & names
        return said | (
            {name: LocalEntry.as_in(self.log.map, name) for name in held_back} if self.log is not None else {}
        )

    # Pages

    async def page(self, name: str, demand: Freshness = Freshness.USUAL) -> tuple[View, bytes]:
        """A gem and the body of its info page, which the log speaks of from now on.

        Raises UnknownProject, Unavailable, UpstreamError.
        """
        view = await self._repository.project(name, demand)
        if not view.project.files and not view.withheld:
            raise UnknownProject(name)
        body = pages.render_info(view.project)
        raw = view.project.extra.get("body")
        listed = self._upstreams.say(name)
        if body == raw and view.decided_until == math.inf:
            await self._say(name, None)
        elif body == raw and listed is not None:
            await self._say(name, msgspec.structs.replace(listed, until=view.decided_until))
        else:
            current = raw is None or listed is None or listed.md5 == pages.revision(raw)
            until = view.decided_until if current else self._clock() + POLL
            await self._say(name, LocalEntry(_numbers(view), pages.revision(body), until))
        return view, body

    async def listed(self, name: str) -> bool:
        """Whether the log has ever spoken of a gem, perhaps to take it away again."""
        return (await self.current(Freshness.ANY)).map.md5(name) is not None

    async def override(self, name: str, versions: Sequence[str], body: bytes) -> bytes:
        """Say what a gem's page shows here, where it is not its upstream's; the bytes by which the log grew.

        Without versions, the gem is hidden. It holds over restarts, until the page (see `page`) says otherwise.
        """
        return await self._say(name, LocalEntry(tuple(versions), pages.revision(body)))

    async def reconsider(self, names: Iterable[str], demand: Freshness = Freshness.ANY) -> None:
        """Look at the pages of these gems again, and let the log say what they show now."""
        for name in names:
            if error := await self._look(name, demand):
                logger.info("the page of %s is looked at again later: %s", name, error)
                self._own.look_at(name, self._clock() + POLL)

    async def settle(self, names: Iterable[str]) -> None:
        """As `reconsider`; and when this returns, the log says it, whoever else was just about to let it."""
        await self.reconsider(names)
        await self.publish()

    async def _look(self, name: str, demand: Freshness = Freshness.USUAL) -> MirrorError | None:
        """Let the log say what a gem's page shows now; the error, if the page cannot be had."""
        try:
            await self.page(name, demand)
        except NotFound:
            await self._say(name, None)
        except MirrorError as error:
            return error
        return None

    async def _say(self, name: str, own: LocalEntry | None) -> bytes:
        if self._retired or (own is None and name not in self._own.said):
            return b""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if own is not None and own.until == math.inf and own.says(self._upstreams.say(name)):
            own = None
        if not await self._own.say(name, own):
            return b""
        if self._unsaid is not None:
            self._unsaid.add(name)
        if self.log is None:
            return b""  # it begins with this, for whoever asks first
        return await self.publish()

    async def _look_again(self) -> None:
        """Look at the pages of our own whose time has come."""
        due = self._own.take_due(self._clock())
        await self.reconsider(
            due, Freshness.USUAL
        )  # what upstream lists may have changed: an older page would say less

    # Changes

    def policy_changed(self) -> None:
        """Policy has changed its mind: our own pages are looked at again, and those that it names."""
        self._own.look_at_all()
        self._judge_named()

    def _judge_named(self) -> None:
        """Look at the gems that policy means by name."""
        if self.log is not None:
            names = self._judging.named(self.log.map)
            self._behind.start("named", lambda: self.reconsider(names))

    async def _judged(self, names: set[str]) -> None:
        if self._unsaid is not None:
            self._unsaid |= names
        await self.publish()

    def _upstream_changed(self, names: Collection[str]) -> None:
        if self.log is not None:
            self._judging.hold_back(names)
        if self._unsaid is not None:
            self._unsaid |= set(names)
        self._repository.forget_some(names)
        self._behind.start("publish", self.publish)

    def _page_changed(self, name: str) -> None:
        self._own.look_at(name)


def _numbers(view: View) -> tuple[str, ...]:
    return tuple(number(file.version, file.platform) for file in view.project.files if file.yanked is None)
