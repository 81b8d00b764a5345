"""The client of another mirror's journal and holdings: responses are bounded and checked.

The root of the mirror's own endpoints is found by trying the prefixes of the index's path: a prefix may belong to a
reverse proxy or to the mount.
"""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import msgspec
from yarl import URL

from mirror.errors import Invalid, NotFound, UpstreamProtocolError
from mirror.model import UpstreamRequest
from mirror.upstream import RawResponse, Upstream, storable

MAX_RESPONSE_BYTES = 32 << 20
MAX_LINE_BYTES = 16 << 10
MAX_RESPONSE_LINES = 500_000
MAX_HOLDINGS_PARTS, MAX_HOLDINGS_LINES = 100_000, 20_000_000
"""The most parts and lines of all that another mirror holds; the whole public index is less."""
EXTRA_SECONDS = 15.0
"""The time for a response beyond the time that the request lets it wait."""
MAX_ROOT_SEGMENTS = 8
"""The most segments of an index's path that may belong to the root."""

Serial = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Short = Annotated[str, msgspec.Meta(max_length=1000, pattern=r"^[^\x00-\x1f\x7f\ud800-\udfff]*$")]


class FeedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One event of the journal, as far as it matters here."""

    serial: Serial
    time: float
    project: Short
    kind: Annotated[str, msgspec.Meta(max_length=50)]
    filename: Short = ""


class HeldFileLine(msgspec.Struct, frozen=True, kw_only=True):
    """One file or project that the other mirror holds."""

    project: Short
    kind: Annotated[str, msgspec.Meta(max_length=50)]
    filename: Short = ""
    sha256: Annotated[str, msgspec.Meta(max_length=64)] = ""


class FeedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """A position in a journal."""

    feed: str
    serial: int
    """Everything up to this serial has been reported."""
    newest: int
    repository: str = ""
    """The repository's name on the other mirror."""


class FeedBatch(msgspec.Struct, frozen=True):
    """Events, oldest first, and the position up to which they are complete."""

    lines: list[FeedLine]
    position: FeedPosition


class NoFeed(NotFound):
    """The upstream is not a mirror that can be followed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no journal: only mirrors like this one can be followed, from version 1 on.")


class FeedMismatch(UpstreamProtocolError):
    """The journal does not continue from the requested position."""


T = TypeVar("T", FeedLine, HeldFileLine)


class RemoteMirror:
    """One repository of another mirror."""

    def __init__(self, upstream: Upstream, index_path: str, canonical: Callable[[str], str]) -> None:
        """`upstream` is its index; `index_path` and `canonical` are those of its ecosystem."""
        self.name = upstream.name
        self._upstream = upstream
        self._index_path = index_path
        self._canonical = canonical
        self._root: tuple[URL, str] | None = None
        # Silence counts as a failure after `read_timeout`.
        self.wait_seconds = min(30.0, upstream.options.read_timeout / 2)
        """The longest time for which a request may wait for events."""

    async def position(self) -> FeedPosition:
        """Return the newest position of its journal. Raises NoFeed, UpstreamError."""
        if self._root is not None:
            return _position(await self._ask(*self._root, "feed", {"since": "newest"}))
        for root, index in _roots(self._upstream.url, self._index_path):
            try:
                position = _position(await self._ask(root, index, "feed", {"since": "newest"}))
            except NotFound:
                continue
            self._root = root, index
            return position
        raise NoFeed(self.name)

    async def events(self, feed: str, since: int, wait: float) -> FeedBatch:
        """Return the events after a serial, waiting up to `wait` seconds for one.

        Raises FeedMismatch, NoFeed, UpstreamError.
        """
        if self._root is None:
            await self.position()
        assert self._root is not None, "found with the position"
        parameters = {"since": str(since), "feed": feed, "wait": f"{wait:.0f}"}
        try:
            response = await self._ask(*self._root, "feed", parameters, wait)
        except (NotFound, UpstreamProtocolError) as error:
            # 409 and 410 mean that the position is unknown; the newest position shows whether that is the reason.
            known = await self.position()
            if known.feed != feed:
                raise FeedMismatch(f"{self.name} has started a new journal.") from None
            if since > known.serial:
                raise FeedMismatch(f"{self.name} is at serial {known.serial}, and was at {since} before.") from None
            if isinstance(error, NotFound):
                raise FeedMismatch(f"{self.name} no longer has the events after serial {since}.") from None
            raise
        position = _position(response)
        lines = _lines(response.body, FeedLine, self.name)
        last = since
        for line in lines:
            if not max(since + 1, last) <= line.serial <= position.serial:
                raise UpstreamProtocolError(f"{self.name} reports serial {line.serial} after {last}.")
            last = line.serial
        if position.feed != feed or position.serial < since:
            raise FeedMismatch(f"{self.name} has started a new journal.")
        return FeedBatch(lines, position)

    async def holdings(self) -> AsyncIterator[tuple[FeedPosition, list[HeldFileLine]]]:
        """Yield everything that it holds, in parts, sorted by project; each part with the position of its journal.

        Raises NoFeed, UpstreamError.
        """
        if self._root is None:
            await self.position()
        assert self._root is not None, "found with the position"
        after: str | None = ""
        parts = total = 0
        while after is not None:
            response = await self._ask(*self._root, "holdings", {"after": after}, EXTRA_SECONDS)
            lines = _lines(response.body, HeldFileLine, self.name)
            parts, total = parts + 1, total + len(lines)
            if parts > MAX_HOLDINGS_PARTS or total > MAX_HOLDINGS_LINES:
                raise UpstreamProtocolError(f"{self.name} claims to hold more than any mirror does.")
            yield _position(response), lines
            following = response.headers.get("X-Mirror-Next")
            if following is not None and following <= after:
                raise UpstreamProtocolError(f"{self.name} repeats a part of what it holds.")
            after = following

    async def _ask(self, root: URL, index: str, what: str, parameters: dict[str, str], wait: float = 0) -> RawResponse:
        url = (root / "-" / what).with_query({"index": index, **parameters})
        return await self._upstream.get_raw(
            UpstreamRequest(url=url, limit=MAX_RESPONSE_BYTES, timeout=wait + EXTRA_SECONDS, kind="list"), {}
        )

    def canonical(self, name: str) -> str | None:
        """Return the project of a line; None when its name is not canonical."""
        try:
            return name if self._canonical(name) == name else None
        except Invalid:
            return None


def _roots(index: URL, index_path: str) -> list[tuple[URL, str]]:
    """Return possible roots of the mirror's own endpoints with the index's path below, the likeliest first."""
    segments = [segment for segment in index.path.split("/") if segment]
    depth = len(segments) - index_path.count("/")
    found = []
    for at in range(min(depth, MAX_ROOT_SEGMENTS) + 1):
        above, below = segments[:at], segments[at:]
        root = index.with_path("/" + "/".join(above)).with_query(None)
        found.append((root, "/" + "".join(f"{segment}/" for segment in below)))
    return found


def _position(response: RawResponse) -> FeedPosition:
    headers = response.headers
    feed, serial = headers.get("X-Mirror-Feed", ""), headers.get("X-Mirror-Serial", "")
    newest = headers.get("X-Mirror-Newest", serial)
    if not feed or len(feed) > 100 or storable(feed) is None or not all(_is_serial(one) for one in (serial, newest)):
        raise NotFound("There is no journal of a mirror.")
    return FeedPosition(
        feed=feed, serial=int(serial), newest=max(int(newest), int(serial)),
        repository=(storable(headers.get("X-Mirror-Repository")) or "")[:200],
    )  # fmt: skip


def _is_serial(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _lines(body: bytes, kind: type[T], name: str) -> list[T]:
    """Parse all lines. Raises UpstreamProtocolError."""
    found: list[T] = []
    decode = msgspec.json.Decoder(kind).decode
    for line in body.splitlines():
        if len(line) > MAX_LINE_BYTES or len(found) >= MAX_RESPONSE_LINES:
            raise UpstreamProtocolError(f"{name} has lines in its journal that are too long, or too many.")
        try:
            found.append(decode(line))
        except msgspec.MsgspecError as error:
            raise UpstreamProtocolError(f"{name} has a line in its journal that cannot be parsed: {error}.") from None
    return found
