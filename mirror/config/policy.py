"""[[policy]] and [policies]: what may come through.

Here the tables only get their types: which keys a kind of rule has, and whether a specifier is one, is for
`mirror.policy` to say, which knows the rules, and the ecosystems to ask.
"""

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field
from pydantic_settings import NoDecode

from mirror.config.section import Section
from mirror.config.values import Duration, FilePath, Patterns, Size, listed

Words = Annotated[tuple[str, ...], NoDecode, BeforeValidator(listed)]
Line = Annotated[str, Field(min_length=1, max_length=500)]

LONGEST = 100 * 365 * 86400.0
"""The longest age in seconds; what "forever" means here."""


def _with_zone(value: datetime) -> datetime:
    return value if value.tzinfo else value.replace(tzinfo=UTC)


class ExemptionSettings(Section):
    """For what a rule does not hold, and until when."""

    projects: Patterns
    """Names or patterns."""
    versions: str | None = None
    """A version specifier; without it, every version."""
    until: Annotated[datetime, AfterValidator(_with_zone)] | None = None
    """When the exemption ends: a date, or a date with a time; UTC unless it says otherwise. Without it, never."""


class RuleSettings(Section):
    """[[policy]]: one rule. A key without a default belongs to the kinds of rule that its text names."""

    name: Line
    """What explanations and refusals call the rule."""
    kind: Literal["allow", "deny", "cooldown", "files", "size", "known-bad"]
    """allow and deny: by name and version. cooldown: files rest for a while. files: by kind and platform. size.
    known-bad: what a folder of OSV records reports."""
    reason: Line
    """Shown to whoever is refused."""
    repositories: Patterns = ("*",)
    """In which repositories; names or patterns."""
    projects: Patterns = ("*",)
    """For which projects; names or patterns."""
    action: Literal["hide", "block"] = "block"
    """hide: off the pages, while direct URLs go on, so that locked installs do. block: refused as well."""
    uploads: bool = False
    """Whether the rule holds for uploads too."""
    exempt: tuple[ExemptionSettings, ...] = ()
    """[[policy.exempt]]: for what the rule does not hold."""
    versions: str | None = None
    """allow, deny: a version specifier; without it, every version."""
    age: Duration | None = None
    """cooldown: how old a file must be, counted from its upload at the upstream."""
    unknown: Literal["allow", "hide"] | None = None
    """cooldown, size: what becomes of a file whose upload time ("hide" without this) or size ("allow") is not known."""
    kinds: Words | None = None
    """files: the kinds that may come: "wheel", "sdist", "gem"."""
    platforms: Words | None = None
    """files: patterns on the platforms that may come; what runs on all of them always may."""
    largest: Size | None = None
    """size: the most bytes that a file may have."""
    folder: FilePath | None = None
    """known-bad: where the OSV records are, one JSON file each, at any depth. It is looked at again and again."""
    ids: Words | None = None
    """known-bad: patterns on the ids of records that count whatever their severity; "MAL-*" without this."""
    severities: Words | None = None
    """known-bad: records of these severities count too: "unknown", "low", "medium", "high", "critical"."""
    ignore: Words | None = None
    """known-bad: patterns on the ids of records that never count."""

    def table(self) -> dict[str, Any]:
        """What the file says, as `mirror.policy.rules_from` takes it."""
        table = self.model_dump(exclude_none=True, exclude_unset=True)
        if self.folder is not None:
            table["folder"] = str(self.folder)
        if self.age is not None:
            table["age"] = timedelta(seconds=min(self.age, LONGEST))
        return table


class PoliciesSettings(Section):
    """[policies]: what becomes of files when upstream changes its mind, and how often OSV folders are looked at."""

    removed: Literal["keep", "hide", "block"] = "hide"
    """Files that we hold and upstream lists no more. keep: on the pages as before; hide: off the pages, while direct
    URLs go on; block: refused."""
    quarantined: Literal["keep", "hide", "block"] = "block"
    """The files of a project that upstream has put in quarantine."""
    records_every: Duration = 300
    """How often the folders of OSV records are looked at for changes."""
