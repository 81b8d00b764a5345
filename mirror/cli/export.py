"""`mirror export`: write what is held for others, as a bundle or as a tree for any web server."""

import asyncio
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.filesize import decimal

from mirror.cli.options import (
    InvalidUsage,
    SettingsOptions,
    SyncSelection,
    parse_duration,
    parse_size,
    selection_options,
)
from mirror.cli.output import say
from mirror.errors import NotFound

if TYPE_CHECKING:
    from mirror.airgap.bundle import ExportSelection
    from mirror.airgap.static import StaticSource
    from mirror.airgap.sync.inputs import SyncInput
    from mirror.airgap.sync.plan import Problem
    from mirror.config import Settings
    from mirror.service.services import Mirror


@click.command("export")
@click.option(
    "-o", "--output", "target", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE",
    help="The bundle to write.",
)  # fmt: skip
@click.option("--all", "everything", is_flag=True, help="Everything that is held.")
@click.option("--since", type=click.IntRange(min=1), metavar="SERIAL", help="What has changed after that serial.")
@click.option(
    "--for", "inventory", type=click.Path(path_type=Path, dir_okay=False, exists=True), metavar="INVENTORY",
    help="What is missing on the mirror that wrote this file with `mirror inventory`.",
)  # fmt: skip
@click.option("--parts", metavar="SIZE", help="Split it into files of at most this size: FILE.001, FILE.002, …")
@click.option("--unsigned", is_flag=True, help="Do not sign it: no one can verify who made it.")
@click.option("--expires", metavar="AGE", help='How long it may be imported, such as "30d"; for ever if not given.')
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
def export_command(
    target: Path | None, everything: bool, since: int | None, inventory: Path | None, parts: str | None,
    unsigned: bool, expires: str | None, static: Path | None, changed: bool, files_url: str | None, copy: bool,
    selection: SyncSelection, options: SettingsOptions,
) -> int:  # fmt: skip
    """Write what is held for others who cannot reach this mirror. A mirror may be serving meanwhile.

    With -o, a bundle: one tar with pages, files, their metadata and a signature, for `mirror import`. It holds
    everything (--all), what FILEs and NAMEs need (as for `mirror sync`), what has changed since a SERIAL, or with --for
    what is missing on the other side.

    With --static, DIR becomes an index that any web server or bucket serves; for nginx, DIR/.mirror holds the lines
    to include.

    Exit status 1 when something that is held, or should be, could not be exported; the rest is written all the same.
    """
    settings = options.load_checked()
    has_content = everything or selection.inputs or since is not None or inventory is not None
    if static is not None:
        if target is not None or has_content or parts or unsigned or expires:
            raise InvalidUsage("--static DIR writes everything that is held: options for a bundle do not go with it.")
        return asyncio.run(
            _export_tree(
                settings, static, changed=changed, files_url=files_url, copy=copy, repositories=selection.repositories
            )
        )
    if target is None:
        raise InvalidUsage("Name what to write: a bundle with -o FILE, or a tree with --static DIR.")
    if changed or files_url or copy:
        raise InvalidUsage("--changed, --files-url and --copy need --static DIR.")
    if sum([everything, bool(selection.inputs), since is not None]) > 1 or (
        since is not None and inventory is not None
    ):
        raise InvalidUsage("Give only one of: --all, --since SERIAL, or lock files and names.")
    if not has_content:
        raise InvalidUsage("Name what to export: --all, --since SERIAL, --for INVENTORY, or lock files and names.")
    return asyncio.run(
        _export_bundle(
            settings,
            target,
            selection,
            since=since,
            inventory=inventory,
            parts=parts,
            unsigned=unsigned,
            expires=expires,
        )
    )


async def _export_bundle(
    settings: "Settings", target: Path, selection: SyncSelection, *, since: int | None, inventory: Path | None,
    parts: str | None, unsigned: bool, expires: str | None,
) -> int:  # fmt: skip
    """Write a bundle; return the exit status. Raises InvalidUsage, Invalid, NotFound."""
    from mirror.airgap.bundle import Keys, export, layout_of
    from mirror.airgap.bundle.contents import unpack
    from mirror.cli.progress import print_problems
    from mirror.service.ecosystems import ECOSYSTEMS
    from mirror.service.open import Mode, open_mirror

    inputs = selection.sync_inputs(settings) if selection.inputs else []
    largest = parse_size("--parts", parts)
    lifetime = parse_duration("--expires", expires)
    signer = None if unsigned else Keys(settings.data_dir).own()
    if signer is None and not unsigned:
        raise NotFound("There is no key to sign it with: make one with `mirror key create`, or give --unsigned.")
    choice, problems = await _select(settings, inputs, build=selection.build) if inputs else (None, [])
    print_problems(problems)
    async with open_mirror(settings, Mode.BESIDE) as opened:
        now = opened.store.clock()
        done = await export(
            opened.catalog, opened.blobs, layout_of(settings, ECOSYSTEMS), target, now=now, signer=signer,
            selection=choice, since=since or 0, have=unpack(inventory.read_bytes()) if inventory else None,
            parts=largest, expires=None if lifetime is None else now + lifetime,
        )  # fmt: skip
    for name in done.lost:
        say(f"mirror: {name}: its bytes are lost here, so it is not in the bundle", err=True)
    bundle = done.manifest
    files = sum(file.kind == "file" for file in bundle.files)
    names = ", ".join(path.name for path in done.paths)
    say(
        f"{names}: {len(bundle.pages):,} pages, {files:,} files, {len(bundle.uploads):,} uploads"
        f" ({decimal(done.size)}); from serial {bundle.since} to {bundle.serial}"
    )
    return 1 if problems or done.lost else 0


async def _select(
    settings: "Settings", inputs: "list[SyncInput]", *, build: bool
) -> "tuple[ExportSelection, list[Problem]]":
    """Return the files that the inputs need, with their projects, and a problem for each that is not held."""
    from mirror.airgap.bundle import ExportSelection
    from mirror.airgap.sync.plan import Problem
    from mirror.cli.stores import plan_offline

    async with plan_offline(settings, inputs, build=build) as (found, holdings):
        missing = [one for one in found.files if not await holdings.file(one.project, one.file)]
    return ExportSelection(
        files=frozenset((one.repository, one.project, one.file.filename) for one in found.files),
        projects=frozenset((one.repository, one.project) for one in found.files),
    ), [*found.problems, *(Problem(what=one.file.filename, reason="not held") for one in missing)]


def static_source(mirror: "Mirror") -> "StaticSource":
    """Return what the export of a tree reads of a mirror."""
    from mirror.airgap.static import StaticSource
    from mirror.service.ecosystems import ECOSYSTEMS

    settings = mirror.settings
    repositories = {
        name: (one.format, one.mount, one.private, one.union, [str(upstream.url) for upstream in one.upstreams])
        for name, one in settings.repositories.items()
    }
    return StaticSource(
        repositories=mirror.repositories,
        layouts={name: ECOSYSTEMS[one.format].layout() for name, one in settings.repositories.items()},
        mounts={name: one.mount for name, one in settings.repositories.items()},
        public={name: mirror.guard.read_access(name).public for name in mirror.repositories},
        settings=(str(settings.catalog_file.absolute()), repositories),
        catalog=mirror.catalog,
        blobs=mirror.blobs,
        journal=mirror.journal,
        clock=mirror.clock,
    )


async def _export_tree(
    settings: "Settings", directory: Path, *, changed: bool, files_url: str | None, copy: bool,
    repositories: Sequence[str],
) -> int:  # fmt: skip
    """Write a tree; return the exit status. Raises what `mirror.airgap.static.export` raises."""
    from mirror.airgap.static import export
    from mirror.cli.progress import count_files
    from mirror.service.open import Mode, open_mirror

    async with open_mirror(settings, Mode.READ_ONLY) as opened:
        report = await export(
            static_source(await opened.mirror()), directory,
            changed=changed, files_url=files_url, copy=copy, repositories=repositories,
        )  # fmt: skip
    for problem in report.problems:
        say(f"mirror: left out: {problem}", err=True)
    say(
        f"{report.projects:,} projects with {count_files(report.files)} in {directory}: "
        f"{report.written:,} written ({report.linked:,} linked, {report.copied:,} copied), {report.removed:,} removed"
    )
    return 1 if report.problems else 0
