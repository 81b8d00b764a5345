"""Lock and requirements files: what they require, which files of it a target needs, and their rewriting.

`read` a file (or parse `named` projects) into a `RequirementSet`; a `Selector` chooses the files that the targets need;
`rewrite` replaces the URLs of a lock for another index. One module for each format, documents (bounded parsing, errors
with lines), requirement_set (the result), targets (Python versions and platforms), select (with gem_choices for gems,
and choices, the results), rewrite; isolated reads in another process.

Nothing here resolves versions (an open one is a `VersionRange`) or fetches. The only IO is `read`: the named file, and
what a requirements file includes, bounded in size, depth and number.

The surprise: a lock is read whole, with all its groups, extras and forks. Too much is harmless where the network is
gone; too little is not.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path, PurePath

from mirror.airgap.lockfiles import gemfile, pdm, pipfile, poetry, pylock, requirements, uv
from mirror.airgap.lockfiles.choices import MissingItem
from mirror.airgap.lockfiles.documents import MAX_FILE_BYTES, LockDocument
from mirror.airgap.lockfiles.requirement_set import (
    ExternalRequirement,
    Pin,
    PinnedFile,
    RequirementSet,
    VersionRange,
    needed,
)
from mirror.airgap.lockfiles.requirements import named, parse_name
from mirror.airgap.lockfiles.rewrite import mirror_files, rewrite
from mirror.airgap.lockfiles.select import ProjectSelection, Selector
from mirror.airgap.lockfiles.targets import Target, this_machine
from mirror.errors import InvalidLock

__all__ = [
    "ExternalRequirement",
    "MissingItem",
    "Pin",
    "PinnedFile",
    "ProjectSelection",
    "RequirementSet",
    "Selector",
    "Target",
    "VersionRange",
    "kind_of",
    "mirror_files",
    "named",
    "needed",
    "parse",
    "parse_name",
    "read",
    "rewrite",
    "this_machine",
]  # fmt: skip

_PARSERS: dict[str, Callable[[LockDocument], RequirementSet]] = {
    "pylock.toml": pylock.parse,
    "uv.lock": uv.parse,
    "poetry.lock": poetry.parse,
    "pdm.lock": pdm.parse,
    "Pipfile.lock": pipfile.parse,
    "Gemfile.lock": gemfile.parse,
}


def kind_of(name: str, text: str) -> str:
    """Return the format of a file: by its name, else by its content; `requirements` when nothing else fits."""
    base = PurePath(name).name
    if base in _PARSERS:
        return base
    if re.fullmatch(r"pylock\.[^.]+\.toml", base):  # PEP 751: named lock files
        return "pylock.toml"
    if base == "gems.locked":
        return "Gemfile.lock"
    if re.search(r"^lock-version\s*=", text, re.MULTILINE):
        return "pylock.toml" if re.search(r"^created-by\s*=", text, re.MULTILINE) else "poetry.lock"
    if re.search(r"^lock_version\s*=", text, re.MULTILINE):
        return "pdm.lock"
    if re.search(r"^version\s*=\s*\d+$", text, re.MULTILINE) and "[[package]]" in text:
        return "uv.lock"
    if text.lstrip().startswith("{") and '"_meta"' in text:
        return "Pipfile.lock"
    if re.search(r"^(GEM|GIT|PATH|PLATFORMS|DEPENDENCIES)$", text, re.MULTILINE):
        return "Gemfile.lock"
    return "requirements"


def read(path: Path, environ: Mapping[str, str] | None = None) -> RequirementSet:
    """Return what a file requires. Raises InvalidLock when it cannot be read or is invalid.

    `environ` replaces `${NAME}` in requirements files; by default it is that of the process.
    """
    text = _text(path, str(path))
    return parse(
        str(path),
        text,
        open_file=lambda name: _text(Path(name), name),
        environ=os.environ if environ is None else environ,
    )


def _refuse_includes(name: str) -> str:
    raise FileNotFoundError(name)


def parse(
    name: str,
    text: str,
    kind: str | None = None,
    open_file: requirements.Opener = _refuse_includes,
    environ: Mapping[str, str] | None = None,
) -> RequirementSet:
    """Return what `text` requires, as a file called `name` of the given (or detected) kind. No IO but `open_file`.

    Raises InvalidLock.
    """
    document = LockDocument(name, text)
    kind = kind or kind_of(name, text)
    if kind == "requirements":
        return requirements.parse(document, open_file, {} if environ is None else environ)
    return _PARSERS[kind](document)


def _text(path: Path, name: str) -> str:
    """Return the text of a file of at most MAX_FILE_BYTES. Raises InvalidLock."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidLock(name, None, f"it cannot be read: {error.strerror}") from error
    if len(content) > MAX_FILE_BYTES:
        raise InvalidLock(name, None, f"it is larger than {MAX_FILE_BYTES >> 20} MiB")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise InvalidLock(name, line, "it is not UTF-8 text") from error
