"""What each kind of rule objects to. Pure: the rules are settings, and `mirror.policy.verdicts` applies them.

    [[policy]]
    name = "rest"
    kind = "cooldown"                 # allow, deny, cooldown, files, size, known-bad
    reason = "New releases rest for three days."
    age = "3 days"
    exempt = [{ projects = ["acme-*"] }, { projects = ["numpy"], versions = "==2.4.1", until = 2026-09-01 }]

A rule describes what *may not* come through, and nothing else: an exemption lifts only the rule that contains it. The
surprise is `allow`: all the allow rules of a repository are together one list, and what none of them names is refused.
Rules know no ecosystem: they ask a `Versions` what a version, a specifier or a wheel's platform means.
"""

import fnmatch
import math
import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

from mirror.model import File
from mirror.policy.osv import Advisory, OsvIndex

if TYPE_CHECKING:
    from mirror.config.policy import Action, RuleSettings  # an isolated process does without its parser

T = TypeVar("T")

LONGEST_AGE_SECONDS = 100 * 365 * 86400.0
"""The longest cooldown; what "forever" means here."""


class Versions(Protocol):
    """Versions and files of an ecosystem, for policy; `pypi.versions` and `rubygems.versions` are the two."""

    @property
    def ecosystem(self) -> str:
        """The ecosystem's name in OSV records: `PyPI`, `RubyGems`."""

    @property
    def locks_need_pages(self) -> bool:
        """Whether installs from a lock file need the version on its page, so that what is hidden breaks them."""

    @property
    def yanked_files_go(self) -> bool:
        """Whether a yanked file is not to be had any more; else it stays for those who name it (PEP 592)."""

    def pattern(self, pattern: str) -> str:
        """Return a glob pattern on names in the spelling of canonical names."""

    def check(self, specifier: str) -> None:
        """Check a version specifier. Raises Invalid."""

    def matches(self, specifier: str, version: str) -> bool:
        """Return whether a version satisfies a specifier, pre-releases included; an invalid version never does."""

    def key(self, version: str) -> tuple[object, ...]:
        """Return a hashable key that orders versions as the ecosystem does; any string has one."""

    def kind(self, file: File) -> str:
        """Return the kind of a file, by its name: `wheel`, `sdist`, `gem`, …"""

    def platforms(self, file: File) -> tuple[str, ...]:
        """Return the platforms to which a file is limited; none for a file that runs on all."""


@lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Return whether any of the glob patterns matches the whole name; no patterns match nothing.

    Case matters: patterns from the settings are first brought into the spelling of canonical names
    (`Versions.pattern`), since `Acme_*` would never match anything.
    """
    return bool(patterns) and _compiled(patterns).match(name) is not None


class Objection(NamedTuple):
    """The objection of a rule to a file, without regard to its exemptions."""

    until: float = math.inf
    """Seconds since the epoch at which it ends."""
    detail: str = ""
    """What is added to the rule's reason."""
    action: "Action | None" = None
    """Replaces the rule's own action."""


Objector = Callable[[File], Objection | None]


def objector(
    rule: "RuleSettings", project: str, versions: Versions, advisories: Mapping[str, OsvIndex]
) -> Objector | None:
    """Return the function that examines files of one project; None when the rule cannot object to any of them."""
    match rule.kind:
        case "deny":
            names = _names(rule, project, versions)
            return lambda file: Objection() if names(file) else None
        case "allow":
            names = _names(rule, project, versions)
            return lambda file: None if names(file) else Objection()
        case "cooldown":
            return _cooldown(rule)
        case "files":
            return _files(rule, versions)
        case "size":
            return _size(rule)
        case "known-bad":
            return _known_bad(rule, advisories[str(rule.folder)].about(versions.ecosystem, project), versions)


def by_version(function: Callable[[str], T]) -> Callable[[File], T]:
    """Make a function of files from one of versions, which is called once for each version."""
    cached = cache(function)
    return lambda file: cached(file.version)


def _names(rule: "RuleSettings", project: str, versions: Versions) -> Callable[[File], bool]:
    """Return whether a rule (allow, deny) names a file of the project."""
    specifier = rule.versions
    if not matches(rule.projects, project):
        return lambda file: False
    if not specifier:
        return lambda file: True
    return by_version(lambda version: versions.matches(specifier, version))


def _cooldown(rule: "RuleSettings") -> Objector:
    """Object to files younger than `age`, counted from the upload at the upstream."""
    age = min(rule.age or 0, LONGEST_AGE_SECONDS)
    ageless = None if rule.unknown == "allow" else Objection(detail="its upload time is not known", action="hide")
    return lambda file: Objection(file.uploaded.timestamp() + age) if file.uploaded else ageless


def _files(rule: "RuleSettings", versions: Versions) -> Objector:
    """Object to other kinds and other platforms than the rule lists. Files for all platforms always pass."""
    allowed_kinds, allowed_platforms = rule.kinds or (), rule.platforms or ()

    def examine(file: File) -> Objection | None:
        if allowed_kinds and (kind := versions.kind(file)) not in allowed_kinds:
            return Objection(detail=f"kind {kind}")
        platforms = versions.platforms(file) if allowed_platforms else ()
        if platforms and not any(matches(allowed_platforms, platform) for platform in platforms):
            return Objection(detail=f"platform {', '.join(platforms)}")
        return None

    return examine


def _size(rule: "RuleSettings") -> Objector:
    """Object to files of more than `largest` bytes. The size of a gem is unknown until it is held."""
    largest = rule.largest or 0
    sizeless = Objection(detail="its size is not known", action="hide") if rule.unknown == "hide" else None

    def examine(file: File) -> Objection | None:
        if file.size is None:
            return sizeless
        return Objection(detail=f"{file.size} bytes") if file.size > largest else None

    return examine


def _known_bad(rule: "RuleSettings", advisories: tuple[Advisory, ...], versions: Versions) -> Objector | None:
    """Object to versions that records report as malicious, or as vulnerable enough."""
    counting = [advisory for advisory in advisories if _counts(rule, advisory)]
    if not counting:
        return None

    def examine(version: str) -> Objection | None:
        found = sorted({advisory.id for advisory in counting if advisory.affects(version, versions.key)})
        return Objection(detail=", ".join(found[:5])) if found else None

    return by_version(examine)


def _counts(rule: "RuleSettings", advisory: Advisory) -> bool:
    """Return whether the rule takes a record into account, by its id, its aliases or its severity."""
    ids = (advisory.id, *advisory.aliases)
    if any(matches(rule.ignore or (), one) for one in ids):
        return False
    malicious = ("MAL-*",) if rule.ids is None else rule.ids
    return advisory.severity in (rule.severities or ()) or any(matches(malicious, one) for one in ids)
