"""What has to be fetched for what somebody wants: pages are looked at, what is open is resolved, files are selected.

The selection itself is pure and stands in `lockfiles`; here its questions are answered through a `Fetcher`. The
same plan serves `sync`, which fetches it while it is made, and `check`, which asks whether it is held.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Protocol

import msgspec

from mirror.airgap.lockfiles import Missing, Outside, Selector, Target, Wanted, needed
from mirror.airgap.sync.pieces import SyncFile
from mirror.airgap.sync.ways import Fetcher, reason_of
from mirror.errors import Invalid, MirrorError, NotFound, Offline
from mirror.index.repository import View

PAGES_AT_ONCE = 16


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something wanted that cannot be had, or could not be fetched."""

    what: str
    """A file, or a project with its version."""
    reason: str
    where: str = ""
    """Who wants it: a file with the line, or what was typed."""

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}" + (f" ({self.where})" if self.where else "")


class SyncPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that is needed, of all that somebody wants."""

    pieces: tuple[SyncFile, ...] = ()
    problems: tuple[Problem, ...] = ()
    outside: tuple[Outside, ...] = ()
    """What no index can give."""
    repositories: tuple[str, ...] = ()
    """Whose indexes are needed."""


class SyncInput(msgspec.Struct, frozen=True, kw_only=True):
    """One lock or requirements file, or names, and which files of it are for whom."""

    wanted: Wanted
    repository: str
    targets: tuple[Target, ...]
    sdists: bool = False
    dependencies: bool = True
    """Whether what is not locked is resolved; else only what is named is taken."""


class Resolver(Protocol):
    """Decides the versions that are still open."""

    async def __call__(self, wanted: Wanted, target: Target, repository: str) -> Wanted:
        """The same with every version pinned. Raises Invalid when it cannot be, with what the resolver says."""


Found = Callable[[Sequence[SyncFile]], Awaitable[None]]
"""Told of pieces that are needed, each once."""


async def _nobody(pieces: Sequence[SyncFile]) -> None:
    """Is told."""


async def plan(wishes: Iterable[SyncInput], way: Fetcher, resolve: Resolver, found: Found = _nobody) -> SyncPlan:
    """What all the wishes need together; `found` is told of each project's as soon as its page has been looked at.

    Problems are collected, not raised.
    """
    pieces: dict[tuple[str, str, str], SyncFile] = {}
    told: set[tuple[str, str, str]] = set()
    problems: dict[Problem, None] = {}
    outside: list[Outside] = []
    repositories: dict[str, None] = {}
    for wish in wishes:
        planning = _Planning(wish, way, resolve, found, told)
        for piece in await planning.pieces():
            pieces.setdefault(piece.key, piece)
        problems |= dict.fromkeys(planning.problems)
        outside += wish.wanted.outside
        repositories[wish.repository] = None
    return SyncPlan(
        pieces=tuple(pieces.values()), problems=tuple(problems), outside=tuple(outside),
        repositories=tuple(repositories),
    )  # fmt: skip


class _Planning:
    """The plan of one wish, while it is made."""

    def __init__(
        self, wish: SyncInput, way: Fetcher, resolve: Resolver, found: Found, told: set[tuple[str, str, str]]
    ) -> None:
        """`told` are the pieces that `found` has been told of."""
        self.problems: list[Problem] = []
        self._wish = wish
        self._way = way
        self._resolve = resolve
        self._found = found
        self._told = told
        self._views: dict[str, View] = {}
        self._unseen: dict[str, str] = {}
        """Project → why its page could not be had."""
        self._slots = asyncio.Semaphore(PAGES_AT_ONCE)

    async def pieces(self) -> list[SyncFile]:
        wish, found = self._wish, list[SyncFile]()
        try:
            await self._way.index(wish.repository)
        except MirrorError as error:
            self.problems.append(Problem(what=f"the index of {wish.repository}", reason=reason_of(error)))
        for wanted, targets in await self._decided():
            selector = Selector(wanted, targets, sdists=wish.sdists)
            self.problems += map(self._problem, selector.missing)
            for pieces, missing in await asyncio.gather(*(self._choose(selector, name) for name in selector.projects)):
                self.problems += map(self._problem, missing)
                found += pieces
        return found

    async def _choose(self, selector: Selector, name: str) -> tuple[Sequence[SyncFile], Sequence[Missing]]:
        """What is needed of a project, and what it has not."""
        if name not in self._views and name not in self._unseen:
            await self._see(name)
        view = self._views.get(name)
        selection = selector.select(name, view.project if view else None)
        pieces = [SyncFile(repository=self._wish.repository, project=name, file=file) for file in selection.files]
        new = [piece for piece in pieces if piece.key not in self._told]
        self._told.update(piece.key for piece in new)
        await self._found(new)
        return pieces, selection.missing

    async def _decided(self) -> list[tuple[Wanted, tuple[Target, ...]]]:
        """What is to be selected, for which targets: as it stands where it is locked, else what it resolves to."""
        wish = self._wish
        if wish.wanted.complete:
            return [(wish.wanted, wish.targets)]
        if not wish.dependencies:
            return [(wish.wanted if wish.wanted.kind == "names" else _newest(wish.wanted), wish.targets)]
        # What nobody has is said of the line that asks for it; a resolver would stumble over it and give up the rest.
        await self._look(_projects(wish.wanted, wish.targets))
        known = _among(wish.wanted, self._views)
        # Names may ask for more versions than one; what is unknown is reported by the selection.
        decided = [(wish.wanted, wish.targets)] if wish.wanted.kind == "names" else [
            (_without(wish.wanted, self._views), wish.targets)
        ]  # fmt: skip
        for target in wish.targets:
            try:
                decided.append((await self._resolve(known, target, wish.repository), (target,)))
            except Invalid as error:
                self.problems.append(Problem(what=wish.wanted.name, reason=reason_of(error)))
        return decided

    async def _look(self, names: Iterable[str]) -> None:
        """Have the pages of these projects."""
        new = [name for name in names if name not in self._views and name not in self._unseen]
        await asyncio.gather(*(self._see(name) for name in new))

    async def _see(self, name: str) -> None:
        async with self._slots:
            try:
                self._views[name] = await self._way.project(self._wish.repository, name)
            except NotFound:
                self._unseen[name] = "no such project"
            except Offline:
                self._unseen[name] = "its page is not held"
            except MirrorError as error:
                self._unseen[name] = reason_of(error)

    def _problem(self, missing: Missing) -> Problem:
        version = f" {missing.version}" if missing.version else ""
        what = missing.filename or f"{missing.project}{version}" or missing.target
        if missing.project in self._unseen:
            reason = self._unseen[missing.project]
        else:
            reason = self._withheld(missing) or missing.reason
        target = f" ({missing.target})" if "wheel" in missing.reason or "gem for" in missing.reason else ""
        return Problem(
            what=what, reason=f"{reason}{target}" if reason == missing.reason else reason, where=missing.where
        )

    def _withheld(self, missing: Missing) -> str | None:
        """What policy says of it, where policy is why it is missing."""
        view = self._views.get(missing.project)
        for filename, verdict in view.withheld.items() if view else ():
            if filename == missing.filename or (not missing.filename and verdict.file.version == missing.version):
                return f"{verdict.state} by policy: {verdict.rule}: {verdict.reason}".rstrip(".")
        return None


def _projects(wanted: Wanted, targets: Sequence[Target]) -> list[str]:
    environments = [environment for target in targets for environment in target.environments]
    pins, ranges = needed(wanted, environments)
    return list(dict.fromkeys([*(pin.project for pin in pins), *(entry.project for entry in ranges)]))


def _among(wanted: Wanted, known: Mapping[str, object]) -> Wanted:
    """What is wanted of projects that are known."""
    return msgspec.structs.replace(
        wanted,
        pins=tuple(pin for pin in wanted.pins if pin.project in known),
        ranges=tuple(entry for entry in wanted.ranges if entry.project in known),
    )


def _without(wanted: Wanted, known: Mapping[str, object]) -> Wanted:
    """What is wanted of projects that are not known."""
    return msgspec.structs.replace(
        wanted,
        pins=tuple(pin for pin in wanted.pins if pin.project not in known),
        ranges=tuple(entry for entry in wanted.ranges if entry.project not in known),
    )


def _newest(wanted: Wanted) -> Wanted:
    """The same, with the newest version of whatever is open."""
    return msgspec.structs.replace(
        wanted, ranges=tuple(msgspec.structs.replace(entry, newest=1) for entry in wanted.ranges)
    )
