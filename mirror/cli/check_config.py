"""`mirror check-config`: would `mirror serve` accept these settings?"""

from pathlib import Path

import click


@click.command("check-config", short_help="Say whether the settings are right.")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def command(file: Path | None) -> int:
    """Check FILE (else what MIRROR_CONFIG names) as `serve` would, with the environment over it. Changes nothing.

    Exit status 0 when it is right, 2 when not, with one line for each fault.
    """
    from mirror.cli.checking import check
    from mirror.config import load

    settings = load(file, check=check)
    click.echo(f"{file or 'The settings'}: right")
    for name, repository in settings.repositories.items():
        upstreams = ", ".join(upstream.name for upstream in repository.upstreams) or "no upstream"
        click.echo(f"  {name}: {repository.format} at {repository.mount}, from {upstreams}")
    return 0
