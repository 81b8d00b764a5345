"""Followers in the process that serves: one for each upstream of a repository that the settings say to follow."""

import asyncio
import logging
from collections.abc import Sequence
from contextlib import suppress

import msgspec
from yarl import URL

from mirror.airgap.follow.follower import Applier, Follower
from mirror.airgap.follow.remote import RemoteMirror
from mirror.api.state import FollowState
from mirror.catalog import Cursors
from mirror.catalog.coordination import Lease
from mirror.config import UpstreamSettings
from mirror.errors import MirrorError, StorageFull, UpstreamUnavailable
from mirror.index.freshness import Freshness
from mirror.index.upstream import CachedUpstream
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.scheduled_sync import holdings
from mirror.service.services import Mirror

logger = logging.getLogger(__name__)

LEASE_SECONDS = 30.0
"""Time for which one process has the right to follow, renewed while it does: so late another one goes on."""

REPORT_SECONDS = 5.0
"""Time between two reports of the process that follows to those that show how far it has come."""
PAGE_TRIES = 3
"""How often a page is fetched again because a fetch was joined that began before the change."""


class LocalApplier:
    """Applies changes in the process that owns the store, as for its clients, so that both join one download."""

    def __init__(self, mirror: Mirror, repository: str, upstream: URL) -> None:
        self._repository = mirror.repositories[repository]
        self._published = mirror.published_indexes.get(repository)
        self._holdings = holdings(mirror)
        self._upstream = upstream

    async def index(self) -> None:
        if self._published is not None:
            await self._published.catch_up(self._upstream)

    async def page(self, project: str) -> None:
        for _ in range(PAGE_TRIES):
            view = await self._repository.project(project, Freshness.ANEW)
            if view.outcome == "stale":
                raise UpstreamUnavailable(f"The page of {project} cannot be had as it is now.")
            if view.outcome != "joined":
                break

    async def file(self, project: str, filename: str) -> bool:
        repository = self._repository
        file = await repository.file(project, filename)
        if await self._holdings.whole(repository.name, project, file):
            return False
        new = not await self._holdings.file(project, file)
        if new:
            _, opened = await repository.open(project, filename)
            async for _ in opened.body.read(max(0, opened.body.size - 1)):
                pass  # the last byte can be read once the file is verified and kept
            if not await self._holdings.file(project, file):
                raise StorageFull(f"{filename} could not be kept: the disk of the mirror is full.")
        if not await self._holdings.sidecar(repository.name, project, file):
            await repository.sidecar(project, filename)
        return new


def followed(mirror: Mirror) -> list[tuple[str, CachedUpstream, UpstreamSettings]]:
    """List (repository, upstream, its settings) for each upstream that is followed."""
    return [
        (name, source, settings)
        for name, repository in mirror.settings.repositories.items()
        for source, settings in zip(mirror.cached_upstreams[name], repository.upstreams, strict=True)
        if settings.follow
    ]


def follower(
    mirror: Mirror, repository: str, source: CachedUpstream, applier: Applier, only: Sequence[str], remote: RemoteMirror
) -> Follower:
    """Return the follower of an upstream of a repository; `only` is `follow_only` of the settings."""
    versions = ECOSYSTEMS[mirror.settings.repositories[repository].format].versions
    patterns = tuple(sorted(versions.pattern(pattern) for pattern in only))
    # One cursor for each selection: what a larger one adds has not been read from the beginning.
    return Follower(
        " ".join((repository, source.name, *patterns)), remote, applier, mirror.catalog.cursors,
        lambda: mirror.catalog.pages.known(source.name, "project"), only=patterns, clock=mirror.clock,
    )  # fmt: skip


def remote_of(mirror: Mirror, repository: str, source: CachedUpstream) -> RemoteMirror:
    """Return the reader of an upstream's journal."""
    ecosystem = ECOSYSTEMS[mirror.settings.repositories[repository].format]
    return RemoteMirror(source.upstream, ecosystem.index_path, ecosystem.format.canonical)


async def follow(mirror: Mirror, name: str, source: CachedUpstream, only: Sequence[str]) -> None:
    """Follow an upstream of a repository until cancelled; its state is shown by the mirror's status."""
    applier = LocalApplier(mirror, name, source.upstream.url)
    one = follower(mirror, name, source, applier, only, remote_of(mirror, name, source))
    mirror.state.following[f"{name} {source.upstream.name}"] = one.state
    if not (mirror.store.database.shared or mirror.settings.node.count > 1):
        await one.run()

    async def work(lease: Lease) -> None:
        cursors = mirror.catalog.under(lease).cursors
        reporting = asyncio.create_task(_report(one, cursors))
        try:
            await one.under(cursors).run()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)

    while True:  # one process follows, and the others are ready to go on where it ends
        try:
            await mirror.catalog.leases.run(f"follow {one.name}", mirror.clock, LEASE_SECONDS, work)
            await _show_reported(one, mirror.catalog.cursors)
        except MirrorError as error:
            logger.warning("following %s into %s: %s", source.upstream.name, name, error)
        await asyncio.sleep(LEASE_SECONDS / 3)


async def _report(one: Follower, cursors: Cursors) -> None:
    """Report the state of a follower every few seconds, where it has changed, until cancelled."""
    reported = ""
    while True:
        state = msgspec.json.encode(one.state).decode()
        if state != reported:
            with suppress(MirrorError):  # it is reported the next time
                await cursors.report(one.name, state)
                reported = state
        await asyncio.sleep(REPORT_SECONDS)


async def _show_reported(one: Follower, cursors: Cursors) -> None:
    """Let a follower that is not at work have the state of the one that is."""
    reported = await cursors.reported(one.name)
    if reported is None:
        return
    try:
        state = msgspec.json.decode(reported, type=FollowState)
    except msgspec.MsgspecError as error:  # of another version
        logger.warning("how far another process has followed %s cannot be read: %s", one.name, error)
        return
    for field in FollowState.__struct_fields__:
        setattr(one.state, field, getattr(state, field))
