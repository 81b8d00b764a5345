"""What a source is, and what it answers with."""

from typing import Protocol

import msgspec
from yarl import URL

from mirror.index.freshness import Freshness
from mirror.model import Body, File, Names, Outcome, Page, Project, UpstreamResponse


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


class OpenFile(msgspec.Struct, frozen=True):
    """A body, and how it came about."""

    body: Body
    outcome: Outcome


class Document(UpstreamResponse, frozen=True, kw_only=True):
    """A page of the format's own as its source wrote it, and how it came about."""

    outcome: Outcome = "hit"


class Source(Protocol):
    """One origin of projects."""

    name: str
    local: bool
    """Whether its files are our own, so that it hides the same names elsewhere."""

    async def names(self, demand: Freshness = Freshness.USUAL) -> NameListing:
        """All names. Raises Unavailable."""

    async def project(self, name: str, demand: Freshness = Freshness.USUAL) -> Listing:
        """One project, by canonical name. Raises UnknownProject, Unavailable."""

    async def open(self, project: str, file: File) -> OpenFile:
        """The bytes of a file that this source lists. Raises UnknownFile, Unavailable, UpstreamError."""

    async def sidecar(self, project: str, file: File) -> OpenFile:
        """The sidecar of a file that this source lists. Raises as `open`."""

    async def document(self, page: Page, demand: Freshness = Freshness.USUAL) -> Document | None:
        """A page of a kind that is the format's own, as upstream wrote it; None when the source has none."""

    async def close(self) -> None:
        """Stop what runs behind."""


def name_of(url: URL, username: str = "") -> str:
    """The name of an upstream as a source: whoever logs in as somebody else may see other projects at the same URL."""
    return str(url.with_user(username or None))
