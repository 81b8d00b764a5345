"""`mirror sync`: fetch what lock files, requirements and names need. `mirror check`: would it install offline?

Beside a running mirror a sync is a client of it (see `mirror.cli.remote`); otherwise it serves for as long as it takes,
on a free port of this machine, because uv and bundler ask the mirror which versions there are.

A check reads the store itself, whether a mirror runs or not, and changes nothing. Versions that are still open are
decided as they would be offline: by uv and bundler, which ask a temporary mirror with a copy of the catalog and the
same files.
"""

import asyncio
import sqlite3
import tempfile
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path

import click
from rich.filesize import decimal

from mirror.airgap.lockfiles import RequirementSet, Target
from mirror.airgap.sync import (
    Fetcher,
    Problem,
    Resolvers,
    SyncInput,
    fetch,
    lacking,
    plan,
    pool_size,
    remember,
)
from mirror.airgap.sync.workers import WorkerPool
from mirror.cli.options import InvalidUsage, SettingsOptions, SyncSelection, selection_options
from mirror.cli.progress import ProgressBar, count_files, print_plan, print_problems
from mirror.cli.remote import beside_running
from mirror.config import Address, Settings
from mirror.runtime import event_loops, tune_runtime
from mirror.service import scheduled_sync
from mirror.service.directory import served_at
from mirror.service.open import Mode, open_mirror
from mirror.service.scheduled_sync import Access
from mirror.service.services import Mirror

DEFAULT_SET = "by-hand"
"""The set of what is synced without --set."""

SyncTarget = AbstractAsyncContextManager[tuple[Mirror, Fetcher, Access]]
"""A mirror to look into, what fetches for it, and where its clients reach it."""


@click.command("sync")
@selection_options
@click.option(
    "--set", "name", metavar="NAME",
    help="Make this the whole content of the set NAME; without it, what is fetched is added to what is kept.",
)  # fmt: skip
@click.option(
    "--connections", type=click.IntRange(1, 100), default=16, show_default=True,
    help="Files that are fetched at the same time.",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="List the files that would be fetched; fetch only pages.")
def sync_command(
    selection: SyncSelection, options: SettingsOptions, name: str | None, connections: int, dry_run: bool
) -> int:
    """Fetch everything that FILEs (requirements, pylock.toml, uv.lock, poetry.lock, pdm.lock, Pipfile.lock,
    Gemfile.lock) and NAMEs (requests, 'django>=4.2', 'rack:~> 3.0', gem:rack) need: pages, files, metadata.

    What is held is not fetched again, so an interrupted sync continues where it stopped. It works beside a running
    mirror.

    Exit status 0 when everything is here, 1 when something is not, 2 when the input cannot be understood.
    """
    settings = options.load_checked()
    inputs = selection.sync_inputs(settings)
    if settings.offline:
        raise InvalidUsage("This mirror is offline: nothing can be fetched. `mirror check` lists what is missing.")
    tune_runtime()
    # The workers first, while this process has one thread: a fork is quicker than a new interpreter.
    with WorkerPool(pool_size(connections)) as pool, asyncio.Runner(loop_factory=event_loops()) as runner:
        target = _sync_target(settings, connections, pool)
        if dry_run:
            return runner.run(_show_plan(target, inputs, build=selection.build))
        return runner.run(_sync(target, inputs, name, build=selection.build))


async def _show_plan(target: SyncTarget, inputs: list[SyncInput], *, build: bool) -> int:
    async with target as (mirror, fetcher, access):
        with ProgressBar():
            found = await plan(inputs, fetcher, Resolvers(access, build=build))
            missing = await lacking(found.files, scheduled_sync.holdings(mirror))
        print_plan(missing, len(found.files) - len(missing))
        print_problems(found.problems)
        return 1 if found.problems else 0


async def _sync(target: SyncTarget, inputs: list[SyncInput], name: str | None, *, build: bool) -> int:
    async with target as (mirror, fetcher, access):
        with ProgressBar() as bar:
            holdings = scheduled_sync.holdings(mirror)
            result = await fetch(inputs, fetcher, Resolvers(access, build=build), holdings, bar)
        await remember(mirror.catalog.sets, name or DEFAULT_SET, result, only=name is not None)
    for external in result.external:
        click.echo(f"mirror: {external.name}: left out, {external.reason} ({external.where})", err=True)
    print_problems(result.problems)
    click.echo(
        f"{count_files(result.fetched)} fetched ({decimal(result.size)}), {result.held:,} held before"
        + (f", {len(result.problems):,} missing" if result.problems else "")
    )
    return 1 if result.problems else 0


@asynccontextmanager
async def _sync_target(
    settings: Settings, connections: int, pool: WorkerPool
) -> AsyncIterator[tuple[Mirror, Fetcher, Access]]:
    """Open what a sync fetches into: the store itself, or the mirror that serves from it. Raises ConfigError."""
    async with AsyncExitStack() as stack:
        urls = served_at(settings.data_dir)
        if urls is None:
            opened = await stack.enter_async_context(open_mirror(_quiet(settings), Mode.SERVE))
            mirror = await opened.mirror()
            access = await stack.enter_async_context(scheduled_sync.grant_access(mirror, opened.urls))
            local = await stack.enter_async_context(scheduled_sync.local_fetcher(mirror, connections, pool))
            yield mirror, local, access
            return
        mirror, fetcher, access = await stack.enter_async_context(beside_running(settings, urls, connections))
        yield mirror, fetcher, access


def _quiet(settings: Settings) -> Settings:
    """Return the settings of a mirror that serves only this process: on a free port, without log and schedule."""
    return settings.model_copy(
        update={
            "listen": (Address("127.0.0.1", 0),), "sync": (), "log": settings.log.model_copy(update={"access": False}),
        }
    )  # fmt: skip


# mirror check


@click.command("check")
@selection_options
def check_command(selection: SyncSelection, options: SettingsOptions) -> int:
    """Check that everything that FILEs and NAMEs need is held; they are read as by `mirror sync`.

    Each file that is missing is named with the reason: not held, hidden by policy, no wheel for the target.

    Exit status 0 when everything is here, 1 when something is not, 2 when the input cannot be understood.
    """
    settings = options.load_checked()
    inputs = selection.sync_inputs(settings)
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_check(settings, inputs, build=selection.build))


async def _check(settings: Settings, inputs: list[SyncInput], *, build: bool) -> int:
    async with AsyncExitStack() as stack:
        opened = await stack.enter_async_context(open_mirror(settings, Mode.READ_ONLY))
        mirror = await opened.mirror()
        found = await plan(
            inputs, scheduled_sync.read_only_fetcher(mirror), OfflineResolver(settings, stack, build=build)
        )
        holdings = scheduled_sync.holdings(mirror)
        problems = list(found.problems)
        for one in found.files:
            if not await holdings.file(one.project, one.file):
                problems.append(Problem(what=one.file.filename, reason="not held"))
            elif not await holdings.sidecar(one.repository, one.project, one.file):
                problems.append(Problem(what=one.file.filename, reason="its metadata is not held"))
    problems += [
        Problem(what=external.name, reason=external.reason, where=external.where)
        for external in found.external
        if not external.local
    ]
    for problem in problems:
        click.echo(str(problem))
    count = len(found.files)
    if problems:
        click.echo(f"no: {len(problems):,} missing, of {count_files(count)} that are needed", err=True)
        return 1
    click.echo(f"yes: {count_files(count)}, all held")
    return 0


class OfflineResolver:
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
        await asyncio.to_thread(_copy_catalog, self._settings.data_dir, self._settings.catalog_file, directory)
        alone = _quiet(self._settings).model_copy(update={"data_dir": directory, "offline": True})
        opened = await self._stack.enter_async_context(open_mirror(alone, Mode.SERVE))
        access = scheduled_sync.grant_access(await opened.mirror(), opened.urls)
        return Resolvers(await self._stack.enter_async_context(access), build=self._build)


def _copy_catalog(data_dir: Path, catalog: Path, directory: Path) -> None:
    """Make a data directory with a copy of the catalog and links to the files of the real one."""
    for name in ("blobs", "uploads"):
        (data_dir / name).mkdir(parents=True, exist_ok=True)
        (directory / name).symlink_to(data_dir / name)
    source = sqlite3.connect(f"file:{catalog}?mode=ro", uri=True)
    target = sqlite3.connect(directory / catalog.name)
    try:
        source.backup(target)
    finally:
        source.close()
        target.close()
