"""Fetching what is needed: many files at once, held ones skipped, failures reported while the rest goes on.

The first files are fetched while further pages are still read.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from mirror.airgap.lockfiles import ExternalRequirement
from mirror.airgap.sync.fetchers import Fetcher, Holdings, reason_of
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.plan import Problem, Resolver, SyncPlan, plan
from mirror.airgap.sync.queue import FetchQueue, SyncFile, together
from mirror.catalog import SetMember, Sets
from mirror.errors import MirrorError

FILES_AT_ONCE = 128
"""Files that are worked on at once; the Fetcher limits how many of them use the network."""


class SyncProgress(Protocol):
    """Shows how a sync goes on. All sizes are in bytes, None where no index reports the size of a file."""

    def on_found(self, files: Sequence[SyncFile], held: int) -> None:
        """Show that these files are to be fetched too, and that `held` more are held already."""

    def on_fetched(self, file: SyncFile) -> None:
        """Show that a file is held now."""

    def on_failed(self, file: SyncFile, reason: str) -> None:
        """Show that a file could not be fetched."""


class NoProgress:
    """A SyncProgress that shows nothing."""

    def on_found(self, files: Sequence[SyncFile], held: int) -> None: ...
    def on_fetched(self, file: SyncFile) -> None: ...
    def on_failed(self, file: SyncFile, reason: str) -> None: ...


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a sync."""

    fetched: int
    held: int
    """Files that were held before."""
    size: int
    """Bytes of the files that were fetched."""
    problems: tuple[Problem, ...]
    """What cannot be had, and what could not be fetched."""
    external: tuple[ExternalRequirement, ...]
    """What no index can provide."""
    members: tuple[SetMember, ...]
    """Everything that is needed and held now."""


async def lacking(files: Iterable[SyncFile], holdings: Holdings) -> list[SyncFile]:
    """Return the files that are not held."""
    return [file for file in files if not await holdings.whole(file.repository, file.project, file.file)]


async def fetch(
    inputs: Iterable[SyncInput], fetcher: Fetcher, resolve: Resolver, holdings: Holdings, progress: SyncProgress
) -> SyncResult:
    """Fetch everything that the inputs need and that is not held. Never raises for a single file."""
    return await _Sync(fetcher, holdings, progress).run(inputs, resolve)


class _Sync:
    """One sync while it runs."""

    def __init__(self, fetcher: Fetcher, holdings: Holdings, progress: SyncProgress) -> None:
        self._fetcher = fetcher
        self._holdings = holdings
        self._progress = progress
        self._small = FetchQueue()
        self._other = FetchQueue()
        self._missing: list[SyncFile] = []
        self._failures: dict[tuple[str, str, str], Problem] = {}
        self._plan = SyncPlan()

    async def run(self, inputs: Iterable[SyncInput], resolve: Resolver) -> SyncResult:
        await together(self._plan_and_fetch_small(inputs, resolve), self._fetch_other())
        failures, missing = self._failures, self._missing
        fetched = [file for file in missing if file.key not in failures]
        return SyncResult(
            fetched=len(missing) - len(failures),
            held=len(self._plan.files) - len(missing),
            size=sum([await self._holdings.size(file.project, file.file) for file in fetched]),
            problems=(*self._plan.problems, *failures.values()),
            external=self._plan.external,
            members=tuple(
                member
                for file in self._plan.files
                if file.key not in failures
                for member in self._holdings.members(file.repository, file.project, file.file)
            ),
        )

    async def _plan_and_fetch_small(self, inputs: Iterable[SyncInput], resolve: Resolver) -> None:
        fetching = self._fetcher.fetch_small(self._small, self._other, self._on_fetched)
        await together(self._make_plan(inputs, resolve), fetching)
        self._other.end()

    async def _make_plan(self, inputs: Iterable[SyncInput], resolve: Resolver) -> None:
        self._plan = await plan(inputs, self._fetcher, resolve, self._on_found)
        self._small.end()

    async def _on_found(self, files: Sequence[SyncFile]) -> None:
        """Queue those of the needed files that are not held."""
        missing = await lacking(files, self._holdings)
        self._missing += missing
        self._progress.on_found(missing, len(files) - len(missing))
        self._small.add(file for file in missing if self._fetcher.is_small(file.file))
        self._other.add(file for file in missing if not self._fetcher.is_small(file.file))

    async def _fetch_other(self) -> None:
        slots = asyncio.Semaphore(FILES_AT_ONCE)

        async def fetch_one(file: SyncFile) -> None:
            try:
                await self._fetcher.fetch(file.repository, file.project, file.file)
            except (MirrorError, OSError) as error:
                self._on_fetched(file, error)
            else:
                self._on_fetched(file)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:
            while waiting := await self._other.waiting():
                for file in self._other.take(waiting):
                    await slots.acquire()
                    tasks.create_task(fetch_one(file))

    def _on_fetched(self, file: SyncFile, error: Exception | None = None, /) -> None:
        if error is None:
            self._progress.on_fetched(file)
            return
        reason = reason_of(error)
        self._failures[file.key] = Problem(what=file.file.filename, reason=reason)
        self._progress.on_failed(file, reason)


async def remember(sets: Sets, name: str, result: SyncResult, *, only: bool) -> None:
    """Add what a sync fetched to a set; with `only`, and without problems, replace the set's members by it."""
    if only and not result.problems:
        await sets.replace(name, result.members)
    else:
        await sets.add(name, result.members)
