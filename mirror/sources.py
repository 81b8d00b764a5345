"""Where projects come from. A source answers for one origin of projects, with or without a network behind it.

`CachedUpstream` keeps what an upstream answered: pages are stored raw and revalidated, files are verified and held
for ever. It knows nothing of the ecosystem but its `Format`. What may surprise: a file is looked up by the digest that
its page promises, so bytes that came in any other way (an import, another upstream) are held here too.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

import msgspec

from mirror.blobs import BlobStore, Held
from mirror.catalog import Catalog, HeldFile, PageRow
from mirror.errors import (
    Invalid,
    MirrorError,
    MissingBlob,
    NotFound,
    Offline,
    UnknownFile,
    UnknownProject,
    UpstreamError,
    UpstreamProtocolError,
    UpstreamUnavailable,
)
from mirror.feed import Feed
from mirror.flight import SingleFlight
from mirror.freshness import Ages, Decision, Demand, Stamp, decide, fresh_until, stands_in
from mirror.memory import Memory
from mirror.model import Answer, Ask, Body, File, Format, Names, Outcome, Page, Project
from mirror.removals import Removals
from mirror.transfer import Transfers
from mirror.upstream import Upstream

logger = logging.getLogger(__name__)

LARGE = 256 << 10
"""Bytes of a page above which parsing and compressing leave the event loop."""
LAG = 30.0
"""Seconds after which an upstream that serves an older page than it lists is asked again."""
REMEMBERED_FILES = 100_000
"""How many files' entries of parsed pages stay in memory."""

T = TypeVar("T", Project, Names)


class Listing(msgspec.Struct, frozen=True):
    """What a source or repository says at a moment, and until when it need not be asked again."""

    project: Project
    revision: str
    """Equal revisions, equal projects."""
    until: float
    outcome: Outcome
    removed: frozenset[str] = frozenset()
    """Names of files of the project that we hold and the source lists no more."""
    gone: bool = False
    """The source has no such project any more: all of its files are removed ones."""


class NameListing(msgspec.Struct, frozen=True):
    """As `Listing`, for all names."""

    names: Names
    revision: str
    until: float
    outcome: Outcome


class Opened(msgspec.Struct, frozen=True):
    """A body, and how it came about."""

    body: Body
    outcome: Outcome


class Document(Answer, frozen=True, kw_only=True):
    """A page of the format's own as its source wrote it, and how it came about."""

    outcome: Outcome = "hit"


class Source(Protocol):
    """One origin of projects."""

    name: str
    local: bool
    """Whether its files are our own, so that it hides the same names elsewhere."""

    async def names(self, demand: Demand = Demand.USUAL) -> NameListing:
        """All names. Raises Unavailable."""

    async def project(self, name: str, demand: Demand = Demand.USUAL) -> Listing:
        """One project, by canonical name. Raises UnknownProject, Unavailable."""

    async def open(self, project: str, file: File) -> Opened:
        """The bytes of a file that this source lists. Raises UnknownFile, Unavailable, UpstreamError."""

    async def sidecar(self, project: str, file: File) -> Opened:
        """The sidecar of a file that this source lists. Raises as `open`."""

    async def document(self, page: Page, demand: Demand = Demand.USUAL) -> Document | None:
        """A page of a kind that is the format's own, as upstream wrote it; None when the source has none."""

    async def close(self) -> None:
        """Stop what runs behind."""


class CachedUpstream:
    """An upstream, with everything that it ever answered kept."""

    local = False

    def __init__(
        self,
        *,
        format: Format,
        upstream: Upstream,
        catalog: Catalog,
        blobs: BlobStore,
        transfers: Transfers,
        feed: Feed,
        ages: Ages,
        page_limit: int = 64 << 20,
        offline: bool = False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`page_limit` is the largest page in bytes, decompressed, that is accepted; a format may allow less."""
        self.name = str(upstream.url)
        self.upstream = upstream
        self.listed: Callable[[Page], str | None] = lambda page: None
        """What upstream's own index lists as a page's revision, where it has such an index."""
        self.fetch_page: Callable[[Page, Ask, str | None, str | None], Awaitable[Answer | None]] = self._fetch_page
        """How a page is got from upstream: page, question, ETag and Last-Modified → answer, None when unmodified."""
        self._format = format
        self._catalog = catalog
        self._blobs = blobs
        self._transfers = transfers
        self._feed = feed
        self._ages = ages
        self._page_limit = page_limit
        self._offline = offline
        self._clock = clock
        self._rows: Memory[Page, PageRow] = Memory(20_000)
        self._projects: Memory[Page, tuple[str, Project]] = Memory(REMEMBERED_FILES)
        self._removals = Removals(self.name, catalog, feed)
        self._names: tuple[str, Names] | None = None
        self._held: Memory[tuple[str, str], HeldFile] = Memory(20_000)
        self._lagging: Memory[Page, tuple[str, float]] = Memory(1000)
        self._asking: SingleFlight[Page, PageRow] = SingleFlight()
        self._overdue: set[Page] = set()
        """Pages that upstream has been asked for longer than a client with a stored one is let wait."""
        self._opening: SingleFlight[tuple[str, str, str | None], Opened] = SingleFlight()
        self._making: SingleFlight[tuple[str, str], Opened] = SingleFlight()

    # Pages

    async def project(self, name: str, demand: Demand = Demand.USUAL) -> Listing:
        page = Page("project", name)
        until = self._clock() + LAG
        outcome: Outcome = "offline" if self._offline else "stale"
        try:
            row, outcome = await self._page(page, demand)
            until = self._until(page, row, outcome)
            if row.stamp.found:
                project = await self._parsed(page, row)
                return self._listing(name, project, await self._removals.of(name), row.stamp.revision, until, outcome)
            missing: MirrorError = UnknownProject(name)
        except NotFound:
            missing = UnknownProject(name)
        except Offline as error:
            missing = error
        except UpstreamUnavailable as error:
            known = self._rows.get(page)
            error.last_known_missing = known is not None and not known.stamp.found
            if not error.last_known_missing:
                raise
            missing = error
        removed = await self._removals.of(name)
        if not removed:
            raise missing
        return self._listing(name, None, removed, "", until, outcome)

    def _listing(
        self,
        name: str,
        project: Project | None,
        removed: Sequence[File],
        revision: str,
        until: float,
        outcome: Outcome,
    ) -> Listing:
        """A project with what is left of its removed files."""
        listed = {file.filename for file in project.files} if project and removed else set()
        left = tuple(msgspec.structs.replace(file, source=self.name) for file in removed if file.filename not in listed)
        whole = project or Project(name=name)
        if left:
            files = (*whole.files, *left)
            versions = dict.fromkeys((*whole.versions, *(file.version for file in left)))
            whole = msgspec.structs.replace(whole, files=files, versions=tuple(versions))
            # The same page can leave other files behind than it did before.
            revision = "\0".join((revision, *(file.filename for file in left)))
        return Listing(whole, revision, until, outcome, frozenset(f.filename for f in left), project is None)

    async def names(self, demand: Demand = Demand.USUAL) -> NameListing:
        page = Page("names")
        try:
            row, outcome = await self._page(page, demand)
        except (Offline, UpstreamUnavailable):
            # Never fetched, and not to be had now: what we hold is what can be installed from here.
            known = await self._catalog.pages.known(self.name, "project")
            names = Names(serials=dict.fromkeys(known))
            word: Outcome = "offline" if self._offline else "stale"
            return NameListing(names, f"held at {self._feed.serial}", self._clock() + 10, word)
        if not row.stamp.found:
            return NameListing(Names(), "", fresh_until(row.stamp, self._ages), outcome)
        if self._names is None or self._names[0] != row.stamp.revision:
            answer = await self._answer(page)
            names = await _off_loop(answer, lambda: self._format.parse_names(answer))
            self._names = row.stamp.revision, names
        return NameListing(self._names[1], row.stamp.revision, self._until(page, row, outcome), outcome)

    async def document(self, page: Page, demand: Demand = Demand.USUAL) -> Document | None:
        row, outcome = await self._page(page, demand)
        if not row.stamp.found:
            return None
        return Document(outcome=outcome, **msgspec.structs.asdict(await self._answer(page)))

    def _until(self, page: Page, row: PageRow, outcome: Outcome) -> float:
        now = self._clock()
        if self._offline:
            return now + 3600
        if outcome == "stale":
            return now  # so that the refreshed page is seen as soon as it is there
        if (listed := self.listed(page)) is not None:
            return now + (3600 if listed == row.stamp.revision else LAG)  # a change announces itself in the index
        return fresh_until(row.stamp, self._ages)

    async def _page(self, page: Page, demand: Demand) -> tuple[PageRow, Outcome]:
        """The stored state of a page, after asking upstream where that is due. Raises Unavailable, UpstreamError."""
        row = await self._row(page)
        if self._offline:
            if row is None or not row.stamp.found:
                raise Offline(f"{page.name or 'The list of names'} is not held here, and this mirror is offline.")
            return row, "offline"
        now = self._clock()
        stamp = row.stamp if row else None
        listed = self.listed(page)
        if row and listed is not None and listed != row.stamp.revision and self._lags(page, listed, now):
            return row, "stale"
        if row and demand is Demand.USUAL and self._outdated(page, row):
            demand = Demand.NOW
        decision = decide(stamp, now, self._ages, listed=listed, demand=demand)
        if row and decision is Decision.SERVE:
            return row, "hit"
        if row and decision is Decision.SERVE_AND_REFRESH:
            self._asking.start(page, lambda: self._ask(page, row))
            return row, "stale"
        stand_in = row if stands_in(stamp, now, self._ages) else None
        missing = stamp is not None and not stamp.found
        try:
            if self._overdue and (stand_in or missing):
                raise UpstreamUnavailable(f"{self.upstream.name} is taking too long to answer.", 5)
            async with asyncio.timeout(self.upstream.options.connect_timeout if stand_in or missing else None):
                asked, joined = await self._asking.run(page, lambda: self._ask(page, row))
        except UpstreamError as error:
            if stand_in is None:
                raise
            logger.warning("serving the stored page of %s: %s", page.name or page.kind, error)
            return stand_in, "stale"
        except TimeoutError:
            # The question goes on; until it is answered, nobody else waits who has something stored.
            self._overdue.add(page)
            self._asking.start(page, lambda: self._ask(page, row)).add_done_callback(
                lambda _: self._overdue.discard(page)
            )
            if stand_in is None:
                raise UpstreamUnavailable(f"{self.upstream.name} is taking too long to answer.", 5) from None
            return stand_in, "stale"
        if listed is not None and asked.stamp.revision != listed:
            self._lagging.put(page, (listed, now))
        return asked, "joined" if joined else "miss"

    def _outdated(self, page: Page, row: PageRow) -> bool:
        """Whether the list of names, read later than the page, has a newer serial for it: clients compare the two."""
        names = self._rows.get(Page("names"))
        if names is None or self._names is None or names.stamp.checked <= row.stamp.checked:
            return False
        serial = self._names[1].serials.get(page.name)
        return serial is not None and row.serial is not None and row.serial < serial

    def _lags(self, page: Page, listed: str, now: float) -> bool:
        """Whether upstream was asked just now and still has an older page than its own index lists."""
        lagging = self._lagging.get(page)
        return lagging is not None and lagging[0] == listed and 0 <= now - lagging[1] < LAG

    async def _row(self, page: Page) -> PageRow | None:
        row = self._rows.get(page)
        if row is None:
            row = await self._catalog.pages.get(self.name, page)
            if row is not None:
                self._rows.put(page, row)
        return row

    async def _ask(self, page: Page, row: PageRow | None) -> PageRow:
        """Ask upstream, conditionally, and store what it says: only an answer that parses replaces an older one."""
        ask = self._format.ask(self.upstream.url, page)
        ask = msgspec.structs.replace(ask, limit=min(ask.limit, self._page_limit))
        known = row if row and row.stamp.found else None
        try:
            answer = await self.fetch_page(
                page, ask, known.etag if known else None, known.last_modified if known else None
            )
        except NotFound:
            return await self._gone(page, row)
        now = self._clock()
        if answer is None and known:
            stamp = msgspec.structs.replace(known.stamp, checked=now)
            await self._catalog.pages.touch(self.name, page, now)
            return self._keep(page, msgspec.structs.replace(known, stamp=stamp))
        if answer is None:
            raise UpstreamUnavailable(f"{self.upstream.name} answered 304 to a question without a condition.")
        return await self.accept(page, answer)

    async def _fetch_page(self, page: Page, ask: Ask, etag: str | None, last_modified: str | None) -> Answer | None:
        return await self.upstream.get(ask, etag=etag, last_modified=last_modified)

    async def accept(self, page: Page, answer: Answer) -> PageRow:
        """Store an answer to `page` as if upstream had just given it. Raises UpstreamProtocolError if it is not one."""
        now = self._clock()
        stamp = Stamp(now, True, self._format.revision(answer.body))
        if page.kind == "project":
            project = await _off_loop(answer, lambda: self._format.parse(page, answer))
            old = await self._row(page)
            if old is None or not old.stamp.found or old.stamp.revision != stamp.revision:
                await self._removals.compare(page.name, await self._before(page), project, now)
            self._remember(page, stamp.revision, project)
        elif page.kind == "names":
            names = await _off_loop(answer, lambda: self._format.parse_names(answer))
            self._names = stamp.revision, names
        serial = await self._catalog.pages.put(self.name, page, answer, stamp)
        row = PageRow(
            stamp=stamp,
            url=answer.url,
            content_type=answer.content_type,
            etag=answer.etag,
            last_modified=answer.last_modified,
            serial=answer.serial,
        )
        self._keep(page, row)
        if serial is not None:
            self._feed.changed(serial, self.name, page.name)
        if page.kind == "names":
            for other in [other for other in self._rows if other.kind == "project"]:
                if (known := self._rows.get(other)) and self._outdated(other, known):
                    self._feed.changed(None, self.name, other.name)
        return row

    async def _gone(self, page: Page, row: PageRow | None) -> PageRow:
        now = self._clock()
        if page.kind == "project" and row and row.stamp.found:
            await self._removals.compare(page.name, await self._before(page), None, now)
        serial = await self._catalog.pages.miss(self.name, page, now)
        gone = self._keep(page, PageRow(stamp=Stamp(now, False)))
        if row and row.stamp.found:
            logger.warning("%s no longer has the page %s %s", self.upstream.name, page.kind, page.name)
            self._feed.changed(serial, self.name, page.name)
        return gone

    async def _before(self, page: Page) -> Project | None:
        """What the stored page of a project lists; None when there is none that can be read."""
        row = await self._row(page)
        if row is None or not row.stamp.found:
            return None
        remembered = self._projects.get(page)
        if remembered and remembered[0] == row.stamp.revision:
            return remembered[1]
        answer = await self._catalog.pages.answer(self.name, page)
        try:
            return None if answer is None else await _off_loop(answer, lambda: self._format.parse(page, answer))
        except UpstreamProtocolError:
            return None

    def _keep(self, page: Page, row: PageRow) -> PageRow:
        self._rows.put(page, row)
        return row

    def _remember(self, page: Page, revision: str, project: Project) -> Project:
        files = tuple(msgspec.structs.replace(file, source=self.name) for file in project.files)
        project = msgspec.structs.replace(project, files=files)
        self._projects.put(page, (revision, project), weight=1 + len(files))
        return project

    async def _parsed(self, page: Page, row: PageRow) -> Project:
        """The project of a stored page, parsed once for each revision."""
        remembered = self._projects.get(page)
        if remembered and remembered[0] == row.stamp.revision:
            return remembered[1]
        answer = await self._answer(page)
        try:
            project = await _off_loop(answer, lambda: self._format.parse(page, answer))
        except UpstreamProtocolError:  # it did parse once: the store, or what we take for a page, has changed
            again = await self._again(page)
            project = await _off_loop(again, lambda: self._format.parse(page, again))
        return self._remember(page, row.stamp.revision, project)

    async def _answer(self, page: Page) -> Answer:
        """The stored answer; asked for anew when it was lost, as when a damaged catalog was replaced."""
        return await self._catalog.pages.answer(self.name, page) or await self._again(page)

    async def _again(self, page: Page) -> Answer:
        """Ask for a page that cannot be read any more, without a condition."""
        what = page.name or page.kind
        logger.error("the stored page of %s is lost or damaged; it is fetched again", what)
        self._rows.forget(page)
        if self._offline:
            raise Offline(f"The stored page of {what} is lost or damaged, and this mirror is offline.")
        await self._asking.run(page, lambda: self._ask(page, None))
        answer = await self._catalog.pages.answer(self.name, page)
        if answer is None:
            raise UpstreamUnavailable(f"The page of {what} cannot be kept; please ask again.", 1)
        return answer

    # Files

    async def open(self, project: str, file: File) -> Opened:
        # In one flight also what is looked up before: a transfer that runs keeps the loop busy, and who asked with the
        # first one would wait for the catalog behind its bytes.
        key = (project, file.filename, file.sha256)
        opened, joined = await self._opening.run(key, lambda: self._open(project, file))
        return Opened(opened.body, "joined") if joined and opened.outcome == "miss" else opened

    async def _open(self, project: str, file: File) -> Opened:
        held = None if self._transfers.runs(file) else await self._held_file(project, file)
        if held:
            self._catalog.files.note_use(self.name, project, file.filename, self._clock())
            return Opened(held, "offline" if self._offline else "hit")
        if self._offline:
            raise Offline(f"{file.filename} is not held here, and this mirror is offline.")

        async def record(blob: Held) -> None:
            await self._record(project, file.filename, blob)

        body, joined = await self._transfers.open(file, self.upstream, record)
        return Opened(body, "joined" if joined else "miss")

    async def _held_file(self, project: str, file: File) -> Body | None:
        """The held bytes of a file; None when there are none, or not as many as there should be."""
        body = await self._held_body(project, file.filename, file.sha256)
        return body if body and file.size in (None, body.size) else None

    async def _held_body(self, project: str, filename: str, digest: str | None) -> Body | None:
        """The held bytes under a name, found by digest; None when there are none (any more)."""
        if digest is None:
            held = self._held.get((project, filename)) or await self._catalog.files.get(self.name, project, filename)
            if held is None:
                return None
            self._held.put((project, filename), held)
            digest = held.digest
        try:
            return await self._blobs.open(digest)
        except MissingBlob:
            self._held.forget((project, filename))
            if await self._catalog.files.get(self.name, project, filename):
                logger.error("the blob of %s has vanished from the store; it is fetched again", filename)
                await self._catalog.files.forget(self.name, project, filename)
            return None

    async def _record(self, project: str, filename: str, blob: Held, kind: str = "file") -> None:
        held = HeldFile(
            source=self.name,
            project=project,
            filename=filename,
            digest=blob.digest,
            size=blob.size,
            stored=self._clock(),
        )
        serial = await self._catalog.files.add(held, kind)
        self._held.put((project, filename), held)
        self._feed.recorded(serial)

    # Sidecars

    async def sidecar(self, project: str, file: File) -> Opened:
        name = self._format.sidecar_name(file)
        held = await self._held_body(project, name, None)
        if held:
            return Opened(held, "offline" if self._offline else "hit")
        opened, joined = await self._making.run((project, name), lambda: self._obtain_sidecar(project, name, file))
        return Opened(opened.body, "joined") if joined else opened

    async def _obtain_sidecar(self, project: str, name: str, file: File) -> Opened:
        """Make the sidecar, out of a held file or one at upstream, or fetch it; and keep it."""
        held = await self._held_file(project, file)
        content = await self._made(file, held) if held else None
        if content is None:
            content = await self._fetch_sidecar(file)
        if content is None:
            try:
                content = await self._format.sidecar_make(file, held or await self._readable(project, file))
            except Invalid as error:
                logger.warning("%s has no sidecar: %s", file.filename, error)
                raise UnknownFile(project, name) from error
        blob = await self._blobs.write(content)
        await self._record(project, name, blob, "sidecar")
        return Opened(await self._blobs.open(blob.digest), "miss")

    async def _made(self, file: File, held: Body) -> bytes | None:
        """The sidecar made from the file that is held, when it is what the index promises."""
        try:
            content = await self._format.sidecar_make(file, held)
            self._format.sidecar_check(file, content)
        except (Invalid, UpstreamProtocolError):
            return None
        return content

    async def _fetch_sidecar(self, file: File) -> bytes | None:
        ask = self._format.sidecar_ask(self.upstream.url, file)
        if ask is None or self._offline:
            return None
        try:
            answer = await self.upstream.get(ask)
            assert answer is not None, "an unconditional question has an answer"
            self._format.sidecar_check(file, answer.body)
        except (NotFound, UpstreamError) as error:
            logger.warning("%s; it is made from %s itself", error, file.filename)
            return None
        return answer.body

    async def _readable(self, project: str, file: File) -> Body:
        """A file that is not held as something to read parts of: by ranges from upstream, or else fetched whole."""
        if not self._offline:
            try:
                return await self.upstream.open_ranges(file)
            except UpstreamUnavailable:
                raise
            except UpstreamError as error:
                logger.info("%s: %s; it is fetched whole", file.filename, error)
        return (await self.open(project, file)).body

    async def close(self) -> None:
        await self._asking.close()
        await self._opening.close()
        await self._making.close()


async def _off_loop(answer: Answer, work: Callable[[], T]) -> T:
    """Do work on a page, in a thread when the page is large."""
    return work() if len(answer.body) < LARGE else await asyncio.to_thread(work)


def unknown_file(project: Project, filename: str) -> UnknownFile:
    """The error for a file that a project does not have."""
    return UnknownFile(project.name, filename)
