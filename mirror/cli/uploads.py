"""`mirror add`, `yank`, `unyank`, `delete` and `rebuild`: changes to uploaded files, also beside a running mirror.

The running mirror notices a change by itself, within a second or so.
"""

import asyncio
import shutil
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack
from functools import lru_cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from mirror.cli.options import SettingsOptions, audit_change, caller, repository_option, settings_options
from mirror.cli.output import say
from mirror.errors import Invalid, MirrorError, NotFound, UnknownFile

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.index.additions import AddedFile, Change
    from mirror.index.publish import Publisher

    Outcomes = Sequence[tuple[Path, AddedFile]]

BATCH_FILES = 200
"""Files that are added together: they wait for the disk once."""
BATCH_BYTES = 32 << 20
"""Bytes from which a batch is complete."""

T = TypeVar("T")


def _with_publishers(
    settings: "Settings", work: "Callable[[Mapping[str, Publisher]], Awaitable[T]]", inspects: bool = False
) -> T:
    """Return the result of `work` on repository → what publishes in it.

    `inspects`: it inspects files, in processes which start while this one imports what it needs.
    """
    from mirror.runtime import event_loops
    from mirror.service.open import Mode, open_mirror

    async def run() -> T:
        async with open_mirror(settings, Mode.BESIDE) as opened:
            if inspects:
                await opened.store.isolated.start()
            return await work(opened.publishers)

    with asyncio.Runner(loop_factory=event_loops()) as runner:
        return runner.run(run())


# mirror add


@click.command("add")
@click.argument("paths", metavar="FILE|DIR...", nargs=-1, required=True, type=click.Path(exists=True, path_type=Path))
@repository_option
@settings_options
def add_command(paths: tuple[Path, ...], repository: str | None, options: SettingsOptions) -> int:
    """Add wheels, sdists and gems, or all of them below a directory, as if they had been uploaded.

    They are copied. Files that are already here stay as they are. Exit status 1 when any could not be added.
    """
    settings = options.load()

    async def work(publishers: "Mapping[str, Publisher]") -> int:
        status, last, before = 0, asyncio.create_task(_nothing()), asyncio.create_task(_nothing())
        try:
            # Two batches at a time: one is inspected while the other is stored.
            for some in _batches(_files(paths)):
                before, last = last, asyncio.create_task(_add(settings, publishers, some, repository, after=last))
                status = max(status, _report(await before))
            return max(status, _report(await last))
        finally:
            last.cancel()
            await asyncio.gather(before, last, return_exceptions=True)

    return _with_publishers(settings, work, inspects=True)


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file() and _format(one) is not None)
        else:
            yield path


def _format(path: Path) -> str | None:
    from mirror.service.ecosystems import ECOSYSTEMS

    return next((name for name, one in ECOSYSTEMS.items() if path.name.endswith(one.suffixes)), None)


def _repository_for(settings: "Settings", path: Path, wanted: str | None) -> str:
    """Return the repository that a file goes to. Raises Invalid when that is not clear."""
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
            f"name the repository: --repository {' or '.join(fitting)}."
            if fitting
            else "no repository here takes such files."
        )
    return fitting[0]


def _batches(paths: Iterator[Path]) -> Iterator[list[Path]]:
    """Yield files that are added together: many small ones, few large ones."""
    some: list[Path] = []
    size = 0
    for path in paths:
        some.append(path)
        size += path.stat().st_size
        if len(some) == BATCH_FILES or size >= BATCH_BYTES:
            yield some
            some, size = [], 0
    if some:
        yield some


async def _add(
    settings: "Settings",
    publishers: "Mapping[str, Publisher]",
    paths: Sequence[Path],
    wanted: str | None,
    after: "asyncio.Task[Outcomes]",
) -> "Outcomes":
    """Inspect files, add them once a task has ended, and return the outcome for each, in their order."""
    from mirror.index.additions import AddedFile, NewFile
    from mirror.index.upload_bytes import SMALL_BYTES

    outcomes: dict[Path, AddedFile] = {}
    new: dict[str, dict[Path, NewFile]] = {}
    who = caller()

    async def inspect(path: Path, stack: AsyncExitStack) -> None:
        try:
            repository = _repository_for(settings, path, wanted)
            place = path
            size = path.stat().st_size
            if not (stays := size <= SMALL_BYTES):
                from mirror.server.receive import incoming

                place = (await stack.enter_async_context(incoming(publishers[repository].incoming))).path
                await asyncio.to_thread(shutil.copyfile, path, place)
            kept = await publishers[repository].inspect(path.name, place, size=size)
        except MirrorError as error:
            outcomes[path] = AddedFile(error=error)
        else:
            file = NewFile(path=place, kept=kept, by=who, origin=_resolved(path), stays=stays)
            new.setdefault(repository, {})[path] = file

    async with AsyncExitStack() as stack:
        await asyncio.gather(*(inspect(path, stack) for path in paths))
        await asyncio.wait([after])
        for repository, files in new.items():
            ordered = [path for path in paths if path in files]
            added = await publishers[repository].add_all([files[path] for path in ordered])
            outcomes |= dict(zip(ordered, added, strict=True))
    return [(path, outcomes[path]) for path in paths]


def _resolved(path: Path) -> str:
    """Return the absolute path of a file, without links."""
    return str(path.resolve() if path.is_symlink() else _resolved_directory(path.parent) / path.name)


@lru_cache(maxsize=16)
def _resolved_directory(path: Path) -> Path:
    return path.resolve()


async def _nothing() -> "Outcomes":
    """Stand for the batch before the first."""
    return []


def _report(outcomes: "Outcomes") -> int:
    """Print the outcomes, and return the exit status that they mean."""
    status = 0
    for path, added in outcomes:
        change = added.change
        if change is None:
            say(f"{path}: {added.error}", err=True)
            status = 1
            continue
        new = change.serial is not None
        say(f"{'added' if new else 'already here'}: {change.upload.filename}")
        if new:
            audit_change(
                "upload", change.serial, repository=change.upload.repository, project=change.upload.project,
                filename=change.upload.filename,
            )  # fmt: skip
    return status


# mirror yank, unyank, delete


class VersionSelection(NamedTuple):
    """The files that NAME VERSION, --file and --repository name."""

    name: str
    version: str
    filename: str | None
    repository: str | None


def _version_arguments(command: Callable[..., T]) -> Callable[..., T]:
    """Add NAME, VERSION, --file and --repository; the command gets them as one `selection`."""

    @wraps(command)
    def wrapped(name: str, version: str, filename: str | None, repository: str | None, **rest: Any) -> T:
        return command(selection=VersionSelection(name, version, filename, repository), **rest)

    file = click.option("--file", "filename", metavar="FILENAME", help="Only this file of the version.")
    return click.argument("name")(click.argument("version")(file(repository_option(wrapped))))


@click.command("yank")
@_version_arguments
@click.option("--reason", default="", help="Why: Python installers show it.")
@settings_options
def yank_command(selection: VersionSelection, reason: str, options: SettingsOptions) -> int:
    """Yank NAME VERSION: installers no longer choose it, but those that have it in a lock file still get it.

    A gem's VERSION may end in a platform: 1.0-java.
    """
    return _change_files(options, selection, "yank", lambda publisher, file: publisher.yank(file, reason))


@click.command("unyank")
@_version_arguments
@settings_options
def unyank_command(selection: VersionSelection, options: SettingsOptions) -> int:
    """Undo a yank: installers may choose NAME VERSION again."""
    return _change_files(options, selection, "unyank", lambda publisher, file: publisher.unyank(file))


@click.command("delete")
@_version_arguments
@click.option("--yes", is_flag=True, help="Do not ask.")
@settings_options
def delete_command(selection: VersionSelection, yes: bool, options: SettingsOptions) -> int:
    """Delete the files of NAME VERSION. Their names can never be used again: publish another version instead.

    The name of a project without files stays yours, and no upstream is asked for it, until `mirror release`.
    """
    if not yes:
        what = selection.filename or f"{selection.name} {selection.version}"
        click.confirm(f"Delete {what} for ever?", abort=True)
    return _change_files(options, selection, "delete", lambda publisher, file: publisher.delete(file))


def _change_files(
    options: SettingsOptions, selection: VersionSelection, what: str,
    change: "Callable[[Publisher, str], Awaitable[Change]]",
) -> int:  # fmt: skip
    """Apply a change to the selected files, and print what was done. Raises Invalid, NotFound."""

    async def work(publishers: "Mapping[str, Publisher]") -> int:
        publisher, project, files = await _find_files(publishers, selection)
        if selection.filename is not None:
            if selection.filename not in files:
                raise UnknownFile(project, selection.filename)
            files = [selection.filename]
        for file in files:
            done = await change(publisher, file)
            if done.serial is not None:
                audit_change(what, done.serial, repository=publisher.repository, project=project, filename=file)
            say(f"{what}: {file}" if done.serial is not None else f"{what}: {file} was so already")
        return 0

    return _with_publishers(options.load(), work)


async def _find_files(
    publishers: "Mapping[str, Publisher]", selection: VersionSelection
) -> "tuple[Publisher, str, Sequence[str]]":
    """Return the publisher that has the version, its project there, and its files. Raises Invalid, NotFound."""
    from mirror.service.ecosystems import ECOSYSTEMS

    chosen = [one for name, one in publishers.items() if selection.repository in (None, name)]
    if not chosen:
        raise Invalid(f"--repository {selection.repository}: none of {', '.join(publishers)}.")
    found = []
    missing: NotFound | None = None
    for publisher in chosen:
        version, platform = ECOSYSTEMS[publisher.format.name].split_version(selection.version)
        try:
            project = publisher.format.canonical(selection.name)
            found.append((publisher, project, await publisher.files(project, version, platform)))
        except NotFound as error:
            missing = error
    what = f"{selection.name} {selection.version}"
    if len(found) > 1:
        raise Invalid(f"{what} is in {', '.join(one.repository for one, _, _ in found)}: name one with --repository.")
    if not found:
        raise missing or NotFound(f"{what} was not uploaded here.")
    return found[0]


# mirror rebuild


@click.command("rebuild")
@settings_options
def rebuild_command(options: SettingsOptions) -> int:
    """Read every upload and its record again, and correct the catalog where it differs.

    Needed after a catalog was lost or restored from an old copy; an empty one is filled by `mirror serve` itself. What
    came from upstreams is fetched again on request. Exit status 1 when a record or file could not be used.
    """

    async def work(publishers: "Mapping[str, Publisher]") -> int:
        from mirror.index.rebuild import UploadRebuild

        faults = 0
        for name, publisher in publishers.items():
            rebuilt = await UploadRebuild(publisher).rebuild()
            say(f"{name}: {rebuilt.uploads} uploads")
            for fault in rebuilt.faults:
                say(f"  {fault}", err=True)
            faults += len(rebuilt.faults)
        return 1 if faults else 0

    return _with_publishers(options.load(), work)
