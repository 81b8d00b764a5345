"""Rendered pages, in memory and on disk: the whole of a hit.

A page is rendered once and kept compressed under everything that it is made of: the repository, the project, the media
type, and the revision of the project as it is shown. So a page under its key is always right, and no change has to
reach this cache: what is no longer asked for makes room. What memory has no room for is read from disk, also after a
restart; there a page has one place, in which each revision replaces the one before.

The surprise: a small page is sent as it is to the first client that asks for it. It is compressed for the second one,
and written to disk then, or when it leaves memory.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Collection, Hashable, Mapping, Sequence
from functools import lru_cache, partial
from typing import NamedTuple

import msgspec
from aiohttp import web

from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight, Validity
from mirror.index.freshness import Freshness
from mirror.index.packing import COMPRESS, COMPRESSED_FROM_BYTES, DECOMPRESS, PackedPage
from mirror.index.view import ViewStamp
from mirror.model import Outcome
from mirror.server.disk_cache import DiskCache
from mirror.server.facts import facts_of
from mirror.server.page_saver import IN_LOOP_BYTES, SAVE_SECONDS, PageFacts, PageSaver, SavedStamp
from mirror.server.replay import SharedBytes
from mirror.server.representation import Chunk, HeadKey, Representation
from mirror.server.respond import respond
from mirror.server.rules import PAGE, ResponseRules
from mirror.server.segments import StoredPart

FIRST_PLAIN_BYTES = 14_000
"""Bytes up to which a page is first sent as it is: TCP sends them without waiting for its client (RFC 6928)."""
LARGE_BYTES = 1 << 20
"""Bytes above which pages are compressed one at a time: each takes its memory several times meanwhile."""
HEAVY_AT_ONCE = 1
"""How many large pages are rendered at once: threads take turns anyway, and the event loop is one of those who wait."""
PAGE_BYTES = 2500
"""Bytes that a page takes in memory, without its bodies and heads (measured)."""
HEAD_BYTES = 200
"""Bytes that the place of a kept head takes (measured)."""
MOST_UNSAVED = 64
"""The most pages that wait to be written to disk; those that come meanwhile are kept in memory alone."""

Place = tuple[Hashable, ...]


class PageKey(NamedTuple):
    """Everything that a page is made of."""

    place: Place
    """What it is about, and in which form. On disk, there is one page at each place."""
    revision: Hashable
    """Equal ones at a place mean equal pages, also after a restart."""
    durable: bool = False
    """Whether it is kept on disk: not where anyone can ask for any number of such pages."""


class PageInput(msgspec.Struct, frozen=True):
    """The content of a page that is not in memory, and how it is rendered."""

    render: Callable[[], bytes | PackedPage]
    """Called once, in a thread when `heavy`."""
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()
    heavy: bool = False
    etag: Callable[[bytes], str] | None = None
    """For clients that want a certain ETag, the same for all encodings."""
    modified: str | None = None
    """The Last-Modified date, where clients want one."""
    kept: bool = True
    """False where it was made of something newer than the key of the page names: then it is not kept."""
    stamp: ViewStamp | None = None
    """The stamp of the view that it shows, which is kept with it on disk."""


class LostPage(Exception):
    """The bytes of a page that was kept on disk cannot be read any more."""


class Encoders:
    """Compresses pages and the reverse, each once for all who wait; the large ones one at a time."""

    def __init__(self) -> None:
        self.running: SingleFlight[tuple[RenderedPage, str], None] = SingleFlight(at_once=True)
        self.large = asyncio.Semaphore(HEAVY_AT_ONCE)

    async def run(self, size: int, work: Callable[[], bytes]) -> bytes:
        """Return the result of work on so many bytes."""
        if size <= IN_LOOP_BYTES:
            return work()
        if size <= LARGE_BYTES:
            return await asyncio.to_thread(work)
        async with self.large:
            return await asyncio.to_thread(work)


class RenderedPage(Representation):
    """One rendered page, in those encodings that were asked for."""

    cached = True

    def __init__(
        self,
        facts: PageFacts,
        bodies: dict[str, bytes],
        encoders: Encoders,
        read: Callable[[str], Awaitable[bytes | None]] | None = None,
        stored: Mapping[str, StoredPart] = {},
    ) -> None:
        """`read` reads a body that is `stored`."""
        self.facts = facts
        self.stored = {**stored}
        """Where on disk it is or will be, by encoding."""
        self.bodies = {encoding: SharedBytes(body, stored.get(encoding)) for encoding, body in bodies.items()}
        self.sha256 = facts.sha256
        self.media_type = facts.media_type
        self.modified = facts.modified
        self.headers = facts.headers
        self.size = facts.size
        self.compressible = self.size >= COMPRESSED_FROM_BYTES
        self.asked_once = False
        """Whether this is a small page that only one client has asked for."""
        self.heads: dict[HeadKey, bytes] = {}
        self.on_disk: Collection[str] = tuple(stored)
        """The encodings in which it is kept on disk."""
        self.grown: Callable[[RenderedPage], None] = lambda page: None
        """Called when the page takes more memory than before."""
        self._encoders = encoders
        self._read = read

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory."""
        bodies = sum(len(body.content) for body in self.bodies.values())
        return PAGE_BYTES + bodies + sum(HEAD_BYTES + len(head) for head in self.heads.values())

    def first_asked(self) -> None:
        """Do no more than it takes for one client."""
        self.asked_once, self.compressible = True, False

    def asked_again(self) -> None:
        """Let the page be compressed and written to disk: another client has asked for it."""
        self.asked_once, self.compressible = False, self.size >= COMPRESSED_FROM_BYTES

    def keep_head(self, key: HeadKey, head: bytes) -> None:
        if not self.asked_once:  # the next one has another outcome
            self.heads[key] = head
            self.grown(self)

    def etag_of(self, encoding: str) -> str:
        """Return the ETag; a strong one names one encoding (RFC 9110 section 8.8.3.3)."""
        etag = self.facts.etag
        return etag if encoding == "identity" or self.facts.one_etag else f"{etag}-{encoding}"

    async def body(self) -> bytes:
        """Return the page, not compressed. Raises LostPage."""
        await self.encode("identity")
        return self.bodies["identity"].content

    async def encode(self, encoding: str) -> int:
        """Have the page in memory in an encoding, and return its size in bytes. Raises LostPage."""
        while (body := self.bodies.get(encoding)) is None:
            if self.size <= IN_LOOP_BYTES and "identity" in self.bodies:  # no one else can come in between
                await self._make(encoding)
                continue
            await self._encoders.running.run((self, encoding), lambda: self._make(encoding))
        return len(body.content)

    async def _make(self, encoding: str) -> None:
        body = await self._kept(encoding)
        if body is None:
            plain = await self._plain()
            packed = await self._encoders.run(self.size, partial(COMPRESS[encoding], plain))
            self.bodies[encoding] = SharedBytes(packed, self.stored.get(encoding))
            if encoding != "identity":
                self.bodies.pop("identity", None)  # it is made again for the few who ask
        self.grown(self)

    async def _kept(self, encoding: str) -> bytes | None:
        """Return the page in an encoding, from memory or disk; None where it is in neither."""
        if encoding not in self.bodies and self._read is not None and encoding in self.on_disk:
            body = await self._read(encoding)
            if body is not None:
                self.bodies[encoding] = SharedBytes(body, self.stored.get(encoding))
        return self.bodies[encoding].content if encoding in self.bodies else None

    async def _plain(self) -> bytes:
        """Return the page, not compressed. Raises LostPage."""
        for encoding in ("identity", *self.bodies, *self.on_disk):
            if (body := await self._kept(encoding)) is not None:
                return await self._encoders.run(self.size, partial(DECOMPRESS[encoding], body))
        raise LostPage(self.facts.place)

    def expect_disk(self) -> None:
        """Let replays know that what is to be written of it will be found on disk."""
        for encoding, body in self.bodies.items():
            if body.stored is None and not (encoding == "identity" and self.compressible):
                body.stored = self.stored[encoding] = StoredPart()

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        body = self.bodies[encoding].content
        return (body,) if stop - start == len(body) else (memoryview(body)[start:stop],)

    def shared(self, encoding: str) -> SharedBytes | None:
        return self.bodies[encoding]


class PageCache:
    """The rendered pages of all repositories."""

    def __init__(self, memory: MemoryBudget, disk: DiskCache | None = None) -> None:
        """Without a `disk`, pages are kept in memory alone."""
        self._pages: BoundedCache[PageKey, RenderedPage] = BoundedCache(memory, self._settle)
        self._heavy = asyncio.Semaphore(HEAVY_AT_ONCE)
        self._encoders = Encoders()
        self._rendering: SingleFlight[PageKey, RenderedPage] = SingleFlight(at_once=True)
        self._disk = disk
        self._saver = PageSaver(disk) if disk is not None else None

    async def respond(
        self,
        request: web.Request,
        key: PageKey,
        content: Callable[[], Awaitable[PageInput]],
        outcome: Outcome,
        validity: Validity | None = None,
        rules: ResponseRules = PAGE,
    ) -> web.StreamResponse:
        """Respond to a GET or HEAD with the page under `key`; see `get`.

        `outcome` is how what it is made of came about; a hit is stale where other nodes cannot be asked for changes.
        The response may be replayed while `validity` holds; without one, never: where the bytes of the request do not
        say all that the page depends on.
        """
        page = await self.get(key, content)
        facts = facts_of(request)
        if facts.maybe_outdated and outcome == "hit":
            outcome = "stale"
        facts.outcome = outcome
        if page.asked_once and outcome != "miss":
            page.asked_again()
        replayable = outcome == "hit" and facts.freshness is Freshness.USUAL
        try:
            return await respond(request, page, rules, validity if replayable else None)
        except LostPage:
            page = await self._again(key, content)
            return await respond(request, page, rules, validity if replayable else None)

    async def get(self, key: PageKey, content: Callable[[], Awaitable[PageInput]]) -> RenderedPage:
        """Return the page under `key`, which names all that it is made of; `content` is called when it is not kept."""
        entry = self._pages.get(key)
        if entry is not None:
            entry.used = True
            if entry.value.asked_once:
                entry.value.asked_again()
            return entry.value
        # Not once for all who wait: a read costs less than the task that it would take.
        if key.durable and (found := await self._load(key.place)) and found.facts.revision == key.revision:
            return self._keep(key, found)
        page, _ = await self._rendering.run(key, lambda: self._render(key, content))
        return page

    async def body(self, key: PageKey, content: Callable[[], Awaitable[PageInput]]) -> bytes:
        """Return the page under `key`, not compressed; see `get`."""
        try:
            return await (await self.get(key, content)).body()
        except LostPage:
            return await (await self._again(key, content)).body()

    async def stamp(self, place: Place) -> ViewStamp | None:
        """Return the stamp of the view that the page at a place on disk shows; None where there is no such page."""
        page = await self._load(place)
        if page is None or page.facts.stamp is None:
            return None
        key = PageKey(place, page.facts.revision, durable=True)
        if key not in self._pages:
            self._keep(key, page)
        return page.facts.stamp.restored(page.facts.revision)

    async def _load(self, place: Place) -> RenderedPage | None:
        """Return the page at a place on disk; None where there is none, or it is damaged."""
        if (disk := self._disk) is None:
            return None
        text, number = _address(place)
        if number not in disk.places:
            return None
        record = await disk.find(number)
        if record is None:
            return None
        facts = _decode_facts(record.head.about)
        if facts.place != text:  # another place with the same number
            return None
        stored = {encoding: record.stored(encoding) for encoding in record.head.parts}
        bodies = {encoding: body for encoding in stored if (body := record.part(encoding)) is not None}
        read = partial(disk.read_part, msgspec.structs.replace(record, content=b""))
        return RenderedPage(facts, bodies, self._encoders, read, stored)

    async def _render(self, key: PageKey, content: Callable[[], Awaitable[PageInput]]) -> RenderedPage:
        made = await content()
        body = await self._render_heavy(made) if made.heavy else made.render()
        page = RenderedPage(*_described(key, made, body), self._encoders)
        if made.kept and "identity" in page.bodies and page.size <= FIRST_PLAIN_BYTES:
            page.first_asked()
        return self._keep(key, page) if made.kept else page

    async def _render_heavy(self, made: PageInput) -> bytes | PackedPage:
        async with self._heavy:
            return await asyncio.to_thread(made.render)

    async def _again(self, key: PageKey, content: Callable[[], Awaitable[PageInput]]) -> RenderedPage:
        """Render a page whose bytes on disk were lost."""
        self._pages.forget(key)
        page, _ = await self._rendering.run(key, lambda: self._render(key, content))
        return page

    def _keep(self, key: PageKey, page: RenderedPage) -> RenderedPage:
        page.grown = partial(self._grown, key)
        self._pages.put(key, page, page.weight)
        self._save(key, page)
        return page

    def _grown(self, key: PageKey, page: RenderedPage) -> None:
        if self._pages.peek(key) is page:
            self._pages.put(key, page, page.weight)
        self._save(key, page)

    def _save(self, key: PageKey, page: RenderedPage) -> None:
        """Have a page written to disk, unless all of it is there."""
        if page.asked_once or not key.durable or (saver := self._saver) is None or not saver.disk.limit_bytes:
            return
        saved = page.on_disk and page.bodies.keys() <= {*page.on_disk, "identity"}
        if not saved and len(saver.unsaved) < MOST_UNSAVED:
            page.expect_disk()
            saver.unsaved[_address(key.place)[1]] = page
            if saver.timer is None:
                saver.timer = asyncio.get_running_loop().call_later(SAVE_SECONDS, saver.start)

    def _settle(self, key: PageKey, page: RenderedPage) -> None:
        """Have a page written to disk that was to wait for another request."""
        if page.asked_once:
            page.asked_again()
            self._save(key, page)

    async def close(self) -> None:
        """Stop what is being rendered, and write what was."""
        await self._rendering.close()
        await self._encoders.running.close()
        if self._saver is not None:
            for entry in [*self._pages.values()]:
                self._settle(entry.key, entry.value)
                if len(self._saver.unsaved) == MOST_UNSAVED:
                    await self._saver.flush()
            await self._saver.close()


_decode_facts = msgspec.msgpack.Decoder(PageFacts).decode


@lru_cache(maxsize=1024)
def _address(place: Place) -> tuple[bytes, int]:
    """Return a place as it stands in a record on disk, and its number there."""
    text = msgspec.json.encode(place)
    return text, int.from_bytes(hashlib.blake2b(text, digest_size=8).digest())


def _described(key: PageKey, made: PageInput, body: bytes | PackedPage) -> tuple[PageFacts, dict[str, bytes]]:
    """Return the facts of a page and its body by encoding."""
    packed = PackedPage("identity", body, len(body), hashlib.sha256(body).digest()) if isinstance(body, bytes) else body
    stamp = made.stamp
    facts = PageFacts(
        place=_address(key.place)[0] if key.durable else b"",
        revision=str(key.revision) if key.durable else "",
        media_type=made.media_type,
        etag=made.etag(packed.body) if made.etag else packed.sha256.hex()[:32],
        one_etag=made.etag is not None,
        size=packed.size,
        sha256=packed.sha256,
        modified=made.modified,
        headers=made.headers,
        stamp=SavedStamp({**stamp.inputs}, stamp.decided_until, stamp.gone, stamp.empty) if stamp else None,
    )
    return facts, {packed.encoding: packed.body}
