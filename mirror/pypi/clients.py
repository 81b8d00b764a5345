"""How clients reach a Python index: the paths below its mount, and the lines to copy that point clients at it.

Pure: an address in, lines out. This module is an `index.ecosystem.ClientAccess`.
"""

import ipaddress
import shlex
from collections.abc import Sequence
from urllib.parse import quote

from yarl import URL

from mirror.index.ecosystem import ClientLine
from mirror.model import File

INDEX_PATH = "simple/"
"""The path of the index below the mount."""


def project_path(project: str) -> str:
    """Return the path of a project's page."""
    return f"{INDEX_PATH}{quote(project)}/"


def file_path(project: str, file: File) -> str:
    """Return the path of a file; bandersnatch requires that it begins with `packages/`."""
    return f"packages/{quote(project)}/{quote(file.filename)}"


def sidecar_path(project: str, sidecar: str) -> str:
    """Return the path of a sidecar, which stands beside its file (PEP 658)."""
    return f"packages/{quote(project)}/{quote(sidecar)}"


def setup_lines(root: URL, upstreams: Sequence[URL]) -> list[ClientLine]:
    """Return the lines for each client; projects name no index of their own, so `upstreams` do not matter."""
    index = _index(root)
    lines = [
        ClientLine(client="pip", does="once", text=f"pip install --index-url {index}{_trust(root)} NAME"),
        ClientLine(client="pip", does="for good", text=f"pip config set global.index-url {index}"),
        ClientLine(client="uv", does="once", text=f"uv pip install --default-index {index} NAME"),
        ClientLine(client="uv", does="for good", text=f"export UV_DEFAULT_INDEX={index}"),
        ClientLine(client="Poetry", does="in a project", text=f"poetry source add --priority=primary mirror {index}"),
        ClientLine(client="PDM", does="for good", text=f"pdm config pypi.url {index}"),
        ClientLine(client="pipenv", does="for good", text=f"export PIPENV_PYPI_MIRROR={index}"),
    ]
    if _needs_trust(root):
        host = root.host
        lines.insert(2, ClientLine(client="pip", does="and once", text=f"pip config set global.trusted-host {host}"))
        lines.insert(-1, ClientLine(client="PDM", does="and once", text="pdm config pypi.verify_ssl false"))
        lines.append(ClientLine(client="pipenv", does="and", text=f"export PIP_TRUSTED_HOST={host}"))
    return lines


def upload_lines(root: URL) -> list[ClientLine]:
    """Return the lines that upload."""
    legacy = root / "legacy" / ""
    return [
        ClientLine(client="twine", does="upload", text=f"twine upload --repository-url {legacy} dist/*"),
        ClientLine(client="uv", does="upload", text=f"uv publish --publish-url {legacy} dist/*"),
    ]


def install_lines(root: URL, project: str, version: str) -> list[ClientLine]:
    """Return the lines that install one version of a project."""
    index, wanted = _index(root), shlex.quote(f"{project}=={version}" if version else project)
    return [
        ClientLine(client="pip", does="install", text=f"pip install --index-url {index}{_trust(root)} {wanted}"),
        ClientLine(client="uv", does="install", text=f"uv pip install --default-index {index} {wanted}"),
    ]


def _index(root: URL) -> URL:
    return root / "simple" / ""


def _trust(root: URL) -> str:
    return f" --trusted-host {root.host}" if _needs_trust(root) else ""


def _needs_trust(url: URL) -> bool:
    """Return whether pip has to be configured to trust the host.

    pip, PDM and pipenv accept plain http from this machine only; uv and Poetry accept it from anywhere.
    """
    if url.scheme != "http" or url.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        return True
