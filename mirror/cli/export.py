"""`mirror export`: what is held, for those who cannot reach this mirror: a bundle, or a tree for any web server."""

from functools import partial
from pathlib import Path

import click

from mirror.cli.selecting import Misuse, checked_settings, selection_options, wishes


@click.command("export", short_help="Write a bundle for another mirror, or a tree for any web server.")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The bundle to write.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Everything that is held.")
@click.option("--since", type=click.IntRange(min=1), metavar="SERIAL", help="What has changed after that serial.")
@click.option(
    "--for", "inventory", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="INVENTORY",
    help="What a mirror lacks that wrote this with `mirror inventory`.",
)  # fmt: skip
@click.option("--parts", metavar="SIZE", help="Split it into files of at most this size: FILE.001, FILE.002, …")
@click.option("--unsigned", is_flag=True, help="Do not sign it: whoever takes it in cannot know who made it.")
@click.option(
    "--static", "static", type=click.Path(path_type=Path), metavar="DIR",
    help="Instead of a bundle, write a tree that any web server serves as an index, into this directory.",
)  # fmt: skip
@click.option("--changed", is_flag=True, help="With --static: write only what changed since the last time.")
@click.option(
    "--files-url", metavar="URL",
    help="With --static: leave the files out, and link to them here: another such tree, or a mirror.",
)  # fmt: skip
@click.option("--copy", is_flag=True, help="With --static: copy files rather than link them to the store.")
@partial(selection_options, required=False)
def command(
    target: Path | None, everything: bool, since: int | None, inventory: Path | None, parts: str | None,
    unsigned: bool, static: Path | None, changed: bool, files_url: str | None, copy: bool,
    inputs: tuple[str, ...], pythons: tuple[str, ...], platforms: tuple[str, ...], sdists: bool, newest: int,
    all_versions: bool, no_deps: bool, build: bool, chosen: tuple[str, ...], config: Path | None,
    data_dir: Path | None,
) -> int:  # fmt: skip
    """Write what is held for those who cannot reach this mirror. A mirror may be serving meanwhile.

    With -o, a bundle: one tar with pages, files, what they are, and a signature; `mirror import` takes it in. It holds
    everything (--all), what FILEs and NAMEs need as `mirror sync` understands them, what has changed since a SERIAL, or
    with --for what is lacking on the other side.

    With --static, DIR becomes an index that any web server or bucket serves; for nginx, DIR/.mirror holds the lines
    to include.

    Exit status 1 when something that is held, or should be, could not be exported; the rest is written all the same.
    """
    import asyncio

    settings = checked_settings(config, data_dir)
    bundle = everything or inputs or since is not None or inventory is not None
    if static is not None:
        from mirror.cli.static_tree import export_static

        if target is not None or bundle or parts or unsigned:
            raise Misuse("--static DIR writes all that is held: what belongs to a bundle cannot be said with it.")
        return asyncio.run(
            export_static(settings, static, changed=changed, files_url=files_url, copy=copy, repositories=chosen)
        )
    if target is None:
        raise Misuse("Say where to write: a bundle to -o FILE, or a tree to --static DIR.")
    if changed or files_url or copy:
        raise Misuse("--changed, --files-url and --copy belong to --static DIR.")
    if sum([everything, bool(inputs), since is not None]) > 1 or (since is not None and inventory is not None):
        raise Misuse("Say one of: --all, --since SERIAL, or what to take.")
    if not bundle:
        raise Misuse("Say what to take: --all, --since SERIAL, --for INVENTORY, or lock files and names.")
    from mirror.cli.bundles import export_bundle

    wanted = wishes(
        settings, inputs, pythons=pythons, platforms=platforms, sdists=sdists,
        newest=None if all_versions else newest, dependencies=not no_deps, chosen=chosen,
    ) if inputs else []  # fmt: skip
    return asyncio.run(
        export_bundle(
            settings, target, wanted=wanted, build=build, since=since, inventory=inventory, parts=parts,
            unsigned=unsigned,
        )
    )  # fmt: skip
