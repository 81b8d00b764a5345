"""A plain nginx over a directory, as somebody without a mirror would run it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.nginx import RunningNginx, running_nginx

LOG_FORMAT = "$request_method $request_uri $status $http_user_agent"


class Nginx:
    """One that runs: where, and what it was asked."""

    def __init__(self, running: RunningNginx) -> None:
        self.url = running.url
        """Ends in a slash."""
        self._log = running.log
        self._errors = running.errors

    def asked(self) -> list[tuple[str, str, int, str]]:
        """Every request since the last time: method, path, status, client."""
        lines = [line.split(" ", 3) for line in self._log.read_text().splitlines()]
        self._log.write_text("")  # nginx appends
        return [(method, path, int(status), client) for method, path, status, client in lines]

    def complaints(self) -> str:
        """What it found wrong with its configuration."""
        return self._errors.read_text()


@asynccontextmanager
async def nginx(root: Path, work: Path, *, snippets: bool = True) -> AsyncIterator[Nginx]:
    """nginx over an exported tree, with the lines that were written for it or as it is, until the end of the block."""

    def http(address: str) -> str:
        lines = {part: f"include {root}/.mirror/nginx-{part}.conf;" if snippets else "" for part in ("http", "server")}
        return f"""
            include /etc/nginx/mime.types;
            default_type application/octet-stream;
            {lines["http"]}
            server {{ listen {address}; root {root}; {lines["server"]} }}
        """

    async with running_nginx(work, http, LOG_FORMAT) as running:
        yield Nginx(running)
