"""What the commands about bundles share: where things stand in a store, and what goes into a bundle."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import store_of

if TYPE_CHECKING:
    from mirror.airgap.bundle import ExportSelection, Places
    from mirror.airgap.sync import SyncInput
    from mirror.config import Settings


def places_of(settings: "Settings") -> "Places":
    """Where things stand in the store that the settings name."""
    from mirror.airgap.bundle import places
    from mirror.service.ecosystems import ECOSYSTEMS

    return places(settings, ECOSYSTEMS)


async def export_bundle(
    settings: "Settings", target: Path, *, wanted: "list[SyncInput]", build: bool, since: int | None,
    inventory: Path | None, parts: str | None, unsigned: bool,
) -> int:  # fmt: skip
    """Write a bundle; the exit status. Raises Invalid, NotFound."""
    import time

    from rich.filesize import decimal

    from mirror.airgap.bundle import Keys, export
    from mirror.airgap.bundle.inventory import unpack
    from mirror.config.values import size
    from mirror.errors import Invalid, NotFound

    try:
        largest = size(parts) if parts is not None else None
    except ValueError as error:
        raise Invalid(f"--parts {parts}: {error}.") from None
    signer = None if unsigned else Keys(settings.data_dir).own()
    if signer is None and not unsigned:
        raise NotFound("There is no key to sign it with: make one with `mirror key create`, or say --unsigned.")
    choice, problems = await _chosen(settings, wanted, build=build) if wanted else (None, 0)
    async with store_of(settings) as store:
        done = await export(
            store.catalog, store.blobs, places_of(settings), target, now=time.time(), signer=signer, choice=choice,
            since=since or 0, have=unpack(inventory.read_bytes()) if inventory else None, parts=largest,
        )  # fmt: skip
    for name in done.lost:
        click.echo(f"mirror: {name}: its bytes are lost here, so it is not in the bundle", err=True)
    bundle = done.manifest
    files = sum(file.kind == "file" for file in bundle.files)
    names = ", ".join(path.name for path in done.paths)
    click.echo(
        f"{names}: {len(bundle.pages):,} pages, {files:,} files, {len(bundle.uploads):,} uploads"
        f" ({decimal(done.size)}); from serial {bundle.since} to {bundle.serial}"
    )
    return 1 if problems or done.lost else 0


async def _chosen(settings: "Settings", wanted: "list[SyncInput]", *, build: bool) -> "tuple[ExportSelection, int]":
    """The files that are needed and held, with their projects; and how many are not, each of which is complained of."""
    from contextlib import AsyncExitStack

    from mirror.airgap.bundle import ExportSelection
    from mirror.airgap.sync import Problem, plan
    from mirror.cli.check import Offline
    from mirror.cli.progress import complain
    from mirror.service import scheduled_sync

    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(scheduled_sync.looking(settings))
        found = await plan(wanted, scheduled_sync.stored(mirror), Offline(settings, stack, build=build))
        held = scheduled_sync.holdings(mirror)
        missing = [file for file in found.files if not await held.file(file.project, file.file)]
    problems = [*found.problems, *(Problem(what=file.file.filename, reason="not held") for file in missing)]
    complain(problems)
    return ExportSelection(
        files=frozenset((file.repository, file.project, file.file.filename) for file in found.files),
        projects=frozenset((file.repository, file.project) for file in found.files),
    ), len(problems)
