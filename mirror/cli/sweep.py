"""`mirror sweep`: let go of what is above the limit, and of what nothing names."""

from pathlib import Path

import click

from mirror.cli.opening import settings_of, shared_options


@click.command("sweep", short_help="Remove the least recently used files above the limit.")
@shared_options
@click.option("--limit", metavar="SIZE", help="Instead of [store] limit, for this once.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
def command(config: Path | None, data_dir: Path | None, limit: str | None, dry_run: bool) -> int:
    """Bring the store below its limit: the least recently used files go first, with their sidecars and pages.

    Uploads, the files of sync sets and what was asked for within [store] min_age stay. A mirror may be serving from the
    store. Exit status 1 when the store is still above its limit.
    """
    import asyncio

    from rich.filesize import decimal

    from mirror.cli.opening import store_of
    from mirror.config.values import size
    from mirror.errors import Invalid
    from mirror.service.jobs import sweeper

    settings = settings_of(config, data_dir)
    try:
        most = size(limit) if limit is not None else settings.store.limit
    except ValueError as error:
        raise Invalid(f"--limit {limit}: {error}.") from None

    async def run() -> int:
        async with store_of(settings) as store:
            report = await sweeper(settings, store, most).sweep(dry_run=dry_run)
        if report.busy:
            click.echo("Another process is sweeping this store.", err=True)
            return 1
        for held in report.evicted:
            click.echo(f"{'would go' if dry_run else 'gone'}: {held.filename} ({decimal(held.size)})")
        if report.orphans:
            click.echo(f"{len(report.orphans)} blobs that nothing names {'would go' if dry_run else 'are gone'}")
        within = "no limit" if most is None else f"limit {decimal(most)}"
        click.echo(f"{decimal(report.before)} before, {decimal(report.after)} after, {within}")
        if most is None or report.after <= most:
            return 0
        click.echo("Still above it: the rest is your own, in a sync set, gone upstream, or in recent use.", err=True)
        return 1

    return asyncio.run(run())
