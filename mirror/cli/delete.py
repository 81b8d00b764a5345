"""`mirror delete`: remove a version of our own, for ever."""

from pathlib import Path

import click

from mirror.cli.opening import shared_options
from mirror.cli.store import change_files, repository_option, version_options


@click.command("delete", short_help="Remove a version of our own, for ever.")
@version_options
@click.option("--yes", is_flag=True, help="Do not ask.")
@repository_option
@shared_options
def command(
    name: str,
    version: str,
    filename: str | None,
    yes: bool,
    repository: str | None,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Delete the files of NAME VERSION. Their names are never used again: publish another version instead.

    When a project has no files left, upstream's project of that name shows again, unless the name is private.
    """
    if not yes:
        click.confirm(f"Delete {filename or f'{name} {version}'} for ever?", abort=True)
    return change_files(
        config, data_dir, repository, name, version, filename, "delete", lambda writer, file: writer.delete(file)
    )
