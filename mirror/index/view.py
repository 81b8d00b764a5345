"""What a repository shows at a moment: a project through policy, the same before policy, and all names."""

import logging
from collections.abc import Mapping

import msgspec

from mirror.errors import UpstreamProtocolError
from mirror.index.cache import Validity
from mirror.index.precedence import SourceChoice
from mirror.index.source import NameListing
from mirror.model import File, Outcome, Project
from mirror.policy import Policy, Verdict

logger = logging.getLogger(__name__)


class View(msgspec.Struct, frozen=True, kw_only=True):
    """A project as this repository shows it."""

    project: Project
    """With its visible files only."""
    files: Mapping[str, File]
    """Every file that may be fetched by its direct URL: the visible and the hidden ones, by name."""
    withheld: Mapping[str, Verdict]
    """File name → why it is not shown."""
    removed: frozenset[str]
    """Names of files that upstream has taken back; those that may be fetched are in `files`."""
    gone: bool
    """No source has the project any more: only removed files are left."""
    sources: tuple[str, ...]
    """The sources that contributed files, the winning one first."""
    inputs: Mapping[str, str]
    """The sources that it was made of, in their order, and the revision of what each has."""
    choice: SourceChoice
    """By which rule these sources answer for it."""
    revision: str
    """Equal revisions, equal views."""
    decided_until: float
    """Policy decides the same before this moment; a file's entry is good for as long, however old the page."""
    validity: Validity
    """Until when no source has to be asked; it ends when the view is replaced."""
    outcome: Outcome


class UnfilteredProject(msgspec.Struct, frozen=True, kw_only=True):
    """A project before policy has looked at it."""

    project: Project
    sources: tuple[str, ...]
    """Those that have it, in the order in which they count."""
    choice: SourceChoice
    removed: frozenset[str]
    """Names of files that upstream has taken back."""


class RepositoryNames(NameListing, frozen=True, kw_only=True):
    """The names of a repository."""

    validity: Validity
    """Until when no source has to be asked; it ends when the names change."""


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
