"""The values that everything else is about, and the one seam between the core and an ecosystem.

All of them are frozen: what acts makes new ones with `msgspec.structs.replace`. Nothing here reads a clock,
a file or the network.
"""

from collections.abc import AsyncIterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Protocol

import msgspec
from yarl import URL

Outcome = Literal["hit", "miss", "joined", "stale", "offline"]
"""How an answer came about; the word of the header X-Mirror-Cache."""

Right = Literal["read", "upload", "yank", "admin"]
"""What somebody may do to a project. Any of them lets one read it; `admin` is all of them, deleting and owners too."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """Rights on some projects of some repositories: what a token is limited to, or what somebody has been given."""

    rights: frozenset[Right]
    repositories: tuple[str, ...] = ("*",)
    """Names or glob patterns."""
    projects: tuple[str, ...] = ("*",)
    """Names or glob patterns."""


class File(msgspec.Struct, frozen=True, kw_only=True):
    """One downloadable artefact: a wheel, an sdist, a gem."""

    filename: str
    version: str
    digests: Mapping[str, str] = {}
    """Algorithm → lower-case hex, as the index promises them; may be empty."""
    url: str = ""
    """Absolute URL at the upstream; empty for a file of our own."""
    size: int | None = None
    """Bytes, when the index says so."""
    uploaded: datetime | None = None
    """Always with a time zone."""
    yanked: str | None = None
    """The author's reason (which may be empty) when yanked, else None."""
    platform: str | None = None
    """A gem's platform (`ruby` when generic); None for Python files, whose tags stand in the file name."""
    requires: str | None = None
    """Requires-Python, or a gem's required Ruby version."""
    source: str = ""
    """The name of the source that lists it; set by the source."""
    extra: Mapping[str, Any] = {}
    """Private to the format, carried from parse to render."""

    @property
    def sha256(self) -> str | None:
        return self.digests.get("sha256")


class Project(msgspec.Struct, frozen=True, kw_only=True):
    """One named thing (a PyPI project, a gem) with its files, as one source or the merged repository shows it."""

    name: str
    """Canonical."""
    files: tuple[File, ...] = ()
    versions: tuple[str, ...] = ()
    """Every version, also those without files (PEP 700)."""
    serial: int | None = None
    status: str | None = None
    """PEP 792: active, archived, quarantined, deprecated; None where the index does not say."""
    extra: Mapping[str, Any] = {}
    """Private to the format, carried from parse to render."""

    def file(self, filename: str) -> File | None:
        """The file of that name, or None."""
        return next((file for file in self.files if file.filename == filename), None)


class Dependency(msgspec.Struct, frozen=True, kw_only=True):
    """One dependency, for people to read."""

    name: str
    """As it is written."""
    project: str = ""
    """Canonical; empty where what is written names no project."""
    wants: str = ""
    """The versions."""
    when: str = ""
    """The condition under which it is needed; empty: always."""
    optional: bool = False


DescriptionType = Literal["markdown", "rst", "plain"]


class ProjectSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What a project says of itself to people, in one version. All of it is as hostile as its author."""

    version: str
    summary: str = ""
    description: str = ""
    description_type: DescriptionType = "plain"
    license: str = ""
    authors: str = ""
    requires: str = ""
    """The versions of the language."""
    links: Mapping[str, str] = {}
    """Name → URL, of any scheme."""
    needs: tuple[Dependency, ...] = ()


class Names(msgspec.Struct, frozen=True, kw_only=True):
    """All project names of a source or repository: canonical name → serial, or None where there is none."""

    serials: Mapping[str, int | None] = {}
    display: Mapping[str, str] = {}
    """Canonical name → the name as its author writes it, only where the two differ."""
    serial: int | None = None


class Page(msgspec.Struct, frozen=True):
    """The address of an index document within one source: what is asked for, not what it holds.

    `kind` is one that the format knows. Every format has `project` (the files of one project) and `names`
    (all projects); the rest (`legacy`, `provenance`, …) are passed through by that format's own routes.
    """

    kind: str
    name: str = ""


class Stamp(msgspec.Struct, frozen=True):
    """What the store knows of a page."""

    checked: float
    """When upstream last confirmed it."""
    found: bool
    """False: upstream said that there is none."""
    revision: str = ""


class UpstreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to request from an upstream for a page."""

    url: URL
    accept: str = "*/*"
    limit: int = 64 << 20
    """The largest body, in bytes after decompression, that is accepted."""
    timeout: float | None = None
    """Seconds for the whole answer, where that is more than a page usually has."""


class UpstreamResponse(msgspec.Struct, frozen=True, kw_only=True):
    """An upstream's successful answer to an Ask: the raw body, with the headers that matter."""

    url: str
    """The final URL, after redirects: relative links in the body refer to it."""
    content_type: str
    body: bytes
    etag: str | None = None
    last_modified: str | None = None
    serial: int | None = None
    """X-PyPI-Last-Serial, where given."""


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the feed."""

    serial: int
    at: float
    """Seconds since the epoch."""
    source: str
    project: str
    kind: str
    """page, removed, file, upload, yank, unyank, delete, policy, importing, import."""
    filename: str = ""
    detail: Mapping[str, Any] = {}


class Body(Protocol):
    """Bytes that can be read from any place: a local blob, an object in a bucket, a transfer in progress.

    One interface, so that Range, HEAD and 304 exist once.
    """

    @property
    def size(self) -> int:
        """Bytes in all."""

    @property
    def digest(self) -> str:
        """SHA-256 in lower-case hex: known before the first byte is read."""

    @property
    def modified(self) -> str | None:
        """An HTTP date for Last-Modified that is the same on a miss and on a hit, or None."""

    @property
    def path(self) -> Path | None:
        """Where the bytes lie, when they lie whole and verified in one local file."""

    def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop). Raises UpstreamError when the rest cannot be had."""


class AcceptedUpload(msgspec.Struct, frozen=True, kw_only=True):
    """What is kept of a file of our own, besides its bytes."""

    project: str
    """Canonical."""
    file: File
    """As pages need it."""
    sidecar: bytes
    """What it says of itself, as its ecosystem writes it: METADATA, PKG-INFO, gemspec.rz."""


class Format(Protocol):
    """What the core has to know of an ecosystem: pure, stateless. `pypi.FORMAT` and `rubygems.FORMAT`."""

    name: str
    """As the configuration spells it."""
    sidecar_kind: str
    """The one kind of sidecar that the ecosystem's files have: `metadata`, `gemspec`."""

    def canonical(self, name: str) -> str:
        """The canonical form of a project name. Raises Invalid when it cannot be one."""

    def ask(self, base: URL, page: Page) -> UpstreamRequest:
        """What to request for a page from an upstream whose index is at `base`."""

    def parse(self, page: Page, answer: UpstreamResponse) -> Project:
        """The project of a `project` page. Raises UpstreamProtocolError when the body is not one.

        File URLs come out absolute, http or https only; names come out canonical; entries that are absurd are
        left out; unknown keys are kept in `extra`.
        """

    def parse_names(self, answer: UpstreamResponse) -> Names:
        """The names of a `names` page. Raises UpstreamProtocolError when the body is not one."""

    def revision(self, body: bytes) -> str:
        """What identifies a page's body: equal bodies, equal revisions."""

    def has_sidecar(self, file: File) -> bool:
        """Whether a file can have a sidecar at all (a wheel has, an sdist has not)."""

    def sidecar_name(self, file: File) -> str:
        """The file name under which a file's sidecar is held."""

    def sidecar_ask(self, base: URL, file: File) -> UpstreamRequest | None:
        """What to request for the sidecar, or None when the upstream does not offer it."""

    def sidecar_check(self, file: File, content: bytes) -> None:
        """Raises UpstreamProtocolError (or DigestMismatch) unless `content` can be this file's sidecar."""

    async def sidecar_make(self, file: File, body: Body) -> bytes:
        """The sidecar made from the file itself, reading as little of `body` as possible. Raises Invalid."""

    def inspect(self, filename: str, path: Path) -> File:
        """What a file on disk says of itself: version, requirements, platform, and in `extra` its metadata.

        Blocking: call it in a thread. Raises Invalid, in bounded memory and time, for anything hostile.
        """

    def keep(self, inspected: File, attested: bool) -> AcceptedUpload:
        """What to keep of a file that was inspected; `attested`: whether it came with attestations."""
