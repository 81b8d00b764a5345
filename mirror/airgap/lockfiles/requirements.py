"""Requirements files, as pip and uv read them; and names with specifiers, as typed on a command line.

References to files, directories, URLs and version control do not concern an index: they are reported as `external`. A
remote file after `-r` is refused, because its content may change until it matters.

Names: `requests`, `django>=4.2`, `celery[redis]` are Python projects; `rack:~> 3.0` and `gem:rack` are gems. A Python
project may have the prefix `pypi:`.
"""

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import PurePath
from typing import NamedTuple, Protocol

import msgspec
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import (
    EcosystemName,
    ExternalRequirement,
    Installer,
    Pin,
    RequirementSet,
    VersionRange,
    check_marker,
)
from mirror.errors import Invalid, InvalidLock
from mirror.rubygems import versions as gem_versions

MAX_DEPTH = 10
"""The deepest nesting of included files."""
MAX_FILES = 100
"""The most files that may be included in all."""
MAX_REQUIREMENT_CHARACTERS = 20_000
"""The longest requirement, without its hashes."""

_VARIABLE = re.compile(r"\$\{([A-Z0-9_]+)\}")
_COMMENT = re.compile(r"(^|\s)#.*$")
_ARCHIVES = (".whl", ".zip", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz", ".tar")
_PINNED = re.compile(r"^===?\s*([^\s,*=]+)$")

_INDEX = ("-i", "--index-url", "--pypi-url")
_INCLUDE = ("-r", "--requirement")
_CONSTRAIN = ("-c", "--constraint")
_EDITABLE = ("-e", "--editable")
_IGNORED = (
    "-f", "--find-links", "--trusted-host", "--use-feature", "--only-binary", "--uploaded-prior-to",
)  # fmt: skip
_BUILD = ("-C", "--config-settings", "--global-option", "--install-option")
"""Options that may follow a requirement besides its hashes."""
_OPTIONS = {*_INDEX, *_INCLUDE, *_CONSTRAIN, *_EDITABLE, *_IGNORED, "--extra-index-url", "--no-binary"}
_FLAGS = {"--no-index", "--pre", "--prefer-binary", "--require-hashes", "--always-unzip", "-Z"}


class Opener(Protocol):
    """Reads included files, so that the parser itself does no IO."""

    def __call__(self, name: str) -> str:
        """Return the text of a file, named relative to the first file's directory. Raises InvalidLock or OSError."""


class _Line(msgspec.Struct, frozen=True):
    number: int
    text: str


class _ParsedLines:
    """The requirements found so far in a file and all files that it includes."""

    def __init__(self) -> None:
        self.pins: list[Pin] = []
        self.ranges: list[VersionRange] = []
        self.constraints: list[VersionRange] = []
        self.external: list[ExternalRequirement] = []
        self.main_index = ""
        self.other_indexes: dict[str, None] = {}
        self.no_binary: dict[str, None] = {}
        self.files = 0


def parse(document: LockDocument, open_file: Opener, environ: Mapping[str, str]) -> RequirementSet:
    """Parse a requirements file. Raises InvalidLock, also for a file that it includes."""
    found = _ParsedLines()
    _read(document, found, open_file, environ, constraints=False, above=())
    indexes = [found.main_index] if found.main_index else []
    return RequirementSet(
        name=document.name,
        kind="requirements",
        ecosystem="pypi",
        pins=tuple(found.pins),
        ranges=tuple(found.ranges),
        constraints=tuple(found.constraints),
        external=tuple(found.external),
        indexes=(*indexes, *found.other_indexes),
        no_binary=tuple(found.no_binary),
    )


def pinned_version(specifier: str) -> str | None:
    """Return the version when a specifier allows exactly one, else None."""
    found = _PINNED.match(specifier.strip())
    return found[1] if found else None


def _read(
    document: LockDocument, found: _ParsedLines, open_file: Opener, environ: Mapping[str, str], *, constraints: bool,
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
                inner = LockDocument(name, open_file(name))
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
            found.external.append(document.external(value, value if "://" in value else "", line.number))


def _lines(text: str, environ: Mapping[str, str]) -> Iterator[_Line]:
    """Yield logical lines: continued ones joined, without comments and blank ones, variables replaced."""
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
        # A variable that is not set stays as written, as with pip, and then fails as a requirement.
        yield _Line(number, _VARIABLE.sub(lambda match: environ.get(match[1], match[0]), text))


def _option(document: LockDocument, line: _Line) -> tuple[str, str]:
    """Split an option line into option and value."""
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


def _included(document: LockDocument, line: _Line, value: str, above: tuple[str, ...], found: _ParsedLines) -> str:
    """Return the name of an included file, relative to the including one."""
    if "://" in value:
        raise document.invalid("it includes a remote file: download it and include the copy", line.number)
    name = str(PurePath(document.name).parent / value)
    if name in above:
        raise document.invalid(f"{value!r} includes itself", line.number)
    if len(above) >= MAX_DEPTH or found.files >= MAX_FILES:
        raise document.invalid("too many files include each other", line.number)
    return name


def _requirement(document: LockDocument, line: _Line, found: _ParsedLines, *, constraints: bool) -> None:
    text, options = _split_options(line.text)
    if len(text) > MAX_REQUIREMENT_CHARACTERS:
        raise document.invalid(f"the requirement is longer than {MAX_REQUIREMENT_CHARACTERS} characters", line.number)
    hashes = _hashes(document, line, options)
    if _is_location(text):
        found.external.append(document.external(text, text if "://" in text else "", line.number))
        return
    try:
        requirement, marker = _parse_requirement(text)
    except ValueError as error:
        raise _not_a_requirement(document, line, text, error) from error
    name = canonicalize_name(requirement.name)
    where = document.where(line.number)
    if requirement.url is not None:
        local = requirement.url.startswith("file:") or "://" not in requirement.url
        found.external.append(document.external(name, "" if local else requirement.url, line.number))
        return
    specifier, extras = str(requirement.specifier), tuple(sorted(requirement.extras))
    version = pinned_version(specifier)
    if version is not None and not constraints:
        markers = (marker,) if marker else ()
        found.pins.append(
            Pin(project=name, version=version, hashes=hashes, markers=markers, extras=extras, where=where)
        )
        return
    entry = VersionRange(
        project=name,
        specifier=specifier,
        extras=extras,
        marker=marker,
        hashes=hashes,
        where=where,
    )
    (found.constraints if constraints else found.ranges).append(entry)


def _parse_requirement(text: str) -> tuple[Requirement, str]:
    """Parse a requirement of PEP 508; return it with its marker. Raises ValueError."""
    try:
        requirement = Requirement(text)
        marker = str(requirement.marker or "")
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if marker:
        check_marker(marker)
    return requirement, marker


def _not_a_requirement(document: LockDocument, line: _Line, text: str, error: Exception) -> InvalidLock:
    unset = _VARIABLE.search(text)
    if unset:
        return document.invalid(f"the environment variable {unset[1]} is not set", line.number)
    reason = next(iter(str(error).splitlines()), "")
    return document.invalid(f"{text[:200]!r} is not a requirement: {reason}", line.number)


def _split_options(text: str) -> tuple[str, list[str]]:
    """Split a line into a requirement and the options after it (`--hash=…`)."""
    words = text.split()
    count = next((count for count, word in enumerate(words) if word.startswith("-")), len(words))
    return " ".join(words[:count]), words[count:]


def _hashes(document: LockDocument, line: _Line, options: list[str]) -> tuple[str, ...]:
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
            raise document.invalid(f"the option {option} is not known after a requirement", line.number)
    for found in hashes:
        if not re.fullmatch(r"[a-z0-9_]+:[0-9A-Fa-f]+", found):
            raise document.invalid(f"{found[:200]!r} is not a hash of the form algorithm:hex", line.number)
    return tuple(found.lower() for found in hashes)


def _is_location(text: str) -> bool:
    """Return whether a line names a URL, a file or a directory instead of a project (`name @ URL` names a project)."""
    if " @ " in text or re.match(r"[\w.-]+(\[[^\]]*\])?@", text):
        return False
    word = text.split(" ;")[0].strip()
    name = word[: word.rfind("[")] if word.endswith("]") else word  # without extras
    return "://" in word or word.startswith((".", "/", "~")) or name.lower().endswith(_ARCHIVES) or "\\" in word


# Names with specifiers, as typed on a command line or written in the configuration

_GEM = re.compile(r"([A-Za-z0-9._-]+)(?::(.*))?", re.ASCII)


class NamedEntry(NamedTuple):
    """One name with its specifier, as a pin or a range of an ecosystem's installer."""

    ecosystem: EcosystemName
    installer: Installer
    entry: Pin | VersionRange


def named(texts: Iterable[str], newest: int | None = None) -> tuple[RequirementSet, ...]:
    """Return what names require: one RequirementSet for each ecosystem that occurs. Raises Invalid.

    `newest` limits an open name to that many of its newest matching versions; None means all of them.
    """
    if newest is not None and newest < 1:
        raise Invalid("The number of newest versions must be 1 or more.")
    entries = [parse_name(text, newest) for text in texts]
    kinds: tuple[tuple[EcosystemName, Installer], ...] = (("pypi", "pip"), ("rubygems", "bundler"))
    return tuple(
        RequirementSet(
            name="command line",
            kind="names",
            ecosystem=kind,
            installer=installer,
            pins=tuple(one.entry for one in entries if one.ecosystem == kind and isinstance(one.entry, Pin)),
            ranges=tuple(one.entry for one in entries if one.ecosystem == kind and isinstance(one.entry, VersionRange)),
        )
        for kind, installer in kinds
        if any(one.ecosystem == kind for one in entries)
    )


def parse_name(text: str, newest: int | None = None) -> NamedEntry:
    """Parse one name with its specifier. Raises Invalid."""
    text = text.strip()
    prefix, colon, rest = text.partition(":")
    if colon and prefix == "gem":
        return _gem(rest.strip(), newest)
    if text.startswith("pypi:"):
        return _python(rest.strip(), newest)
    if colon and _GEM.fullmatch(prefix.strip()) and not rest.startswith("//"):
        return _gem(text, newest)
    return _python(text, newest)


def _python(text: str, newest: int | None) -> NamedEntry:
    try:
        requirement, marker = _parse_requirement(text)
    except ValueError as error:
        raise Invalid(f"{text[:200]!r} is neither a project with a specifier nor a file that can be read.") from error
    if requirement.url is not None:
        raise Invalid(f"{requirement.name} at a URL cannot be mirrored: name a version instead.")
    project, specifier = canonicalize_name(requirement.name), str(requirement.specifier)
    version, extras = pinned_version(specifier), tuple(sorted(requirement.extras))
    if version is not None:
        markers = (marker,) if marker else ()
        return NamedEntry(
            "pypi", "pip", Pin(project=project, version=version, markers=markers, extras=extras, where=text)
        )
    return NamedEntry(
        "pypi",
        "pip",
        VersionRange(project=project, specifier=specifier, extras=extras, marker=marker, newest=newest, where=text),
    )


def _gem(text: str, newest: int | None) -> NamedEntry:
    found = _GEM.fullmatch(text)
    if found is None:
        raise Invalid(f"{text[:200]!r} is not a gem with a requirement, such as 'rack:~> 3.0'.")
    project, requirement = found[1], (found[2] or "").strip()
    if requirement:
        gem_versions.check(requirement)
    return NamedEntry(
        "rubygems", "bundler", VersionRange(project=project, specifier=requirement, newest=newest, where=text)
    )
