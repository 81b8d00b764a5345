"""`mirror backup`: a copy of what cannot be fetched again."""

from pathlib import Path

import click

from mirror.cli.opening import settings_of, shared_options


@click.command("backup", short_help="Copy the catalog and the uploads to a directory.")
@shared_options
@click.argument("target", type=click.Path(path_type=Path, file_okay=False))
def command(config: Path | None, data_dir: Path | None, target: Path) -> int:
    """Copy what cannot be fetched again to TARGET: the catalog, and uploads with their records.

    A mirror may be serving meanwhile. Into the same directory again, only what is new is copied. `mirror restore`
    makes a data directory of it. Exit status 1 when a file of our own was not there to be copied.
    """
    from rich.filesize import decimal

    from mirror.maintenance.backup import back_up

    saved = back_up(settings_of(config, data_dir).data_dir, target)
    click.echo(f"backed up to {target}: the catalog, the records, and {saved.blobs} new files ({decimal(saved.bytes)})")
    for digest in saved.missing:
        click.echo(f"not held any more: {digest}; `mirror verify` says which file that is", err=True)
    return 1 if saved.missing else 0
