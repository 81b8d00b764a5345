"""The lines to copy that point clients at a running mirror."""

import socket
from collections.abc import Sequence

from yarl import URL

from mirror.config import Settings
from mirror.service.ecosystems import ECOSYSTEMS


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
            upstreams = [upstream.url for upstream in repository.upstreams]
            lines += [f"  {line.text}" for line in ECOSYSTEMS[repository.format].clients.setup_lines(root, upstreams)]
    return "\n".join(lines)


def _reachable_name(url: URL) -> URL:
    """Bound to all addresses, a server is reached by the name of its machine."""
    return url.with_host(socket.gethostname()) if url.host in {"0.0.0.0", "::"} else url
