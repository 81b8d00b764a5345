"""The policy of every repository, rebuilt when a folder of OSV records changes; the part that reads files.

A folder is the operator's copy of a collection of records, one JSON file each, at any depth; the mirror never fetches
one. Many authors write such records: one that does not parse or is too large is left out and counted in `skipped`.

A folder that cannot be read at the start is an error, because without it rules would let through what they refuse. One
that becomes unreadable later leaves the records as they were, and so does one that lost a great part at once, as while
it is being copied anew, until it still lacks that minutes later.
"""

import asyncio
import fnmatch
import logging
import os
from collections.abc import Awaitable, Callable, Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Protocol

from mirror.config import Settings
from mirror.errors import ConfigError, Invalid, Misconfigured
from mirror.policy.osv import Advisory, OsvIndex, read_record
from mirror.policy.rules import Versions
from mirror.policy.verdicts import Policy, osv_folders, policy_for

logger = logging.getLogger(__name__)

LARGEST_RECORD_BYTES = 8 << 20
MOST_RECORDS = 500_000
MOST_BYTES = 2 << 30
DEEPEST_FOLDER = 8

Canonical = Mapping[str, Callable[[str], str]]
"""The name of an ecosystem in OSV records → the function that makes a project name canonical."""


BelieveLoss = Callable[[str, int, int], bool]
"""Returns whether it is believed that a folder lost so many records of so many."""


class RecordSource(Protocol):
    """Reads the records of folders."""

    async def read(self, folder: str) -> OsvIndex:
        """Return the records of a folder. Raises ConfigError when it cannot be read."""

    async def look(self, folder: str, known: OsvIndex) -> OsvIndex:
        """Return the records of a folder as they are now; those that are known unless they have changed.

        Raises ConfigError and OSError when the folder cannot be read.
        """


class RecordFolders:
    """The folders of records of this machine."""

    def __init__(self, canonical: Canonical, believe: BelieveLoss) -> None:
        self._canonical = canonical
        self._believe = believe

    async def read(self, folder: str) -> OsvIndex:
        """Return the records of a folder. Raises ConfigError when it cannot be read."""
        found = await asyncio.to_thread(load, Path(folder), self._canonical)
        if found.skipped:
            logger.warning("%s: %d files are not OSV records and are left out", folder, found.skipped)
        return found

    async def look(self, folder: str, known: OsvIndex) -> OsvIndex:
        """Return the records of a folder as they are now; those that are known unless they have changed.

        Those also where a great part is gone at once and that is not confirmed yet. Raises ConfigError and OSError.
        """
        if await asyncio.to_thread(stamp, Path(folder)) == known.stamp:
            return known
        new = await asyncio.to_thread(load, Path(folder), self._canonical)
        before, after = known.records, new.records
        if self._believe(folder, before - after, before):
            return new
        logger.warning(
            "%s lacks %d of %d OSV records at once; the old ones stay until it still does some minutes later",
            folder, before - after, before,
        )  # fmt: skip
        return known


class Policies:
    """The policy of each repository, as it is now."""

    def __init__(self, settings: Settings, versions: Mapping[str, Versions], source: RecordSource) -> None:
        """Check the rules of the settings. Raises Misconfigured.

        `versions`: repository → the versions of its ecosystem.
        """
        check(settings, versions)
        self.listeners: list[Callable[[str, Policy], None]] = []
        """Called with a repository's name and its new policy when records have changed."""
        self._settings = settings
        self._versions = versions
        self._source = source
        self._rules = settings.policy
        self._records: dict[str, OsvIndex] = {}
        self._policies: dict[str, Policy] = {}

    async def open(self) -> None:
        """Read the folders of records. Raises ConfigError when one of them cannot be read."""
        for folder in osv_folders(self._rules):
            self._records[folder] = await self._source.read(folder)
        self._policies = {name: self._policy(name) for name in self._versions}

    def of(self, repository: str) -> Policy:
        """Return the policy of a repository."""
        return self._policies[repository]

    async def check_folders(self) -> None:
        """Check once whether a folder has changed, and report the policies that change with it."""
        await self.renew(self._source.look)

    async def renew(self, look: Callable[[str, OsvIndex], Awaitable[OsvIndex]]) -> None:
        """Take what a look at each folder returns, given what is known of it, and report the policies that change."""
        for folder, known in list(self._records.items()):
            try:
                self._records[folder] = await look(folder, known)
            except (ConfigError, OSError) as error:
                logger.error("%s The records stay as they were.", error)
        for name, old in self._policies.items():
            new = self._policy(name)
            if new.digest != old.digest:
                logger.info("the policy of %s has changed with its OSV records", name)
                self._policies[name] = new
                for listener in self.listeners:
                    listener(name, new)

    def _policy(self, repository: str) -> Policy:
        policies = self._settings.policies
        return policy_for(
            repository,
            self._rules,
            self._versions[repository],
            advisories=self._records,
            removed=policies.removed,
            serves_yanked=policies.yanked == "serve",
            quarantined=policies.quarantined,
        )


def check(settings: Settings, versions: Mapping[str, Versions]) -> None:
    """Check every rule of the settings, without reading a folder. Raises Misconfigured for the first wrong one."""
    names: set[str] = set()
    for index, rule in enumerate(settings.policy):
        unread = {folder: OsvIndex() for folder in osv_folders((rule,))}
        try:
            for name in _matching(rule.repositories, versions):
                policy_for(name, (rule,), versions[name], advisories=unread)
        except ConfigError as error:
            raise Misconfigured(("policy", index), str(error)) from None
        if rule.name in names:
            raise Misconfigured(("policy", index, "name"), f"another rule is called {rule.name!r} too")
        names.add(rule.name)


def _matching(patterns: Iterable[str], names: Iterable[str]) -> list[str]:
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def stamp(folder: Path) -> str:
    """Return a text that changes when a record is added, removed or rewritten. Blocking: stats every file.

    Raises ConfigError.
    """
    seen = sha256()
    for path, status in sorted(_records(str(folder))):
        seen.update(f"{path.removeprefix(str(folder))}\0{status[0]}\0{status[1]}\n".encode("utf-8", "surrogateescape"))
    return seen.hexdigest()


def load(folder: Path, canonical: Canonical) -> OsvIndex:
    """Read all records below the folder. Blocking: call it in a thread.

    Records of ecosystems that `canonical` does not have are left out. Raises ConfigError when there is no such folder,
    or when it holds more than fits in memory.
    """
    before, skipped, total = stamp(folder), 0, 0
    digests: list[bytes] = []
    found: dict[tuple[str, str], list[Advisory]] = {}
    for path, (_, size) in sorted(_records(str(folder))):
        try:
            if size > LARGEST_RECORD_BYTES:
                raise Invalid("larger than any record")
            with open(path, "rb") as stream:
                content = stream.read(LARGEST_RECORD_BYTES)
            advisories = list(read_record(content, canonical))
        except (OSError, Invalid):
            skipped += 1
            continue
        total += len(content)
        if total > MOST_BYTES:
            raise ConfigError(f"The OSV folder {folder.name!r} holds more than {MOST_BYTES} bytes of records.")
        for project, advisory in advisories:
            found.setdefault(project, []).append(advisory)
        if advisories:
            digests.append(sha256(content).digest())
    return OsvIndex(
        digest=sha256(b"".join(sorted(digests))).hexdigest(),
        stamp=before,
        records=len(digests),
        projects={project: tuple(advisories) for project, advisories in found.items()},
        skipped=skipped,
    )


def _records(folder: str, depth: int = 0) -> list[tuple[str, tuple[int, int]]]:
    """Return every JSON file below the folder, with (modified in ns, bytes). Links out of it are not followed."""
    found: list[tuple[str, tuple[int, int]]] = []
    try:
        entries = list(os.scandir(folder))
    except OSError:
        if depth == 0:
            raise ConfigError(f"There is no readable folder of OSV records at {folder!r}.") from None
        return found
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False) and depth < DEEPEST_FOLDER:
                found += _records(entry.path, depth + 1)
            elif entry.name.endswith(".json") and entry.is_file(follow_symlinks=False):
                status = entry.stat(follow_symlinks=False)
                found.append((entry.path, (status.st_mtime_ns, status.st_size)))
        except OSError:
            continue  # removed since the folder was listed
    if len(found) > MOST_RECORDS:
        raise ConfigError(f"The OSV folder {folder!r} holds more than {MOST_RECORDS} records.")
    return found
