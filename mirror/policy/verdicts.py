"""Rules → a verdict for each file, with its reason, and when the verdict next changes by itself. Pure.

Every rule that concerns a project is applied, and the strictest result counts: block, then hide, then visible. So the
order in which rules are written never opens anything: it only decides which of two equally strict rules is named.

    deny   requests <2.32          block        requests 2.31, uploaded yesterday: blocked by `deny`, as both object and
    rest   cooldown of 3 days      block        it is written first. requests 2.33, uploaded yesterday: blocked by
                                                `rest`, and visible from the second on that it is three days old.

*visible* is on the pages and served; *hidden* is off the pages, but its direct URL still works, so that installs from
a lock file do; *blocked* is off the pages and refused. A verdict is valid from the moment it was made to just before
`until`; at `until` itself the next one is. Nothing here adds a file or changes one.
"""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, date, datetime, time
from hashlib import sha256
from typing import TYPE_CHECKING, Literal, NamedTuple

import msgspec

from mirror.errors import Blocked, ConfigError, Invalid, UnknownFile
from mirror.model import File, Project
from mirror.policy.osv import OsvIndex
from mirror.policy.rules import Objector, Versions, by_version, matches, objector

if TYPE_CHECKING:
    from mirror.config.policy import (  # an isolated process does without its parser
        Action,
        ExemptionSettings,
        Reaction,
        RuleSettings,
    )

State = Literal["visible", "hidden", "blocked"]
_STATES: "dict[Action, State]" = {"hide": "hidden", "block": "blocked"}


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """The policy of one repository; made by `policy_for`."""

    repository: str
    versions: Versions
    rules: "tuple[RuleSettings, ...]" = ()
    """The rules that apply to the repository, without the allow rules."""
    allow_rules: "tuple[RuleSettings, ...]" = ()
    """Together they are one list; without any, everything is let through."""
    removed: "Reaction" = "hide"
    """The treatment of held files that upstream no longer lists."""
    blocks_yanked: bool = False
    """Whether files of our own are refused once they are yanked."""
    quarantined: "Reaction" = "block"
    """The treatment of projects that upstream has put in quarantine (PEP 792)."""
    advisories: Mapping[str, OsvIndex] = {}
    """The records of each folder that a known-bad rule names."""
    digest: str = ""
    """The digest of everything that a verdict depends on, except the project and the time."""


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """The treatment of one file, and why."""

    file: File
    state: State = "visible"
    rule: str = ""
    reason: str = ""
    until: float | None = None
    """Seconds since the epoch: the first moment with another verdict; None when it never changes by itself."""


class FilterResult(msgspec.Struct, frozen=True, kw_only=True):
    """A project as policy shows it."""

    project: Project
    """The project with only its visible files."""
    withheld: Mapping[str, Verdict] = {}
    """File name → why it is not visible."""
    changes_at: float | None = None
    """Seconds since the epoch: the first moment with another result; None when it never changes by itself."""

    def file(self, filename: str) -> File:
        """Return the file for a direct URL, visible or hidden. Raises Blocked or UnknownFile."""
        if verdict := self.withheld.get(filename):
            if verdict.state == "blocked":
                raise Blocked(filename, verdict.rule, verdict.reason)
            return verdict.file
        if file := self.project.file(filename):
            return file
        raise UnknownFile(self.project.name, filename)


def policy_for(
    repository: str,
    rules: "Sequence[RuleSettings]",
    versions: Versions,
    *,
    advisories: Mapping[str, OsvIndex] | None = None,
    removed: "Reaction | None" = None,
    quarantined: "Reaction" = "block",
    serves_yanked: bool = False,
) -> Policy:
    """Return the policy of one repository, with patterns and specifiers checked for its ecosystem.

    `advisories` has every folder that a known-bad rule of this repository names. Without `removed`, what upstream no
    longer lists is hidden where locked installs go on without its page. Raises ConfigError.
    """
    removed = removed or ("keep" if versions.locks_need_pages else "hide")
    blocks_yanked = versions.yanked_files_go and not serves_yanked
    mine = [_with_canonical_patterns(rule, versions) for rule in rules if matches(rule.repositories, repository)]
    for rule in mine:
        for specifier in rule.specifiers:
            try:
                versions.check(specifier)
            except Invalid as error:
                raise ConfigError(f"Policy rule {rule.name!r}, in repository {repository!r}: {error}") from None
    loaded = {folder: index for folder, index in (advisories or {}).items() if folder in osv_folders(mine)}
    if missing := [folder for folder in osv_folders(mine) if folder not in loaded]:
        raise ConfigError(f"The OSV folder {missing[0]!r} of a policy rule has not been read.")
    facts = (versions.ecosystem, [rule.model_dump_json() for rule in mine], removed, quarantined, blocks_yanked)
    content = {folder: index.digest for folder, index in sorted(loaded.items())}
    return Policy(
        repository=repository,
        versions=versions,
        rules=tuple(rule for rule in mine if rule.kind != "allow"),
        allow_rules=tuple(rule for rule in mine if rule.kind == "allow"),
        removed=removed,
        quarantined=quarantined,
        blocks_yanked=blocks_yanked,
        advisories=loaded,
        digest=sha256(msgspec.json.encode((*facts, content))).hexdigest(),
    )


def concerns(policy: Policy, name: str) -> bool:
    """Return whether any rule may object to a file of the project."""
    return bool(_judges(policy, Project(name=name), (), -math.inf))


def named_projects(policy: Policy) -> frozenset[str]:
    """Return the projects that rules name without a pattern, or that their records report."""
    patterns = {pattern for rule in (*policy.rules, *policy.allow_rules) for pattern in rule.projects}
    reported = {
        name
        for index in policy.advisories.values()
        for ecosystem, name in index.projects
        if ecosystem == policy.versions.ecosystem
    }
    return frozenset(reported | {pattern for pattern in patterns if not set(pattern) & set("*?[")})


def osv_folders(rules: "Sequence[RuleSettings]") -> tuple[str, ...]:
    """Return the folders of OSV records that the rules name, each once."""
    return tuple(dict.fromkeys(str(rule.folder) for rule in rules if rule.folder is not None))


def _with_canonical_patterns(rule: "RuleSettings", versions: Versions) -> "RuleSettings":
    """Return the rule with its patterns in the spelling of canonical names."""

    def canonical(patterns: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(versions.pattern(pattern) for pattern in patterns)

    exempt = tuple(one.model_copy(update={"projects": canonical(one.projects)}) for one in rule.exempt)
    return rule.model_copy(update={"projects": canonical(rule.projects), "exempt": exempt})


def apply(policy: Policy, project: Project, now: float, *, removed: Collection[str] = frozenset()) -> FilterResult:
    """Return what of the project is visible at `now` (seconds since the epoch).

    `removed` names the files of `project` that are held and that upstream no longer lists. A project to which no rule
    applies is returned as the same object.
    """
    judges = _judges(policy, project, removed, now)
    if not judges:
        return FilterResult(project=project)
    visible: list[File] = []
    withheld: dict[str, Verdict] = {}
    changes_at = math.inf
    for file in project.files:
        claims = [claim for judge in judges if (claim := judge(file))]
        if not claims:
            visible.append(file)
            continue
        verdict = _verdict(file, claims, now)
        if verdict.state == "visible":
            visible.append(file)
        else:
            withheld[file.filename] = verdict
        if verdict.until is not None:
            changes_at = min(changes_at, verdict.until)
    return FilterResult(
        project=keep_files(project, visible, policy.versions),
        withheld=withheld,
        changes_at=None if changes_at == math.inf else changes_at,
    )


def verdict(policy: Policy, project: Project, file: File, now: float, *, removed: bool = False) -> Verdict:
    """Return the verdict on one file of the project at `now`."""
    judges = _judges(policy, project, {file.filename} if removed else (), now)
    return _verdict(file, [claim for judge in judges if (claim := judge(file))], now)


def keep_files(project: Project, files: Sequence[File], versions: Versions) -> Project:
    """Return the project with only these of its files, and with only the versions that have one of them."""
    if len(files) == len(project.files):
        return project
    shown = {file.version for file in files}
    known = {file.version for file in project.files}
    keys = {versions.key(version) for version in shown}

    def stays(version: str) -> bool:
        # the list of versions may spell a version in another way than its files do
        return version in shown or (version not in known and versions.key(version) in keys)

    return msgspec.structs.replace(project, files=tuple(files), versions=tuple(filter(stays, project.versions)))


class _Claim(NamedTuple):
    """An objection to a file with the exemptions applied: in force over [since, until)."""

    since: float
    until: float
    state: State
    rule: str
    reason: str
    detail: str


_Judge = Callable[[File], _Claim | None]
"""Returns what one rule claims about a file now or later; None for nothing, or when it has ended."""


def _judges(policy: Policy, project: Project, removed: Collection[str], now: float) -> list[_Judge]:
    """Return a judge for each rule that applies to a project; of equally strict ones the first is named."""
    judges = [
        _judge(rule, objects, project.name, policy.versions, now)
        for rule in policy.rules
        if matches(rule.projects, project.name)
        and (objects := objector(rule, project.name, policy.versions, policy.advisories))
    ]
    if policy.allow_rules:
        judges.append(_not_allowed(policy, project.name, now))
    if project.status == "quarantined" and policy.quarantined != "keep":
        judges.append(_by_upstream("quarantined", "The project is in quarantine upstream.", policy.quarantined))
    if removed and policy.removed != "keep":
        judges.append(_by_upstream("removed", "Upstream no longer lists the file.", policy.removed, removed))
    if policy.blocks_yanked and any(file.yanked is not None for file in project.files):
        claim = _Claim(-math.inf, math.inf, "blocked", "yanked", "It was yanked.", "")
        judges.append(lambda file: claim if file.yanked is not None and _uploaded(file) else None)
    return judges


def _judge(rule: "RuleSettings", objects: Objector, project: str, versions: Versions, now: float) -> _Judge:
    """Return the judge of a rule, its exemptions included."""
    exempt = [one for one in rule.exempt if matches(one.projects, project)]
    exempts_uploads = not rule.uploads
    exempt_until = by_version(
        lambda version: max((_exempt_until(one, version, versions) for one in exempt), default=-math.inf)
    )

    def judge(file: File) -> _Claim | None:
        objection = objects(file)
        if objection is None or objection.until <= now or (exempts_uploads and _uploaded(file)):
            return None
        since = exempt_until(file) if exempt else -math.inf
        state = _STATES[objection.action or rule.action]
        return _Claim(since, objection.until, state, rule.name, rule.reason, objection.detail)

    return judge


def _exempt_until(exemption: "ExemptionSettings", version: str, versions: Versions) -> float:
    """Return until when a version is exempt; -inf when it is not."""
    if exemption.versions and not versions.matches(exemption.versions, version):
        return -math.inf
    return math.inf if exemption.until is None else exemption.until.timestamp()


def _not_allowed(policy: Policy, project: str, now: float) -> _Judge:
    """Return the judge of files that no allow rule names."""
    judges = [
        _judge(rule, objects, project, policy.versions, now)
        for rule in policy.allow_rules
        if (objects := objector(rule, project, policy.versions, policy.advisories))
    ]

    def judge(file: File) -> _Claim | None:
        claims = [judge(file) for judge in judges]
        against = [claim for claim in claims if claim is not None]
        if len(against) < len(claims):
            return None
        # on the list for as long as any of the rules has it there
        return against[0]._replace(since=max(claim.since for claim in against))

    return judge


def _by_upstream(rule: str, reason: str, action: "Action", filenames: Collection[str] | None = None) -> _Judge:
    """Return the judge of what the upstream has done to a project, or to some of its files."""
    claim = _Claim(-math.inf, math.inf, _STATES[action], rule, reason, "")
    return lambda file: None if _uploaded(file) or (filenames is not None and file.filename not in filenames) else claim


def _uploaded(file: File) -> bool:
    return not file.url  # model.File: only a file of our own has no URL at an upstream


def _verdict(file: File, claims: Sequence[_Claim], now: float) -> Verdict:
    claim = _strictest(claims, now)
    moments = sorted({moment for one in claims for moment in (one.since, one.until) if now < moment < math.inf})
    until = next((moment for moment in moments if _strictest(claims, moment) is not claim), None)
    if claim is None:
        return Verdict(file=file, until=until)
    detail = claim.detail or ("" if claim.until == math.inf else f"until {format_time(claim.until)}")
    reason = f"{claim.reason} ({detail})" if detail else claim.reason
    return Verdict(file=file, state=claim.state, rule=claim.rule, reason=reason, until=until)


def _strictest(claims: Sequence[_Claim], moment: float) -> _Claim | None:
    """Return the strictest claim at a moment; of equally strict ones, the first."""
    holding = [claim for claim in claims if claim.since <= moment < claim.until]
    return next((claim for claim in holding if claim.state == "blocked"), holding[0] if holding else None)


_LAST = datetime.max.replace(tzinfo=UTC).timestamp() - 1


def format_time(moment: float) -> str:
    """Format a moment for people: `2026-08-04T10:00:00Z`."""
    return datetime.fromtimestamp(min(moment, _LAST), UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def as_of(project: Project, moment: datetime, versions: Versions) -> Project:
    """Return the project with only the files that were uploaded at or before the moment, and with their versions.

    This is a filter, not a memory: what upstream has deleted since does not come back, and a file counts as yanked if
    it is yanked today. A file whose upload time is not known is left out.
    """
    return keep_files(project, [file for file in project.files if file.uploaded and file.uploaded <= moment], versions)


def parse_moment(text: str) -> datetime:
    """Parse `2026-08-01` (the end of that day, UTC) or `2026-08-01T12:00:00Z`, a time with its zone. Raises Invalid."""
    try:
        if len(text) == len("2026-08-01"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        found = datetime.fromisoformat(text) if len(text) <= 40 else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid("A date is written as 2026-08-01, or with a time and its zone as 2026-08-01T12:00:00Z.")
    return found
