"""What an ecosystem defines for the export: the paths and the contents of its files and pages. Pure.

Also the start page for people at the top of each mount: what is here and how to use it. No scripts, no styles.
"""

from collections.abc import Callable, Iterable, Mapping
from html import escape
from typing import Protocol

from mirror.model import File, Page, Project

Link = Callable[[File], str]
"""The URL of a file, relative to a page two directories deep or absolute."""


class Layout(Protocol):
    """`pypi.static.LAYOUT`, `rubygems.static.LAYOUT`. All paths are relative to the mount, with `/` between parts."""

    roots: tuple[str, ...]
    """The first parts of all of its paths: everything below them belongs to the tree.

    In the order of removal: pages before what they list.
    """
    title: str
    """What the index contains, for people."""
    start: str
    """The path of the list of projects, for people."""
    sidecars_beside_files: bool
    """Whether clients request a sidecar beside its file, so that it belongs where the files are."""

    def usage(self, url: str) -> str:
        """Return the command with which a person uses the index at `url`, the mount's own."""

    def shown(self, file: File, sidecar: str | None) -> File | None:
        """Return the file as pages of the tree list it, None to leave it out; `sidecar` is its sidecar's SHA-256."""

    def file(self, project: str, file: File) -> str:
        """Return the path of a file."""

    def sidecar(self, project: str, file: File) -> str:
        """Return the path of a file's sidecar."""

    def document(self, project: str) -> Page:
        """Return the page in which an upstream describes a project beyond its files."""

    def described_by(self, project: Project) -> File | None:
        """Return the file whose sidecar describes the project best, where there is no document."""

    def pages(self, project: Project, files: str, document: bytes | None, sidecar: bytes | None) -> Mapping[str, bytes]:
        """Return the pages about one project, by path; `files` is the absolute URL of the files' mount, or ""."""

    def entry(self, project: Project) -> str:
        """Return what the lists of all projects need of this one."""

    def index(self, entries: Mapping[str, str]) -> Iterable[tuple[str, bytes]]:
        """Yield the pages about all projects, given their sorted entries. What clients read first comes last."""

    def nginx_http(self) -> str:
        """Return lines for the `http` part of nginx's configuration, the same for every mount."""

    def nginx_server(self, mount: str, files: str) -> str:
        """Return lines for the `server` part; `mount` is a path without a slash at its end, `files` as in `pages`."""


def start_page(layouts: Iterable[Layout], below: Iterable[str]) -> bytes:
    """Render the start page of a mount with these indexes; `below` are the paths of other mounts, relative to it."""
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        "<title>Package index</title>\n</head>\n<body>\n<h1>Package index</h1>",
    ]
    for layout in layouts:
        lines.append(f'<h2>{escape(layout.title)}</h2>\n<p><a href="{layout.start}">All of them</a></p>')
        lines.append(f"<p>To use it:</p>\n<pre>{escape(layout.usage('https://this-server.example/'))}</pre>")
    if others := [f'<li><a href="{escape(path)}/">{escape(path)}</a></li>' for path in below]:
        lines += ["<h2>More</h2>\n<ul>", *others, "</ul>"]
    lines.append("</body>\n</html>\n")
    return "\n".join(lines).encode()
