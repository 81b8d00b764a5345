"""`mirror move`: from one catalog and store of files to others, and back."""

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from mirror.cli.options import SettingsOptions, settings_options
from mirror.cli.output import say

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.service.move import MoveResult
    from mirror.service.move_targets import MoveTargets


@click.command("move")
@settings_options
@click.option("--to-catalog", metavar="URL|DIR", help="A PostgreSQL database, or a data directory for SQLite.")
@click.option("--to-blobs", metavar="URL|DIR", help="A bucket: s3://…, gs://… or az://…, or the data directory.")
@click.option("--endpoint", metavar="URL", help="The server of the bucket, for stores that are compatible with one.")
@click.option(
    "--password-file", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The password of the database; without it PGPASSFILE and so on are used.",
)  # fmt: skip
def move_command(
    to_catalog: str | None, to_blobs: str | None, endpoint: str | None, password_file: Path | None,
    options: SettingsOptions,
) -> int:  # fmt: skip
    """Move the catalog, the files or both of a stopped mirror to where many nodes can share them, or back.

    Everything is copied and compared; nothing changes in what is moved, which is yours to delete once the mirror serves
    from its new place. A move that is broken off goes on when it is run again. Exit status 1 when an uploaded file was
    damaged or missing.
    """
    from mirror.service.move_targets import MoveTargets

    settings = options.load()
    targets = MoveTargets(to_catalog, to_blobs, endpoint, password_file)
    return asyncio.run(_move(settings, targets))


async def _move(settings: "Settings", targets: "MoveTargets") -> int:
    from mirror.service.move import move

    bars = MoveBars()
    with bars.progress:
        result = await move(settings, targets, bars)
    if result.catalog is None and result.files is None:
        say("everything has been moved there before")
    _print_result(result)
    end = targets.settings(settings)
    say("The mirror serves from there with these settings:")
    say(f"data_dir = {_quoted(str(end.data_dir))}")
    if end.catalog.url is not None:
        say(f"[catalog]\nurl = {_quoted(end.catalog.url)}")
    if end.blobs.url is not None:
        say(f"[blobs]\nurl = {_quoted(end.blobs.url)}")
        if end.blobs.endpoint is not None:
            say(f"endpoint = {_quoted(end.blobs.endpoint)}")
    return 1 if result.files is not None and result.files.missing else 0


def _print_result(result: "MoveResult") -> None:
    if result.catalog is not None:
        say(f"moved the catalog: {result.catalog.rows:,} rows of {result.catalog.tables} tables, the same in both")
    if result.files is None:
        return
    say(f"moved {result.files.files:,} files ({decimal(result.files.bytes)})")
    cached = [digest for digest in result.files.damaged if digest not in result.files.missing]
    if cached:
        say(f"{len(cached)} damaged files of upstreams stayed behind: they are fetched again on request", err=True)
    for digest in result.files.missing:
        say(f"damaged or missing: {digest}, an uploaded file; `mirror verify` tells which", err=True)


def _quoted(text: str) -> str:
    """Return a text as TOML writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


class MoveBars:
    """A MoveProgress for people: two bars on a terminal, a line for each table elsewhere."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._terminal = sys.stderr.isatty()
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[done]}"), TimeRemainingColumn(),
            console=Console(stderr=True, highlight=False), disable=not self._terminal,
        )  # fmt: skip
        """The bars, shown while this is entered as a context."""
        self._table = self.progress.add_task("the catalog", total=None, done="")
        self._files = self.progress.add_task("files", total=None, done="", visible=False)
        self._count = self._total = 0

    def on_table(self, name: str, rows: int) -> None:
        """Show that a table is being copied, or compared again."""
        self.progress.reset(self._table, description=name, total=rows, done=f"{rows:,} rows")
        if not self._terminal:
            say(f"{name}: {rows:,} rows", err=True)

    def on_rows(self, count: int) -> None:
        """Show that so many more rows of it are done."""
        self.progress.update(self._table, advance=count)

    def on_files(self, count: int, size: int) -> None:
        """Show that so many files are to be copied."""
        self._total = count
        self.progress.reset(self._files, total=size, visible=True, done="")
        if not self._terminal:
            say(f"files: {count:,} ({decimal(size)})", err=True)

    def on_copied(self, count: int, size: int) -> None:
        """Show that so many more files are in the other store."""
        self._count += count
        self.progress.update(self._files, advance=size, done=f"{self._count:,}/{self._total:,} files")
