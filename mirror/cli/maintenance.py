"""`mirror sweep`, `verify`, `backup` and `restore`: keeping the store small, intact and saved."""

import asyncio
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from mirror.cli.options import SettingsOptions, parse_size, settings_options
from mirror.cli.output import say

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.maintenance.backup import BackupResult
    from mirror.maintenance.surplus import Batch
    from mirror.maintenance.verify import Fault


@click.command("sweep")
@settings_options
@click.option("--limit", metavar="SIZE", help="Instead of [store] limit, this time only.")
@click.option("--dry-run", is_flag=True, help="Only list what would be removed.")
def sweep_command(limit: str | None, dry_run: bool, options: SettingsOptions) -> int:
    """Bring the store below its limit: the least recently used files go first, with their sidecars and pages.

    Uploads, the files of sync sets and what was requested within [store] min_age stay. A mirror may be serving from the
    store. Exit status 1 when the store is still above its limit.
    """
    settings = options.load()
    most = settings.store.limit if limit is None else parse_size("--limit", limit)
    return asyncio.run(_sweep(settings, most, dry_run))


async def _sweep(settings: "Settings", limit: int | None, dry_run: bool) -> int:
    from mirror.service.jobs import evictor
    from mirror.service.open import Mode, open_mirror

    def tell(batch: "Batch") -> None:
        lines = [f"{'would go' if dry_run else 'gone'}: {held.filename} ({decimal(held.size)})" for held in batch.files]
        if lines:
            say("\n".join(lines))

    async with open_mirror(settings, Mode.BESIDE) as opened:
        report = await evictor(settings, opened.store, limit).sweep(dry_run=dry_run, tell=tell)
    if report.busy:
        say("Another process is sweeping this store.", err=True)
        return 1
    if report.orphans:
        say(f"{report.orphans} blobs that nothing refers to {'would go' if dry_run else 'are gone'}")
    within = "no limit" if limit is None else f"limit {decimal(limit)}"
    say(f"{decimal(report.before)} before, {decimal(report.after)} after, {within}")
    if limit is None or report.after <= limit:
        return 0
    say(
        "Still above the limit: the rest was uploaded, is in a sync set, was removed upstream, or is in recent use.",
        err=True,
    )
    return 1


@click.command("verify")
@settings_options
@click.option("--rate", metavar="SIZE", help="Read at most this much per second; default: as fast as the disk allows.")
def verify_command(rate: str | None, options: SettingsOptions) -> int:
    """Compare every held file with its digest. Damaged files are moved to `damaged/` and fetched again.

    A mirror may be serving from the store. Exit status 1 when something could not be repaired.
    """
    settings = options.load()
    logger = logging.getLogger("mirror")
    level = logger.level
    logger.setLevel(logging.CRITICAL)  # each fault is printed below, with how it ended
    try:
        return asyncio.run(_verify(settings, parse_size("--rate", rate)))
    finally:
        logger.setLevel(level)


async def _verify(settings: "Settings", rate: int | None) -> int:
    from rich.console import Console
    from rich.progress import Progress

    from mirror.service.jobs import verifier
    from mirror.service.open import Mode, open_mirror

    found = unmended = blobs = read = 0
    async with open_mirror(settings, Mode.BESIDE) as opened:
        mirror = await opened.mirror()
        _, total = await opened.catalog.files.totals()
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            task = progress.add_task("reading", total=total)
            async for state in verifier(mirror, opened.store, rate).verify():
                blobs, read = state.blobs, state.bytes
                progress.update(task, completed=min(read, total))
                if (fault := state.fault) is not None:
                    found += 1
                    unmended += not fault.mended and bool(fault.names or fault.ours)
                    say(_fault_text(fault))
    say(f"{blobs} blobs, {decimal(read)} read; {found} bad, {unmended} not mended")
    return 1 if unmended else 0


def _fault_text(fault: "Fault") -> str:
    what = "missing" if fault.missing else "damaged"
    end = "fetched again" if fault.mended else f"not mended: {fault.reason}"
    return f"{what}: {', '.join(fault.names) or fault.digest}: {end}"


@click.command("backup")
@settings_options
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
def backup_command(target: Path, options: SettingsOptions) -> int:
    """Copy what cannot be fetched again to TARGET: the catalog, and uploads with their records.

    A mirror may be serving meanwhile. A further backup to the same directory copies only what is new. `mirror restore`
    makes a data directory from it. Exit status 1 when an uploaded file was missing.
    """
    from mirror.maintenance.backup import add_stored, back_up, write_records
    from mirror.service.open import Mode, open_mirror
    from mirror.service.store import catalog_copier

    async def add() -> "BackupResult":
        async with open_mirror(settings, Mode.READ_ONLY) as opened:
            return await add_stored(opened.blobs, target, result)

    settings = options.load()
    result = back_up(settings.data_dir, target, catalog_copier(settings))
    if settings.blobs.url is not None:
        write_records(target)
        result = asyncio.run(add()) if result.missing else result
    size = decimal(result.bytes)
    say(f"backed up to {target}: the catalog, the records, and {result.blobs} new files ({size})")
    for digest in result.missing:
        say(f"missing: {digest}; `mirror verify` lists the file it belongs to", err=True)
    return 1 if result.missing else 0


@click.command("restore")
@settings_options
@click.argument("source", type=click.Path(path_type=Path, file_okay=False, exists=True))
def restore_command(source: Path, options: SettingsOptions) -> int:
    """Fill the data directory, which has to be empty, from a backup. Stop the mirror first.

    What came from upstreams is fetched again on request.
    """
    from mirror.maintenance.backup import restore

    data_dir = options.load().data_dir
    result = restore(source, data_dir)
    say(f"restored to {data_dir}: the catalog, the records, and {result.blobs} files ({decimal(result.bytes)})")
    return 0
