"""[[policy]] and [policies]: what the mirror lets through.

A rule is one table, and these classes are the rules: `mirror.policy` reads them as they are. Whether a version
specifier is valid depends on the ecosystem of the repository, so `mirror.policy` checks that.
"""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, StringConstraints, model_validator

from mirror.config.values import Duration, FilePath, Patterns, Section, Size, Time, WordList, listed
from mirror.model import Severity

RuleKind = Literal["allow", "deny", "cooldown", "files", "size", "known-bad"]
Action = Literal["hide", "block"]
"""hide: off the pages, while direct URLs still work, so that locked installs do; block: refused as well."""
Reaction = Literal["keep", "hide", "block"]


def _one_line(value: str) -> str:
    if not value.isprintable():
        raise ValueError("should be one line of text")
    return value


Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_one_line)]
Word = Annotated[str, StringConstraints(min_length=1, max_length=500)]
Words = Annotated[tuple[Word, ...], WordList, BeforeValidator(listed)]
Severities = Annotated[tuple[Severity, ...], WordList, BeforeValidator(listed)]
SomePatterns = Annotated[Patterns, Field(min_length=1)]


class ExemptionSettings(Section):
    """[[policy.exempt]]: projects to which a rule does not apply, and until when."""

    projects: SomePatterns
    """Names or patterns."""
    versions: str | None = None
    """A version specifier; without it, every version."""
    until: Time | None = None
    """When the exemption ends: a date, or a date with a time; UTC unless it has a zone. Without it, never."""


class RuleSettings(Section):
    """[[policy]]: one rule. A key without a default belongs to the kinds of rule that its text names."""

    name: Line
    """The rule's name in explanations and refusals."""
    kind: RuleKind
    """allow and deny: by name and version. cooldown: files rest for a while. files: by kind and platform. size.
    known-bad: what a folder of OSV records reports."""
    reason: Line
    """Shown to a client that is refused."""
    repositories: SomePatterns = ("*",)
    """In which repositories; names or patterns."""
    projects: SomePatterns = ("*",)
    """For which projects; names or patterns."""
    action: Action = "block"
    """hide: off the pages, while direct URLs still work, so that locked installs do. block: refused as well."""
    uploads: bool = False
    """Whether the rule applies to uploads too."""
    exempt: tuple[ExemptionSettings, ...] = ()
    """[[policy.exempt]]: what the rule does not apply to."""
    versions: str | None = None
    """allow, deny: a version specifier; without it, every version."""
    age: Duration | None = None
    """cooldown: how old a file must be, counted from its upload at the upstream."""
    unknown: Literal["allow", "hide"] | None = None
    """cooldown, size: the treatment of a file whose upload time ("hide" without this) or size ("allow") is unknown."""
    kinds: Words | None = None
    """files: the kinds that are let through: "wheel", "sdist", "gem"."""
    platforms: Words | None = None
    """files: patterns on the platforms that are let through; a file that runs on all of them always is."""
    largest: Size | None = None
    """size: the largest file, in bytes."""
    folder: FilePath | None = None
    """known-bad: the folder of OSV records, one JSON file each, at any depth. It is read again when it changes."""
    ids: Words | None = None
    """known-bad: patterns on the ids of records that count whatever their severity; "MAL-*" without this."""
    severities: Severities | None = None
    """known-bad: records of these severities count too: "unknown", "low", "medium", "high", "critical"."""
    ignore: Words | None = None
    """known-bad: patterns on the ids of records that never count."""

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        for key in _KIND_KEYS & self.model_fields_set:
            if key not in _KEYS[self.kind]:
                raise ValueError(f"has `{key}`, which a rule of the kind {self.kind} does not have")
        for key in _REQUIRED.get(self.kind, ()):
            if getattr(self, key) is None:
                raise ValueError(f"has no `{key}`, which a rule of the kind {self.kind} needs")
        return self

    @property
    def specifiers(self) -> tuple[str, ...]:
        """Every version specifier in the rule."""
        return tuple(text for text in (*(one.versions for one in self.exempt), self.versions) if text)


_KEYS: Mapping[RuleKind, frozenset[str]] = {
    "allow": frozenset({"versions"}),
    "deny": frozenset({"versions"}),
    "cooldown": frozenset({"age", "unknown"}),
    "files": frozenset({"kinds", "platforms"}),
    "size": frozenset({"largest", "unknown"}),
    "known-bad": frozenset({"folder", "ids", "severities", "ignore"}),
}
_REQUIRED: Mapping[RuleKind, tuple[str, ...]] = {"cooldown": ("age",), "size": ("largest",), "known-bad": ("folder",)}
_KIND_KEYS = frozenset[str]().union(*_KEYS.values())


class PoliciesSettings(Section):
    """[policies]: files that the upstream removes or quarantines, and how often OSV folders are checked."""

    removed: Reaction | None = None
    """Files that are held and that upstream no longer lists. keep: on the pages as before; hide: off the pages, while
    direct URLs still work; block: refused. Without it, gems are kept, since bundler installs nothing from a lock that
    is off the pages, and files of Python are hidden."""
    yanked: Literal["hide", "serve"] = "hide"
    """Gems of our own that were yanked. hide: refused at their addresses, too; serve: off the pages, while direct URLs
    still work. Files of Python stay for exact pins (PEP 592), whatever this says."""
    quarantined: Reaction = "block"
    """The files of a project that upstream has put in quarantine."""
    records_every: Duration = 300
    """How often the folders of OSV records are checked for changes."""
