"""The journal of another mirror, and what it holds, as it says itself: bounded, and believed only as far as it fits.

Where the mirror's own endpoints are is found out from the address of the index: below a prefix there may be a reverse
proxy, or it may be a part of the mount.
"""

from collections.abc import AsyncIterator, Callable
from typing import Annotated, TypeVar

import msgspec
from yarl import URL

from mirror.errors import Invalid, NotFound, UpstreamProtocolError
from mirror.model import UpstreamRequest
from mirror.upstream import RawResponse, Upstream

LARGEST = 32 << 20
"""Bytes of one answer."""
LONGEST_LINE = 16 << 10
MOST_LINES = 500_000
"""Lines of one answer."""
SLACK = 15.0
"""Seconds that an answer may take beyond those that it was told to wait."""
DEEPEST = 8
"""Segments of an index's path below which the mirror is looked for."""

Serial = Annotated[int, msgspec.Meta(ge=0, lt=1 << 62)]
Short = Annotated[str, msgspec.Meta(max_length=1000)]


class FeedLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the feed, as far as it matters here."""

    serial: Serial
    time: float
    project: Short
    kind: Annotated[str, msgspec.Meta(max_length=50)]
    filename: Short = ""


class HeldFileLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line about what the other mirror holds."""

    project: Short
    kind: Annotated[str, msgspec.Meta(max_length=50)]
    filename: Short = ""
    sha256: Annotated[str, msgspec.Meta(max_length=64)] = ""


class FeedPosition(msgspec.Struct, frozen=True, kw_only=True):
    """Where a journal stands."""

    feed: str
    serial: int
    """All up to here has been told."""
    newest: int
    repository: str = ""
    """What the other mirror calls the repository."""


class FeedBatch(msgspec.Struct, frozen=True):
    """Lines, oldest first, and up to where they tell everything."""

    lines: list[FeedLine]
    place: FeedPosition


class NoFeed(NotFound):
    """The upstream is no mirror that can be followed."""

    def __init__(self, name: str) -> None:
        super().__init__(f"{name} has no feed: only mirrors like this one can be followed, from version 1 on.")


class Lost(UpstreamProtocolError):
    """The journal does not know the place that we are at (any more)."""


T = TypeVar("T", FeedLine, HeldFileLine)


class RemoteMirror:
    """One repository of another mirror."""

    def __init__(self, upstream: Upstream, index_path: str, canonical: Callable[[str], str]) -> None:
        """`upstream` is the address of its index; `index_path` and `canonical` are those of its ecosystem."""
        self.name = upstream.name
        self._upstream = upstream
        self._index_path = index_path
        self._canonical = canonical
        self._root: tuple[URL, str] | None = None
        # Silence counts as a failure after `read_timeout`.
        self.patience = min(30.0, upstream.options.read_timeout / 2)
        """Seconds for which it is let wait for news."""

    async def place(self) -> FeedPosition:
        """Where its journal stands. Raises NoFeed, UpstreamError."""
        if self._root is not None:
            return _place(await self._ask(*self._root, "feed", {"since": "newest"}))
        for root, index in _roots(self._upstream.url, self._index_path):
            try:
                place = _place(await self._ask(root, index, "feed", {"since": "newest"}))
            except NotFound:
                continue
            self._root = root, index
            return place
        raise NoFeed(self.name)

    async def news(self, feed: str, since: int, wait: float) -> FeedBatch:
        """What happened after a serial, waiting so many seconds for it. Raises Lost, NoFeed, UpstreamError."""
        if self._root is None:
            await self.place()
        assert self._root is not None, "found with the place"
        question = {"since": str(since), "feed": feed, "wait": f"{wait:.0f}"}
        try:
            answer = await self._ask(*self._root, "feed", question, wait)
        except (NotFound, UpstreamProtocolError) as error:
            # 409 and 410 say that the place is not known; whether that is it, the place that is known says.
            known = await self.place()
            if known.feed != feed:
                raise Lost(f"{self.name} has begun a new feed.") from None
            if since > known.serial:
                raise Lost(f"{self.name} is at serial {known.serial}, and was at {since} before.") from None
            if isinstance(error, NotFound):
                raise Lost(f"{self.name} no longer knows what happened after serial {since}.") from None
            raise
        place = _place(answer)
        lines = _lines(answer.body, FeedLine, self.name)
        last = since
        for line in lines:
            if not max(since + 1, last) <= line.serial <= place.serial:
                raise UpstreamProtocolError(f"{self.name} tells serial {line.serial} after {last}.")
            last = line.serial
        if place.feed != feed or place.serial < since:
            raise Lost(f"{self.name} has begun a new feed.")
        return FeedBatch(lines, place)

    async def holdings(self) -> AsyncIterator[tuple[FeedPosition, list[HeldFileLine]]]:
        """Everything that it holds, project by project in order, in parts; each with the place at which it was asked.

        Raises NoFeed, UpstreamError.
        """
        if self._root is None:
            await self.place()
        assert self._root is not None, "found with the place"
        after: str | None = ""
        while after is not None:
            answer = await self._ask(*self._root, "holdings", {"after": after}, SLACK)
            yield _place(answer), _lines(answer.body, HeldFileLine, self.name)
            following = answer.headers.get("X-Mirror-Next")
            if following is not None and following <= after:
                raise UpstreamProtocolError(f"{self.name} goes round in circles about what it holds.")
            after = following

    async def _ask(self, root: URL, index: str, what: str, question: dict[str, str], wait: float = 0) -> RawResponse:
        url = (root / "-" / what).with_query({"index": index, **question})
        return await self._upstream.range_get(UpstreamRequest(url=url, limit=LARGEST, timeout=wait + SLACK), {})

    def canonical(self, name: str) -> str | None:
        """The project of a line; None when it cannot be one."""
        try:
            return name if self._canonical(name) == name else None
        except Invalid:
            return None


def _roots(index: URL, index_path: str) -> list[tuple[URL, str]]:
    """Where the mirror's own endpoints may be, and what the index is called from there; the likeliest first."""
    segments = [segment for segment in index.path.split("/") if segment]
    depth = len(segments) - index_path.count("/")
    found = []
    for at in range(min(depth, DEEPEST) + 1):
        above, below = segments[:at], segments[at:]
        root = index.with_path("/" + "/".join(above)).with_query(None)
        found.append((root, "/" + "".join(f"{segment}/" for segment in below)))
    return found


def _place(answer: RawResponse) -> FeedPosition:
    headers = answer.headers
    feed, serial = headers.get("X-Mirror-Feed", ""), headers.get("X-Mirror-Serial", "")
    newest = headers.get("X-Mirror-Newest", serial)
    if not feed or len(feed) > 100 or not all(_is_serial(one) for one in (serial, newest)):
        raise NotFound("There is no feed of a mirror.")
    return FeedPosition(
        feed=feed, serial=int(serial), newest=max(int(newest), int(serial)),
        repository=headers.get("X-Mirror-Repository", "")[:200],
    )  # fmt: skip


def _is_serial(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 19


def _lines(body: bytes, kind: type[T], name: str) -> list[T]:
    """Raises UpstreamProtocolError unless all lines are right."""
    found: list[T] = []
    decode = msgspec.json.Decoder(kind).decode
    for line in body.splitlines():
        if len(line) > LONGEST_LINE or len(found) >= MOST_LINES:
            raise UpstreamProtocolError(f"{name} has lines in its feed that are too long, or too many.")
        try:
            found.append(decode(line))
        except msgspec.MsgspecError as error:
            raise UpstreamProtocolError(f"{name} has a line in its feed that cannot be read: {error}.") from None
    return found
