"""Who may do what: a pure decision over rules, grants and names.

What everyone may do, any client may, whatever it presents. Beyond that, a rule or a grant has to allow it, and a token
never exceeds its limits. For each right the first rule decides that matches the repository and the project and defines
that right; without one, everyone may read and no one may do anything else. A right to change a project implies reading
it. The surprise: `admin` implies every right, and deleting is a part of it, since a deleted name is gone for ever.
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
"""Right → the rights that imply it."""

ALL = ("*",)

Normalize = Callable[[str], str]
"""Turns a pattern of project names into one that matches canonical names."""
Chain = tuple[tuple[tuple[str, ...], bool], ...]
"""Patterns of project names, and whether they are allowed; the first that match decide."""


class AccessRule(msgspec.Struct, frozen=True, kw_only=True):
    """The holders of rights on some projects. A right that it does not define is left to later rules."""

    repositories: tuple[str, ...] = ALL
    projects: tuple[str, ...] = ALL
    holders: Mapping[Right, frozenset[str]]
    """Right → user names, group names with `@` in front, `authenticated`, `everyone`; empty: no one."""


class AccessRules(msgspec.Struct, frozen=True):
    """All rules in their order, and how each repository normalises patterns of project names."""

    rules: tuple[AccessRule, ...] = ()
    normalize: Mapping[str, Normalize] = {}
    """By repository, for all there are."""

    def normalized(self, repository: str, patterns: Iterable[str]) -> tuple[str, ...]:
        """Return the patterns as they match canonical names of a repository."""
        return tuple(map(self.normalize.get(repository, str), patterns))


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The user or token that sends a request."""

    user: str = ""
    """The user's name; empty for an anonymous client and for a token without an owner."""
    token: str = ""
    """The name of the token that was presented, if any."""
    groups: frozenset[str] = frozenset()
    grants: tuple[Grant, ...] = ()
    """Rights that were granted to this user or token."""
    limits: tuple[Grant, ...] | None = None
    """The limits of a token; None: it has all rights of its user."""

    @property
    def known(self) -> bool:
        """Whether the client has presented a credential."""
        return bool(self.user or self.token)

    def __str__(self) -> str:
        """Return the identity for logs and records: `alice`, `alice (token laptop)`, `token ci`, `anonymous`."""
        if self.user:
            return f"{self.user} (token {self.token})" if self.token else self.user
        return f"token {self.token}" if self.token else "anonymous"

    def names(self) -> frozenset[str]:
        """Return every name by which a rule can refer to this identity."""
        named = {EVERYONE}
        if self.known:
            named.add(AUTHENTICATED)
        if self.user:
            named |= {self.user, *(f"@{group}" for group in self.groups)}
        return frozenset(named)


ANONYMOUS = Identity()


class Scope(msgspec.Struct, frozen=True):
    """The projects of one repository on which an identity has one right. Equal scopes allow the same."""

    public: tuple[Chain, ...]
    """Rules for everyone: a project is allowed when any of them allows it."""
    own: tuple[Chain, ...] = ()
    """Rules for this identity."""
    granted: tuple[str, ...] = ()
    """Patterns of project names that grants allow."""
    limits: tuple[str, ...] = ALL
    """Patterns of project names to which `own` and `granted` are limited."""

    def allows(self, project: str) -> bool:
        """Return whether a project, given by its canonical name, is within the scope."""
        if any(_decides(chain, project) for chain in self.public):
            return True
        if not _covers(self.limits, project):
            return False
        return _covers(self.granted, project) or any(_decides(chain, project) for chain in self.own)

    def filter(self, names: Names) -> Names:
        """Return those of all names that are within the scope."""
        if self == EVERYTHING:
            return names
        serials = {name: serial for name, serial in names.serials.items() if self.allows(name)}
        display = {name: shown for name, shown in names.display.items() if name in serials}
        return msgspec.structs.replace(names, serials=serials, display=display)

    @property
    def everything(self) -> bool:
        """Whether the scope certainly allows every possible name."""
        chains = (*self.public, *(self.own if self.limits == ALL else ()))
        return ((ALL, True),) in chains or (self.limits == ALL and "*" in self.granted)

    @property
    def nothing(self) -> bool:
        """Whether the scope certainly allows no name at all."""
        if any(allowed for chain in self.public for _, allowed in chain):
            return False
        return not self.limits or not (self.granted or any(allowed for chain in self.own for _, allowed in chain))


EVERYTHING = Scope((((ALL, True),),))


def _covers(patterns: tuple[str, ...], project: str) -> bool:
    return "*" in patterns or (bool(patterns) and matches(patterns, project))


def _decides(chain: Chain, project: str) -> bool:
    return next((allowed for patterns, allowed in chain if _covers(patterns, project)), False)


def scope(identity: Identity, right: Right, repository: str, rules: AccessRules) -> Scope:
    """Return the projects of a repository on which an identity has a right; EVERYTHING where it has it on all."""
    implying = IMPLIED_BY[right]

    def chains(names: frozenset[str]) -> tuple[Chain, ...]:
        found = (_chain(names, one, repository, rules) for one in implying)
        return tuple(chain for chain in found if any(allowed for _, allowed in chain))

    def granted(grants: Iterable[Grant]) -> tuple[str, ...]:
        fitting = [grant for grant in grants if not grant.rights.isdisjoint(implying)]
        patterns = {p for grant in fitting if matches(grant.repositories, repository) for p in grant.projects}
        return ALL if "*" in patterns else tuple(sorted(rules.normalized(repository, patterns)))

    public = chains(frozenset({EVERYONE}))
    found = Scope(public)
    if identity.known:
        limits = ALL if identity.limits is None else granted(identity.limits)
        own = tuple(chain for chain in chains(identity.names()) if chain not in public)
        found = Scope(public, own, granted(identity.grants), limits)
    return EVERYTHING if found.everything else found


def _chain(names: frozenset[str], right: Right, repository: str, rules: AccessRules) -> Chain:
    """Return the rules that define a right in a repository, up to the first that holds for all names."""
    steps: list[tuple[tuple[str, ...], bool]] = []
    for rule in rules.rules:
        if right in rule.holders and matches(rule.repositories, repository):
            everywhere = "*" in rule.projects
            patterns = ALL if everywhere else rules.normalized(repository, rule.projects)
            steps.append((patterns, not names.isdisjoint(rule.holders[right])))
            if everywhere:
                return tuple(steps)
    steps.append((ALL, right == "read"))  # the default: everyone may read, no one may do the rest
    return tuple(steps)


def may(identity: Identity, right: Right, repository: str, project: str, rules: AccessRules) -> bool:
    """Return whether an identity has a right on a project, given by its canonical name."""
    return scope(identity, right, repository, rules).allows(project)
