"""A plain nginx over a directory, as somebody without a mirror would run it."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients import require_client

CONFIGURATION = """\
daemon off;
{user}
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log;
events {{ }}
http {{
    include /etc/nginx/mime.types;
    default_type application/octet-stream;
    log_format wire '$request_method $request_uri $status $http_user_agent';
    access_log {work}/access.log wire;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    {http}
    server {{
        listen {address};
        root {root};
        {server}
    }}
}}
"""


class Nginx:
    """One that runs: where, and what it was asked."""

    def __init__(self, url: str, work: Path) -> None:
        self.url = url
        """Ends in a slash."""
        self._log = work / "access.log"
        self._errors = work / "error.log"

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
    program = require_client("nginx")
    work.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        (work / "nginx.conf").write_text(
            CONFIGURATION.format(
                work=work, root=root, address=f"{host}:{port}",
                user="user root;" if os.getuid() == 0 else "",  # as who the test's directories are readable
                http=f"include {root}/.mirror/nginx-http.conf;" if snippets else "",
                server=f"include {root}/.mirror/nginx-server.conf;" if snippets else "",
            )
        )  # fmt: skip
        process = await asyncio.create_subprocess_exec(  # it takes the socket over as it does from an nginx before it
            program, "-e", str(work / "error.log"), "-p", str(work), "-c", str(work / "nginx.conf"),
            env=os.environ | {"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        yield Nginx(f"http://{host}:{port}/", work)
    finally:
        process.terminate()
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
