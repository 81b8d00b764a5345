"""What the rest of the mirror knows of Python and of Ruby: one frozen `Ecosystem` each, and the protocols of its parts.

Whatever differs between the two stands here as a field, so that no code elsewhere compares the name of an ecosystem.
`mirror.pypi.ECOSYSTEM` and `mirror.rubygems.ECOSYSTEM` are the two; `mirror.service.ecosystems` has them by name.

The surprise: parts that take time to load (the pages of a static tree, metadata for people, the checks of `mirror
doctor`) are functions that import them, since every command imports an ecosystem and few need these.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import msgspec
from yarl import URL

from mirror.model import File, Format, Page, Project, ProjectSummary

if TYPE_CHECKING:
    # Not loaded with every ecosystem: an HTTP client, and the classes of the settings.
    from mirror.doctor import ExamineOptions, Finding, IndexClient
    from mirror.policy import Versions


class ClientLine(msgspec.Struct, frozen=True, kw_only=True):
    """One command, or one line of a file, that a person copies for one client."""

    client: str
    does: str
    """What it is for, in a word or two: `once`, `for good`, `upload`."""
    text: str


class ClientAccess(Protocol):
    """The lines that configure clients for an index; the modules `pypi.clients` and `rubygems.clients`.

    Paths are relative to the repository's mount and quoted for a URL.
    """

    def project_path(self, project: str) -> str:
        """Return the path of a project's page."""

    def file_path(self, project: str, file: File) -> str:
        """Return the path of a file."""

    def sidecar_path(self, project: str, sidecar: str) -> str:
        """Return the path of a sidecar, given its file name."""

    def setup_lines(self, root: URL, upstreams: Sequence[URL]) -> list[ClientLine]:
        """Return the lines that point clients at the repository mounted at `root`, which ends in a slash.

        `upstreams` are the indexes that projects may name as their source.
        """

    def upload_lines(self, root: URL) -> list[ClientLine]:
        """Return the lines that upload to the repository mounted at `root`."""

    def install_lines(self, root: URL, project: str, version: str) -> list[ClientLine]:
        """Return the lines that install one version of a project; an empty version is the newest one."""


class SummaryReader(Protocol):
    """Reads what a project says about itself to people; the modules `pypi.summary` and `rubygems.summary`."""

    def file_to_read(self, project: Project, version: str | None = None) -> File | None:
        """Return the file whose metadata describes a version, or the newest version when None."""

    def document(self, project: str, file: File) -> Page | None:
        """Return the page that describes a file that has no sidecar, or None when there is no such page."""

    def from_index(self, file: File) -> ProjectSummary:
        """Return what the index page alone tells."""

    def from_sidecar(self, file: File, content: bytes) -> ProjectSummary:
        """Read the file's sidecar. Raises Invalid."""

    def from_document(self, file: File, content: bytes) -> ProjectSummary:
        """Read the page that `document` names. Raises Invalid."""


class StaticLayout(Protocol):
    """An exported tree: which file stands where, and how a web server hands it out. Pure.

    All paths are relative to the mount, with `/` between parts.
    """

    roots: tuple[str, ...]
    """The first parts of all of its paths: whatever is below them belongs to the tree.

    In the order in which things are removed: pages before what they list.
    """
    title: str
    """What it is an index of, for people."""
    start: str
    """The path of the list of projects, for people."""
    sidecars_beside_files: bool
    """Whether clients look for a sidecar next to the file, wherever that is, so that it moves with the files."""

    def usage(self, url: str) -> str:
        """Return the command with which a person uses the index at `url`, the URL of the mount."""

    def listed(self, file: File, sidecar: str | None) -> File | None:
        """Return the file as pages of the tree list it, or None to leave it out; `sidecar` is its sidecar's SHA-256."""

    def file(self, project: str, file: File) -> str:
        """Return the path of a file."""

    def sidecar(self, project: str, file: File) -> str:
        """Return the path of a file's sidecar."""

    def document(self, project: str) -> Page:
        """Return the page in which an upstream tells more about a project than its files."""

    def described_by(self, project: Project) -> File | None:
        """Return the file whose sidecar tells most about the project where there is no document."""

    def pages(self, project: Project, files: str, document: bytes | None, sidecar: bytes | None) -> Mapping[str, bytes]:
        """Return the pages about one project, by path.

        `files` is the absolute URL of the mount where the files are, or "" for this tree.
        """

    def entry(self, project: Project) -> str:
        """Return what lists of all projects have to know of this one."""

    def index(self, entries: Mapping[str, str], documents: Mapping[str, bytes]) -> Iterable[tuple[str, bytes]]:
        """Yield the pages about all projects, given their entries by name in order. What clients read first is last.

        `documents` are what the one upstream has of such pages, by kind.
        """

    def nginx_http(self) -> str:
        """Return lines for the `http` part of nginx's configuration, the same for every mount."""

    def nginx_server(self, mount: str, files: str) -> str:
        """Return lines for the `server` part; `mount` is a path without a slash at its end, `files` as in `pages`."""


class Ecosystem(msgspec.Struct, frozen=True, kw_only=True):
    """One family of package clients, and everything that differs between it and the other."""

    format: Format
    title: str
    """The language, for people: `Python`."""
    noun: str
    """What its clients call a project: `project`, `gem`."""
    index_path: str
    """The path below the mount that clients are given as the index: `simple/`, or "" for the mount itself."""
    log_path: str | None
    """The path below the mount of the append-only log that lists every version, of which the mirror publishes its own.

    None where each page stands for itself.
    """
    suffixes: tuple[str, ...]
    """The endings of the names of files that can be uploaded."""
    pin_operator: str | None
    """What stands between a name and a version where clients pin one: `==`. None where they have no such spelling."""
    lock_files_have_urls: bool
    """Whether lock files of its clients name the URL of each file."""
    versions: "Versions"
    split_version: Callable[[str], tuple[str, str | None]]
    """Split a version as a person writes it into the canonical version and the platform, None where it names none."""
    clients: ClientAccess
    summaries: Callable[[], SummaryReader]
    layout: Callable[[], StaticLayout]
    examine: "Callable[[IndexClient, URL, ExamineOptions], Awaitable[list[Finding] | None]]"
    """Return every finding of `mirror doctor` about the index at a URL; None where there is none.

    Raises UpstreamError when nothing answers.
    """

    @property
    def name(self) -> str:
        """The name in settings and in addresses of the mirror's own endpoints."""
        return self.format.name

    @property
    def sidecar_suffix(self) -> str:
        """The ending of the names of sidecars."""
        return self.format.sidecar_name(File(filename="", version=""))

    def index_at(self, mount: str) -> str:
        """Return the path of the index of a repository with this mount."""
        return f"{mount.rstrip('/')}/{self.index_path}"
