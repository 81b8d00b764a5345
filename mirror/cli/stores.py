"""The store as `mirror sync`, `check`, `export` and `follow` open it: alone, beside a running mirror, or read only.

Beside a running mirror, a sync or follow is a client of it (see `mirror.cli.remote`). Otherwise a sync serves for as
long as it takes, on a free port of this machine, because uv and bundler ask the mirror which versions there are.

What is only read is decided as if offline, whether a mirror runs or not. Versions that are still open are then decided
by uv and bundler too, which ask a temporary mirror with a copy of the catalog and the same files.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

from mirror.airgap.follow import Applier
from mirror.airgap.lockfiles import RequirementSet, Target
from mirror.airgap.sync.fetchers import CONNECTIONS, Fetcher, Holdings
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.plan import SyncPlan, plan
from mirror.airgap.sync.resolve import Resolvers
from mirror.airgap.sync.workers import WorkerPool
from mirror.catalog.inspection import copy_catalog
from mirror.cli.remote import RemoteApplier, beside_running
from mirror.config import Address, CatalogSettings, Settings
from mirror.index.upstream import CachedUpstream
from mirror.service import scheduled_sync
from mirror.service.directory import served_by
from mirror.service.following import LocalApplier
from mirror.service.open import Mode, open_mirror
from mirror.service.scheduled_sync import Access
from mirror.service.services import Mirror
from mirror.service.store import catalog_copier


@asynccontextmanager
async def sync_target(
    settings: Settings, connections: int, pool: WorkerPool
) -> AsyncIterator[tuple[Mirror, Fetcher, Access]]:
    """Open a mirror to look into, what fetches for it, and where clients reach it. Raises ConfigError."""
    async with AsyncExitStack() as stack:
        running = served_by(settings.data_dir)
        if running is None:
            opened = await stack.enter_async_context(open_mirror(_private(settings), Mode.SERVE))
            mirror = await opened.mirror()
            access = await stack.enter_async_context(scheduled_sync.grant_access(mirror, opened.urls))
            fetcher = await stack.enter_async_context(scheduled_sync.local_fetcher(mirror, connections, pool))
            yield mirror, fetcher, access
        else:
            yield await stack.enter_async_context(beside_running(settings, running, connections))


@asynccontextmanager
async def follow_target(
    settings: Settings,
) -> AsyncIterator[tuple[Mirror, Callable[[str, CachedUpstream], Applier]]]:
    """Open a mirror, with a function that returns the Applier for a repository and one of its upstreams."""
    async with AsyncExitStack() as stack:
        running = served_by(settings.data_dir)
        if running is None:
            opened = await stack.enter_async_context(open_mirror(settings, Mode.ALONE))
            alone = await opened.mirror()
            yield alone, lambda name, source: LocalApplier(alone, name, source.upstream.url)
        else:
            mirror, fetcher, _ = await stack.enter_async_context(beside_running(settings, running, CONNECTIONS))
            yield mirror, lambda name, source: RemoteApplier(fetcher, name, source.name, mirror.catalog.files)


@asynccontextmanager
async def plan_offline(
    settings: Settings, inputs: Sequence[SyncInput], *, build: bool
) -> AsyncIterator[tuple[SyncPlan, Holdings]]:
    """Plan what the inputs need from what is stored, and open the queries about what is held. Changes nothing."""
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_mirror(settings, Mode.READ_ONLY))
        mirror = await opened.mirror()
        resolver = _OfflineResolver(settings, stack, build=build)
        yield (
            await plan(inputs, scheduled_sync.read_only_fetcher(mirror), resolver),
            scheduled_sync.holdings(mirror),
        )


class _OfflineResolver:
    """A Resolver that decides open versions as uv and bundler would with the network off."""

    def __init__(self, settings: Settings, stack: AsyncExitStack, *, build: bool) -> None:
        """`stack` closes the temporary mirror, which starts when the first version has to be decided."""
        self._settings = settings
        self._stack = stack
        self._build = build
        self._resolvers: Resolvers | None = None

    async def __call__(self, requirements: RequirementSet, target: Target, repository: str) -> RequirementSet:
        if self._resolvers is None:
            self._resolvers = await self._start()
        return await self._resolvers(requirements, target, repository)

    async def _start(self) -> Resolvers:
        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(_link_data, self._settings, directory)
        update = {"data_dir": directory, "offline": True, "catalog": CatalogSettings()}
        temporary = _private(self._settings).model_copy(update=update)
        opened = await self._stack.enter_async_context(open_mirror(temporary, Mode.SERVE))
        access = scheduled_sync.grant_access(await opened.mirror(), opened.urls)
        return Resolvers(await self._stack.enter_async_context(access), build=self._build)


def _private(settings: Settings) -> Settings:
    """Return the settings of a mirror that serves only this process: on a free port, without log and schedule."""
    log = settings.log.model_copy(update={"access": False})
    return settings.model_copy(update={"listen": (Address("127.0.0.1", 0),), "sync": (), "log": log})


def _link_data(settings: Settings, directory: Path) -> None:
    """Make a data directory with a copy of the catalog and links to the files of the real one."""
    for name in ("blobs", "uploads"):
        (settings.data_dir / name).mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(settings.data_dir / name)
    copy = catalog_copier(settings) or partial(copy_catalog, settings.catalog_file)
    copy(directory / settings.catalog_file.name)
