"""Project names, versions and file names of Python distributions.

There are two parsers of file names, on purpose: `parse_filename` is strict, for uploads; `version_of` and `kind_of` are
tolerant, for what upstreams have listed for twenty years (eggs, installers, sdists with dashes in odd places).

The surprise: the tolerant one needs the project's name, because only with it is it clear where the version begins in
`a-b-1-2.tar.gz`.
"""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal
from urllib.parse import quote

import msgspec
from packaging.tags import Tag
from packaging.utils import (
    InvalidSdistFilename,
    InvalidWheelFilename,
    canonicalize_version,
    parse_sdist_filename,
    parse_wheel_filename,
)
from packaging.version import InvalidVersion, Version

from mirror.errors import Invalid
from mirror.model import File

Kind = Literal["wheel", "sdist", "other"]

NAME_LIMIT = 200
"""The longest project name, in characters."""
FILENAME_LIMIT = 255
"""The longest file name, in bytes: what file systems hold."""

VERSION_LIMIT = 256
"""The longest version, in characters; a number of thousands of digits could not even be read."""

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")  # PEP 508
_CANONICAL = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+)*")
_SEPARATORS = re.compile(r"[-_.]+")  # PEP 503
_OF_NAMES = b"abcdefghijklmnopqrstuvwxyz0123456789-\n"
_LOWER = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ_.", b"abcdefghijklmnopqrstuvwxyz--")
NAMES_AT_ONCE = 500
"""Names of a list that are looked at together; where one of them is odd, each of them is looked at."""
_SAFE_FILENAME = re.compile(r"[A-Za-z0-9_][^\x00-\x1f\x7f-\x9f/\\?#\u2028\u2029\ud800-\udfff]*")
_PLAIN_FILENAME = re.compile(r"[A-Za-z0-9_.-]+")
SDIST_SUFFIXES = (
    *(".tar.gz", ".zip", ".tgz", ".tar.bz2", ".tbz2", ".tbz", ".tar.xz", ".txz", ".tar.lzma", ".tlz", ".tar.z", ".tar"),
)
_OTHER_SUFFIXES = (".egg", ".exe", ".msi", ".rpm", ".deb", ".dmg", "-variants.json")
_SUFFIXES = (".whl", *SDIST_SUFFIXES, *_OTHER_SUFFIXES)
_VARIANT_LABEL = re.compile(r"[0-9a-z._]{1,16}")  # PEP 825
_PLATFORM_TAIL = re.compile(
    r"[.-](?:win32|win-amd64|win-arm64|linux-[a-z0-9_]+|macosx-[0-9.]+-[a-z0-9_]+|(?:noarch|src|i[3-6]86|x86_64)$)"
    r"(?:-py[23](?:\.[0-9]+)?)?$"
)


class FilenameParts(msgspec.Struct, frozen=True):
    """The parts of a well-formed file name."""

    project: str
    """Canonical."""
    version: str
    """Normalised, PEP 440."""
    kind: Kind
    tags: frozenset[Tag] = frozenset()
    """A wheel's compatibility tags."""


def canonical(name: str) -> str:
    """Return the name as PEP 503 normalises it. Raises Invalid when PEP 508 does not allow it or it is too long."""
    if len(name) <= NAME_LIMIT and _CANONICAL.fullmatch(name):  # most are; a list of all projects has a million
        return name
    if len(name) > NAME_LIMIT or _NAME.fullmatch(name) is None:
        raise Invalid(
            f"{name[:80]!r} cannot be the name of a Python project: "
            f"use up to {NAME_LIMIT} letters, digits, '.', '_' and '-', with a letter or digit at both ends."
        )
    return _SEPARATORS.sub("-", name).lower()


def canonical_names(names: Sequence[str]) -> list[str | None]:
    """Return the canonical form of each name, None for those that are none: many at once, a list has a million."""
    found: list[str | None] = []
    for start in range(0, len(names), NAMES_AT_ONCE):
        some = names[start : start + NAMES_AT_ONCE]
        text = "\n".join(("", *some, "")).encode(errors="surrogatepass")
        plain = text.translate(_LOWER)
        while b"--" in plain:
            plain = plain.replace(b"--", b"-")
        if (
            plain.translate(None, _OF_NAMES)  # something that is in no name
            or b"-\n" in plain
            or b"\n-" in plain
            or b"\n\n" in plain
            or plain.count(b"\n") != len(some) + 1
            or max(map(len, some)) > NAME_LIMIT
        ):
            found += map(_canonical_or_none, some)
        else:
            found += some if plain == text else plain.decode().split("\n")[1:-1]
    return found


def _canonical_or_none(name: str) -> str | None:
    try:
        return canonical(name)
    except Invalid:
        return None


def safe_filename(name: str) -> bool:
    """Return whether a file name can be one ordinary, visible component of a URL path and of a path on disk."""
    size = len(name) if name.isascii() else len(name.encode("utf-8", "surrogatepass"))
    return size <= FILENAME_LIMIT and _SAFE_FILENAME.fullmatch(name) is not None


@lru_cache(maxsize=8192)  # a page of thousands of files has a few hundred versions
def canonical_version(version: str) -> str:
    """Return the version as PEP 440 normalises it; unchanged where it is not a version."""
    try:
        return str(Version(version)) if len(version) <= VERSION_LIMIT else version
    except InvalidVersion:
        return version


@lru_cache(maxsize=8192)
def version_group(version: str) -> str:
    """Return what all spellings of one version have in common: 1.0 and 1.0.0 are one release."""
    return canonicalize_version(version) if len(version) <= VERSION_LIMIT else version


def same_version(one: str, other: str) -> bool:
    """Return whether two versions are equal by PEP 440."""
    return version_group(one) == version_group(other)


def kind_of(filename: str) -> Kind:
    """Return the kind of file, by its name, however old."""
    lower = filename.lower()
    if lower.endswith(".whl"):
        return "wheel"
    if lower.endswith(SDIST_SUFFIXES) and _PLATFORM_TAIL.search(_stem(filename)) is None:
        return "sdist"
    return "other"


def url_part(filename: str) -> str:
    """Return a file name as it stands in a URL; most need no quoting, which looking at them tells sooner."""
    return filename if _PLAIN_FILENAME.fullmatch(filename) else quote(filename)


def is_distribution(filename: str) -> bool:
    """Return whether the name ends like any distribution file that an index has ever listed.

    Some really end in spaces. What describes the variants of a version's wheels (PEP 825) is taken for one.
    """
    return filename.endswith((".whl", ".tar.gz")) or filename.rstrip(" ").lower().endswith(_SUFFIXES)


def has_metadata(file: File) -> bool:
    """Return whether core metadata is served beside a file: a wheel, unless none can be made of it."""
    # pip writes it to the disk under the wheel's name with ".metadata" behind.
    return file.sidecar and file.filename.endswith(".whl") and len(file.filename.encode()) <= FILENAME_LIMIT - 9


def version_of(filename: str, project: str) -> str:
    """Return the version of a file of the canonical `project`, normalised where possible; "" where unclear."""
    if filename.endswith(".whl") and len(parts := filename[:-4].split("-", 2)) > 1:  # most files
        return canonical_version(parts[1].replace("_", "-"))
    stem = _stem(filename)
    lower = filename.lower()
    if lower.endswith((".whl", ".egg")):  # PEP 427 and eggs escape '-' in each part: the second part is the version
        parts = stem.split("-")
        return canonical_version(parts[1].replace("_", "-")) if len(parts) > 1 else ""
    # An RPM is name-version-release.arch.
    stem = re.sub(r"-[^-]+$", "", stem) if lower.endswith(".rpm") else _PLATFORM_TAIL.sub("", stem)
    dash = stem.find("-")
    while dash >= 0:
        if _SEPARATORS.sub("-", stem[:dash]).lower() == project:
            return canonical_version(stem[dash + 1 :])
        dash = stem.find("-", dash + 1)
    return canonical_version(stem.rpartition("-")[2]) if "-" in stem else ""


class Spelling:
    """The versions of a project's file names, in the spelling of its index."""

    def __init__(self, project: str, listed: Sequence[str]) -> None:
        """`listed` are the versions as the index spells them."""
        self._project = project
        self._by_group = {version_group(version): version for version in listed}
        self._plain = frozenset(listed if len(self._by_group) == len(listed) else ())
        """Those that stand for themselves in file names, since none is another spelling of one."""

    def of(self, filename: str) -> str:
        """Return the version of a file of the project; "" where it is unclear."""
        if filename.endswith(".whl") and len(parts := filename.split("-", 2)) == 3 and parts[1] in self._plain:
            return parts[1]  # nearly all files
        version = version_of(filename, self._project)
        return self._by_group.get(version_group(version), version)


def parse_filename(filename: str) -> FilenameParts:
    """Parse a file name that may be uploaded: a wheel (PEP 427) or an sdist, .tar.gz or .zip (PEP 625).

    An sdist whose name still has dashes or dots is accepted, as old tools write them. Raises Invalid.
    """
    if not safe_filename(filename):
        raise Invalid(f"{filename[:80]!r} is not a usable file name.")
    try:
        if filename.endswith(".whl"):
            name, version, _, tags = parse_wheel_filename(_without_label(filename))
            return FilenameParts(canonical(name), str(version), "wheel", tags)
        name, version = parse_sdist_filename(filename)
        return FilenameParts(canonical(name), str(version), "sdist")
    except (InvalidWheelFilename, InvalidSdistFilename) as error:
        raise Invalid(f"{filename[:80]!r} is neither a wheel's nor an sdist's file name: {error}.") from error


def wheel_tags(filename: str) -> tuple[str, str, str] | None:
    """Return the tags in a wheel's file name: Python, ABI, platform; None when it has none."""
    parts = _without_label(filename)[: -len(".whl")].split("-")
    return (parts[-3], parts[-2], parts[-1]) if len(parts) >= 5 else None


def _without_label(filename: str) -> str:
    """Return the file name of a wheel without the label of its variant (PEP 825), which stands behind the platform."""
    parts = filename.removesuffix(".whl").split("-")
    has_build = len(parts) > 5 and parts[2][:1].isdigit()
    if len(parts) == 6 + has_build and _VARIANT_LABEL.fullmatch(parts[-1]):
        return "-".join(parts[:-1]) + ".whl"
    return filename


def _stem(filename: str) -> str:
    """Return the file name without its suffix."""
    filename = filename.rstrip(" ")
    lower = filename.lower()
    for suffix in _SUFFIXES:
        if lower.endswith(suffix):
            return filename[: -len(suffix)]
    return filename
