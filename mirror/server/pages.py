"""Rendered pages, kept in memory: the whole of a hit.

A page is rendered once and kept as bytes, plain and compressed, under everything that it is made of: the repository,
the project, the media type, what the URL says, and the revision of the project as it is shown. So a page under its key
is always right, and no change has to reach this cache: what is no longer asked for makes room.
"""

import asyncio
import hashlib
import sys
import zlib
from collections.abc import Awaitable, Callable, Hashable, Sequence
from functools import partial

import msgspec
from aiohttp import web

from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight, Validity
from mirror.index.freshness import Freshness
from mirror.model import Outcome
from mirror.server.facts import facts_of
from mirror.server.replay import SharedBytes
from mirror.server.representation import Chunk, HeadKey, Representation
from mirror.server.respond import respond
from mirror.server.rules import PAGE, ResponseRules

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

COMPRESSED_FROM_BYTES = 1024
"""Bytes below which compressing is not worth it."""
COMPRESSED_IN_LOOP_BYTES = 32 << 10
"""Bytes up to which compressing is quicker than the hop to a thread."""
HEAVY_AT_ONCE = 1
"""How many large pages are rendered at once: threads take turns anyway, and the event loop is one of those who wait."""
PAGE_BYTES = 2500
"""Bytes that a page takes in memory, without its bodies and heads (measured)."""
HEAD_BYTES = 200
"""Bytes that the place of a kept head takes (measured)."""

Key = tuple[Hashable, ...]
"""Everything that a page is made of."""


class PageInput(msgspec.Struct, frozen=True):
    """The content of a page that is not in memory, and how it is rendered."""

    render: Callable[[], bytes]
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


class RenderedPage(Representation):
    """One rendered page in all its encodings."""

    cached = True

    def __init__(self, content: PageInput, body: bytes) -> None:
        self.bodies = {"identity": SharedBytes(body)}
        self.sha256 = hashlib.sha256(body).digest()
        self.etag = content.etag(body) if content.etag else self.sha256.hex()[:32]
        self.media_type = content.media_type
        self.modified = content.modified
        self.headers = content.headers
        self.size = len(body)
        self.compressible = self.size >= COMPRESSED_FROM_BYTES
        self.heads: dict[HeadKey, bytes] = {}
        self.grown: Callable[[RenderedPage], None] = lambda page: None
        """Called when the page takes more memory than before."""
        self._one_etag = content.etag is not None
        self._compressing: SingleFlight[str, None] = SingleFlight()

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory."""
        bodies = sum(len(body.content) for body in self.bodies.values())
        return PAGE_BYTES + bodies + sum(HEAD_BYTES + len(head) for head in self.heads.values())

    @property
    def body(self) -> bytes:
        """The page, not compressed."""
        return self.bodies["identity"].content

    def keep_head(self, key: HeadKey, head: bytes) -> None:
        self.heads[key] = head
        self.grown(self)

    def etag_of(self, encoding: str) -> str:
        """Return the ETag; a strong one names one encoding (RFC 9110 section 8.8.3.3)."""
        return self.etag if encoding == "identity" or self._one_etag else f"{self.etag}-{encoding}"

    async def encode(self, encoding: str) -> int:
        """Compress the page, once, and return its size."""
        if encoding not in self.bodies:
            if self.size <= COMPRESSED_IN_LOOP_BYTES:
                self._add(encoding, compress(self.body, encoding))
            else:
                await self._compressing.run(encoding, lambda: self._compress(encoding))
        return len(self.bodies[encoding].content)

    async def _compress(self, encoding: str) -> None:
        self._add(encoding, await asyncio.to_thread(compress, self.body, encoding))

    def _add(self, encoding: str, body: bytes) -> None:
        self.bodies[encoding] = SharedBytes(body)
        self.grown(self)

    def chunks(self, encoding: str, start: int, stop: int) -> Sequence[Chunk]:
        body = self.bodies[encoding].content
        return (body,) if stop - start == len(body) else (memoryview(body)[start:stop],)

    def shared(self, encoding: str) -> SharedBytes | None:
        return self.bodies[encoding]


class PageCache:
    """The rendered pages of all repositories."""

    def __init__(self, memory: MemoryBudget) -> None:
        self._pages: BoundedCache[Key, RenderedPage] = BoundedCache(memory)
        self._heavy = asyncio.Semaphore(HEAVY_AT_ONCE)
        self._rendering: SingleFlight[Key, RenderedPage] = SingleFlight()

    async def respond(
        self,
        request: web.Request,
        key: Key,
        content: Callable[[], Awaitable[PageInput]],
        outcome: Outcome,
        validity: Validity | None = None,
        rules: ResponseRules = PAGE,
    ) -> web.StreamResponse:
        """Respond to a GET or HEAD with the page under `key`; see `get`.

        `outcome` is how what it is made of came about. The response may be replayed while `validity` holds; without
        one, never: where the bytes of the request do not say all that the page depends on.
        """
        page = await self.get(key, content)
        facts = facts_of(request)
        facts.outcome = outcome
        replayable = outcome == "hit" and facts.freshness is Freshness.USUAL
        return await respond(request, page, rules, validity if replayable else None)

    async def get(self, key: Key, content: Callable[[], Awaitable[PageInput]]) -> RenderedPage:
        """Return the page under `key`, which names all that it is made of; `content` is called when it is not kept."""
        entry = self._pages.get(key)
        if entry is not None:
            entry.used = True
            return entry.value
        page, _ = await self._rendering.run(key, lambda: self._render(key, content))
        return page

    async def _render(self, key: Key, content: Callable[[], Awaitable[PageInput]]) -> RenderedPage:
        made = await content()
        page = RenderedPage(made, await self._render_heavy(made) if made.heavy else made.render())
        if made.kept:
            page.grown = partial(self._weigh, key)
            self._pages.put(key, page, page.weight)
        return page

    async def _render_heavy(self, made: PageInput) -> bytes:
        async with self._heavy:
            return await asyncio.to_thread(made.render)

    def _weigh(self, key: Key, page: RenderedPage) -> None:
        if self._pages.peek(key) is page:
            self._pages.put(key, page, page.weight)

    async def close(self) -> None:
        """Stop what is being rendered."""
        await self._rendering.close()


def compress(body: bytes, encoding: str) -> bytes:
    """Return the body in a content coding: `gzip` or `zstd`."""
    if encoding == "zstd":
        return zstd.compress(body, 6)
    packer = zlib.compressobj(6, zlib.DEFLATED, 31)
    return packer.compress(body) + packer.flush()
