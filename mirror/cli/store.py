"""What the commands about files of our own share: the store, opened for a change beside a running server.

The server notices a change by itself, within a second or so.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import click

from mirror.cli.accounts import audited
from mirror.cli.opening import catalog_in, settings_of

if TYPE_CHECKING:
    from mirror.config import Settings
    from mirror.index.publish import Change, Publisher

T = TypeVar("T")

repository_option = click.option(
    "--repository", metavar="NAME", help="Which repository; needed where several could be meant."
)


def version_options(command: Callable[..., T]) -> Callable[..., T]:
    """NAME, VERSION and --file: which files of our own."""
    file = click.option("--file", "filename", metavar="FILENAME", help="Only this file of the version.")
    return click.argument("name")(click.argument("version")(file(command)))


@asynccontextmanager
async def opened(settings: "Settings") -> "AsyncIterator[dict[str, Publisher]]":
    """What changes the uploads of each repository, by the repository's name."""
    from mirror.blobs.local import LocalBlobs
    from mirror.index.journal import Journal
    from mirror.index.publish import Publisher
    from mirror.index.records import Records
    from mirror.service.ecosystems import ECOSYSTEMS

    async with catalog_in(settings.catalog_file) as catalog:
        blobs, feed = LocalBlobs(settings.data_dir), Journal(catalog.feed)
        records = Records(settings.data_dir / "uploads")
        yield {
            name: Publisher(name, ECOSYSTEMS[one.format].format, catalog, blobs, records, feed)
            for name, one in settings.repositories.items()
        }


def with_store(
    config: Path | None, data_dir: Path | None, work: "Callable[[Settings, Mapping[str, Publisher]], Awaitable[T]]"
) -> T:
    """The result of `work` on the store that the settings name."""
    import asyncio

    settings = settings_of(config, data_dir)

    async def run() -> T:
        async with opened(settings) as writers:
            return await work(settings, writers)

    return asyncio.run(run())


def change_files(
    config: Path | None,
    data_dir: Path | None,
    repository: str | None,
    name: str,
    version: str,
    filename: str | None,
    what: str,
    change: "Callable[[Publisher, str], Awaitable[Change]]",
) -> int:
    """Do something to the files of one version, or to one of them; says what was done. Raises Invalid, NotFound."""

    async def work(settings: "Settings", writers: "Mapping[str, Publisher]") -> None:
        writer, project, files = await _find(writers, repository, name, version)
        if filename is not None:
            from mirror.errors import UnknownFile

            if filename not in files:
                raise UnknownFile(project, filename)
            files = [filename]
        for file in files:
            done = await change(writer, file)
            if done.serial is not None:
                audited(what, done.serial, repository=writer.repository, project=project, filename=file)
            click.echo(f"{what}: {file}" if done.serial is not None else f"{what}: {file} was so already")

    with_store(config, data_dir, work)
    return 0


async def _find(
    writers: "Mapping[str, Publisher]", repository: str | None, project: str, version: str
) -> "tuple[Publisher, str, Sequence[str]]":
    from mirror.errors import Invalid, NotFound
    from mirror.service.ecosystems import ECOSYSTEMS

    chosen = [writer for name, writer in writers.items() if repository in (None, name)]
    if not chosen:
        raise Invalid(f"--repository {repository}: none of {', '.join(writers)}.")
    found = []
    missing: NotFound | None = None
    for writer in chosen:
        wanted, platform = ECOSYSTEMS[writer.format.name].split_version(version)
        try:
            name = writer.format.canonical(project)
            found.append((writer, name, await writer.files(name, wanted, platform)))
        except NotFound as error:
            missing = error
    if len(found) > 1:
        raise Invalid(f"{project} {version} is in {', '.join(w.repository for w, _, _ in found)}: say --repository.")
    if not found:
        raise missing or NotFound(f"{project} {version} was not uploaded here.")
    return found[0]
