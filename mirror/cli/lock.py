"""`mirror lock rewrite`: the same lock file for another index, and back, so that a lock does not carry our address."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.opening import shared_options
from mirror.cli.selecting import Misuse, checked_settings

if TYPE_CHECKING:
    from mirror.airgap.lockfiles import Wanted
    from mirror.config import Settings


@click.group("lock", short_help="Change the index that a lock file names.")
def command() -> None:
    """Lock files that name another index."""


@command.command("rewrite", short_help="Replace the index in a lock file.")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "new", metavar="URL", required=True, help="The index that it shall name.")
@click.option("--from", "old", metavar="URL", help="The index that it names; needed where it names several.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to; without it, in place.")
@shared_options
def rewrite_command(
    file: Path, new: str, old: str | None, output: Path | None, config: Path | None, data_dir: Path | None
) -> int:
    """Let FILE (uv.lock, poetry.lock, pylock.toml, Gemfile.lock) name the index URL, and files where they lie there.

    To a mirror, and back to an upstream of this mirror, whose own addresses stand in its stored pages. Nothing else in
    the file changes; there and back gives the identical bytes.
    """
    from mirror.airgap.lockfiles import kind_of, mirror_files, parse, rewrite
    from mirror.errors import Invalid, InvalidLock

    text = _text(file)
    try:
        kind = kind_of(str(file), text)
        wanted = parse(str(file), text, kind)
        mapping = {_from(wanted, old): new} if old or wanted.indexes else {}
        files = _addresses(checked_settings(config, data_dir), wanted, new)
        missing: list[str] = []

        def url_for(project: str, filename: str) -> str | None:
            if files is None:
                return mirror_files(new)(project, filename)
            found = files.get(filename)
            if found is None:
                missing.append(filename)
            return found

        changed = rewrite(text, kind, mapping, url_for, name=str(file))
    except (InvalidLock, Invalid) as error:
        raise Misuse(str(error)) from None
    if missing:
        raise Invalid(
            f"Where {missing[0]} lies at {new} is not known here"
            + (f" (nor of {len(missing) - 1} others)" if len(missing) > 1 else "")
            + ": `mirror sync` of this lock fetches the pages that say so."
        )
    target = output or file
    if changed != text or target != file:
        _write(target, changed)
    click.echo(f"{target}: {'names ' + new if changed != text else 'nothing to change'}")
    return 0


def _from(wanted: "Wanted", old: str | None) -> str:
    """The index to be replaced. Raises Misuse where it is not clear which."""
    known = [one for one in wanted.indexes if not old or one.rstrip("/") == old.rstrip("/")]
    if len(known) != 1:
        from mirror.airgap.lockfiles.documents import without_credentials

        named = ", ".join(map(without_credentials, wanted.indexes)) or "none"
        raise Misuse(f"{wanted.name} names these indexes: {named}. Say with --from which one is to be replaced.")
    return known[0]


def _addresses(settings: "Settings", wanted: "Wanted", index: str) -> Mapping[str, str] | None:
    """File name → where it lies, by the stored pages of an upstream of ours; None when the index is none of those."""
    import asyncio

    from mirror.service.ecosystems import ECOSYSTEMS

    places = [
        (name, str(upstream.url))
        for name, repository in settings.repositories.items()
        for upstream in repository.upstreams
        if str(upstream.url).rstrip("/") == index.rstrip("/") and repository.format == wanted.ecosystem
    ]
    if not places or not ECOSYSTEMS[wanted.ecosystem].lock_files_have_urls:
        return None
    return asyncio.run(_stored(settings, *places[0], {pin.project for pin in wanted.pins}))


async def _stored(settings: "Settings", repository: str, source: str, projects: set[str]) -> Mapping[str, str]:
    from mirror.errors import NotFound, Offline
    from mirror.service import scheduled_sync

    found: dict[str, str] = {}
    async with scheduled_sync.looking(settings) as mirror:
        upstream = next(one for one in mirror.repositories[repository].sources if one.name == source)
        for project in sorted(projects):
            try:
                listing = await upstream.project(project)
            except (NotFound, Offline):
                continue
            found |= {file.filename: file.url for file in listing.project.files}
    return found


def _text(file: Path) -> str:
    """The text with its line ends as they are. Raises Misuse."""
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise Misuse(f"{file}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise Misuse(f"{file}: is not UTF-8 text.") from None


def _write(target: Path, text: str) -> None:
    """All of it or nothing."""
    import os
    import tempfile

    descriptor, name = tempfile.mkstemp(dir=target.absolute().parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(text.encode())
        mode = target.stat().st_mode if target.exists() else 0o666 & ~_umask()
        os.chmod(name, mode & 0o7777)
        os.replace(name, target)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _umask() -> int:
    import os

    current = os.umask(0)
    os.umask(current)
    return current
