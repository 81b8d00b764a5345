"""The index that one repository publishes: our own append-only `/versions`, and the info pages that it speaks of.

The one asymmetry between the ecosystems. `/versions` holds the MD5 of each info page, so whatever changes a page (an
upload, a policy, another winner among the sources) has to change the log; clients follow it by Range, so it may only
grow. What changes is appended and persisted; a restart serves the same bytes, and an upstream that rewrites its own log
costs our clients nothing.

What may surprise: a page that is its upstream's, byte for byte, is listed as the upstream lists it, even while we can
only serve an older copy. Where a page of ours differs on purpose, what it says is kept in a second log, and the page is
looked at again whenever upstream changes the gem, policy changes its mind, or the process starts.
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
from mirror.flight import SingleFlight
from mirror.freshness import Demand
from mirror.memory import Validity
from mirror.model import Outcome
from mirror.policy import concerns, matches, named
from mirror.repository import Repository, View
from mirror.rubygems import pages
from mirror.rubygems.following import Followed
from mirror.rubygems.index import PublishedLog, VersionsMap, diff, names_in
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
MOST_JUDGED = 5000
"""The most gems whose changes wait in one go until policy has seen them; when there are more, none of them does."""
JUDGED_AT_ONCE = 8
SLACK = 4 << 20
"""Bytes that the log may be longer than twice its shortest form, before it is begun anew."""


class Own(msgspec.Struct, frozen=True):
    """What a page of ours says of a gem, where it is not its upstream's page."""

    versions: tuple[str, ...]
    """Without any, the gem is hidden here."""
    md5: str
    until: float = math.inf
    """When the page is to be looked at again, in seconds since the epoch."""

    def says(self, other: "Own | None") -> bool:
        """Whether both say the same, for however long."""
        return other is not None and (self.versions, self.md5) == (other.versions, other.md5)


class Published:
    """The log of one repository, and what it says of which gem."""

    def __init__(
        self,
        repository: Repository,
        followed: Sequence[Followed],
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
        self._own: dict[str, Own] = {}
        self._own_name = f"own {repository.name}"
        self._next_look = math.inf
        """The earliest `until` of our own pages."""
        self._unsaid: set[str] | None = None
        """The gems of which upstreams say something else than the log perhaps does; None: all of them."""
        self._unjudged: set[str] = set()
        """The gems that upstreams have changed and policy has not seen yet: the log goes on to say what it says."""
        self._judging: set[str] = set()
        """Those of them that it is looking at."""
        self._judge_at = 0.0
        self._private = tuple(private)
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
        busy = self._opening is not None or self._unjudged or self._judging
        polled = min((one.asked + POLL for one in self.followed), default=math.inf)
        self._validity.until = 0 if busy else min(self._next_look, math.inf if self._offline else polled)
        return self._validity

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
        for line in (await self._logs.read(self._own_name)).splitlines():
            name, own = msgspec.json.decode(line, type=tuple[str, Own | None])
            if own is None:
                self._own.pop(name, None)
            else:
                self._own[name] = own  # to be looked at: what the page depends on may have changed meanwhile
        self._next_look = 0.0 if self._own else math.inf

    async def _open(self, reading: asyncio.Task[None]) -> None:
        await reading
        await asyncio.gather(*(one.open() for one in self.followed))
        if self.log is not None:
            async with self._publishing:
                self.log = await asyncio.to_thread(self.log.packed)
                self._validity.live = False
            await self._hold_changes()
            await self.publish()  # a crash may have come between an upstream's change and ours
        self._opening = None
        self._judge_named()

    async def _hold_changes(self) -> None:
        """What upstreams have changed since the log was written waits for policy, too."""
        maps = self._known_maps()
        if maps is not None and self.log is not None and self._repository.policy.rules + self._repository.policy.listed:
            wanted = await asyncio.to_thread(self._wanted, maps, dict(self._own))
            self._hold_back(names_in(await asyncio.to_thread(diff, self.log.map, wanted)))

    async def _share(self, log: PublishedLog) -> None:
        """Let the upstreams' maps be made of the log's names and entries, as far as they are equal."""
        for one in self.followed:
            known = one.map
            if known is not None:
                shared = await asyncio.to_thread(known.sharing, log.map)
                if one.map is known:
                    one.map = shared

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

    async def current(self, demand: Demand = Demand.USUAL) -> PublishedLog:
        """The log to serve now, after asking upstreams where that is due. Raises UpstreamError."""
        if self._reading is not None:
            await asyncio.shield(self._reading)
            self._reading = None
        if self._opening is not None and (self.log is None or demand is Demand.NOW):
            await asyncio.shield(self._opening)
        if self._opening is None and not self._offline:
            await self._keep_up(demand)
        if demand is Demand.NOW and "publish" in self._behind:  # another repository has heard of the same upstream
            await asyncio.wait({self._behind.start("publish", self.publish)}, timeout=PATIENCE)
        if self._unjudged and self._clock() >= self._judge_at and self._opening is None:
            self._behind.start("judging", self._judge)
        if self._clock() >= self._next_look:
            looking = self._behind.start("own pages", self._look_again)
            await asyncio.wait({looking}, timeout=PATIENCE)
        if self.log is None:
            await self.publish()
        if self.log is None:
            raise UpstreamUnavailable("The list of versions is not held here, and no upstream gives it.")
        return self.log

    async def _keep_up(self, demand: Demand) -> None:
        """Ask the upstreams that were not asked for long: waiting where the log is old, else behind."""
        now = self._clock()
        for one in self.followed:
            since = now - one.asked
            never = one.map is None and self.log is None
            asking = demand is Demand.NOW and one.name in self._behind  # its answer is the one that is demanded
            if 0 <= since <= (DEMANDED if demand is Demand.NOW else POLL) and not never and not asking:
                continue
            task = self._behind.start(one.name, lambda one=one: self._refresh(one))  # type: ignore[misc]
            if never or demand is Demand.NOW or not 0 <= since <= self._fresh:
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

    async def _refresh(self, one: Followed, anew: bool = False) -> None:
        try:
            await one.refresh(anew)
        except UpstreamError as error:
            logger.warning("the list of versions stays as it is: %s", error)
            raise
        if self._unjudged:
            await asyncio.shield(self._behind.start("judging", self._judge))
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

    async def _publish(self, names: Collection[str] | None) -> bytes:
        maps = self._known_maps()
        if maps is None or self._retired:
            self._unsaid = None
            return b""
        if self.log is None or names is None:
            wanted = await asyncio.to_thread(self._wanted, maps, self._own | self._held_back())
            if self.log is None or self.log.size > 2 * wanted.size + SLACK:
                return await self._begin(wanted)
            log, tail = await asyncio.to_thread(self.log.updated, wanted)
            if not tail:
                await self._share(log)
        else:
            own = self._own | self._held_back() if self._unjudged or self._judging else self._own
            own = {name: own[name] for name in names if name in own}
            wanted = self._wanted([one.only(names) for one in maps], own)
            tail = b"".join(line + b"\n" for line in diff(self.log.map.only(names), wanted))
            log = await asyncio.to_thread(self.log.appended, tail)
        if not tail:
            return b""
        await self._logs.append(self._log_name, tail)
        if await self._logs.chunks(self._log_name) > MOST_CHUNKS:
            await self._logs.replace(self._log_name, [log.slice()])
        self._adopt(log)
        if names is None:
            await self._share(log)
        return tail

    def _adopt(self, log: PublishedLog) -> None:
        # Last-Modified knows whole seconds: two states of one second would be the same to a client.
        self.log, self.changed_at = log, max(self._clock(), math.floor(self.changed_at) + 1)
        self._validity.live = False

    async def _begin(self, wanted: VersionsMap) -> bytes:
        """Write the log anew, in its shortest form."""
        log = await asyncio.to_thread(PublishedLog.begin, wanted, datetime.fromtimestamp(self._clock(), UTC))
        content = log.slice()
        await self._logs.replace(self._log_name, [content])
        self._adopt(log)
        await self._share(log)
        return content

    def _known_maps(self) -> list[VersionsMap] | None:
        """What the upstreams list, in their order; None when nothing may be concluded from what is known.

        A later one never speaks where an earlier one is not known: it could list another's gem of the same name.
        """
        maps = [one.map for one in self.followed]
        while maps and maps[-1] is None:
            maps.pop()
        known = [one for one in maps if one is not None]
        return None if len(known) < len(maps) or (self.followed and not known) else known

    def _wanted(self, maps: Sequence[VersionsMap], own: dict[str, Own]) -> VersionsMap:
        """What the log should say: the first source that lists a gem, and our own word over all of them."""
        if len(maps) == 1 and not own and not self._private:
            return maps[0]
        wanted = maps[0].copy() if maps else VersionsMap()
        for other in maps[1:]:
            for name in other:
                if name not in wanted:
                    wanted.set(name, other.versions(name), other.md5(name))
        if self._private:
            for name in [name for name in wanted if matches(self._private, name)]:
                wanted.remove(name)
        for name, said in own.items():
            if said.versions:
                wanted.set(name, said.versions, said.md5)
            else:
                wanted.remove(name)
        return wanted

    # Pages

    async def page(self, name: str, demand: Demand = Demand.USUAL) -> tuple[View, bytes]:
        """A gem and the body of its info page, which the log speaks of from now on.

        Raises UnknownProject, Unavailable, UpstreamError.
        """
        view = await self._repository.project(name, demand)
        if not view.project.files and not view.withheld:
            raise UnknownProject(name)
        body = pages.render_info(view.project)
        raw = view.project.extra.get("body")
        listed = self._listed_upstream(name)
        if body == raw and view.decided_until == math.inf:
            await self._say(name, None)
        elif body == raw and listed is not None:
            await self._say(name, msgspec.structs.replace(listed, until=view.decided_until))
        else:
            current = raw is None or listed is None or listed.md5 == pages.revision(raw)
            until = view.decided_until if current else self._clock() + POLL
            await self._say(name, Own(_numbers(view), pages.revision(body), until))
        return view, body

    async def listed(self, name: str) -> bool:
        """Whether the log has ever spoken of a gem, perhaps to take it away again."""
        return (await self.current(Demand.ANY)).map.md5(name) is not None

    async def override(self, name: str, versions: Sequence[str], body: bytes) -> bytes:
        """Say what a gem's page shows here, where it is not its upstream's; the bytes by which the log grew.

        Without versions, the gem is hidden. It holds over restarts, until the page (see `page`) says otherwise.
        """
        return await self._say(name, Own(tuple(versions), pages.revision(body)))

    async def reconsider(self, names: Iterable[str], demand: Demand = Demand.ANY) -> None:
        """Look at the pages of these gems again, and let the log say what they show now."""
        for name in names:
            try:
                await self.page(name, demand)
            except NotFound:
                await self._say(name, None)
            except MirrorError as error:
                logger.info("the page of %s is looked at again later: %s", name, error)
                if own := self._own.get(name):
                    self._look_at(name, msgspec.structs.replace(own, until=self._clock() + POLL))

    async def settle(self, names: Iterable[str]) -> None:
        """As `reconsider`; and when this returns, the log says it, whoever else was just about to let it."""
        await self.reconsider(names)
        await self.publish()

    async def _say(self, name: str, own: Own | None) -> bytes:
        if self._retired or (own is None and name not in self._own):
            return b""
        if self._opening is not None:
            await asyncio.shield(self._opening)
        if own is not None and own.until == math.inf and own.says(self._listed_upstream(name)):
            own = None
        known = self._own.get(name)
        if own is None and known is None:
            return b""
        if own is not None and own.says(known):
            self._look_at(name, own)
            return b""
        # Without the moment, which may be infinite (JSON has no word for it), and counts for nothing after a restart.
        kept = None if own is None else msgspec.structs.replace(own, until=0.0)
        await self._logs.append(self._own_name, msgspec.json.encode((name, kept)) + b"\n")
        if own is None:
            self._own.pop(name, None)
        else:
            self._look_at(name, own)
        if self._unsaid is not None:
            self._unsaid.add(name)
        if self.log is None:
            return b""  # it begins with this, for whoever asks first
        return await self.publish()

    def _look_at(self, name: str, own: Own) -> None:
        self._own[name] = own
        if own.until < self._next_look:
            self._next_look = own.until
            self._validity.live = False

    async def _look_again(self) -> None:
        """Look at the pages of our own whose time has come."""
        now = self._clock()
        due = [name for name, own in self._own.items() if own.until <= now]
        self._next_look = min((own.until for own in self._own.values() if own.until > now), default=math.inf)
        await self.reconsider(due, Demand.USUAL)  # what upstream lists may have changed: an older page would say less

    def _listed_upstream(self, name: str) -> Own | None:
        """What the first upstream that lists a gem lists."""
        if matches(self._private, name):
            return None
        first = next((one.map for one in self.followed if one.map is not None and name in one.map), None)
        return None if first is None else Own(first.versions(name), first.md5(name) or "")

    # Changes

    # Policy

    def policy_changed(self) -> None:
        """Policy has changed its mind: our own pages are looked at again, and those that it names."""
        for name, own in self._own.items():
            self._own[name] = msgspec.structs.replace(own, until=0.0)
        self._next_look = 0.0 if self._own else math.inf
        self._validity.live = False
        self._judge_named()

    def _judge_named(self) -> None:
        """Look at the gems that policy means by name, in case the log still says what it forbids.

        What it forbids in general (a cooldown of all gems) is noticed as upstream changes a gem, or as somebody asks
        for its page: looking at all gems of a public index would be two hundred thousand requests.
        """
        log = self.log
        if log is not None:
            names = [name for name in sorted(named(self._repository.policy)) if name in log.map]
            self._behind.start("named", lambda: self.reconsider(names[:MOST_JUDGED]))

    def _hold_back(self, names: Iterable[str]) -> None:
        """Let policy see what upstream changed, before the log says it."""
        if self.log is not None:
            policy = self._repository.policy
            concerned = {name for name in names if concerns(policy, name)}
            if len(concerned) <= MOST_JUDGED:
                self._unjudged |= concerned
            else:
                logger.warning("%d gems have changed: policy looks at each as it is asked for", len(concerned))

    def _held_back(self) -> dict[str, Own]:
        """What the log says of the gems that policy has not seen."""
        if self.log is None:
            return {}
        said = self.log.map
        return {name: Own(said.versions(name), said.md5(name) or "") for name in self._unjudged | self._judging}

    async def _judge(self) -> None:
        """Look at what waits, and let the log say it; what cannot be had now waits for longer."""
        failed: set[str] = set()
        slots = asyncio.Semaphore(JUDGED_AT_ONCE)

        async def judge(name: str) -> None:
            async with slots:
                try:
                    await self.page(name)
                except NotFound:
                    await self._say(name, None)
                except MirrorError as error:
                    logger.info("the change of %s waits: %s", name, error)
                    failed.add(name)

        while names := self._unjudged - failed:
            self._unjudged -= names
            self._judging = names
            try:
                await asyncio.gather(*map(judge, sorted(names)))
            except BaseException:
                failed |= names
                raise
            finally:
                self._unjudged |= names & failed
                self._judging = set()
                self._judge_at = self._clock() + POLL if failed else 0.0
            if self._unsaid is not None:
                self._unsaid |= names - failed
            await self.publish()

    def _upstream_changed(self, names: Collection[str]) -> None:
        self._hold_back(names)
        if self._unsaid is not None:
            self._unsaid |= set(names)
        self._repository.forget_some(names)
        self._behind.start("publish", self.publish)

    def _page_changed(self, name: str) -> None:
        if own := self._own.get(name):
            self._look_at(name, msgspec.structs.replace(own, until=0.0))


def _numbers(view: View) -> tuple[str, ...]:
    return tuple(number(file.version, file.platform) for file in view.project.files if file.yanked is None)
