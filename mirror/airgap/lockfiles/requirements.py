"""Requirements files, as pip and uv read them.

References to files, directories, URLs and version control are no business of an index: they come out as `outside`.
A remote file behind `-r` is refused: what it says today is not what it says when it matters.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Protocol

import msgspec
from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name

from mirror.airgap.lockfiles.documents import Document
from mirror.airgap.lockfiles.wanted import Outside, Pin, Range, Wanted, check_marker
from mirror.errors import InvalidLock

DEPTH = 10
"""How deep files may include each other."""
FILES = 100
"""How many files may be included in all."""

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s)#.*$")
_ARCHIVE = re.compile(r"\.(whl|zip|tar\.gz|tgz|tar\.bz2|tar\.xz|tar)(\[[^\]]*\])?$", re.IGNORECASE)
_PINNED = re.compile(r"^===?\s*([^\s,*=]+)$")

_INDEX = ("-i", "--index-url", "--pypi-url")
_INCLUDE = ("-r", "--requirement")
_CONSTRAIN = ("-c", "--constraint")
_EDITABLE = ("-e", "--editable")
_IGNORED = (
    "-f", "--find-links", "--trusted-host", "--use-feature", "--only-binary", "--uploaded-prior-to",
)  # fmt: skip
_BUILD = ("-C", "--config-settings", "--global-option", "--install-option")
"""What may stand behind a requirement besides its hashes."""
_OPTIONS = {*_INDEX, *_INCLUDE, *_CONSTRAIN, *_EDITABLE, *_IGNORED, "--extra-index-url", "--no-binary"}
_FLAGS = {"--no-index", "--pre", "--prefer-binary", "--require-hashes", "--always-unzip", "-Z"}


class Opener(Protocol):
    """How included files are had, so that the reader itself does no IO."""

    def __call__(self, name: str) -> str:
        """The text of a file, named relative to the first one's directory. Raises InvalidLock or OSError."""


class _Line(msgspec.Struct, frozen=True):
    number: int
    text: str


class _Found:
    """What the files have yielded so far; one for a file with all that it includes."""

    def __init__(self) -> None:
        self.pins: list[Pin] = []
        self.ranges: list[Range] = []
        self.constraints: list[Range] = []
        self.outside: list[Outside] = []
        self.main_index = ""
        self.other_indexes: dict[str, None] = {}
        self.no_binary: dict[str, None] = {}
        self.files = 0


def parse(document: Document, open_file: Opener, environ: Mapping[str, str]) -> Wanted:
    """Raises InvalidLock, also for a file that it includes."""
    found = _Found()
    _read(document, found, open_file, environ, constraints=False, above=())
    indexes = [found.main_index] if found.main_index else []
    return Wanted(
        name=document.name,
        kind="requirements",
        ecosystem="pypi",
        pins=tuple(found.pins),
        ranges=tuple(found.ranges),
        constraints=tuple(found.constraints),
        outside=tuple(found.outside),
        indexes=(*indexes, *found.other_indexes),
        no_binary=tuple(found.no_binary),
    )


def pinned_version(specifier: str) -> str | None:
    """The version when a specifier names exactly one, else None."""
    found = _PINNED.match(specifier.strip())
    return found[1] if found else None


def _read(
    document: Document, found: _Found, open_file: Opener, environ: Mapping[str, str], *, constraints: bool,
    above: tuple[str, ...],
) -> None:  # fmt: skip
    found.files += 1
    above = (*above, document.name)
    for line in _lines(document.text, environ):
        if not line.text.startswith("-"):
            _requirement(document, line, found, constraints=constraints)
            continue
        option, value = _option(document, line)
        if option in (*_INCLUDE, *_CONSTRAIN):
            name = _included(document, line, value, above, found)
            try:
                inner = Document(name, open_file(name))
            except OSError as error:
                reason = f"the file {value!r} that it includes cannot be read"
                raise document.invalid(reason, line.number) from error
            only = constraints or option in _CONSTRAIN
            _read(inner, found, open_file, environ, constraints=only, above=above)
        elif option in _INDEX:
            found.main_index = value
        elif option == "--extra-index-url":
            found.other_indexes.setdefault(value)
        elif option == "--no-binary":
            names = [name.strip() for name in value.split(",")]
            if ":none:" in names:
                found.no_binary.clear()
            found.no_binary |= {
                name if name == ":all:" else canonicalize_name(name): None
                for name in names
                if name not in ("", ":none:")
            }
        elif option in _EDITABLE:
            found.outside.append(document.outside(value, value if "://" in value else "", line.number))


def _lines(text: str, environ: Mapping[str, str]) -> Iterator[_Line]:
    """Logical lines: continued ones joined, comments and blank ones left out, variables filled in."""
    parts: list[str] = []
    start = 0
    for number, raw in enumerate(text.splitlines(), 1):
        comment = raw.lstrip().startswith("#")
        start = start if parts else number
        if raw.endswith("\\") and not comment:
            parts.append(raw[:-1])
            continue
        parts.append(" #" if comment else raw)  # a comment ends a continued line
        yield from _line(start, parts, environ)
        parts = []
    if parts:
        yield from _line(start, parts, environ)


def _line(number: int, parts: list[str], environ: Mapping[str, str]) -> Iterator[_Line]:
    text = _COMMENT.sub("", "".join(parts)).strip()
    if text:
        # A variable that is not set stays as it is written, as with pip, and then fails where it stands.
        yield _Line(number, _VARIABLE.sub(lambda match: environ.get(match[1], match[0]), text))


def _option(document: Document, line: _Line) -> tuple[str, str]:
    """An option line as (option, value)."""
    try:
        words = shlex.split(line.text)
    except ValueError as error:
        raise document.invalid(f"the quotes do not match in {line.text.split()[0]}", line.number) from error
    option, equals, value = words[0].partition("=")
    if not option.startswith("--") and len(words[0]) > 2:  # -rother.txt
        option, equals, value = words[0][:2], "=", words[0][2:]
    if not equals:
        value = " ".join(words[1:])
    if option not in _FLAGS and option not in _OPTIONS:
        raise document.invalid(f"the option {option} is not known", line.number)
    if option not in _FLAGS and not value:
        raise document.invalid(f"the option {option} needs a value", line.number)
    return option, value


def _included(document: Document, line: _Line, value: str, above: tuple[str, ...], found: _Found) -> str:
    """The name of an included file, relative to the including one."""
    if "://" in value:
        raise document.invalid("it includes a remote file: download that one and include the copy", line.number)
    name = str(PurePath(document.name).parent / value)
    if name in above:
        raise document.invalid(f"{value!r} includes itself", line.number)
    if len(above) >= DEPTH or found.files >= FILES:
        raise document.invalid("too many files include each other", line.number)
    return name


def _requirement(document: Document, line: _Line, found: _Found, *, constraints: bool) -> None:
    text, options = _split_options(line.text)
    hashes = _hashes(document, line, options)
    if _is_place(text):
        found.outside.append(document.outside(text, text if "://" in text else "", line.number))
        return
    try:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
        check_marker(marker or "python_version >= '0'")
    except (InvalidRequirement, ValueError, RecursionError) as error:
        raise _not_a_requirement(document, line, text, error) from error
    name = canonicalize_name(requirement.name)
    where = document.where(line.number)
    if requirement.url is not None:
        local = requirement.url.startswith("file:") or "://" not in requirement.url
        found.outside.append(document.outside(name, "" if local else requirement.url, line.number))
        return
    specifier, extras = str(requirement.specifier), tuple(sorted(requirement.extras))
    version = pinned_version(specifier)
    if version is not None and not constraints:
        markers = (marker,) if marker else ()
        found.pins.append(
            Pin(project=name, version=version, hashes=hashes, markers=markers, extras=extras, where=where)
        )
        return
    entry = Range(
        project=name,
        specifier=specifier,
        extras=extras,
        marker=marker,
        hashes=hashes,
        where=where,
    )
    (found.constraints if constraints else found.ranges).append(entry)


def _not_a_requirement(document: Document, line: _Line, text: str, error: Exception) -> InvalidLock:
    unset = _VARIABLE.search(text)
    if unset:
        return document.invalid(f"the environment variable {unset[1]} is not set", line.number)
    reason = str(error).splitlines()[0] if str(error) else "it is nested too deeply"
    return document.invalid(f"{text[:200]!r} is no requirement: {reason}", line.number)


def _split_options(text: str) -> tuple[str, list[str]]:
    """A requirement and the options behind it (`--hash=…`)."""
    words = text.split()
    count = next((count for count, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:count]), words[count:]


def _hashes(document: Document, line: _Line, options: list[str]) -> tuple[str, ...]:
    hashes: list[str] = []
    expect_hash = False
    for word in options:
        option, equals, value = word.partition("=")
        if expect_hash:
            hashes.append(word)
            expect_hash = False
        elif option == "--hash":
            expect_hash = not equals
            hashes += [value] if equals else []
        elif word.startswith("-") and option not in _BUILD:
            raise document.invalid(f"the option {option} is not known behind a requirement", line.number)
    for found in hashes:
        if not re.fullmatch(r"[a-z0-9_]+:[0-9A-Fa-f]+", found):
            raise document.invalid(f"{found[:200]!r} is no hash: algorithm:hex is", line.number)
    return tuple(found.lower() for found in hashes)


def _is_place(text: str) -> bool:
    """Whether a line names a URL, a file or a directory and no project (`name @ URL` names one)."""
    if " @ " in text or re.match(r"[\w.-]+(\[[^\]]*\])?@", text):
        return False
    word = text.split(" ;")[0].strip()
    return "://" in word or word.startswith((".", "/", "~")) or bool(_ARCHIVE.search(word)) or "\\" in word
