"""Fetching what a plan names: many at once, what is held skipped, what fails reported while the rest goes on."""

import asyncio
from collections.abc import Sequence
from typing import Protocol

import msgspec

from mirror.catalog import Member, Sets
from mirror.errors import MirrorError
from mirror.sync.pieces import Piece
from mirror.sync.plan import Plan, Problem
from mirror.sync.ways import Holdings, Way, reason_of

AT_ONCE = 128
"""Pieces that are worked at together; how many of them are on the network is for the Way to say."""


class Watcher(Protocol):
    """Whoever shows how a sync goes. All sizes are in bytes; None where no index says how large a file is."""

    def begun(self, pieces: Sequence[Piece], held: int) -> None:
        """These are to be fetched; so many more are held already."""

    def fetched(self, piece: Piece) -> None:
        """One is held now."""

    def failed(self, piece: Piece, reason: str) -> None:
        """One could not be fetched."""


class Silent:
    """A Watcher that shows nothing."""

    def begun(self, pieces: Sequence[Piece], held: int) -> None: ...
    def fetched(self, piece: Piece) -> None: ...
    def failed(self, piece: Piece, reason: str) -> None: ...


class Result(msgspec.Struct, frozen=True, kw_only=True):
    """How a sync ended."""

    fetched: int
    held: int
    """What was held before."""
    size: int
    """Bytes of what was fetched, as far as indexes say."""
    problems: tuple[Problem, ...]
    """Those of the plan, and of what could not be fetched."""
    members: tuple[Member, ...]
    """Everything of the plan that is held now."""


async def lacking(plan: Plan, holdings: Holdings) -> list[Piece]:
    """The pieces that are not held, in the order of the plan."""
    return [
        piece for piece in plan.pieces if not await holdings.whole(piece.repository, piece.project, piece.file)
    ]  # fmt: skip


async def fetch(plan: Plan, way: Way, holdings: Holdings, watcher: Watcher) -> Result:
    """Bring in everything of a plan that is not held. Never raises for a single file."""
    wanted = await lacking(plan, holdings)
    watcher.begun(wanted, len(plan.pieces) - len(wanted))
    failed: dict[tuple[str, str, str], Problem] = {}

    def told(piece: Piece, error: Exception | None = None, /) -> None:
        if error is None:
            watcher.fetched(piece)
            return
        reason = reason_of(error)
        failed[piece.key] = Problem(what=piece.file.filename, reason=reason)
        watcher.failed(piece, reason)

    waiting = iter(await way.bring_small(wanted, told))

    async def work() -> None:
        for piece in waiting:
            try:
                await way.bring(piece.repository, piece.project, piece.file)
            except (MirrorError, OSError) as error:
                told(piece, error)
            else:
                told(piece)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(AT_ONCE, len(wanted))):
            tasks.create_task(work())
    return Result(
        fetched=len(wanted) - len(failed),
        held=len(plan.pieces) - len(wanted),
        size=sum(piece.file.size or 0 for piece in wanted if piece.key not in failed),
        problems=(*plan.problems, *failed.values()),
        members=tuple(
            member
            for piece in plan.pieces
            if piece.key not in failed
            for member in holdings.members(piece.repository, piece.project, piece.file)
        ),
    )


async def remember(sets: Sets, name: str, result: Result, *, only: bool) -> None:
    """Let a set name what was brought in: nothing else with `only`, as long as nothing was amiss."""
    if only and not result.problems:
        await sets.replace(name, result.members)
    else:
        await sets.add(name, result.members)
