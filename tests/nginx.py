"""A real nginx with one worker, as a process of ours: it runs in a directory of its own and needs no rights."""

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from tests.clients import require_client

_CONFIGURATION = """\
daemon off;
{user}
worker_processes 1;
pid {work}/pid;
error_log {work}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    {log}
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    {http}
}}
"""
BACKLOG = 511
"""Connections that wait to be accepted; nginx's own number on Linux."""


class RunningNginx:
    """One that runs: where, and what it has logged."""

    def __init__(self, address: str, pid: int, work: Path) -> None:
        self.url = f"http://{address}/"
        self.pid = pid
        self.log = work / "access.log"
        """A line for each request, in the format that was asked for."""
        self.errors = work / "error.log"


@asynccontextmanager
async def running_nginx(
    work: Path, http: Callable[[str], str], log_format: str | None = None
) -> AsyncIterator[RunningNginx]:
    """nginx in a new directory, until the end of the block.

    `http` returns what stands in the block of that name, with the servers, for the address that one of them listens at.
    """
    program = require_client("nginx")
    work.mkdir(parents=True)
    log = "access_log off;"
    if log_format is not None:
        log = f"log_format asked '{log_format}'; access_log {work}/access.log asked;"
    with socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) as listening:
        address = "{}:{}".format(*listening.getsockname())
        user = "user root;" if os.geteuid() == 0 else ""  # as who the test's directories are readable
        file = work / "nginx.conf"
        file.write_text(_CONFIGURATION.format(work=work, user=user, log=log, http=http(address)))
        process = await asyncio.create_subprocess_exec(  # it takes the socket over as it does from an nginx before it
            program, "-e", str(work / "error.log"), "-p", str(work), "-c", str(file),
            env=os.environ | {"NGINX": f"{listening.fileno()};"},
            pass_fds=[listening.fileno()],
            stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
    try:
        yield RunningNginx(address, process.pid, work)
    finally:
        process.terminate()
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
