"""What the pages show, as plain values, and how sizes, ages and untrusted texts are written.

Pure: `now` is an argument.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from mirror.model import Dependency, Event, File, Project, ProjectSummary
from mirror.policy import Verdict

State = Literal["visible", "hidden", "blocked"]
VERSIONS_PER_PAGE = 100
FILES_SHOWN = 300
"""Of one version, which has a few dozen at most unless it is hostile."""
DEPENDENCIES_SHOWN = 200


# --- Words ---------------------------------------------------------------------------------------------------------


def size(number: int | None) -> str:
    """Format a number of bytes, in powers of ten as disks are sold."""
    if number is None:
        return "size unknown"
    amount, units = float(number), iter(("B", "kB", "MB", "GB", "TB"))
    unit = next(units)
    for larger in units:
        if amount < 999.5:
            break
        amount, unit = amount / 1000, larger
    written = f"{amount:.0f}" if unit == "B" or amount >= 100 else f"{amount:.1f}".removesuffix(".0")
    return f"{written} {unit}"


def count(number: int) -> str:
    """Format a whole number with thin spaces between its thousands, which no language takes for a decimal point."""
    return f"{number:,}".replace(",", "\N{NARROW NO-BREAK SPACE}")


def counted(number: int, noun: str) -> str:
    """Format a number with a noun: `1 file`, `2 files`."""
    return f"{count(number)} {noun}" + ("" if number == 1 else "s")


def share(part: int, whole: int) -> str:
    """Format a percentage; 100 % and 0 % only when they are exact."""
    if not whole:
        return "—"
    percent = 100 * part / whole
    if 0 < part < whole:
        percent = min(99.9, max(0.1, percent))
    return f"{percent:.0f} %" if part in (0, whole) or 1 <= percent < 99 else f"{percent:.1f} %"


def age(moment: float | None, now: float) -> str:
    """Format how long ago a moment is, in the largest unit that fits."""
    if moment is None:
        return "unknown"
    seconds = now - moment
    if seconds < -60:
        return "in " + _duration(-seconds)
    return "just now" if seconds < 60 else f"{_duration(seconds)} ago"


def _duration(seconds: float) -> str:
    for unit, length in (("year", 31_557_600), ("month", 2_629_800), ("day", 86_400), ("hour", 3600)):
        if seconds >= length:
            return counted(int(seconds // length), unit)
    return counted(max(1, int(seconds // 60)), "minute")


def moment(at: float | None) -> str:
    """Format a time as in RFC 3339, for `<time datetime>`; empty when it is unknown or out of range."""
    try:
        return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return ""


def printable(text: object, most: int = 200) -> str:
    """Make an untrusted text fit for a line: of bounded length, with escapes for characters that do not print.

    These include line breaks, and characters that turn the direction of writing, by which a name can imitate another.
    """
    written = str(text)
    cut = written[:most]
    shown = cut if cut.isprintable() else "".join(c if c.isprintable() else _escape(c) for c in cut)
    return shown if len(written) <= most else f"{shown}…"


def _escape(char: str) -> str:
    if char in "\n\r\t":
        return " "
    return char.encode("ascii", "backslashreplace").decode() if ord(char) > 127 else f"\\x{ord(char):02x}"


def web_address(url: str) -> str:
    """Return the URL if it is one of the web and of reasonable length, else an empty text."""
    try:
        parts = urlsplit(url.strip())
    except ValueError:
        return ""
    fit = parts.scheme in ("http", "https") and parts.hostname and len(url) <= 2000 and url.strip().isprintable()
    return url.strip() if fit else ""


# --- A project -----------------------------------------------------------------------------------------------------


class FileRow(msgspec.Struct, frozen=True, kw_only=True):
    """A file of the version that is shown."""

    filename: str
    path: str
    """Below the mount; empty when it is not served."""
    size: str
    uploaded: float | None
    sha256: str
    held: bool
    own: bool
    """Uploaded here."""
    source: str
    yanked: str | None
    requires: str
    platform: str = ""
    """The platform, where the file name does not contain it."""
    state: State = "visible"
    rule: str = ""
    reason: str = ""
    until: float | None = None


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the release history."""

    version: str
    files: int
    held: int
    size: int
    uploaded: float | None
    """When its first file was uploaded."""
    yanked: bool
    """Whether all of its files are yanked."""
    withheld: int
    """The number of files that policy hides or blocks."""


class Link(msgspec.Struct, frozen=True):
    """A name with an address on the web; the address is empty when it was none."""

    name: str
    url: str


class ProjectPage(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the page of a project shows, except for the rendered description."""

    name: str
    version: str
    """The version that is shown; empty where there is none."""
    newest: bool
    status: str
    summary: ProjectSummary
    links: tuple[Link, ...]
    dependencies: tuple[Dependency, ...]
    dependencies_left_out: int
    files: tuple[FileRow, ...]
    files_left_out: int
    versions: tuple[VersionRow, ...]
    versions_in_all: int
    page: int
    pages: int
    held: int
    held_size: int


def project_page(
    project: Project,
    withheld: Mapping[str, Verdict],
    summary: ProjectSummary,
    *,
    version: str,
    newest: str,
    page: int,
    held: Mapping[str, int],
    own: Collection[str],
    key: Callable[[str], tuple[object, ...]],
    path: Callable[[str, File], str],
) -> ProjectPage:
    """Return the page about one version of a project.

    `held` has the size of every held file by name, `own` the names of the sources that are our uploads; `key` sorts
    versions; `path` returns where a file is served, below the mount.
    """
    files = [*project.files, *(verdict.file for verdict in withheld.values())]
    by_version: dict[str, list[File]] = {one: [] for one in project.versions}
    for file in files:
        by_version.setdefault(file.version, []).append(file)
    order = sorted(by_version, key=key, reverse=True)
    pages = max(1, -(-len(order) // VERSIONS_PER_PAGE))
    page = min(max(1, page), pages)
    shown = sorted(by_version.get(version, ()), key=lambda file: file.filename)
    return ProjectPage(
        name=project.name,
        version=version,
        newest=version == newest,
        status=project.status or "",
        summary=summary,
        links=tuple(Link(name, web_address(url)) for name, url in list(summary.links.items())[:30]),
        dependencies=summary.needs[:DEPENDENCIES_SHOWN],
        dependencies_left_out=max(0, len(summary.needs) - DEPENDENCIES_SHOWN),
        files=tuple(
            _file_row(file, project.name, withheld.get(file.filename), held, own, path) for file in shown[:FILES_SHOWN]
        ),
        files_left_out=max(0, len(shown) - FILES_SHOWN),
        versions=tuple(
            _version_row(one, by_version[one], held, own, withheld)
            for one in order[(page - 1) * VERSIONS_PER_PAGE : page * VERSIONS_PER_PAGE]
        ),
        versions_in_all=len(order),
        page=page,
        pages=pages,
        held=sum(_is_held(file, held, own) for file in files),
        held_size=sum(held.get(file.filename, file.size or 0) for file in files if _is_held(file, held, own)),
    )


def _is_held(file: File, held: Mapping[str, int], own: Collection[str]) -> bool:
    return file.filename in held or file.source in own


def _file_row(
    file: File,
    project: str,
    verdict: Verdict | None,
    held: Mapping[str, int],
    own: Collection[str],
    path: Callable[[str, File], str],
) -> FileRow:
    return FileRow(
        filename=file.filename,
        path="" if verdict and verdict.state == "blocked" else path(project, file),
        size=size(file.size if file.size is not None else held.get(file.filename)),
        uploaded=file.uploaded.timestamp() if file.uploaded else None,
        sha256=file.sha256 or "",
        held=_is_held(file, held, own),
        own=file.source in own,
        source=file.source,
        yanked=file.yanked,
        requires=file.requires or "",
        platform=file.platform if file.extra.get("address") and file.platform else "",
        state=verdict.state if verdict else "visible",
        rule=verdict.rule if verdict else "",
        reason=verdict.reason if verdict else "",
        until=verdict.until if verdict else None,
    )


def _version_row(
    version: str, files: Sequence[File], held: Mapping[str, int], own: Collection[str], withheld: Mapping[str, Verdict]
) -> VersionRow:
    moments = [file.uploaded.timestamp() for file in files if file.uploaded]
    return VersionRow(
        version=version,
        files=len(files),
        held=sum(_is_held(file, held, own) for file in files),
        size=sum(file.size or held.get(file.filename, 0) for file in files),
        uploaded=min(moments, default=None),
        yanked=bool(files) and all(file.yanked is not None for file in files),
        withheld=sum(file.filename in withheld for file in files),
    )


# --- Activity ------------------------------------------------------------------------------------------------------

_EVENT_TEXTS = {
    "page": "page changed",
    "project": "page changed",
    "names": "list of names changed",
    "specs": "legacy index changed",
    "latest_specs": "legacy index changed",
    "prerelease_specs": "legacy index changed",
    "legacy": "document changed",
    "release": "document changed",
    "provenance": "provenance changed",
    "removed": "gone upstream",
    "file": "file kept",
    "sidecar": "metadata kept",
    "upload": "uploaded",
    "yank": "yanked",
    "unyank": "un-yanked",
    "delete": "deleted",
    "policy": "policy changed",
}


class ActivityEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A line of the activity page."""

    serial: int
    at: float
    repository: str
    """The repository that shows it; empty when none has the source any more."""
    project: str
    text: str
    filename: str
    ours: bool
    """Whether it was done here, not upstream."""


def activity_entry(event: Event, repository: str) -> ActivityEntry:
    """Describe an event of the feed in words."""
    return ActivityEntry(
        serial=event.serial,
        at=event.at,
        repository=repository,
        project=event.project,
        text=_EVENT_TEXTS.get(event.kind, event.kind),
        filename=event.filename,
        ours=event.kind in ("upload", "yank", "unyank", "delete", "policy"),
    )
