"""`mirror serve`: run the mirror until it is told to stop."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings (TOML). [env: MIRROR_CONFIG]")
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help="host:port, [::1]:port or unix:/path; can be given several times.",
)
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where everything is kept.")
@click.option("--offline", is_flag=True, help="Never ask an upstream: serve what is held.")
def command(config: Path | None, listen: tuple[str, ...], data_dir: Path | None, offline: bool) -> int:
    """Run the mirror. It needs no settings; it stops on SIGTERM or Ctrl-C, after running answers."""
    from mirror.cli.checking import check
    from mirror.cli.hints import hints
    from mirror.config import Settings, load
    from mirror.service.process import serve

    given: dict[str, Any] = {"listen": listen, "data_dir": data_dir, "offline": offline}

    def settings() -> Settings:
        return load(config, {key: value for key, value in given.items() if value}, check)

    def ready(settings: Settings, urls: Sequence[str]) -> None:
        # To standard error: standard output is for the access log, which other programs read.
        click.echo(hints(settings, urls), err=True)

    return serve(settings, ready)
