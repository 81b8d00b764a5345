"""`mirror export`: what is held, for those who cannot reach this mirror."""

from pathlib import Path

import click

from mirror.cli.accounts import settings_of, shared_options


@click.command("export", short_help="Write what is held as a tree for any web server.")
@click.option(
    "--static", "static", type=click.Path(path_type=Path), metavar="DIR", required=True,
    help="Write a tree that any web server serves as an index, into this directory.",
)  # fmt: skip
@click.option("--changed", is_flag=True, help="With --static: write only what changed since the last time.")
@click.option(
    "--files-url", metavar="URL",
    help="With --static: leave the files out, and link to them here: another such tree, or a mirror.",
)  # fmt: skip
@click.option("--copy", is_flag=True, help="With --static: copy files rather than link them to the store.")
@click.option(
    "--repository", "repositories", multiple=True, metavar="NAME",
    help="Only this repository, also what not everyone may read of it. Several times.",
)  # fmt: skip
@shared_options
def command(
    static: Path, changed: bool, files_url: str | None, copy: bool, repositories: tuple[str, ...],
    config: Path | None, data_dir: Path | None,
) -> int:  # fmt: skip
    """Write everything that is held for those who cannot reach this mirror. A mirror may be serving meanwhile.

    With --static, DIR becomes an index that any web server or bucket serves; for nginx, DIR/.mirror holds the lines
    to include. Exit status 1 when something that is held could not be exported.
    """
    import asyncio

    from mirror.cli.static_tree import export_static

    settings = settings_of(config, data_dir)
    return asyncio.run(
        export_static(settings, static, changed=changed, files_url=files_url, copy=copy, repositories=repositories)
    )
