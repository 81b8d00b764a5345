"""The plan of a sync: pages are read, open versions are resolved, files are selected.

The selection itself is pure and stands in `lockfiles`; here its questions are answered through a `Fetcher`. The same
plan serves `sync`, which fetches it while it is made, and `check`, which reports whether it is held.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from mirror.airgap.lockfiles import ExternalRequirement, MissingItem, RequirementSet, Selector, Target, needed
from mirror.airgap.sync.fetchers import Fetcher, reason_of
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.queue import SyncFile
from mirror.errors import Invalid, MirrorError, NotFound, Offline
from mirror.index.repository import View

PAGES_AT_ONCE = 16
"""Pages that are read at the same time."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something needed that does not exist, is not allowed, or could not be fetched."""

    what: str
    """A file, or a project with its version."""
    reason: str
    where: str = ""
    """What needs it: a file with the line, or what was typed."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" + (f" ({self.where})" if self.where else "")


class SyncPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the inputs of a sync need together."""

    files: tuple[SyncFile, ...] = ()
    problems: tuple[Problem, ...] = ()
    external: tuple[ExternalRequirement, ...] = ()
    """What no index can provide."""


class Resolver(Protocol):
    """Decides open versions."""

    async def __call__(self, requirements: RequirementSet, target: Target, repository: str) -> RequirementSet:
        """Return the input with every version pinned. Raises Invalid, with the resolver's explanation."""


OnFound = Callable[[Sequence[SyncFile]], Awaitable[None]]
"""Called with files that are needed, once for each file."""


async def _ignore(files: Sequence[SyncFile]) -> None:
    """Do nothing."""


async def plan(
    inputs: Iterable[SyncInput], fetcher: Fetcher, resolve: Resolver, on_found: OnFound = _ignore
) -> SyncPlan:
    """Return what all inputs need together; `on_found` gets the files of each project as soon as its page is read.

    Problems are collected, not raised.
    """
    files: dict[tuple[str, str, str], SyncFile] = {}
    problems: dict[Problem, None] = {}
    external: list[ExternalRequirement] = []
    reported: set[tuple[str, str, str]] = set()
    for each in inputs:
        planning = _InputPlan(each, fetcher, resolve, on_found, reported)
        for file in await planning.files():
            files.setdefault(file.key, file)
        problems |= dict.fromkeys(planning.problems)
        external += each.requirements.external
    return SyncPlan(files=tuple(files.values()), problems=tuple(problems), external=tuple(external))


class _InputPlan:
    """The plan of one input while it is made."""

    def __init__(
        self,
        sync_input: SyncInput,
        fetcher: Fetcher,
        resolve: Resolver,
        on_found: OnFound,
        reported: set[tuple[str, str, str]],
    ) -> None:
        """`reported` are the keys of the files that `on_found` has got."""
        self.problems: list[Problem] = []
        self._input = sync_input
        self._fetcher = fetcher
        self._resolve = resolve
        self._on_found = on_found
        self._reported = reported
        self._views: dict[str, View] = {}
        self._unavailable: dict[str, str] = {}
        """Project → why its page could not be had."""
        self._slots = asyncio.Semaphore(PAGES_AT_ONCE)
        self._selecting = asyncio.Lock()
        """One thread selects at a time: more would only wait for each other."""

    async def files(self) -> list[SyncFile]:
        """Return the files that the input needs."""
        found: list[SyncFile] = []
        try:
            await self._fetcher.fetch_index(self._input.repository)
        except MirrorError as error:
            what = f"the index of {self._input.repository}"
            self.problems.append(Problem(what=what, reason=reason_of(error)))
        for requirements, targets in await self._decided():
            selector = await asyncio.to_thread(Selector, requirements, targets, sdists=self._input.sdists)
            self.problems += map(self._problem, selector.missing)
            for files, problems in await asyncio.gather(*(self._select(selector, name) for name in selector.projects)):
                self.problems += problems
                found += files
        return found

    async def _select(self, selector: Selector, name: str) -> tuple[Sequence[SyncFile], Sequence[Problem]]:
        """Return what is needed of a project, and what it lacks."""
        if name not in self._views and name not in self._unavailable:
            await self._read(name)
        async with self._selecting:
            files, problems = await asyncio.to_thread(self._choose, selector, name)
        new = [file for file in files if file.key not in self._reported]
        self._reported.update(file.key for file in new)
        await self._on_found(new)
        return files, problems

    def _choose(self, selector: Selector, name: str) -> tuple[Sequence[SyncFile], Sequence[Problem]]:
        """Return what is needed of a project, and what it lacks. Blocking: a page may list 100,000 files."""
        view = self._views.get(name)
        selection = selector.select(name, view.project if view else None)
        files = [SyncFile(repository=self._input.repository, project=name, file=file) for file in selection.files]
        return files, [self._problem(missing) for missing in selection.missing]

    async def _decided(self) -> list[tuple[RequirementSet, tuple[Target, ...]]]:
        """Return what is to be selected for which targets: a lock as it stands, anything else resolved."""
        requirements, targets = self._input.requirements, self._input.targets
        if requirements.complete:
            return [(requirements, targets)]
        names = requirements.kind == "names"  # these have their own number of versions to select
        if not self._input.dependencies:
            return [(requirements if names else _newest(requirements), targets)]
        # An unknown project is reported for the line that names it; because of it a resolver would give up the rest.
        await self._read_all(await asyncio.to_thread(_projects, requirements, targets))
        unknown = requirements if names else _part(requirements, lambda project: project not in self._views)
        decided = [(unknown, targets)]
        known = _part(requirements, lambda project: project in self._views)
        for target in targets:
            try:
                decided.append((await self._resolve(known, target, self._input.repository), (target,)))
            except Invalid as error:
                self.problems.append(Problem(what=requirements.name, reason=reason_of(error)))
        return decided

    async def _read_all(self, names: Iterable[str]) -> None:
        """Read the pages of these projects."""
        new = [name for name in names if name not in self._views and name not in self._unavailable]
        await asyncio.gather(*(self._read(name) for name in new))

    async def _read(self, name: str) -> None:
        async with self._slots:
            try:
                self._views[name] = await self._fetcher.project(self._input.repository, name)
            except NotFound:
                self._unavailable[name] = "no such project"
            except Offline:
                self._unavailable[name] = "its page is not held"
            except MirrorError as error:
                self._unavailable[name] = reason_of(error)

    def _problem(self, missing: MissingItem) -> Problem:
        version = f" {missing.version}" if missing.version else ""
        what = missing.filename or f"{missing.project}{version}" or missing.target
        if missing.project in self._unavailable:
            reason = self._unavailable[missing.project]
        else:
            reason = self._withheld(missing) or missing.reason
        target = f" ({missing.target})" if "wheel" in missing.reason or "gem for" in missing.reason else ""
        return Problem(
            what=what, reason=f"{reason}{target}" if reason == missing.reason else reason, where=missing.where
        )

    def _withheld(self, missing: MissingItem) -> str | None:
        """Return the verdict of policy, where it is the reason why something is missing."""
        view = self._views.get(missing.project)
        for filename, verdict in view.withheld.items() if view else ():
            if filename == missing.filename or (not missing.filename and verdict.file.version == missing.version):
                return f"{verdict.state} by policy: {verdict.rule}: {verdict.reason}".rstrip(".")
        return None


def _projects(requirements: RequirementSet, targets: Sequence[Target]) -> list[str]:
    environments = [environment for target in targets for environment in target.environments]
    pins, ranges = needed(requirements, environments)
    return list(dict.fromkeys([*(pin.project for pin in pins), *(entry.project for entry in ranges)]))


def _part(requirements: RequirementSet, wanted: Callable[[str], bool]) -> RequirementSet:
    """Return the part that concerns some projects."""
    return msgspec.structs.replace(
        requirements,
        pins=tuple(pin for pin in requirements.pins if wanted(pin.project)),
        ranges=tuple(entry for entry in requirements.ranges if wanted(entry.project)),
    )


def _newest(requirements: RequirementSet) -> RequirementSet:
    """Return the input with the newest version of everything open."""
    return msgspec.structs.replace(
        requirements, ranges=tuple(msgspec.structs.replace(entry, newest=1) for entry in requirements.ranges)
    )
