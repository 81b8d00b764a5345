"""`mirror serve`: run the mirror until it is told to stop."""

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
    from mirror.config import load
    from mirror.errors import ConfigError

    given: dict[str, Any] = {"listen": listen, "data_dir": data_dir, "offline": offline}
    settings = load(config, {key: value for key, value in given.items() if value}, check)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"data_dir: {settings.data_dir} cannot be made: {error.strerror}") from None

    from mirror.cli.hints import hints
    from mirror.serving import serve

    # To standard error: standard output is for the access log, which other programs read.
    return serve(settings, ready=lambda urls: click.echo(hints(settings, urls), err=True))
