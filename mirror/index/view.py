"""What a repository shows at a moment: a project through policy, the same before policy, and all names."""

import logging
from collections.abc import Awaitable, Callable, Mapping

import msgspec

from mirror.errors import UpstreamProtocolError
from mirror.index.cache import Validity
from mirror.index.merge import merge
from mirror.index.name_rendering import RenderedNames
from mirror.index.precedence import SourceChoice
from mirror.index.source import Listing, NameListing
from mirror.model import File, Outcome, Project
from mirror.policy import Policy, Verdict

logger = logging.getLogger(__name__)


class ViewStamp(msgspec.Struct, frozen=True, kw_only=True):
    """The inputs of a view, and until when it is right: pages of it are kept under that, without the view."""

    inputs: Mapping[str, str]
    """The sources that it was made of, in their order, and the revision of what each has."""
    revision: str
    """Equal revisions, equal views."""
    decided_until: float
    """Policy decides the same before this moment; a file's entry is good for as long, however old the page."""
    gone: bool
    """No source has the project any more: only removed files are left."""
    empty: bool
    """No file is shown."""
    validity: Validity
    """Until when no source has to be asked; it ends when the view is replaced."""
    outcome: Outcome


class View(ViewStamp, frozen=True, kw_only=True):
    """A project as this repository shows it."""

    project: Project
    """With its visible files only."""
    files: Mapping[str, File]
    """Every file that may be fetched by its direct URL: the visible and the hidden ones, by name."""
    withheld: Mapping[str, Verdict]
    """File name → why it is not shown."""
    removed: frozenset[str]
    """Names of files that upstream has taken back; those that may be fetched are in `files`."""
    sources: tuple[str, ...]
    """The sources that contributed files, the winning one first."""
    choice: SourceChoice
    """By which rule these sources answer for it."""


class UnfilteredProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project before policy has looked at it."""

    project: Project
    sources: tuple[str, ...]
    """Those that have it, in the order in which they count."""
    choice: SourceChoice
    removed: frozenset[str]
    """Names of files that upstream has taken back."""


def unfiltered(listings: Mapping[str, Listing], choice: SourceChoice, removed: frozenset[str]) -> UnfilteredProject:
    """Return a project before policy, of the listings of its sources."""
    projects = [listing.project for listing in listings.values() if listing.project]
    project = merge(projects, union=len(listings) > 1).project
    return UnfilteredProject(project=project, sources=tuple(listings), choice=choice, removed=removed)


class RepositoryNames(NameListing, frozen=True, kw_only=True):
    """The names of a repository."""

    validity: Validity
    """Until when no source has to be asked; it ends when the names change."""
    render: Callable[[str, str], Awaitable[tuple[str, RenderedNames] | None]]
    """Returns the revision and the page of all names, rendered elsewhere by a function and compressed in a coding; None
    where they are better rendered here. Raises Unavailable, UpstreamError."""


def stand_in(name: str, known: View | None, policy: Policy, until: float, now: float, error: Exception) -> View:
    """Return the last view in place of one that cannot be made, for as long as this policy lets it stand.

    What is on a page is upstream's fault. Raises UpstreamProtocolError where there is none.
    """
    logger.error("the page of %s cannot be shown", name, exc_info=error)
    if known is None or now >= known.decided_until or f"\0{policy.digest}\0" not in known.revision:
        raise UpstreamProtocolError(
            f"The page of {name} has values that cannot be used ({type(error).__name__})."
        ) from error
    return msgspec.structs.replace(known, validity=Validity(min(until, known.decided_until)), outcome="stale")
