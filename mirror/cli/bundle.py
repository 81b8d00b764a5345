"""`mirror import`, `mirror inventory` and `mirror key`: bundles from other mirrors, and the keys that sign them."""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from mirror.cli.options import SettingsOptions, audit_change, settings_options
from mirror.cli.output import say

if TYPE_CHECKING:
    from mirror.airgap.bundle import ImportResult, Keys
    from mirror.airgap.bundle.format import PageEntry

NAMES_SHOWN = 20
"""How many names of each kind are printed."""


@click.command("import")
@click.argument("parts", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--unsigned", is_flag=True,
    help="Do not verify who made it. Anyone who could write to the medium can then put any code into what is installed"
    " from here.",
)  # fmt: skip
@click.option("--force", is_flag=True, help="Import it even if it does not follow the last one, is older, or expired.")
@settings_options
def import_command(parts: tuple[Path, ...], unsigned: bool, force: bool, options: SettingsOptions) -> int:
    """Import a bundle that `mirror export` wrote, given as one file or as all of its parts in order.

    Its signature, its manifest and every digest are verified, and it has to follow what was imported before. All of it
    becomes visible at once, or nothing. After an interruption, the next run continues. A mirror may be serving
    meanwhile.
    """
    from rich.console import Console
    from rich.progress import Progress

    from mirror.airgap.bundle import Keys, layout_of, load
    from mirror.index.journal import LOOK_SECONDS
    from mirror.service.directory import served_by
    from mirror.service.ecosystems import ECOSYSTEMS
    from mirror.service.open import Mode, open_mirror

    settings = options.load()
    if unsigned:
        say("The signature is not verified: anyone may have made this bundle.", err=True)
    # The import is announced to a serving mirror, which looks for such news every LOOK_SECONDS.
    notice = LOOK_SECONDS + 0.1 if served_by(settings.data_dir) is not None else 0.0

    async def run() -> "ImportResult":
        async with open_mirror(settings, Mode.BESIDE) as opened:
            with Progress(disable=not sys.stderr.isatty(), console=Console(stderr=True)) as bar:
                task = bar.add_task("importing")
                return await load(
                    parts, opened.catalog, opened.blobs, opened.records, layout_of(settings, ECOSYSTEMS),
                    settings.data_dir, keys=Keys(settings.data_dir), now=opened.store.clock(), unsigned=unsigned,
                    force=force, notice=notice,
                    progress=lambda done, total: bar.update(task, completed=done, total=total),
                )  # fmt: skip

    result = asyncio.run(run())
    signer = result.signed_by.id if result.signed_by else ""
    audit_change("bundle imported", origin=result.manifest.node, signed=signer)
    _print_result(result)
    return 0


def _print_result(result: "ImportResult") -> None:

    _print_names("new projects", _projects(result.new_pages))
    _print_names("changed projects", _projects(result.changed_pages))
    _print_names("projects that upstream no longer has", _projects(result.gone_pages))
    _print_names("new files", list(result.new_files))
    for kind in ("upload", "yank", "unyank", "delete"):
        _print_names(f"uploads: {kind}", [name for what, name in result.uploads if what == kind])
    for repository in result.own_index:
        say(f"the list of gems of {repository} differs from the bundle's here: new gems are appended to it")
    signed = f"signed by {result.signed_by.name}" if result.signed_by else "unsigned"
    say(
        f"imported up to {result.manifest.serial}, {signed}:"
        f" {result.blobs:,} new files and sidecars ({decimal(result.size)})"
    )


def _projects(pages: "Sequence[PageEntry]") -> list[str]:
    return [page.name for page in pages if page.kind == "project"]


def _print_names(what: str, names: list[str]) -> None:
    if names:
        more = f" and {len(names) - NAMES_SHOWN:,} more" if len(names) > NAMES_SHOWN else ""
        say(f"{what} ({len(names):,}): {', '.join(names[:NAMES_SHOWN])}{more}")


@click.command("inventory")
@click.option(
    "-o", "--output", "target", required=True, type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="Where to write it.",
)  # fmt: skip
@settings_options
def inventory_command(target: Path, options: SettingsOptions) -> int:
    """Write a small list of what this mirror holds.

    On the other side, `mirror export --for FILE` makes the smallest bundle that brings this mirror up to date.
    """
    from mirror.airgap.bundle import layout_of, write_inventory
    from mirror.service.ecosystems import ECOSYSTEMS
    from mirror.service.open import Mode, open_mirror

    settings = options.load()

    async def run() -> None:
        async with open_mirror(settings, Mode.BESIDE) as opened:
            listed = await write_inventory(opened.catalog, opened.blobs, layout_of(settings, ECOSYSTEMS), target)
        say(
            f"{target}: {len(listed.pages):,} pages, {len(listed.files):,} files with their metadata,"
            f" {len(listed.uploads):,} uploads ({decimal(target.stat().st_size)})"
        )

    asyncio.run(run())
    return 0


@click.group("key")
def key_command() -> None:
    """Manage the key that signs the bundles of this mirror, and the keys of other mirrors that it trusts."""


def _keys(options: SettingsOptions) -> "Keys":
    from mirror.airgap.bundle import Keys

    return Keys(options.load().data_dir)


@key_command.command("create")
@click.option("--name", default="mirror", show_default=True, help="The name that other mirrors show for it.")
@settings_options
def create_command(name: str, options: SettingsOptions) -> int:
    """Create the key of this mirror and print its public half, to be trusted on the other side."""
    key = _keys(options).create(name)
    audit_change("key created", key=key.id)
    say(key.line)
    return 0


@key_command.command("list")
@settings_options
def list_command(options: SettingsOptions) -> int:
    """List the key of this mirror and those that it trusts: id, and the public half."""
    keys = _keys(options)
    own = keys.own()
    for key in keys.trusted():
        say(f"{key.id}  {'own    ' if own and key == own.public else 'trusted'}  {key.line}")
    return 0


@key_command.command("trust")
@click.argument("key")
@settings_options
def trust_command(key: str, options: SettingsOptions) -> int:
    """Trust bundles that are signed by KEY: the line that `mirror key create` printed, or a file with that line.

    Get it in another way than the bundles, from someone you know.
    """
    from mirror.airgap.bundle.signing import parse_key

    found = parse_key(key if " " in key.strip() else Path(key).read_text())
    _keys(options).trust(found)
    audit_change("key trusted", key=found.id)
    say(f"trusted: {found.name} ({found.id})")
    return 0


@key_command.command("distrust")
@click.argument("key_id", metavar="ID")
@settings_options
def distrust_command(key_id: str, options: SettingsOptions) -> int:
    """Stop trusting bundles that are signed by the key with this id."""
    _keys(options).distrust(key_id)
    audit_change("key distrusted", key=key_id)
    say(f"no longer trusted: {key_id}")
    return 0
