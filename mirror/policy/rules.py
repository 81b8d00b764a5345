"""The kinds of rule, as the configuration spells them, and what each of them has against a file.

    [[policy]]
    name = "rest"
    kind = "cooldown"                 # allow, deny, cooldown, files, size, known-bad
    reason = "New releases rest for three days."
    age = "3 days"
    exempt = [{ projects = ["acme-*"] }, { projects = ["numpy"], versions = "==2.4.1", until = 2026-09-01 }]

A rule says what *may not* come through, and nothing else: an exemption lifts the one rule in which it stands. The
surprise is `allow`: all the allow rules of a repository are together one list, and what none of them names is refused.
Rules know no ecosystem: what a version, a specifier or a wheel's platform means, they ask of a `Versions`.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Annotated, Literal, NamedTuple, Protocol, TypeVar

import msgspec

from mirror.errors import ConfigError
from mirror.model import File
from mirror.policy.osv import Advisory, OsvIndex, Severity
from mirror.policy.patterns import matches

Action = Literal["hide", "block"]
"""hide: off the pages, while direct URLs go on, so that locked installs do; block: off the pages, and refused."""
Unknown = Literal["allow", "hide"]
"""What becomes of a file about which the index does not say what the rule asks for."""

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=500)]
Patterns = Annotated[tuple[Text, ...], msgspec.Meta(min_length=1)]


class Versions(Protocol):
    """What policy has to know of an ecosystem; the modules `pypi.versions` and `rubygems.versions` are one each."""

    @property
    def ecosystem(self) -> str:
        """As OSV records spell it: `PyPI`, `RubyGems`."""

    def pattern(self, pattern: str) -> str:
        """A glob pattern on names, spelled as canonical names are."""

    def check(self, specifier: str) -> None:
        """Raises Invalid unless `specifier` is one."""

    def matches(self, specifier: str, version: str) -> bool:
        """Whether the specifier holds for the version, pre-releases included; what is no version matches none."""

    def key(self, version: str) -> tuple[object, ...]:
        """Sorts and equals as the ecosystem says; hashable; any string has one."""

    def kind(self, file: File) -> str:
        """`wheel`, `sdist`, `gem`, …: what sort of file it is, by its name."""

    def platforms(self, file: File) -> tuple[str, ...]:
        """The platforms that the file is only for; none for a file that runs on all."""


class Objection(NamedTuple):
    """What one rule has against a file."""

    until: float = math.inf
    """Seconds since the epoch: from then on it holds no longer."""
    detail: str = ""
    action: Action | None = None
    """Instead of the rule's own action."""


Objector = Callable[[File], Objection | None]


class Exemption(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For what a rule does not hold, and until when."""

    projects: Patterns
    versions: str = ""
    """A specifier; empty means every version."""
    until: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """From then on the rule holds; None: never."""


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """What all rules have."""

    name: Text
    reason: Text
    """Shown to whoever is refused."""
    repositories: Patterns = ("*",)
    projects: Patterns = ("*",)
    action: Action = "block"
    uploads: bool = False
    """Whether it holds for our own uploads too."""
    exempt: tuple[Exemption, ...] = ()

    @property
    def specifiers(self) -> tuple[str, ...]:
        """Every version specifier in the rule, to be checked."""
        return tuple(exemption.versions for exemption in self.exempt if exemption.versions)

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        """What judges the files of one project; None when the rule can have nothing against any of them."""
        raise NotImplementedError


class Named(Rule, frozen=True, kw_only=True):
    """A rule about projects, by name and version."""

    versions: str = ""
    """A specifier; empty means every version."""

    @property
    def specifiers(self) -> tuple[str, ...]:
        return (*super().specifiers, *([self.versions] if self.versions else []))

    def names(self, project: str, versions: Versions) -> Callable[[File], bool]:
        """Tells whether a file of that project is one that the rule names."""
        if not matches(self.projects, project):
            return lambda file: False
        if not self.versions:
            return lambda file: True
        return by_version(lambda version: versions.matches(self.versions, version))


class Deny(Named, frozen=True, kw_only=True, tag="deny"):
    """Named files are refused."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        names = self.names(project, versions)
        return lambda file: Objection() if names(file) else None


class Allow(Named, frozen=True, kw_only=True, tag="allow"):
    """Named files are on the list. As soon as a repository has one such rule, what is on no list is refused."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        names = self.names(project, versions)
        return lambda file: None if names(file) else Objection()


class Cooldown(Rule, frozen=True, kw_only=True, tag="cooldown"):
    """Files younger than `age` are refused; age counts from the upload at the upstream."""

    age: timedelta
    unknown: Unknown = "hide"
    """Files whose upload time is not known."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        age = self.age.total_seconds()
        ageless = Objection(detail="its upload time is not known", action="hide") if self.unknown == "hide" else None
        return lambda file: Objection(file.uploaded.timestamp() + age) if file.uploaded else ageless


class FileKinds(Rule, frozen=True, kw_only=True, tag="files"):
    """Only some kinds of file, only files for some platforms. Files that run on every platform always pass."""

    kinds: tuple[Text, ...] = ()
    """`wheel`, `sdist`, `gem`, …; empty means every kind."""
    platforms: tuple[Text, ...] = ()
    """Patterns on wheel platform tags or gem platforms; empty means every platform."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        def judge(file: File) -> Objection | None:
            if self.kinds and (kind := versions.kind(file)) not in self.kinds:
                return Objection(detail=f"kind {kind}")
            platforms = versions.platforms(file) if self.platforms else ()
            if platforms and not any(matches(self.platforms, platform) for platform in platforms):
                return Objection(detail=f"platform {', '.join(platforms)}")
            return None

        return judge


class Size(Rule, frozen=True, kw_only=True, tag="size"):
    """Files larger than `largest` bytes are refused."""

    largest: Annotated[int, msgspec.Meta(ge=0)]
    unknown: Unknown = "allow"
    """Files whose size the index does not say: every gem, until we hold it."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        sizeless = Objection(detail="its size is not known", action="hide") if self.unknown == "hide" else None

        def judge(file: File) -> Objection | None:
            if file.size is None:
                return sizeless
            return Objection(detail=f"{file.size} bytes") if file.size > self.largest else None

        return judge


class KnownBad(Rule, frozen=True, kw_only=True, tag="known-bad"):
    """Versions about which a folder of OSV records says that they are malicious, or vulnerable enough."""

    folder: Text
    ids: tuple[Text, ...] = ("MAL-*",)
    """Patterns on the ids (and aliases) of records that count whatever their severity."""
    severities: tuple[Severity, ...] = ()
    """Records of these severities count too; `unknown` is one."""
    ignore: tuple[Text, ...] = ()
    """Patterns on the ids (and aliases) of records that never count."""

    def objector(self, project: str, versions: Versions, advisories: Mapping[str, OsvIndex]) -> Objector | None:
        counting = [
            record for record in advisories[self.folder].about(versions.ecosystem, project) if self._counts(record)
        ]
        if not counting:
            return None

        def judge(version: str) -> Objection | None:
            found = sorted({record.id for record in counting if record.affects(version, versions.key)})
            return Objection(detail=", ".join(found[:5])) if found else None

        return by_version(judge)

    def _counts(self, record: Advisory) -> bool:
        ids = (record.id, *record.aliases)
        if any(matches(self.ignore, one) for one in ids):
            return False
        return record.severity in self.severities or any(matches(self.ids, one) for one in ids)


AnyRule = Allow | Deny | Cooldown | FileKinds | Size | KnownBad


T = TypeVar("T")


def by_version(judge: Callable[[str], T]) -> Callable[[File], T]:
    """Judge a file by its version alone, each version once."""
    known = cache(judge)
    return lambda file: known(file.version)


def rules_from(config: Sequence[Mapping[str, object]], where: str = "policy") -> tuple[AnyRule, ...]:
    """The rules that the configuration's `[[policy]]` tables describe, in their order.

    `where` is what a message calls the place. Raises ConfigError for what is unknown, missing, of the wrong type, or
    named twice. Specifiers are checked when the repository is known: by `policy_for`.
    """
    rules: list[AnyRule] = []
    for number, table in enumerate(config, start=1):
        place = f"{where}, rule {number}" + (f" ({table['name']!r})" if "name" in table else "")
        try:
            rule = rule_from(table)
        except ConfigError as error:
            raise ConfigError(f"{place}: {error}") from None
        if any(rule.name == other.name for other in rules):
            raise ConfigError(f"{place}: another rule has the same name.")
        rules.append(rule)
    return tuple(rules)


def rule_from(table: Mapping[str, object]) -> AnyRule:
    """One rule, as `rules_from`; what it raises does not say where the table stands."""
    try:
        rule: AnyRule = msgspec.convert(_readable(table), AnyRule)
    except (msgspec.ValidationError, ValueError) as error:
        raise ConfigError(f"{error}.") from None
    if not (rule.name.isprintable() and rule.reason.isprintable()):
        raise ConfigError("name and reason are one line of text each.")
    return rule


def _readable(table: Mapping[str, object]) -> dict[str, object]:
    """The table with durations, sizes and dates as people write them made into values."""
    plain = dict(table)
    if isinstance(age := plain.get("age"), str):
        plain["age"] = duration(age)
    if isinstance(largest := plain.get("largest"), str):
        plain["largest"] = size(largest)
    if isinstance(exemptions := plain.get("exempt"), list | tuple):
        plain["exempt"] = [
            {**one, "until": _midnight(one["until"])} if isinstance(one, Mapping) and "until" in one else one
            for one in exemptions
        ]
    return plain


def _midnight(until: object) -> object:
    """A date without a time is its first moment, UTC; anything else is left as it is."""
    if isinstance(until, str) and len(until) == len("2026-09-01"):
        until = date.fromisoformat(until)
    if isinstance(until, date) and not isinstance(until, datetime):
        return datetime(until.year, until.month, until.day, tzinfo=UTC)
    return until


_UNITS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800}
_SHORT = {unit[0]: unit for unit in _UNITS}
_SIZES = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "ki": 2**10, "mi": 2**20, "gi": 2**30}


def duration(text: str) -> timedelta:
    """`3 days`, `36 h`, `1 week`. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,6})\s*([a-z]+?)s?\s*", text)
    unit = found and (_SHORT.get(found[2]) or found[2])
    if not found or unit not in _UNITS:
        raise ValueError(f"{text!r} is no duration: write it as '3 days' or '36 h'")
    return timedelta(seconds=int(found[1]) * _UNITS[unit])


def size(text: str) -> int:
    """`200 MB`, `2 GiB`, in bytes. Raises ValueError."""
    found = re.fullmatch(r"\s*(\d{1,15})\s*([kmg]i?)?b?\s*", text.lower())
    if not found:
        raise ValueError(f"{text!r} is no size: write it as '200 MB' or '2 GiB'")
    return int(found[1]) * _SIZES[found[2] or ""]
