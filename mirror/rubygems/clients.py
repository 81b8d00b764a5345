"""How clients reach a gem index: the paths below its mount, and the lines to copy that point clients at it.

Pure: an address in, lines out. This module is an `index.ecosystem.ClientAccess`.
"""

import shlex
from collections.abc import Sequence
from urllib.parse import quote

from yarl import URL

from mirror.index.ecosystem import ClientLine
from mirror.model import File

LOG_PATH = "versions"
"""The path of the list of all versions below the mount."""


def project_path(project: str) -> str:
    """Return the path of a gem's page."""
    return f"info/{quote(project)}"


def file_path(project: str, file: File) -> str:
    """Return the path of a gem; its file name has the project's name in it."""
    return f"gems/{quote(file.filename)}"


def sidecar_path(project: str, sidecar: str) -> str:
    """Return the path of a gem's specification."""
    return f"quick/Marshal.4.8/{quote(sidecar)}"


def setup_lines(root: URL, upstreams: Sequence[URL]) -> list[ClientLine]:
    """Return the lines for gem and Bundler; `upstreams` are the sources that a Gemfile may name."""
    return [
        ClientLine(client="gem", does="once", text=f"gem install --clear-sources --source {root} NAME"),
        # Two commands: in one, gem does only the first since 3.7.
        ClientLine(client="gem", does="for good", text=f"gem sources --add {root}"),
        *(
            ClientLine(client="gem", does="and then", text=f"gem sources --remove {shlex.quote(str(upstream))}")
            for upstream in upstreams[:1]
        ),
        *(
            # Bundler maps the source that a Gemfile names to the mirror, so the Gemfile stays as it is.
            ClientLine(
                client="Bundler",
                does="for good",
                text=f"bundle config set --global {shlex.quote(f'mirror.{upstream}')} {root}",
            )
            for upstream in upstreams
        ),
    ]


def upload_lines(root: URL) -> list[ClientLine]:
    """Return the lines that upload."""
    return [ClientLine(client="gem", does="upload", text=f"gem push --host {str(root).rstrip('/')} NAME-VERSION.gem")]


def install_lines(root: URL, project: str, version: str) -> list[ClientLine]:
    """Return the line that installs one version of a gem."""
    only = f" --version {shlex.quote(version)}" if version else ""
    text = f"gem install --clear-sources --source {root} {shlex.quote(project)}{only}"
    return [ClientLine(client="gem", does="install", text=text)]
