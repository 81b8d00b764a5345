"""`mirror check`: would this install with the network off?

Looks into the store itself, whether a mirror runs or not, and changes nothing. Versions that are still open are decided
as they would be offline: by uv and bundler, asking a mirror of a moment that serves a copy of the catalog over the same
files.
"""

import sqlite3
import tempfile
from contextlib import AsyncExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.selecting import checked_settings, selection_options, wishes

if TYPE_CHECKING:
    from mirror.airgap.lockfiles import Target, Wanted
    from mirror.airgap.sync import Resolvers, SyncInput
    from mirror.config import Settings


@click.command("check", short_help="Say whether it would install offline.")
@selection_options
def command(
    inputs: tuple[str, ...], pythons: tuple[str, ...], platforms: tuple[str, ...], sdists: bool, newest: int,
    all_versions: bool, no_deps: bool, build: bool, chosen: tuple[str, ...], config: Path | None,
    data_dir: Path | None,
) -> int:  # fmt: skip
    """Say whether everything that FILEs and NAMEs need is held, as `mirror sync` understands them.

    Each file that is not is named with the reason: not held, hidden by policy, no wheel for the target.

    Exit status 0 when everything is here, 1 when something is not, 2 when the input cannot be understood.
    """
    import asyncio

    from mirror.runtime import event_loops

    settings = checked_settings(config, data_dir)
    wanted = wishes(
        settings, inputs, pythons=pythons, platforms=platforms, sdists=sdists,
        newest=None if all_versions else newest, dependencies=not no_deps, chosen=chosen,
    )  # fmt: skip
    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(_check(settings, wanted, build=build))


async def _check(settings: "Settings", wanted: "list[SyncInput]", *, build: bool) -> int:
    from mirror.airgap.sync import Problem, plan
    from mirror.cli.progress import files_text
    from mirror.service import scheduled_sync

    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(scheduled_sync.looking(settings))
        found = await plan(wanted, scheduled_sync.stored(mirror), Offline(settings, stack, build=build))
        held = scheduled_sync.holdings(mirror)
        problems = list(found.problems)
        for file in found.files:
            if not await held.file(file.project, file.file):
                problems.append(Problem(what=file.file.filename, reason="not held"))
            elif not await held.sidecar(file.repository, file.project, file.file):
                problems.append(Problem(what=file.file.filename, reason="its metadata is not held"))
    problems += [
        Problem(what=outside.name, reason=outside.reason, where=outside.where)
        for outside in found.outside
        if not outside.local
    ]
    for problem in problems:
        click.echo(str(problem))
    count = len(found.files)
    if problems:
        click.echo(f"no: {len(problems):,} missing, of {files_text(count)} that are needed", err=True)
        return 1
    click.echo(f"yes: {files_text(count)}, all held")
    return 0


class Offline:
    """uv and bundler, as they would decide with the network off."""

    def __init__(self, settings: "Settings", stack: AsyncExitStack, *, build: bool) -> None:
        self._settings = settings
        self._stack = stack
        self._build = build
        self._resolvers: Resolvers | None = None

    async def __call__(self, wanted: "Wanted", target: "Target", repository: str) -> "Wanted":
        if self._resolvers is None:
            self._resolvers = await self._start()
        return await self._resolvers(wanted, target, repository)

    async def _start(self) -> "Resolvers":
        import asyncio

        from mirror.airgap.sync import Resolvers
        from mirror.config import Address
        from mirror.service import scheduled_sync
        from mirror.service.process import running

        directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        await asyncio.to_thread(_copied, self._settings.data_dir, self._settings.catalog_file, directory)
        alone = self._settings.model_copy(
            update={
                "data_dir": directory, "offline": True, "listen": (Address("127.0.0.1", 0),),
                "log": self._settings.log.model_copy(update={"access": False}), "sync": (),
            }
        )  # fmt: skip
        mirror, urls = await self._stack.enter_async_context(running(alone))
        return Resolvers(await self._stack.enter_async_context(scheduled_sync.access(mirror, urls)), build=self._build)


def _copied(data_dir: Path, catalog: Path, directory: Path) -> None:
    """A data directory with a copy of the catalog, and with the files of the real one."""
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
