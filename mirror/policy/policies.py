"""The policy of every repository: made from the settings, and made anew when a folder of OSV records changes.

The rules themselves, and what they decide, are in `mirror.policy`; here is only reading and telling. A folder that
cannot be read at the start is an error, since nobody shall be served what it would have refused; one that becomes
unreadable later leaves the records as they were.
"""

import asyncio
import fnmatch
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from mirror.config import Settings
from mirror.errors import ConfigError, Misconfigured
from mirror.policy import AnyRule, Policy, Versions, folders, osv, policy_for, rule_from, rules_from

logger = logging.getLogger(__name__)

Canonical = Mapping[str, Callable[[str], str]]
"""Ecosystem, as OSV records spell it → the canonical form of a project name."""


class Policies:
    """The policies in force."""

    def __init__(self, settings: Settings, versions: Mapping[str, Versions], canonical: Canonical) -> None:
        """`versions`: repository → what its ecosystem says about versions. Raises Misconfigured."""
        check(settings, versions)
        self.changed: list[Callable[[str, Policy], None]] = []
        """Told a repository's name and its new policy, when records have changed."""
        self._settings = settings
        self._versions = versions
        self._canonical = canonical
        self._rules = rules_from([rule.table() for rule in settings.policy])
        self._read: dict[str, osv.OsvIndex] = {}
        self._policies: dict[str, Policy] = {}

    async def open(self) -> None:
        """Read the folders of records. Raises ConfigError when one of them cannot be read."""
        for folder in folders(self._rules):
            self._read[folder] = await asyncio.to_thread(osv.load, Path(folder), self._canonical)
            if skipped := self._read[folder].skipped:
                logger.warning("%s: %d files are no OSV records and are left out", folder, skipped)
        self._policies = {name: self._made(name) for name in self._versions}

    def of(self, repository: str) -> Policy:
        """The policy of a repository, as it is now."""
        return self._policies[repository]

    async def run(self) -> None:
        """Look at the folders again and again, until cancelled."""
        while folders(self._rules):
            await asyncio.sleep(self._settings.policies.records_every)
            await self.look()

    async def look(self) -> None:
        """Look once whether a folder has changed, and tell of the policies that change with it."""
        for folder in folders(self._rules):
            try:
                if await asyncio.to_thread(osv.stamp, Path(folder)) != self._read[folder].stamp:
                    self._read[folder] = await asyncio.to_thread(osv.load, Path(folder), self._canonical)
            except (ConfigError, OSError) as error:
                logger.error("%s The records stay as they were.", error)
        for name, old in self._policies.items():
            new = self._made(name)
            if new.digest != old.digest:
                logger.info("the policy of %s has changed with its OSV records", name)
                self._policies[name] = new
                for tell in self.changed:
                    tell(name, new)

    def _made(self, repository: str) -> Policy:
        policies = self._settings.policies
        return policy_for(
            repository,
            self._rules,
            self._versions[repository],
            advisories=self._read,
            removed=policies.removed,
            quarantined=policies.quarantined,
        )


def check(settings: Settings, versions: Mapping[str, Versions]) -> None:
    """Raises Misconfigured for the first rule that is none. Reads nothing."""
    names: set[str] = set()
    for index, table in enumerate(settings.policy):
        try:
            rule = rule_from(table.table())
            _check(rule, versions)
        except ConfigError as error:
            raise Misconfigured(("policy", index), str(error)) from None
        if rule.name in names:
            raise Misconfigured(("policy", index, "name"), f"another rule is called {rule.name!r} too")
        names.add(rule.name)


def _check(rule: AnyRule, versions: Mapping[str, Versions]) -> None:
    unread: Mapping[str, osv.OsvIndex] = {folder: osv.OsvIndex() for folder in folders((rule,))}
    for name in _fitting(rule.repositories, versions):
        policy_for(name, (rule,), versions[name], advisories=unread)


def _fitting(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]
