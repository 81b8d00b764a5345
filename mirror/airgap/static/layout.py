"""What the export has to know of an ecosystem: where its files and pages stand, and what is in them. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

from mirror.model import File, Page, Project

Link = Callable[[File], str]
"""The URL of a file, relative to a page two directories deep or absolute."""


class Layout(Protocol):
    """`pypi.static.LAYOUT`, `rubygems.static.LAYOUT`. All paths are relative to the mount, with `/` between parts."""

    roots: tuple[str, ...]
    """The first parts of all of its paths: whatever stands below them belongs to the tree.

    In the order in which things are taken away: pages before what they list.
    """
    title: str
    """What it is an index of, for people."""
    start: str
    """The path of the list of projects, for people."""
    sidecars_beside_files: bool
    """Whether clients look for a sidecar wherever the file is, so that it moves with the files."""

    def usage(self, url: str) -> str:
        """The command with which a person uses the index at `url`, the mount's own."""

    def shown(self, file: File, sidecar: str | None) -> File | None:
        """The file as pages of the tree list it, or None to leave it out; `sidecar` is the SHA-256 of what it has."""

    def file(self, project: str, file: File) -> str:
        """Where a file stands."""

    def sidecar(self, project: str, file: File) -> str:
        """Where its sidecar stands."""

    def document(self, project: str) -> Page:
        """The page in which an upstream says more about a project than its files."""

    def described_by(self, project: Project) -> File | None:
        """The file whose sidecar says most about the project, for want of a document."""

    def pages(self, project: Project, files: str, document: bytes | None, sidecar: bytes | None) -> Mapping[str, bytes]:
        """The pages about one project, by path; `files` is the absolute URL of the mount where the files are, or ""."""

    def entry(self, project: Project) -> str:
        """What lists of all projects have to know of this one."""

    def index(self, entries: Mapping[str, str]) -> Iterable[tuple[str, bytes]]:
        """The pages about all projects, given their entries by name in order. What clients read first comes last."""

    def nginx_http(self) -> str:
        """Lines for the `http` part of nginx's configuration, the same for every mount."""

    def nginx_server(self, mount: str, files: str) -> str:
        """Lines for the `server` part; `mount` is a path without a slash at its end, `files` as in `pages`."""
