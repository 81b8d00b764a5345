"""`mirror serve` runs the mirror and prints how clients use it; `mirror check-config` checks the settings."""

import socket
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mirror.cli.options import check_settings
from mirror.cli.output import say

if TYPE_CHECKING:
    from yarl import URL

    from mirror.config import Settings

HINTS = {
    ("pip", "once"),
    ("pip", "for good"),
    ("uv", "once"),
    ("uv", "for good"),
    ("gem", "once"),
    ("Bundler", "for good"),
}
"""Client and purpose of the lines that are printed at the start; the mirror's pages and the README have all others."""


@click.command("serve")
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings (TOML). [env: MIRROR_CONFIG]")
@click.option(
    "--listen", multiple=True, metavar="ADDRESS", help="host:port, [::1]:port or unix:/path; can be repeated."
)
@click.option("--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where everything is kept.")
@click.option("--offline", is_flag=True, help="Never ask an upstream: serve what is held.")
@click.option("--workers", metavar="N", help='How many processes answer; "auto" for one on each processor.')
def serve_command(
    config: Path | None, listen: tuple[str, ...], data_dir: Path | None, offline: bool, workers: str | None
) -> int:
    """Run the mirror. It needs no settings. It stops on SIGTERM or Ctrl-C, after finishing the answers in progress."""
    from mirror.config import load
    from mirror.service.process import serve

    given: dict[str, Any] = {"listen": listen, "data_dir": data_dir, "offline": offline}
    if workers is not None:
        given["node"] = {"workers": int(workers) if workers.isdecimal() else workers}

    def settings() -> "Settings":
        return load(config, {key: value for key, value in given.items() if value}, check_settings)

    def ready(settings: "Settings", urls: Sequence[str]) -> None:
        # To standard error: standard output is for the access log, which other programs read.
        say(client_hints(settings, urls), err=True)

    return serve(settings, ready)


@click.command("check-config")
@click.argument("file", type=click.Path(path_type=Path), required=False)
def check_config_command(file: Path | None) -> int:
    """Check FILE, or the file that MIRROR_CONFIG names, as `mirror serve` would, with the environment over it.

    Changes nothing. Exit status 0 when the settings are right, 2 when not, with one line for each fault.
    """
    from mirror.config import load

    settings = load(file, check=check_settings)
    say(f"{file or 'The settings'}: right")
    for name, repository in settings.repositories.items():
        upstreams = ", ".join(upstream.name for upstream in repository.upstreams) or "no upstream"
        say(f"  {name}: {repository.format} at {repository.mount}, from {upstreams}")
    return 0


def client_hints(settings: "Settings", urls: Sequence[str]) -> str:
    """Return what to print when the mirror is ready at these URLs: where it is, and how clients use it.

    The lines for clients use the first http URL: no package client can use a Unix socket.
    """
    from yarl import URL

    from mirror.service.ecosystems import ECOSYSTEMS

    lines = [f"The mirror is ready: {', '.join(urls)}", f"  data: {settings.data_dir}"]
    if settings.offline:
        lines.append("  offline: upstreams are never asked")
    reachable = next((URL(url) for url in urls if url.startswith(("http://", "https://"))), None)
    if reachable is not None:
        base = _with_host_name(reachable)
        for name, repository in settings.repositories.items():
            root = base.with_path(f"{repository.mount.rstrip('/')}/")
            lines += ["", f"{name}:"]
            upstreams = [upstream.url for upstream in repository.upstreams]
            setup = ECOSYSTEMS[repository.format].clients.setup_lines(root, upstreams)
            lines += [f"  {line.text}" for line in setup if (line.client, line.does) in HINTS]
    return "\n".join(lines)


def _with_host_name(url: "URL") -> "URL":
    """Return the URL with the name of this machine when the server listens at all addresses."""
    return url.with_host(socket.gethostname()) if url.host in {"0.0.0.0", "::"} else url
