"""`mirror inventory`: a small list of what this mirror holds, for the mirror that fills it."""

from pathlib import Path

import click

from mirror.cli.opening import settings_of, shared_options


@click.command("inventory", short_help="List what is held, for `mirror export --for`.")
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to write it.",
)  # fmt: skip
@shared_options
def command(config: Path | None, data_dir: Path | None, target: Path) -> int:
    """Write a small list of what this mirror holds. On the other side, `mirror export --for FILE` makes the smallest
    bundle that brings this mirror up to date.
    """
    import asyncio

    from rich.filesize import decimal

    from mirror.airgap.bundle import write_inventory
    from mirror.cli.bundles import places_of
    from mirror.cli.opening import store_of

    settings = settings_of(config, data_dir)

    async def run() -> None:
        async with store_of(settings) as store:
            listed = await write_inventory(store.catalog, store.blobs, places_of(settings), target)
        click.echo(
            f"{target}: {len(listed.pages):,} pages, {len(listed.files):,} files with their metadata,"
            f" {len(listed.uploads):,} uploads ({decimal(target.stat().st_size)})"
        )

    asyncio.run(run())
    return 0
