"""`mirror sync`: fetch what lock files, requirements and names need. `mirror check`: would it install offline?"""

import asyncio
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from mirror.cli.options import InvalidUsage, SettingsOptions, SyncSelection, selection_options
from mirror.cli.output import say

if TYPE_CHECKING:
    from mirror.airgap.sync.inputs import SyncInput
    from mirror.airgap.sync.workers import WorkerPool
    from mirror.config import Settings

DEFAULT_SET = "by-hand"
"""The set of what is synced without --set."""


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
    from mirror.airgap.sync.bulk import pool_size
    from mirror.airgap.sync.workers import WorkerPool
    from mirror.runtime import event_loops, tune_runtime

    settings = options.load_checked()
    inputs = selection.sync_inputs(settings)
    if settings.offline:
        raise InvalidUsage("This mirror is offline: nothing can be fetched. `mirror check` lists what is missing.")
    tune_runtime()
    # The workers first, while this process has one thread: a fork is quicker than a new interpreter.
    with WorkerPool(pool_size(connections)) as pool, asyncio.Runner(loop_factory=event_loops()) as runner:
        if dry_run:
            return runner.run(_show_plan(settings, inputs, connections, pool, build=selection.build))
        return runner.run(_sync(settings, inputs, name, connections, pool, build=selection.build))


async def _show_plan(
    settings: "Settings", inputs: "list[SyncInput]", connections: int, pool: "WorkerPool", *, build: bool
) -> int:
    from mirror.airgap.sync.fetching import lacking
    from mirror.airgap.sync.plan import plan
    from mirror.airgap.sync.resolve import Resolvers
    from mirror.cli.progress import ProgressBar, print_plan, print_problems
    from mirror.cli.stores import sync_target
    from mirror.service import scheduled_sync

    async with sync_target(settings, connections, pool) as (mirror, fetcher, access):
        with ProgressBar():
            found = await plan(inputs, fetcher, Resolvers(access, build=build))
            missing = await lacking(found.files, scheduled_sync.holdings(mirror))
        print_plan(missing, len(found.files) - len(missing))
        print_problems(found.problems)
        return 1 if found.problems else 0


async def _sync(
    settings: "Settings", inputs: "list[SyncInput]", name: str | None, connections: int, pool: "WorkerPool", *,
    build: bool,
) -> int:  # fmt: skip
    from mirror.airgap.sync.fetching import fetch, remember
    from mirror.airgap.sync.resolve import Resolvers
    from mirror.cli.progress import ProgressBar, count_files, print_problems
    from mirror.cli.stores import sync_target
    from mirror.service import scheduled_sync

    async with sync_target(settings, connections, pool) as (mirror, fetcher, access):
        with ProgressBar() as bar:
            holdings = scheduled_sync.holdings(mirror)
            result = await fetch(inputs, fetcher, Resolvers(access, build=build), holdings, bar)
        await remember(mirror.catalog.sets, name or DEFAULT_SET, result, only=name is not None)
    for external in result.external:
        say(f"mirror: {external.name}: left out, {external.reason} ({external.where})", err=True)
    print_problems(result.problems)
    say(
        f"{count_files(result.fetched)} fetched ({decimal(result.size)}), {result.held:,} held before"
        + (f", {len(result.problems):,} missing" if result.problems else "")
    )
    return 1 if result.problems else 0


# mirror check


@click.command("check")
@selection_options
def check_command(selection: SyncSelection, options: SettingsOptions) -> int:
    """Check that everything that FILEs and NAMEs need is held; they are read as by `mirror sync`.

    Each file that is missing is named with the reason: not held, hidden by policy, no wheel for the target.

    Exit status 0 when everything is here, 1 when something is not, 2 when the input cannot be understood.
    """
    from mirror.runtime import event_loops

    settings = options.load_checked()
    inputs = selection.sync_inputs(settings)
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_check(settings, inputs, build=selection.build))


async def _check(settings: "Settings", inputs: "list[SyncInput]", *, build: bool) -> int:
    from mirror.airgap.sync.plan import Problem
    from mirror.cli.progress import count_files
    from mirror.cli.stores import plan_offline

    async with plan_offline(settings, inputs, build=build) as (found, holdings):
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
        say(str(problem))
    count = len(found.files)
    if problems:
        say(f"no: {len(problems):,} missing, of {count_files(count)} that are needed", err=True)
        return 1
    say(f"yes: {count_files(count)}, all held")
    return 0
