"""The lines to copy that point clients at a running mirror."""

import ipaddress
import socket
from collections.abc import Sequence

from yarl import URL

from mirror.config import RepositorySettings, Settings


def hints(settings: Settings, urls: Sequence[str]) -> str:
    """What to print when the mirror is ready at these URLs: where it is, and how each client uses it.

    The lines name the first http URL; one of a Unix socket is named, but no package client can use it.
    """
    lines = [f"The mirror is ready: {', '.join(urls)}", f"  data: {settings.data_dir}"]
    if settings.offline:
        lines.append("  offline: upstreams are never asked")
    reachable = next((URL(url) for url in urls if url.startswith(("http://", "https://"))), None)
    if reachable is not None:
        base = _reachable_name(reachable)
        for name, repository in settings.repositories.items():
            root = base.with_path(f"{repository.mount.rstrip('/')}/")
            lines += ["", f"{name}:"]
            lines += _python(root) if repository.format == "pypi" else _ruby(root, repository)
    return "\n".join(lines)


def _reachable_name(url: URL) -> URL:
    """Bound to all addresses, a server is reached by the name of its machine."""
    return url.with_host(socket.gethostname()) if url.host in {"0.0.0.0", "::"} else url


def _python(root: URL) -> list[str]:
    index = root / "simple" / ""
    # pip takes plain http from this machine only, uv from anywhere.
    trust = f" --trusted-host {root.host}" if root.scheme == "http" and not _is_loopback(root) else ""
    return [
        f"  pip install --index-url {index}{trust} NAME",
        f"  uv pip install --default-index {index} NAME",
        f"  pip config set global.index-url {index}",
        f"  export UV_DEFAULT_INDEX={index}",
    ]


def _ruby(root: URL, repository: RepositorySettings) -> list[str]:
    lines = [f"  gem install --clear-sources --source {root} NAME"]
    # Bundler maps the source that a Gemfile names to the mirror, so the Gemfile stays as it is.
    lines += [f"  bundle config set --global mirror.{upstream.url} {root}" for upstream in repository.upstreams]
    return lines


def _is_loopback(url: URL) -> bool:
    try:
        return url.host == "localhost" or ipaddress.ip_address(url.host or "").is_loopback
    except ValueError:
        return False
