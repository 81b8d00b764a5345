"""`mirror report`: what happened that somebody may have to act upon. Read from the catalog, beside a running server."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import catalog_in, shared_options

if TYPE_CHECKING:
    from mirror.catalog import Removed

WHY = {
    "file": "upstream lists it no more",
    "project": "upstream has no such project any more",
    "quarantine": "upstream has put the project in quarantine",
}


@click.group("report", short_help="List what upstream has taken back, and who has it.")
def command() -> None:
    """List what upstream has taken back, and who has fetched it since."""


@command.command("removed")
@click.option("--json", "as_json", is_flag=True, help="Print it as JSON.")
@shared_options
def removed(as_json: bool, config: Path | None, data_dir: Path | None) -> int:
    """List the files that are held here and that upstream lists no more, and who has fetched them since."""
    import asyncio

    import msgspec

    from mirror.cli.opening import settings_of

    settings = settings_of(config, data_dir)
    found = asyncio.run(_read(settings.catalog_file)) if settings.catalog_file.exists() else []
    if as_json:
        click.echo(json.dumps(msgspec.to_builtins(found), indent=2))
        return 0
    for one in found:
        click.echo(f"{one.file.filename}: {WHY[one.file.why]}, noticed {_written(one.file.since)} ({one.file.source})")
        for fetch in one.fetches:
            times = "once" if fetch.fetches == 1 else f"{fetch.fetches} times"
            click.echo(f"  fetched since by {fetch.who} from {fetch.client}, {times}, last {_written(fetch.last)}")
        if not one.fetches:
            click.echo("  not fetched since")
    if not found:
        click.echo("Nothing that is held here has been removed upstream.")
    return 0


async def _read(path: Path) -> "list[Removed]":
    async with catalog_in(path) as catalog:
        return await catalog.removed.report()


def _written(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d %H:%M UTC")
