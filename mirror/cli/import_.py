"""`mirror import`: take in a bundle, all of it or nothing."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.accounts import audited
from mirror.cli.opening import settings_of, shared_options

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mirror.airgap.bundle import ImportResult
    from mirror.airgap.bundle.format import PageEntry

SHOWN = 20
"""Names that are printed of each kind."""


@click.command("import", short_help="Take in a bundle of another mirror.")
@click.argument("parts", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--unsigned", is_flag=True,
    help="Do not ask who made it. Whoever could write to the medium can then put any code into what is installed"
    " from here.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Take it in whatever its place in the sequence, an older state too.")
@shared_options
def command(config: Path | None, data_dir: Path | None, parts: tuple[Path, ...], unsigned: bool, force: bool) -> int:
    """Take in a bundle that `mirror export` wrote, given as one file or as all of its parts in order.

    Its signature, its manifest and every digest are verified, and it has to follow what was taken in before. All of it
    becomes visible at once, or nothing. Interrupted, the next run goes on. A mirror may be serving meanwhile.
    """
    import asyncio
    import sys
    import time

    from rich.console import Console
    from rich.progress import Progress

    from mirror.airgap.bundle import Keys, load
    from mirror.cli.bundles import places_of
    from mirror.cli.opening import store_of
    from mirror.index.journal import LOOK
    from mirror.service.directory import served_at

    settings = settings_of(config, data_dir)
    if unsigned:
        click.echo("The signature is not verified: nothing says who made this bundle.", err=True)

    notice = LOOK + 0.1 if served_at(settings.data_dir) is not None else 0.0

    async def run() -> "ImportResult":
        async with store_of(settings) as store:
            with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
                task = bar.add_task("taking in")
                return await load(
                    parts, store.catalog, store.blobs, store.records, places_of(settings), settings.data_dir,
                    keys=Keys(settings.data_dir), now=time.time(), unsigned=unsigned, force=force, notice=notice,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )  # fmt: skip

    done = asyncio.run(run())
    audited("bundle imported", origin=done.manifest.node, signed=done.signed_by.id if done.signed_by else "")
    _tell(done)
    return 0


def _tell(done: "ImportResult") -> None:
    from rich.filesize import decimal

    _names("new projects", _projects(done.new_pages))
    _names("changed projects", _projects(done.changed_pages))
    _names("projects that upstream has no more", _projects(done.gone_pages))
    _names("new files", list(done.new_files))
    for kind in ("upload", "yank", "unyank", "delete"):
        _names(f"uploads: {kind}", [name for what, name in done.uploads if what == kind])
    for repository in done.own_index:
        click.echo(f"the list of gems of {repository} goes its own way here: what is new is appended to it")
    signed = f"signed by {done.signed_by.name}" if done.signed_by else "unsigned"
    click.echo(
        f"taken in up to {done.manifest.serial}, {signed}:"
        f" {done.blobs:,} files and sidecars came ({decimal(done.size)})"
    )


def _projects(pages: "Sequence[PageEntry]") -> list[str]:
    return [page.name for page in pages if page.kind == "project"]


def _names(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
        click.echo(f"{what} ({len(names):,}): {', '.join(names[:SHOWN])}{more}")
