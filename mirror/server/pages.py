"""Finished pages, kept in memory: the whole of a hit.

A page is rendered once for all of its inputs and kept as bytes, plain and compressed, under an address that the routes
choose. It is valid until the moment that its inputs named (a page grows stale, a policy changes its answer) or until
the feed says that its project changed. A hit is a look-up and one write: no database, no parsing, no compression.
"""

import asyncio
import hashlib
import sys
import time
import zlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial
from weakref import WeakSet

import msgspec
from aiohttp import web

from mirror.index.cache import BoundedCache, Validity
from mirror.index.flight import Changes, SingleFlight
from mirror.index.freshness import Freshness
from mirror.model import Outcome
from mirror.server.facts import facts_of
from mirror.server.respond import PAGE, Chunk, Representation, ResponseRules, respond

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SMALL = 1024
"""Bytes below which compressing is not worth it."""
TRIES = 5
"""How often a page is made anew because it changed while it was being made."""
IN_LOOP = 32 << 10
"""Bytes up to which compressing is quicker than the hop to a thread."""

Key = tuple[Hashable, ...]


class PageInput(msgspec.Struct, frozen=True):
    """What a route hands over when a page is not in memory, or no longer valid."""

    revision: str
    """Equal revisions under one key, equal bytes."""
    until: float
    outcome: Outcome
    render: Callable[[], bytes]
    """Called once for each revision, in a thread when `heavy`."""
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()
    heavy: bool = False
    repeatable: bool = True
    """False where the bytes of the request do not say all that the page depends on."""
    etag: Callable[[bytes], str] | None = None
    """For clients that want a certain ETag, the same for all encodings."""
    modified: str | None = None
    """The Last-Modified date, where clients want one."""


class RenderedPage(Representation):
    """One rendered page in all its encodings."""

    def __init__(self, content: PageInput, body: bytes) -> None:
        self.revision = content.revision
        self.word: Outcome = "hit"
        """How an answer came about that is given out of memory."""
        self.validity = Validity(content.until)
        self.repeatable = content.repeatable
        self.bodies = {"identity": body}
        self.sha256 = hashlib.sha256(body).digest()
        self.etag = content.etag(body) if content.etag else self.sha256.hex()[:32]
        self.media_type = content.media_type
        self.modified = content.modified
        self.headers = content.headers
        self.size = len(body)
        self.compressible = self.size >= SMALL
        self.heads = {}
        self.grown: Callable[[RenderedPage], None] = lambda page: None
        """Called when the page takes more memory than before."""
        self._one_etag = content.etag is not None

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory, roughly."""
        return 1024 + 2 * sum(map(len, self.bodies.values()))

    def etag_of(self, encoding: str) -> str:
        """Return the ETag; a strong one names one encoding (RFC 9110 section 8.8.3.3)."""
        return self.etag if encoding == "identity" or self._one_etag else f"{self.etag}-{encoding}"

    async def encode(self, encoding: str) -> int:
        """Compress the page, once, and return its size."""
        if encoding not in self.bodies:
            body = self.bodies["identity"]
            if self.size <= IN_LOOP:
                self.bodies[encoding] = compress(body, encoding)
            else:
                self.bodies[encoding] = await asyncio.to_thread(compress, body, encoding)
            self.grown(self)
        return len(self.bodies[encoding])

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        body = self.bodies[encoding]
        return (body,) if stop - start == len(body) else (memoryview(body)[start:stop],)


class PageCache:
    """The rendered pages of all repositories, within a limit of memory."""

    def __init__(self, limit: int, clock: Callable[[], float] = time.time) -> None:
        self._memory: BoundedCache[Key, RenderedPage] = BoundedCache(limit)
        self._of: dict[tuple[str, str], WeakSet[Validity]] = {}
        self._flight: SingleFlight[tuple[Key, Freshness], tuple[RenderedPage, Outcome]] = SingleFlight()
        self._clock = clock
        self._changes: Changes[tuple[str, str]] = Changes()

    async def respond(
        self,
        request: web.Request,
        key: Key,
        demand: Freshness,
        get: Callable[[Freshness], Awaitable[PageInput]],
        rules: ResponseRules = PAGE,
    ) -> web.StreamResponse:
        """Respond to a GET or HEAD with the page under `key`; see `obtain`."""
        page, outcome = await self.obtain(key, demand, get)
        facts_of(request).outcome = outcome
        replayable = outcome == "hit" and demand is Freshness.USUAL and page.repeatable
        return await respond(request, page, rules, page.validity if replayable else None)

    async def obtain(
        self, key: Key, demand: Freshness, get: Callable[[Freshness], Awaitable[PageInput]]
    ) -> tuple[RenderedPage, Outcome]:
        """The page under `key`; `get` says what it is when memory does not know.

        The first two parts of a key are the names of the repository and the project.
        """
        answer = self._memory.get(key)
        if answer is not None and demand is Freshness.USUAL and answer.validity.holds(self._clock()):
            return answer, answer.word
        (answer, outcome), joined = await self._flight.run((key, demand), lambda: self._obtain(key, demand, get))
        return answer, "joined" if joined and outcome == "miss" else outcome

    def forget(self, repository: str, project: str) -> None:
        """What is kept of a project is no longer valid."""
        self._changes.tell((repository, project))
        for validity in self._of.pop((repository, project), ()):
            validity.live = False

    def clear(self) -> None:
        """Nothing that is kept, or is being made, is valid any more."""
        self._changes.tell_all()
        for repository, project in list(self._of):
            self.forget(repository, project)
        self._memory.clear()

    async def _obtain(
        self, key: Key, demand: Freshness, get: Callable[[Freshness], Awaitable[PageInput]]
    ) -> tuple[RenderedPage, Outcome]:
        with self._changes.watch(_owner(key)) as watch:
            content = await get(demand)
            outcome = content.outcome
            for _ in range(TRIES):
                if watch.changed:  # perhaps by this very question: what it fetched is stored by now
                    watch.changed = False
                    content = await get(Freshness.ANY)
                answer = await self._rendered(key, content)
                if not watch.changed:
                    self._keep(key, answer, content)
                    break
            else:
                answer.validity.live = False  # served this once, and not kept
        return answer, outcome

    async def _rendered(self, key: Key, content: PageInput) -> RenderedPage:
        """The content as an answer: the one in memory where that is the same."""
        answer = self._memory.get(key)
        if answer is not None and answer.revision == content.revision:
            return answer
        if content.heavy:
            return await asyncio.to_thread(lambda: RenderedPage(content, content.render()))
        return RenderedPage(content, content.render())

    def _keep(self, key: Key, answer: RenderedPage, content: PageInput) -> None:
        answer.word = content.outcome if content.outcome in ("offline", "stale") else "hit"
        if answer.validity.live and self._memory.peek(key) is answer:
            answer.validity.until = content.until
            return
        answer.validity = Validity(content.until)
        answer.grown = partial(self._grown, key)
        self._memory.put(key, answer, answer.weight)
        self._watch(_owner(key), answer.validity)

    def _watch(self, owner: tuple[str, str], validity: Validity) -> None:
        """See to it that `forget` ends a validity, for as long as anybody goes by it."""
        self._of.setdefault(owner, WeakSet()).add(validity)
        if len(self._of) > 2 * len(self._memory) + 1024:
            self._of = {owner: watched for owner, watched in self._of.items() if watched}

    def _grown(self, key: Key, page: RenderedPage) -> None:
        if self._memory.peek(key) is page:
            self._memory.put(key, page, page.weight)


def _owner(key: Key) -> tuple[str, str]:
    """The repository and the project that a key belongs to."""
    return str(key[0]), str(key[1])


def compress(body: bytes, coding: str) -> bytes:
    """The body in a content coding: `gzip` or `zstd`."""
    if coding == "zstd":
        return zstd.compress(body, 6)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()


def revision_of(parts: Sequence[str]) -> str:
    """One revision for several inputs."""
    return parts[0] if len(parts) == 1 else hashlib.sha256("\0".join(parts).encode()).hexdigest()
