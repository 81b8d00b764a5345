"""Rewriting a lock for another index: URLs replaced, every other byte unchanged.

Only whole URLs are replaced, where the format has them, all at once: so the same function with the inverse mapping
restores the identical bytes.

The URLs of *files* follow a rule only on a mirror (`mirror_files`); any other index has to be asked for them, which the
caller does (`url_for`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mirror.airgap.lockfiles.documents import LockDocument, filename_of
from mirror.errors import Invalid

UrlFor = Callable[[str, str], str | None]
"""(canonical project, file name) → the URL of the file in the new index, or None to leave it as it is."""

KINDS = ("uv.lock", "poetry.lock", "pylock.toml", "Gemfile.lock")

# A comment, a multi-line string, or a string on one line: the first two are matched so that the last is recognised.
_TOML = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<block>\"{3}.*?\"{3}|'{3}.*?'{3})|(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote)""",
    re.DOTALL,
)
_GEM_REMOTE = re.compile(r"^(  remote: )(\S+)([ \t]*)$")


def mirror_files(index: str) -> UrlFor:
    """Return the rule for file URLs of a mirror, given its simple index: `<mount>/packages/<project>/<filename>`."""
    mount = index.rstrip("/").removesuffix("/simple")

    def url_for(project: str, filename: str) -> str:
        return f"{mount}/packages/{project}/{filename}"

    return url_for


def rewrite(text: str, kind: str, mapping: Mapping[str, str], url_for: UrlFor | None = None, name: str = "") -> str:
    """Return `text` with the indexes of `mapping` (old URL → new URL) and their files replaced.

    A trailing slash is kept as the lock has it. Files of an index that is not in the mapping stay; files for which
    the lock names no index are left to `url_for`. Read and write the file without converting line ends.
    Raises InvalidLock when the text is not of that kind, and Invalid for a kind that cannot be rewritten and for a
    lock with file URLs when there is no `url_for`.
    """
    if kind not in KINDS:
        raise Invalid(f"A {kind} file cannot be rewritten, only {', '.join(KINDS)}.")
    indexes = {old.rstrip("/"): new.rstrip("/") for old, new in mapping.items()}
    if kind == "Gemfile.lock":
        return _rewrite_gemfile(text, indexes)
    files = dict(_file_urls(LockDocument(name or kind, text), kind, indexes, url_for))
    return _TOML.sub(lambda found: _replace(found, indexes, files), text)


def _rewrite_gemfile(text: str, indexes: Mapping[str, str]) -> str:
    lines = text.splitlines(keepends=True)
    section = ""
    for count, line in enumerate(lines):
        bare = line.rstrip("\r\n")
        if bare and not bare.startswith(" "):
            section = bare.rstrip()
        found = _GEM_REMOTE.match(bare)
        if section == "GEM" and found:  # the remotes of GIT and PATH are not indexes
            lines[count] = found[1] + _new_url(found[2], indexes) + found[3] + line[len(bare) :]
    return "".join(lines)


def _replace(found: re.Match[str], indexes: Mapping[str, str], files: Mapping[str, str]) -> str:
    if found["comment"] is not None:
        # Tools write their command line, with the index, into a comment at the top.
        return re.sub(r"https?://[^\s'\"]+", lambda url: _new_url(url[0], indexes), found[0])
    if found["block"] is not None:
        return found[0]
    quote, text = found["quote"], found["text"]
    return f"{quote}{files.get(text) or _new_url(text, indexes)}{quote}"


def _new_url(url: str, indexes: Mapping[str, str]) -> str:
    """Return the new URL of an index, with or without the trailing slash as before; any other text unchanged."""
    bare = url.removesuffix("/")
    return indexes[bare] + url[len(bare) :] if bare in indexes else url


def _file_urls(
    document: LockDocument, kind: str, indexes: Mapping[str, str], url_for: UrlFor | None
) -> Iterator[tuple[str, str]]:
    """Yield the old and the new URL of each file to be replaced."""
    packages = document.toml().get("packages" if kind == "pylock.toml" else "package", [])
    if not isinstance(packages, list) or not all(isinstance(package, dict) for package in packages):
        raise document.invalid(f"it is not a {kind} file")
    for package in packages:
        index = _index_of(package, kind)
        if index is not None and index.rstrip("/") not in indexes:
            continue
        for old in _urls(package):
            if url_for is None:
                raise Invalid(f"{document.name} contains URLs of files: the new index must be asked for its own.")
            new = url_for(str(package.get("name", "")), filename_of(old))
            if new is not None:
                if re.search(r"[\"'\\\x00-\x20\x7f]", new):
                    raise Invalid(f"{new[:200]!r} is not a valid URL for a lock file.")
                yield old, new


def _index_of(package: Mapping[str, Any], kind: str) -> str | None:
    """Return the index of a project; None when the lock does not name it."""
    if kind == "pylock.toml":
        index = package.get("index")
    else:
        source = package.get("source")
        # What is not from a registry must not be mistaken for a project that names no index.
        index = source.get("registry", "") if isinstance(source, dict) else None
    return index if isinstance(index, str) else None


def _urls(package: Mapping[str, Any]) -> Iterator[str]:
    wheels = package.get("wheels")
    for artefact in (package.get("sdist"), *(wheels if isinstance(wheels, list) else ())):
        if isinstance(artefact, dict) and isinstance(artefact.get("url"), str):
            yield artefact["url"]
