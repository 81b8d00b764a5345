"""`mirror sync`: fetch what locks, requirements and names need, ahead of demand.

Beside a running mirror this is a client of it (see `mirror.cli.through`); otherwise it serves itself for as long as it
takes, on a free port of this machine, because uv and bundler ask the mirror which versions there are.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.selecting import Misuse, checked_settings, selection_options, wishes

if TYPE_CHECKING:
    from mirror.airgap.sync import Fetcher, SyncInput
    from mirror.airgap.sync.workers import WorkerPool
    from mirror.config import Settings
    from mirror.service.scheduled_sync import Access
    from mirror.service.services import Mirror

    Reached = AbstractAsyncContextManager[tuple[Mirror, Fetcher, Access]]

BY_HAND = "by-hand"


@click.command("sync", short_help="Fetch ahead of demand.")
@selection_options
@click.option(
    "--set",
    "name",
    metavar="NAME",
    help="Let this set be kept, and name exactly this; without it, what is fetched is kept besides the rest.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 100),
    default=16,
    show_default=True,
    help="Files that are fetched at the same time.",
)
@click.option("--dry-run", is_flag=True, help="Say which files would be fetched; only pages are.")  # fmt: skip
def command(
    inputs: tuple[str, ...], pythons: tuple[str, ...], platforms: tuple[str, ...], sdists: bool, newest: int,
    all_versions: bool, no_deps: bool, build: bool, chosen: tuple[str, ...], config: Path | None,
    data_dir: Path | None, name: str | None, connections: int, dry_run: bool,
) -> int:  # fmt: skip
    """Fetch everything that FILEs (requirements, pylock.toml, uv.lock, poetry.lock, pdm.lock, Pipfile.lock,
    Gemfile.lock) and NAMEs (requests, 'django>=4.2', 'rack:~> 3.0', gem:rack) need: pages, files, metadata.

    What is held is not fetched again, so an interrupted sync goes on where it was. It works beside a running mirror.

    Exit status 0 when everything is here, 1 when something is not, 2 when the input cannot be understood.
    """
    import asyncio

    from mirror.airgap.sync import pool_size
    from mirror.airgap.sync.workers import WorkerPool
    from mirror.runtime import event_loops, tune_runtime

    settings = checked_settings(config, data_dir)
    wanted = wishes(
        settings, inputs, pythons=pythons, platforms=platforms, sdists=sdists,
        newest=None if all_versions else newest, dependencies=not no_deps, chosen=chosen,
    )  # fmt: skip
    if settings.offline:
        raise Misuse("This mirror is set to be offline: nothing can be fetched. `mirror check` says what is missing.")
    tune_runtime()
    # The workers first, as long as this process has one thread: a fork is quicker than a new interpreter.
    with WorkerPool(pool_size(connections)) as pool, asyncio.Runner(loop_factory=event_loops()) as runner:
        reached = _reached(settings, connections, pool)
        return runner.run(_sync(reached, wanted, name or BY_HAND, only=name is not None, build=build, dry_run=dry_run))


async def _sync(
    reached: "Reached", wanted: "list[SyncInput]", name: str, *, only: bool, build: bool, dry_run: bool
) -> int:
    from rich.filesize import decimal

    from mirror.airgap.sync import Resolvers, fetch, lacking, plan, remember
    from mirror.cli.progress import Shown, complain, files_text, listed
    from mirror.service import scheduled_sync

    async with reached as (mirror, way, access):
        with Shown() as shown:
            shown.looking("looking")
            resolve, held = Resolvers(access, build=build), scheduled_sync.holdings(mirror)
            if dry_run:
                found = await plan(wanted, way, resolve)
                missing = await lacking(found.files, held)
            else:
                result = await fetch(wanted, way, resolve, held, shown)
        if dry_run:
            listed(missing, len(found.files) - len(missing))
            complain(found.problems)
            return 1 if found.problems else 0
        await remember(mirror.catalog.sets, name, result, only=only)
    for outside in result.outside:
        click.echo(f"mirror: {outside.name}: left out, {outside.reason} ({outside.where})", err=True)
    complain(result.problems)
    click.echo(
        f"{files_text(result.fetched)} fetched ({decimal(result.size)}), {result.held:,} held before"
        + (f", {len(result.problems):,} missing" if result.problems else "")
    )
    return 1 if result.problems else 0


@asynccontextmanager
async def _reached(
    settings: "Settings", connections: int, pool: "WorkerPool"
) -> "AsyncIterator[tuple[Mirror, Fetcher, Access]]":
    """A mirror to look into, the way to what it serves, and where its clients reach it."""
    from mirror.cli.through import RemoteFetcher
    from mirror.config import Address
    from mirror.errors import ConfigError
    from mirror.service import scheduled_sync
    from mirror.service.directory import served_at
    from mirror.service.process import running

    async with AsyncExitStack() as stack:
        urls = served_at(settings.data_dir)
        if urls is None:
            alone = settings.model_copy(
                update={
                    "listen": (Address("127.0.0.1", 0),),
                    "sync": (),
                    "log": settings.log.model_copy(update={"access": False}),
                }
            )
            mirror, own = await stack.enter_async_context(running(alone))
            access = await stack.enter_async_context(scheduled_sync.access(mirror, own))
            yield mirror, await stack.enter_async_context(scheduled_sync.way(mirror, connections, pool)), access
            return
        if not urls:
            raise ConfigError("A mirror is just starting in this data directory: try again in a moment.")
        mirror = await stack.enter_async_context(scheduled_sync.looking(settings))
        mounts = {name: one.mount for name, one in settings.repositories.items()}
        access = await stack.enter_async_context(scheduled_sync.access(mirror, urls))
        way = RemoteFetcher(urls[0], mirror.repositories, mounts, connections, access.headers)
        stack.push_async_callback(way.close)
        yield mirror, way, access
