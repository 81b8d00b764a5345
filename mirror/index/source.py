"""What a source of projects is, and what it returns."""

import time
from collections.abc import Awaitable, Callable, Collection, Container, Iterable, Mapping
from typing import Literal, NamedTuple, Protocol

import msgspec
from yarl import URL

from mirror.index.freshness import Ages, Freshness
from mirror.index.packing import PackedNames
from mirror.model import Body, File, Names, Outcome, Page, Project
from mirror.transfer import Flights, NextOrigin, Origin
from mirror.upstream import Upstream


class Listing(msgspec.Struct, frozen=True, kw_only=True):
    """The listing of a project by a source at one moment."""

    revision: str
    """Equal revisions, equal projects."""
    until: float
    """The source need not be asked again before this moment, in seconds since the epoch."""
    outcome: Outcome
    project: Project | None
    """None when the caller has it already: its revision is the one that the caller knew."""
    removed: frozenset[str] = frozenset()
    """Names of files of the project that we hold and the source no longer lists."""
    gone: bool = False
    """The source has no such project any more: all of its files are removed ones."""


class LoadedNames(NamedTuple):
    """The names of a source or repository; they may be newer than the listing of which they were asked."""

    revision: str
    names: Names


class NameListing(msgspec.Struct, frozen=True, kw_only=True):
    """The names that a source or repository has at a moment; they are parsed only when they are needed."""

    revision: str
    """Equal revisions, equal names."""
    until: float
    """The source need not be asked again before this moment, in seconds since the epoch."""
    outcome: Outcome
    load: Callable[[], Awaitable[LoadedNames]]
    """Returns the names. Raises Unavailable, UpstreamError."""
    pack: Callable[[], Awaitable[PackedNames]] | None = None
    """Returns the names as they are stored, where they are a document. Raises Unavailable, UpstreamError."""
    compared: Callable[[Mapping[str, int]], None] | None = None
    """Called with the projects whose stored pages have older serials than the list, once it was read."""


Wanted = Literal["whole", "stream", "part", "head"]
"""How much of a file is asked for: all or much of it, all of it as it comes, a short range, or no byte at all.

Only "stream" may give a body whose size and digest are not known yet.
"""


class OpenFile(msgspec.Struct, frozen=True):
    """A body, and how it came about."""

    body: Body
    outcome: Outcome
    provisional: bool = False
    """Whether other bytes may follow under the same name, because nothing vouches for these yet."""
    growing: bool = False
    """Whether the size of the body is not known yet: it ends where reading ends."""


class DocumentBody(NamedTuple):
    """The content of a document; it may be newer than the document of which it was asked."""

    revision: str
    content: bytes


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A page of the format's own as its source has it; the content is read only when it is needed."""

    revision: str
    """Equal revisions, equal contents."""
    outcome: Outcome
    read: Callable[[], Awaitable[DocumentBody]]
    """Returns the content. Raises Unavailable, UpstreamError."""


Outdated = Callable[[Collection[str] | None], None]
"""Called with the projects that a source lists otherwise than before; None when any of them may be out of date."""


class SourceOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of an upstream as a source."""

    ages: Ages
    page_limit: int = 64 << 20
    """The largest page in bytes, decompressed, that is accepted; a format may allow less."""
    offline: bool = False
    """Ask nothing."""
    legacy_checksums: bool = False
    """List held files with our checksums where the index has none."""
    clock: Callable[[], float] = time.time
    flights: Flights | None = None
    """Those of the processes that share the store, if there are several: one of them asks for all."""


class Source(Protocol):
    """One origin of projects."""

    name: str
    local: bool
    """Whether its files are our own, so that it hides the same names elsewhere."""
    outdated: Outdated
    """Set by the repository that asks the source: called for changes that no call of `project` has returned."""

    precedes: bool
    """Set where sources are put in order: whether others follow, which may only have names that this one never had."""

    @property
    def projects(self) -> Container[str] | None:
        """The projects that it has or keeps the names of, where all are in memory: for others it need not be asked."""

    async def names(self, freshness: Freshness = Freshness.USUAL) -> NameListing:
        """Return all names. Raises Unavailable."""

    async def project(self, name: str, freshness: Freshness = Freshness.USUAL, known: str = "") -> Listing:
        """Return one project, by canonical name. Raises UnknownProject, Unavailable, UpstreamError.

        Raises ReservedName where it has none, and no other source may give one either.

        `known` is the revision of the project that the caller has.
        """

    async def open(
        self, project: str, file: File, wanted: Wanted = "whole", next_origin: NextOrigin | None = None
    ) -> OpenFile:
        """Return the bytes of a file that this source lists. Raises UnknownFile, Unavailable, UpstreamError.

        `next_origin` is where their transfer goes on, when this source fails in its middle.
        """

    async def holds(self, project: str, file: File) -> bool:
        """Return whether the bytes of a file that this source lists are here, delivered by it."""

    def origin(self, project: str, file: File) -> Origin | None:
        """Return where a file that this source lists can be fetched; None where its bytes can only be here."""

    async def sidecar(self, project: str, file: File) -> OpenFile:
        """Return the sidecar of a file that this source lists. Raises as `open`."""

    async def document(self, page: Page, freshness: Freshness = Freshness.USUAL) -> Document | None:
        """Return a page of a kind that is the format's own; None when the source has none."""

    def forget(self, project: str) -> None:
        """Drop what is in memory of a project ("" for the list of names): someone else has changed it."""

    async def close(self) -> None:
        """Stop what runs in the background."""


def join_revisions(parts: Iterable[NameListing | LoadedNames]) -> str:
    """Return the revision of what is made of the names of several sources."""
    return "\0".join(part.revision for part in parts)


def name_of_upstream(upstream: Upstream) -> str:
    """Return the name of an upstream as a source."""
    auth = upstream.options.auth
    return name_of(upstream.url, auth.username if auth else "")


def name_of(url: URL, username: str = "") -> str:
    """Return the name as a source of the upstream at a URL: another login may see other projects there."""
    return str(url.with_user(username or None))
