"""The same lock for another index: addresses replaced, every other byte as it was.

Only whole addresses are replaced, where the format has them, all at once: so the way back is the same function with
the mapping turned round, and gives the identical bytes.

What a lock says of *files* goes by rule only in the direction of a mirror (`mirror_files`); any other index has to be
asked where its files lie, which the caller does (`url_for`).
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from mirror.airgap.lockfiles.documents import Document, filename_of
from mirror.errors import Invalid

UrlFor = Callable[[str, str], str | None]
"""(canonical project, file name) → the URL of the file in the new index, or None to leave it as it is."""

KINDS = ("uv.lock", "poetry.lock", "pylock.toml", "Gemfile.lock")

# A comment, a multi-line string, or a string on one line: what has to be told apart to find the last.
_TOML = re.compile(
    r"""(?P<comment>\#[^\n]*)|(?P<block>\"{3}.*?\"{3}|'{3}.*?'{3})|(?P<quote>["'])(?P<text>(?:\\.|(?!(?P=quote))[^\\\n])*)(?P=quote)""",
    re.DOTALL,
)
_GEM_REMOTE = re.compile(r"^(  remote: )(\S+)([ \t]*)$")


def mirror_files(index: str) -> UrlFor:
    """Where a mirror's files lie, from the URL of its simple index: `<mount>/packages/<project>/<filename>`."""
    mount = index.rstrip("/").removesuffix("/simple")

    def url_for(project: str, filename: str) -> str:
        return f"{mount}/packages/{project}/{filename}"

    return url_for


def rewrite(text: str, kind: str, mapping: Mapping[str, str], url_for: UrlFor | None = None, name: str = "") -> str:
    """`text` with the indexes of `mapping` (old URL → new URL) and their files replaced.

    A trailing slash is kept as the lock has it. Files of an index that is not in the mapping stay; files for which
    the lock names no index at all are left to `url_for`. Keep line ends as they are when reading and writing the file.
    Raises InvalidLock when the text is not of that kind, and Invalid for a kind that cannot be rewritten and for a
    lock with file URLs when there is no `url_for`.
    """
    if kind not in KINDS:
        raise Invalid(f"A {kind} file cannot be rewritten, only {', '.join(KINDS)}.")
    indexes = {old.rstrip("/"): new.rstrip("/") for old, new in mapping.items()}
    if kind == "Gemfile.lock":
        return _rewrite_gemfile(text, indexes)
    files = dict(_file_urls(Document(name or kind, text), kind, indexes, url_for))
    return _TOML.sub(lambda found: _replace(found, indexes, files), text)


def _rewrite_gemfile(text: str, indexes: Mapping[str, str]) -> str:
    lines = text.splitlines(keepends=True)
    section = ""
    for count, line in enumerate(lines):
        bare = line.rstrip("\r\n")
        if bare and not bare.startswith(" "):
            section = bare.rstrip()
        found = _GEM_REMOTE.match(bare)
        if section == "GEM" and found:  # the remotes of GIT and PATH are no indexes
            lines[count] = found[1] + _moved(found[2], indexes) + found[3] + line[len(bare) :]
    return "".join(lines)


def _replace(found: re.Match[str], indexes: Mapping[str, str], files: Mapping[str, str]) -> str:
    if found["comment"] is not None:
        # Tools note their command line at the top, index and all.
        return re.sub(r"https?://[^\s'\"]+", lambda url: _moved(url[0], indexes), found[0])
    if found["block"] is not None:
        return found[0]
    quote, text = found["quote"], found["text"]
    return f"{quote}{files.get(text) or _moved(text, indexes)}{quote}"


def _moved(url: str, indexes: Mapping[str, str]) -> str:
    """An index URL in its new place, with or without the trailing slash as before; any other text as it is."""
    bare = url.removesuffix("/")
    return indexes[bare] + url[len(bare) :] if bare in indexes else url


def _file_urls(
    document: Document, kind: str, indexes: Mapping[str, str], url_for: UrlFor | None
) -> Iterator[tuple[str, str]]:
    """(old, new) of the file URLs that move."""
    packages = document.toml().get("packages" if kind == "pylock.toml" else "package", [])
    if not isinstance(packages, list) or not all(isinstance(package, dict) for package in packages):
        raise document.invalid(f"it is no {kind}")
    for package in packages:
        index = _index_of(package, kind)
        if index is not None and index.rstrip("/") not in indexes:
            continue
        for old in _urls(package):
            if url_for is None:
                raise Invalid(f"{document.name} says where files lie: the new index has to be asked for its own URLs.")
            new = url_for(str(package.get("name", "")), filename_of(old))
            if new is not None:
                if re.search(r"[\"'\\\x00-\x20\x7f]", new):
                    raise Invalid(f"{new[:200]!r} is no URL for a lock file.")
                yield old, new


def _index_of(package: Mapping[str, Any], kind: str) -> str | None:
    """The index that a project comes from; None when the lock does not say."""
    if kind == "pylock.toml":
        index = package.get("index")
    else:
        source = package.get("source")
        # Whatever is not from a registry must not be taken for a project that names no index.
        index = source.get("registry", "") if isinstance(source, dict) else None
    return index if isinstance(index, str) else None


def _urls(package: Mapping[str, Any]) -> Iterator[str]:
    wheels = package.get("wheels")
    for artefact in (package.get("sdist"), *(wheels if isinstance(wheels, list) else ())):
        if isinstance(artefact, dict) and isinstance(artefact.get("url"), str):
            yield artefact["url"]
