"""`mirror lock rewrite`: make a lock file name another index, and back, so that it does not carry our address."""

import asyncio
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mirror.cli.options import InvalidUsage, SettingsOptions, settings_options
from mirror.cli.output import say
from mirror.errors import Invalid, InvalidLock, NotFound, Offline

if TYPE_CHECKING:
    from mirror.airgap.lockfiles import RequirementSet
    from mirror.config import Settings


@click.group("lock")
def lock_command() -> None:
    """Change the index that a lock file names."""


@lock_command.command("rewrite")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--to", "new", metavar="URL", required=True, help="The index that it names afterwards.")
@click.option("--from", "old", metavar="URL", help="The index that it names now; needed if it names several.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), metavar="FILE", help="Where to write it; default: in place."
)
@settings_options
def rewrite_command(file: Path, new: str, old: str | None, output: Path | None, options: SettingsOptions) -> int:
    """Make FILE (uv.lock, poetry.lock, pylock.toml, Gemfile.lock) name the index URL, and the URLs of files there.

    The index is a mirror, or an upstream of this mirror: then the URLs of files come from its stored pages. Nothing
    else in the file changes; there and back gives identical bytes.
    """
    from mirror.airgap.lockfiles import kind_of, mirror_files, parse, rewrite

    text = _read_text(file)
    try:
        kind = kind_of(str(file), text)
        wanted = parse(str(file), text, kind)
        mapping = {_old_index(wanted, old): new} if old or wanted.indexes else {}
        files = _file_urls(options.load_checked(), wanted, new)
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
        raise InvalidUsage(str(error)) from None
    if missing:
        raise Invalid(
            f"The URL of {missing[0]} at {new} is not known here"
            + (f" (nor those of {len(missing) - 1} others)" if len(missing) > 1 else "")
            + ": `mirror sync` of this lock file fetches the pages that list it."
        )
    target = output or file
    if changed != text or target != file:
        _write(target, changed)
    say(f"{target}: {'names ' + new if changed != text else 'nothing to change'}")
    return 0


def _old_index(wanted: "RequirementSet", old: str | None) -> str:
    """Return the index to be replaced. Raises InvalidUsage when it is not clear which."""
    from mirror.airgap.lockfiles.documents import without_credentials

    known = [one for one in wanted.indexes if not old or one.rstrip("/") == old.rstrip("/")]
    if len(known) != 1:
        named = ", ".join(map(without_credentials, wanted.indexes)) or "none"
        raise InvalidUsage(f"{wanted.name} names these indexes: {named}. Name the one to replace with --from.")
    return known[0]


def _file_urls(settings: "Settings", wanted: "RequirementSet", index: str) -> Mapping[str, str] | None:
    """Return file name → URL, from the stored pages of an upstream; None when the index is no upstream of ours."""
    from mirror.service.ecosystems import ECOSYSTEMS

    places = [
        (name, str(upstream.url))
        for name, repository in settings.repositories.items()
        for upstream in repository.upstreams
        if str(upstream.url).rstrip("/") == index.rstrip("/") and repository.format == wanted.ecosystem
    ]
    if not places or not ECOSYSTEMS[wanted.ecosystem].lock_files_have_urls:
        return None
    return asyncio.run(_stored_urls(settings, *places[0], {pin.project for pin in wanted.pins}))


async def _stored_urls(settings: "Settings", repository: str, source: str, projects: set[str]) -> Mapping[str, str]:
    from mirror.service.open import Mode, open_mirror

    found: dict[str, str] = {}
    async with open_mirror(settings, Mode.READ_ONLY) as opened:
        mirror = await opened.mirror()
        upstream = next(one for one in mirror.repositories[repository].sources if one.name == source)
        for project in sorted(projects):
            try:
                listing = await upstream.project(project)
            except (NotFound, Offline):
                continue
            found |= {file.filename: file.url for file in (listing.project.files if listing.project else ())}
    return found


def _read_text(file: Path) -> str:
    """Return the text with its line ends unchanged. Raises InvalidUsage."""
    try:
        return file.read_bytes().decode("utf-8")
    except OSError as error:
        raise InvalidUsage(f"{file}: cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise InvalidUsage(f"{file}: is not UTF-8 text.") from None


def _write(target: Path, text: str) -> None:
    """Write all of the text or nothing."""
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
    current = os.umask(0)
    os.umask(current)
    return current
