"""`mirror restore`: a data directory from a backup."""

from pathlib import Path

import click

from mirror.cli.opening import settings_of, shared_options


@click.command("restore", short_help="Fill an empty data directory from a backup.")
@shared_options
@click.argument("source", type=click.Path(path_type=Path, file_okay=False, exists=True))
def command(config: Path | None, data_dir: Path | None, source: Path) -> int:
    """Fill the data directory, which has to be empty, from a backup. Stop the mirror first.

    What came from upstreams is fetched again when it is asked for.
    """
    from rich.filesize import decimal

    from mirror.maintenance.backup import restore

    where = settings_of(config, data_dir).data_dir
    saved = restore(source, where)
    click.echo(f"restored to {where}: the catalog, the records, and {saved.blobs} files ({decimal(saved.bytes)})")
    return 0
