"""`mirror unyank`: take a yank back."""

from pathlib import Path

import click

from mirror.cli.opening import shared_options
from mirror.cli.store import change_files, repository_option, version_options


@click.command("unyank", short_help="Take a yank back.")
@version_options
@repository_option
@shared_options
def command(
    name: str, version: str, filename: str | None, repository: str | None, config: Path | None, data_dir: Path | None
) -> int:
    """Let NAME VERSION be used again."""
    return change_files(
        config, data_dir, repository, name, version, filename, "unyank", lambda writer, file: writer.unyank(file)
    )
