"""The lines to copy that point clients at this mirror. Pure: settings and an address in, lines out."""

import ipaddress
import shlex
from collections.abc import Sequence

import msgspec
from yarl import URL


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """One command, or one line of a file, for one client."""

    client: str
    does: str
    text: str


def python_lines(root: URL) -> list[Line]:
    """For a Python repository mounted at `root` (which ends in a slash)."""
    index = root / "simple" / ""
    # pip, PDM and pipenv take plain http from this machine only; uv and Poetry take it from anywhere.
    trust = f" --trusted-host {root.host}" if needs_trust(root) else ""
    lines = [
        Line(client="pip", does="once", text=f"pip install --index-url {index}{trust} NAME"),
        Line(client="pip", does="for good", text=f"pip config set global.index-url {index}"),
        Line(client="uv", does="once", text=f"uv pip install --default-index {index} NAME"),
        Line(client="uv", does="for good", text=f"export UV_DEFAULT_INDEX={index}"),
        Line(client="Poetry", does="in a project", text=f"poetry source add --priority=primary mirror {index}"),
        Line(client="PDM", does="for good", text=f"pdm config pypi.url {index}"),
        Line(client="pipenv", does="for good", text=f"export PIPENV_PYPI_MIRROR={index}"),
    ]
    if needs_trust(root):
        lines.insert(2, Line(client="pip", does="and once", text=f"pip config set global.trusted-host {root.host}"))
        lines.insert(-1, Line(client="PDM", does="and once", text="pdm config pypi.verify_ssl false"))
        lines.append(Line(client="pipenv", does="and", text=f"export PIP_TRUSTED_HOST={root.host}"))
    return lines


def python_upload_lines(root: URL) -> list[Line]:
    """For uploading to a Python repository."""
    legacy = root / "legacy" / ""
    return [
        Line(client="twine", does="upload", text=f"twine upload --repository-url {legacy} dist/*"),
        Line(client="uv", does="upload", text=f"uv publish --publish-url {legacy} dist/*"),
    ]


def ruby_lines(root: URL, upstreams: Sequence[URL]) -> list[Line]:
    """For a Ruby repository mounted at `root`; `upstreams` are the sources that a Gemfile may name."""
    replaced = f" --remove {shlex.quote(str(upstreams[0]))}" if upstreams else ""
    return [
        Line(client="gem", does="once", text=f"gem install --clear-sources --source {root} NAME"),
        Line(client="gem", does="for good", text=f"gem sources --add {root}{replaced}"),
        *(
            # Bundler maps the source that a Gemfile names to the mirror, so the Gemfile stays as it is.
            Line(
                client="Bundler",
                does="for good",
                text=f"bundle config set --global {shlex.quote(f'mirror.{upstream}')} {root}",
            )
            for upstream in upstreams
        ),
    ]


def ruby_upload_lines(root: URL) -> list[Line]:
    """For uploading to a Ruby repository."""
    return [Line(client="gem", does="upload", text=f"gem push --host {str(root).rstrip('/')} NAME-VERSION.gem")]


def install_lines(format: str, root: URL, project: str, version: str) -> list[Line]:
    """For one version of one project."""
    if format == "pypi":
        index, wanted = root / "simple" / "", shlex.quote(f"{project}=={version}" if version else project)
        trust = f" --trusted-host {root.host}" if needs_trust(root) else ""
        return [
            Line(client="pip", does="install", text=f"pip install --index-url {index}{trust} {wanted}"),
            Line(client="uv", does="install", text=f"uv pip install --default-index {index} {wanted}"),
        ]
    only = f" --version {shlex.quote(version)}" if version else ""
    return [
        Line(
            client="gem",
            does="install",
            text=f"gem install --clear-sources --source {root} {shlex.quote(project)}{only}",
        )
    ]


def needs_trust(url: URL) -> bool:
    """Whether pip has to be told that this host may speak plain http."""
    if url.scheme != "http" or url.host == "localhost":
        return False
    try:
        return not ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        return True
