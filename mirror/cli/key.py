"""`mirror key`: the keys that sign bundles, and those of others that are trusted."""

from pathlib import Path

import click

from mirror.cli.accounts import audited
from mirror.cli.opening import settings_of, shared_options


@click.group("key", short_help="Keys that sign bundles.")
def command() -> None:
    """The key that signs the bundles of this mirror, and the keys of those whose bundles it takes."""


@command.command("create")
@click.option("--name", default="mirror", show_default=True, help="What the others call it.")
@shared_options
def create(config: Path | None, data_dir: Path | None, name: str) -> int:
    """Make the key of this mirror and print its public half, to be trusted on the other side."""
    from mirror.airgap.bundle.signing import Keys

    key = Keys(settings_of(config, data_dir).data_dir).create(name)
    audited("key created", key=key.id)
    click.echo(key.line)
    return 0


@command.command("list")
@shared_options
def show(config: Path | None, data_dir: Path | None) -> int:
    """The key of this mirror and those that it trusts: id, and the line to hand on."""
    from mirror.airgap.bundle.signing import Keys

    keys = Keys(settings_of(config, data_dir).data_dir)
    own = keys.own()
    for key in keys.trusted():
        click.echo(f"{key.id}  {'own    ' if own and key == own.public else 'trusted'}  {key.line}")
    return 0


@command.command("trust")
@click.argument("key")
@shared_options
def trust(config: Path | None, data_dir: Path | None, key: str) -> int:
    """Take bundles that are signed by KEY: the line that `mirror key create` printed, or a file that holds it.

    Get it by another way than the bundles, from somebody whom you know.
    """
    from mirror.airgap.bundle.signing import Keys, parse_key

    text = key if " " in key.strip() else Path(key).read_text()
    found = parse_key(text)
    Keys(settings_of(config, data_dir).data_dir).trust(found)
    audited("key trusted", key=found.id)
    click.echo(f"trusted: {found.name} ({found.id})")
    return 0


@command.command("distrust")
@click.argument("key_id", metavar="ID")
@shared_options
def distrust(config: Path | None, data_dir: Path | None, key_id: str) -> int:
    """Take no more bundles that are signed by the key of that id."""
    from mirror.airgap.bundle.signing import Keys

    Keys(settings_of(config, data_dir).data_dir).distrust(key_id)
    audited("key distrusted", key=key_id)
    click.echo(f"no longer trusted: {key_id}")
    return 0
