"""Fetching what is needed: many at once, what is held skipped, what fails reported while the rest goes on.

The first files are fetched while other pages are still looked at.
"""

import asyncio
from collections.abc import Iterable, Sequence
from typing import Protocol

import msgspec

from mirror.airgap.lockfiles import Outside
from mirror.airgap.sync.pieces import FetchQueue, SyncFile
from mirror.airgap.sync.plan import Problem, Resolver, SyncInput, SyncPlan, plan
from mirror.airgap.sync.ways import Fetcher, Holdings, reason_of
from mirror.catalog import SetMember, Sets
from mirror.errors import MirrorError
from mirror.index.flight import together

AT_ONCE = 128
"""Pieces that are worked at together; how many of them are on the network is for the Way to say."""


class Watcher(Protocol):
    """Whoever shows how a sync goes. All sizes are in bytes; None where no index says how large a file is."""

    def begun(self, pieces: Sequence[SyncFile], held: int) -> None:
        """These are to be fetched too; so many more are held already."""

    def fetched(self, piece: SyncFile) -> None:
        """One is held now."""

    def failed(self, piece: SyncFile, reason: str) -> None:
        """One could not be fetched."""


class Silent:
    """A Watcher that shows nothing."""

    def begun(self, pieces: Sequence[SyncFile], held: int) -> None: ...
    def fetched(self, piece: SyncFile) -> None: ...
    def failed(self, piece: SyncFile, reason: str) -> None: ...


class SyncResult(msgspec.Struct, frozen=True, kw_only=True):
    """How a sync ended."""

    fetched: int
    held: int
    """What was held before."""
    size: int
    """Bytes of what was fetched, as far as indexes say."""
    problems: tuple[Problem, ...]
    """What cannot be had, and what could not be fetched."""
    outside: tuple[Outside, ...]
    """What no index can give."""
    members: tuple[SetMember, ...]
    """Everything that is needed and is held now."""


async def lacking(pieces: Iterable[SyncFile], holdings: Holdings) -> list[SyncFile]:
    """The pieces that are not held."""
    return [piece for piece in pieces if not await holdings.whole(piece.repository, piece.project, piece.file)]


async def fetch(
    wishes: Iterable[SyncInput], way: Fetcher, resolve: Resolver, holdings: Holdings, watcher: Watcher
) -> SyncResult:
    """Bring in everything that the wishes need and that is not held. Never raises for a single file."""
    return await _Fetching(way, holdings, watcher).run(wishes, resolve)


class _Fetching:
    """One sync, while it goes on."""

    def __init__(self, way: Fetcher, holdings: Holdings, watcher: Watcher) -> None:
        self._way = way
        self._holdings = holdings
        self._watcher = watcher
        self._small = FetchQueue()
        self._other = FetchQueue()
        self._wanted: list[SyncFile] = []
        self._failed: dict[tuple[str, str, str], Problem] = {}
        self._plan = SyncPlan()

    async def run(self, wishes: Iterable[SyncInput], resolve: Resolver) -> SyncResult:
        await together(self._look_and_bring_small(wishes, resolve), self._bring_other())
        failed, wanted = self._failed, self._wanted
        return SyncResult(
            fetched=len(wanted) - len(failed),
            held=len(self._plan.pieces) - len(wanted),
            size=sum(piece.file.size or 0 for piece in wanted if piece.key not in failed),
            problems=(*self._plan.problems, *failed.values()),
            outside=self._plan.outside,
            members=tuple(
                member
                for piece in self._plan.pieces
                if piece.key not in failed
                for member in self._holdings.members(piece.repository, piece.project, piece.file)
            ),
        )

    async def _look_and_bring_small(self, wishes: Iterable[SyncInput], resolve: Resolver) -> None:
        await together(self._look(wishes, resolve), self._way.bring_small(self._small, self._other, self._told))
        self._other.end()

    async def _look(self, wishes: Iterable[SyncInput], resolve: Resolver) -> None:
        self._plan = await plan(wishes, self._way, resolve, self._found)
        self._small.end()

    async def _found(self, pieces: Sequence[SyncFile]) -> None:
        """These are needed."""
        wanted = await lacking(pieces, self._holdings)
        self._wanted += wanted
        self._watcher.begun(wanted, len(pieces) - len(wanted))
        self._small.add(piece for piece in wanted if self._way.is_small(piece.file))
        self._other.add(piece for piece in wanted if not self._way.is_small(piece.file))

    async def _bring_other(self) -> None:
        slots = asyncio.Semaphore(AT_ONCE)

        async def bring(piece: SyncFile) -> None:
            try:
                await self._way.bring(piece.repository, piece.project, piece.file)
            except (MirrorError, OSError) as error:
                self._told(piece, error)
            else:
                self._told(piece)
            finally:
                slots.release()

        async with asyncio.TaskGroup() as tasks:
            while waiting := await self._other.waiting():
                for piece in self._other.take(waiting):
                    await slots.acquire()
                    tasks.create_task(bring(piece))

    def _told(self, piece: SyncFile, error: Exception | None = None, /) -> None:
        if error is None:
            self._watcher.fetched(piece)
            return
        reason = reason_of(error)
        self._failed[piece.key] = Problem(what=piece.file.filename, reason=reason)
        self._watcher.failed(piece, reason)


async def remember(sets: Sets, name: str, result: SyncResult, *, only: bool) -> None:
    """Let a set name what was brought in: nothing else with `only`, as long as nothing was amiss."""
    if only and not result.problems:
        await sets.replace(name, result.members)
    else:
        await sets.add(name, result.members)
