"""Who may do what: a pure decision over rules, grants and names.

What everyone may, anybody may, whatever they show; beyond that, a rule or a grant of one's own has to say so, and a
token never reaches past its limits. For each right the first rule decides that fits the repository and the project and
speaks of that right; where none does, everyone may read and nobody else may do anything. Whoever may change a project
may read it. What surprises: `admin` is every right there is, and deleting is a part of it, since a name that is deleted
is gone for ever.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import get_args

import msgspec

from mirror.model import Grant, Names, Right
from mirror.policy import matches

EVERYONE = "everyone"
AUTHENTICATED = "authenticated"
RIGHTS: tuple[Right, ...] = get_args(Right)
IMPLIED_BY: Mapping[Right, tuple[Right, ...]] = {
    "read": RIGHTS,
    "upload": ("upload", "admin"),
    "yank": ("yank", "admin"),
    "admin": ("admin",),
}
"""Right → the rights of which each includes it."""

ALL = ("*",)

Spelling = Callable[[str], str]
Chain = tuple[tuple[tuple[str, ...], bool], ...]
"""Patterns of project names, and whether they are allowed; the first that match decide."""


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """Who has which rights on some projects. A right that it does not speak of is left to later rules."""

    repositories: tuple[str, ...] = ALL
    projects: tuple[str, ...] = ALL
    holders: Mapping[Right, frozenset[str]]
    """Right → user names, group names with `@` in front, `authenticated`, `everyone`; empty: nobody."""


class AccessRules(msgspec.Struct, frozen=True):
    """All rules in their order, and how each repository's format spells a pattern of names."""

    table: tuple[AccessRule, ...] = ()
    spelling: Mapping[str, Spelling] = {}
    """Repository → what turns a pattern into one on canonical names; as it stands where nothing is said."""

    def spelled(self, repository: str, patterns: Iterable[str]) -> tuple[str, ...]:
        """The patterns as they match canonical names of that repository."""
        return tuple(map(self.spelling.get(repository, str), patterns))


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """Who asks."""

    user: str = ""
    """The user's name; empty for nobody and for a token without an owner."""
    token: str = ""
    """The name of the token that was shown, if one was."""
    groups: frozenset[str] = frozenset()
    grants: tuple[Grant, ...] = ()
    """What they have been given themselves."""
    limits: tuple[Grant, ...] | None = None
    """What a token is limited to."""

    @property
    def known(self) -> bool:
        """Whether they have said who they are."""
        return bool(self.user or self.token)

    def __str__(self) -> str:
        """For logs and records: `alice`, `alice (token laptop)`, `token ci`, `anonymous`."""
        if self.user:
            return f"{self.user} (token {self.token})" if self.token else self.user
        return f"token {self.token}" if self.token else "anonymous"

    def names(self) -> frozenset[str]:
        """Everything by which a rule can mean them."""
        named = {EVERYONE}
        if self.known:
            named.add(AUTHENTICATED)
        if self.user:
            named |= {self.user, *(f"@{group}" for group in self.groups)}
        return frozenset(named)


ANONYMOUS = Identity()


class Scope(msgspec.Struct, frozen=True):
    """On which projects of one repository somebody has one right. Equal scopes allow the same."""

    public: tuple[Chain, ...]
    """Allowed to everyone: where any of them allows."""
    own: tuple[Chain, ...] = ()
    """Allowed to this one."""
    granted: tuple[str, ...] = ()
    limits: tuple[str, ...] = ALL
    """What holds of `own` and `granted` only within these."""

    def allows(self, project: str) -> bool:
        """Whether a project, by its canonical name, is within."""
        if any(_decides(chain, project) for chain in self.public):
            return True
        if not matches(self.limits, project):
            return False
        return matches(self.granted, project) or any(_decides(chain, project) for chain in self.own)

    def among(self, names: Names) -> Names:
        """Those of all names that are within."""
        if self == EVERYTHING:
            return names
        serials = {name: serial for name, serial in names.serials.items() if self.allows(name)}
        display = {name: shown for name, shown in names.display.items() if name in serials}
        return msgspec.structs.replace(names, serials=serials, display=display)

    @property
    def everything(self) -> bool:
        """Whether it surely allows every name that can be."""
        chains = (*self.public, *(self.own if self.limits == ALL else ()))
        return ((ALL, True),) in chains or (self.limits == ALL and "*" in self.granted)

    @property
    def nothing(self) -> bool:
        """Whether it surely allows no name at all."""
        if any(allowed for chain in self.public for _, allowed in chain):
            return False
        return not self.limits or not (self.granted or any(allowed for chain in self.own for _, allowed in chain))


EVERYTHING = Scope((((ALL, True),),))


def _decides(chain: Chain, project: str) -> bool:
    return next((allowed for patterns, allowed in chain if matches(patterns, project)), False)


def scope(subject: Identity, right: Right, repository: str, rules: AccessRules) -> Scope:
    """What `may` answers for all projects at once; EVERYTHING where that is so."""
    implying = IMPLIED_BY[right]

    def chains(names: frozenset[str]) -> tuple[Chain, ...]:
        found = (_chain(names, one, repository, rules) for one in implying)
        return tuple(chain for chain in found if any(allowed for _, allowed in chain))

    def granted(grants: Iterable[Grant]) -> tuple[str, ...]:
        fitting = [grant for grant in grants if not grant.rights.isdisjoint(implying)]
        patterns = {p for grant in fitting if matches(grant.repositories, repository) for p in grant.projects}
        return ALL if "*" in patterns else tuple(sorted(rules.spelled(repository, patterns)))

    public = chains(frozenset({EVERYONE}))
    found = Scope(public)
    if subject.known:
        limits = ALL if subject.limits is None else granted(subject.limits)
        own = tuple(chain for chain in chains(subject.names()) if chain not in public)
        found = Scope(public, own, granted(subject.grants), limits)
    return EVERYTHING if found.everything else found


def _chain(names: frozenset[str], right: Right, repository: str, rules: AccessRules) -> Chain:
    """The rules that speak of a right in a repository, up to one that holds for all names."""
    steps: list[tuple[tuple[str, ...], bool]] = []
    for rule in rules.table:
        if right in rule.holders and matches(rule.repositories, repository):
            everywhere = "*" in rule.projects
            patterns = ALL if everywhere else rules.spelled(repository, rule.projects)
            steps.append((patterns, not names.isdisjoint(rule.holders[right])))
            if everywhere:
                return tuple(steps)
    steps.append((ALL, right == "read"))  # the default: reading is open to everyone, the rest to nobody
    return tuple(steps)


def may(subject: Identity, right: Right, repository: str, project: str, rules: AccessRules) -> bool:
    """Whether somebody has a right on a project, given by its canonical name."""
    return scope(subject, right, repository, rules).allows(project)
