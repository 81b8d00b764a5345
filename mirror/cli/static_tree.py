"""`mirror export --static`: write what is held as a tree for any web server."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.airgap.static import StaticSource, export
from mirror.cli.progress import files_text
from mirror.service.ecosystems import ECOSYSTEMS

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.service.services import Mirror

LAYOUTS = {name: ecosystem.layout() for name, ecosystem in ECOSYSTEMS.items()}


def static_source(mirror: "Mirror") -> StaticSource:
    """Return what an export reads of a mirror."""
    settings = mirror.settings
    repositories = {
        name: (one.format, one.mount, one.private, one.union, [str(upstream.url) for upstream in one.upstreams])
        for name, one in settings.repositories.items()
    }
    return StaticSource(
        repositories=mirror.repositories,
        mounts={name: one.mount for name, one in settings.repositories.items()},
        public={name: mirror.guard.reading(name).public for name in mirror.repositories},
        settings=json.dumps((str(settings.catalog_file.absolute()), repositories), sort_keys=True),
        catalog=mirror.catalog,
        blobs=mirror.blobs,
        journal=mirror.journal,
        clock=mirror.clock,
    )


async def export_static(
    settings: "Settings",
    directory: Path,
    *,
    changed: bool = False,
    files_url: str | None = None,
    copy: bool = False,
    repositories: Sequence[str] = (),
    only: Mapping[str, Sequence[str]] | None = None,
) -> int:
    """Write the tree, say what was done, and return the exit status. Raises as `mirror.airgap.static.export`."""
    from mirror.service import scheduled_sync

    async with scheduled_sync.looking(settings) as mirror:
        report = await export(
            static_source(mirror), directory, LAYOUTS,
            changed=changed, files_url=files_url, copy=copy, repositories=repositories, only=only,
        )  # fmt: skip
    for problem in report.problems:
        click.echo(f"mirror: left out: {problem}", err=True)
    click.echo(
        f"{report.projects:,} projects with {files_text(report.files)} in {directory}: "
        f"{report.written:,} written ({report.linked:,} linked, {report.copied:,} copied), {report.removed:,} removed"
    )
    return 1 if report.problems else 0
