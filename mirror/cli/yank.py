"""`mirror yank`: mark a version of our own as not to be used any more."""

from pathlib import Path

import click

from mirror.cli.opening import shared_options
from mirror.cli.store import change_files, repository_option, version_options


@click.command("yank", short_help="Mark a version of our own as not to be used.")
@version_options
@click.option("--reason", default="", help="Why: Python installers show it.")
@repository_option
@shared_options
def command(
    name: str,
    version: str,
    filename: str | None,
    reason: str,
    repository: str | None,
    config: Path | None,
    data_dir: Path | None,
) -> int:
    """Yank NAME VERSION: installers no longer choose it, but whoever has it in a lock file still gets it.

    A gem's VERSION may end in a platform: 1.0-java.
    """
    return change_files(
        config, data_dir, repository, name, version, filename, "yank",
        lambda writer, file: writer.yank(file, reason),
    )  # fmt: skip
