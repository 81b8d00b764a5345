"""`mirror add`: wheels, sdists and gems from disk become files of our own."""

import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.accounts import audited, caller
from mirror.cli.opening import shared_options
from mirror.cli.store import repository_option, with_store

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.index.publish import Change, Publisher


@click.command("add", short_help="Add files from disk.")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@repository_option
@shared_options
def command(paths: tuple[Path, ...], repository: str | None, config: Path | None, data_dir: Path | None) -> int:
    """Add wheels, sdists and gems, or all that lie below a directory, as if they had been uploaded.

    They are copied. What is here already is left as it is. Exit status 1 when any could not be added.
    """

    async def work(settings: "Settings", writers: "Mapping[str, Publisher]") -> int:
        from mirror.errors import MirrorError

        failed = 0
        for path in _found(paths):
            try:
                writer = writers[_repository(settings, path, repository)]
                change = await _add(settings, writer, path)
            except MirrorError as error:
                click.echo(f"{path}: {error}", err=True)
                failed += 1
                continue
            new = change.serial is not None
            click.echo(f"{'added' if new else 'already here'}: {path.name}")
            if new:
                audited(
                    "upload", change.serial, repository=writer.repository, project=change.upload.project,
                    filename=path.name,
                )  # fmt: skip
        return 1 if failed else 0

    return with_store(config, data_dir, work)


def _found(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file() and _format(one) is not None)
        else:
            yield path


def _format(path: Path) -> str | None:
    from mirror.service.ecosystems import ECOSYSTEMS

    return next((name for name, one in ECOSYSTEMS.items() if path.name.endswith(one.suffixes)), None)


def _repository(settings: "Settings", path: Path, wanted: str | None) -> str:
    """The repository that a file goes to. Raises Invalid where that is not clear."""
    from mirror.errors import Invalid

    format = _format(path)
    if format is None:
        raise Invalid("it is no wheel (.whl), sdist (.tar.gz, .zip) or gem (.gem).")
    fitting = [name for name, one in settings.repositories.items() if one.format == format]
    if wanted is not None:
        if wanted not in fitting:
            raise Invalid(f"{wanted} is no repository here for such files: --repository {' or '.join(fitting)}.")
        return wanted
    if len(fitting) != 1:
        raise Invalid(
            f"say where it goes: --repository {' or '.join(fitting)}." if fitting else "nothing here takes it."
        )
    return fitting[0]


async def _add(settings: "Settings", writer: "Publisher", path: Path) -> "Change":
    import asyncio

    from mirror.server.receive import incoming

    async with incoming(settings.data_dir / "incoming") as copy:
        await asyncio.to_thread(shutil.copyfile, path, copy.path)
        kept = await writer.inspect(path.name, copy.path)
        return await writer.add(copy.path, kept, by=caller(), origin=str(path.resolve()))
