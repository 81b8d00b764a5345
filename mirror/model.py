"""The values that two packages or more share, and `Format`, which is all that the core knows of an ecosystem.

Every value is frozen: a changed one is a new one, made by `msgspec.structs.replace`. Nothing here reads a clock, a file
or the network.
"""

import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from yarl import URL

Outcome = Literal["hit", "miss", "joined", "stale", "offline"]
"""How a response came about; the value of the header X-Mirror-Cache."""

Severity = Literal["unknown", "low", "medium", "high", "critical"]
"""How bad what a record reports is, by the words of CVSS."""

Right = Literal["read", "upload", "yank", "admin"]
"""What a user may do to a project. Each implies read; `admin` is all of them, and deleting and changing owners."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Rights on some projects of some repositories: the limits of a token, or what a user has been given."""

    rights: frozenset[Right]
    repositories: tuple[str, ...] = ("*",)
    """Names or glob patterns."""
    projects: tuple[str, ...] = ("*",)
    """Names or glob patterns."""


class File(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One downloadable artefact: a wheel, an sdist, a gem.

    Nothing in it leads back to it, so that the garbage collector need not look at it: there are many.
    """

    filename: str
    version: str
    digests: Mapping[str, str] = {}
    """Algorithm → lower-case hex, as the index promises them; may be empty."""
    alternatives: tuple[Mapping[str, str], ...] = ()
    """Where the index lists the name several times with different digests: all of these; then `digests` is empty.

    The bytes have to match any of them.
    """
    url: str = ""
    """Absolute URL at the upstream; empty for a file of our own."""
    size: int | None = None
    """Bytes; None where the index does not list it."""
    uploaded: datetime | None = None
    """Always with a time zone."""
    yanked: str | None = None
    """The author's reason (which may be empty) when yanked, else None."""
    platform: str | None = None
    """A gem's platform (`ruby` when generic); None for Python files, which have their tags in the file name."""
    requires: str | None = None
    """Requires-Python, or a gem's required Ruby version."""
    source: str = ""
    """The name of the source that lists it."""
    sidecar: bool = True
    """False where it is known that no sidecar can be made of the file; set by the source."""
    extra: Mapping[str, Any] = {}
    """Private to the format: carried from parsing to rendering."""

    @property
    def sha256(self) -> str | None:
        return self.digests.get("sha256")


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """A PyPI project or a gem with its files, as one source or the merged repository lists it."""

    name: str
    """Canonical."""
    files: tuple[File, ...] = ()
    versions: tuple[str, ...] = ()
    """Every version, including those without files (PEP 700)."""
    serial: int | None = None
    status: str | None = None
    """PEP 792: active, archived, quarantined, deprecated; None where the index does not tell."""
    extra: Mapping[str, Any] = {}
    """Private to the format: carried from parsing to rendering."""

    def file(self, filename: str) -> File | None:
        """Return the file of that name, or None."""
        return next((file for file in self.files if file.filename == filename), None)


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """One dependency, for people to read."""

    name: str
    """The name as its author writes it."""
    project: str = ""
    """The canonical name; empty where `name` cannot be one."""
    wants: str = ""
    """The versions that satisfy it, as the ecosystem writes them."""
    when: str = ""
    """The condition under which it is needed; empty for always."""
    optional: bool = False


DescriptionType = Literal["markdown", "rst", "plain"]


class ProjectSummary(msgspec.Struct, frozen=True, kw_only=True):
    """The description of one version of a project, for people. All of it is as hostile as its author."""

    version: str
    summary: str = ""
    description: str = ""
    description_type: DescriptionType = "plain"
    license: str = ""
    authors: str = ""
    requires: str = ""
    """The versions of the language that it needs."""
    links: Mapping[str, str] = {}
    """Name → URL, of any scheme."""
    needs: tuple[Dependency, ...] = ()


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """All project names of a source or a repository."""

    serials: Mapping[str, int | None] = {}
    """Canonical name → serial, None where there is none."""
    display: Mapping[str, str] = {}
    """Canonical name → the name as its author writes it, only where the two differ."""
    serial: int | None = None


class Page(msgspec.Struct, frozen=True):
    """The address of an index document within one source.

    Every format has the kinds `project` (the files of one project) and `names` (all projects); each has more
    (`legacy`, `provenance`, …), which only its own routes use.
    """

    kind: str
    name: str = ""


class Stamp(msgspec.Struct, frozen=True):
    """The last confirmation of a stored page."""

    checked: float
    """Seconds since the epoch at which the upstream last confirmed it."""
    found: bool
    """False where the upstream has no such page."""
    revision: str = ""


UrlClass = Literal["page", "list", "file", "sidecar", "api"]
"""The class of a URL at an upstream; each is paced by itself. `api` is JSON that no package client needs."""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """The request to an upstream for one page."""

    url: URL
    accept: str = "*/*"
    limit: int = sys.maxsize
    """The largest body that is accepted, in bytes after decompression; what asks for pages lowers it to the setting."""
    timeout: float | None = None
    """Seconds for the whole response; None for the timeout of the settings."""
    kind: UrlClass = "page"


class UpstreamResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's successful response to an `UpstreamRequest`: the raw body, with the headers that matter."""

    url: str
    """The final URL, after redirects; relative links in the body are relative to it."""
    content_type: str
    body: bytes
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    """The header X-PyPI-Last-Serial."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as the feed lists it."""

    serial: int
    at: float
    """Seconds since the epoch."""
    source: str
    project: str
    kind: str
    """One of page, removed, file, upload, yank, unyank, delete, policy, importing, import."""
    filename: str = ""
    detail: Mapping[str, Any] = {}


class Body(Protocol):
    """Bytes that can be read from any position: a local blob, or a transfer in progress.

    One interface, so that Range, HEAD and 304 are written once.
    """

    @property
    def size(self) -> int:
        """The number of bytes."""

    @property
    def digest(self) -> str:
        """The SHA-256 in lower-case hex, known before the first byte is read."""

    @property
    def modified(self) -> str | None:
        """The HTTP date for Last-Modified, the same on a miss and on a hit; None where there is none."""

    @property
    def path(self) -> Path | None:
        """The local file that has all of the bytes, verified; None where there is none."""

    @property
    def location(self) -> str | None:
        """The URL at which a client may fetch them itself, for some minutes; None where there is none."""

    def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises UpstreamError when the rest cannot be fetched."""


class AcceptedUpload(msgspec.Struct, frozen=True, kw_only=True):
    """An uploaded file as it is stored, besides its bytes."""

    project: str
    """Canonical."""
    file: File
    """What pages show of it."""
    sidecar: bytes
    """Its own metadata, in the form of its ecosystem: METADATA, PKG-INFO, gemspec.rz."""


class PackageReader(Protocol):
    """Reads files that are to be published: the module `package` of an ecosystem."""

    def filename_of(self, filename: str, path: Path) -> str:
        """Return the name under which a file on disk is published that came as `filename`, or without any name.

        Blocking. Raises Invalid, also when the file is not what its name says.
        """

    def inspect(self, filename: str, path: Path) -> File:
        """Read a file on disk: its version, requirements and platform, and its metadata in `extra`.

        Blocking: call it in a thread. Raises Invalid, in bounded memory and time, for anything hostile.
        """

    def accept(self, inspected: File, attested: bool) -> AcceptedUpload:
        """Return what to store of an inspected file; `attested` when it was uploaded with attestations."""


def _any_document(page: Page, response: UpstreamResponse) -> None:
    """Accept any document."""


def _unchanged(file: File) -> File:
    return file


def _never(one: File, other: File) -> bool:
    return False


class Format(msgspec.Struct, frozen=True, kw_only=True):
    """Documents and files of one ecosystem, for the core: pure functions. `pypi.FORMAT` and `rubygems.FORMAT`."""

    name: str
    """The name in the settings: `pypi`, `rubygems`."""
    sidecar_kind: str
    """The kind of sidecar that files have: `metadata`, `gemspec`."""

    canonical: Callable[[str], str]
    """Returns the canonical form of a project name. Raises Invalid when it cannot be one."""
    request_for: Callable[[URL, Page], UpstreamRequest]
    """Returns the request for a page of the upstream whose index is at a URL."""
    parse: Callable[[Page, UpstreamResponse, str], Project]
    """Parses a `project` page, as the source of a name lists it. Raises UpstreamProtocolError when the body is not one.

    File URLs become absolute, http or https only; names become canonical; absurd entries are left out; unknown keys are
    kept in `extra`.
    """
    parse_names: Callable[[UpstreamResponse], Names]
    """Parses a `names` page. Raises UpstreamProtocolError when the body is not one."""
    check_project: Callable[[Project], object]
    """Raises anything where a project cannot be rendered in every form that clients may ask for."""
    revision: Callable[[bytes], str]
    """Returns the identity of a page's body: equal bodies have equal revisions."""
    index_pages: tuple[Page, ...] = (Page("names"),)
    """The pages about all projects at once: the list of names, and lists of the format's own."""
    check_document: Callable[[Page, UpstreamResponse], None] = _any_document
    """Checks a page of any other kind before it replaces an older one. Raises UpstreamProtocolError."""

    has_sidecar: Callable[[File], bool]
    """Returns whether a file can have a sidecar (a wheel can, an sdist cannot)."""
    sidecar_name: Callable[[File], str]
    """Returns the file name under which a file's sidecar is held."""
    sidecar_instead_of: str = ""
    """The ending of a file's name that its sidecar's ending takes the place of; empty where it is appended."""
    request_for_sidecar: Callable[[URL, File], UpstreamRequest | None]
    """Returns the request for a file's sidecar, or None when the upstream, whose URL it is, does not offer it."""
    sidecar_digest: Callable[[File], str | None]
    """Returns the SHA-256 that the index promises of a file's sidecar; None where it promises none."""
    check_sidecar: Callable[[File, bytes], None]
    """Checks that bytes can be the file's sidecar. Raises UpstreamProtocolError, or DigestMismatch."""
    make_sidecar: Callable[[File, Body], Awaitable[bytes]]
    """Builds the sidecar out of the file itself, reading as little of it as possible. Raises Invalid."""

    renamed: Callable[[File], File] = _unchanged
    """Returns a file of our own, whose `extra` has its metadata, as it is named by the rules of today."""
    with_checksum: Callable[[File, str], File] | None = None
    """Returns a file for which its page has no checksum with this SHA-256; None where pages are left as they are."""
    exclude: Callable[[File, File], bool] = _never
    """Returns whether two of a project's own files cannot both be published, though their names differ."""

    package_reader: str
    """The import path of the module that reads files which are to be published, a `PackageReader`."""
