"""nginx with one worker, as a process of ours: static files, or a cache before an upstream."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

_HEAD = """\
{user}
daemon off;
worker_processes 1;
pid {directory}/pid;
error_log {directory}/error.log warn;
events {{ worker_connections 1024; }}
http {{
    {access}
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 75s;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    types {{ }}
    {http}
    server {{
        listen 127.0.0.1:{port};
        {server}
    }}
}}
"""


class Captured(msgspec.Struct, frozen=True):
    """An answer of the mirror that nginx is to give as well."""

    file: Path
    content_type: str
    encoding: str = ""


class Nginx(msgspec.Struct, frozen=True):
    """One that runs."""

    url: str
    pid: int
    log: Path


def available() -> str | None:
    """The program, where it is installed."""
    return shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


def index_of(root: Path) -> str:
    """A static Python index, with pages as JSON, in gzip for whoever takes that."""
    return f"""
        root {root};
        location /simple/ {{ index index.json; default_type application/vnd.pypi.simple.v1+json; gzip_static on; }}
        location /packages/ {{ default_type application/octet-stream; }}
    """


def answers_of(captured: Sequence[Captured]) -> str:
    """The captured answers, at their file names."""
    return "".join(
        f"""
        location = /{one.file.name} {{
            root {one.file.parent};
            default_type "{one.content_type}";
            {f'add_header Content-Encoding "{one.encoding}";' if one.encoding else ""}
        }}"""
        for one in captured
    )


def cache_of(upstream: str, directory: Path) -> tuple[str, str]:
    """A cache that asks its upstream once for what several clients want: what stands in `http` and in `server`."""
    path = f"proxy_cache_path {directory}/cache levels=1:2 keys_zone=files:10m max_size=20g use_temp_path=off;"
    return (
        path,
        f"""
        location / {{
            proxy_pass {upstream};
            proxy_http_version 1.1;
            proxy_cache files;
            proxy_cache_valid 200 1h;
            proxy_cache_lock on;
            proxy_cache_lock_timeout 60s;
            proxy_cache_lock_age 60s;
        }}
    """,
    )


@asynccontextmanager
async def nginx(directory: Path, server: str, http: str = "", log: bool = False) -> AsyncIterator[Nginx]:
    """One nginx until the end of the block; with `log`, each path that was asked is a line in its log."""
    program = available()
    assert program, "nginx is not installed"
    directory.mkdir(parents=True)
    port = free_port()
    asked = directory / "asked.log"
    configuration = _HEAD.format(
        user="user root;" if os.geteuid() == 0 else "",
        directory=directory,
        access=f"log_format asked '$request_uri'; access_log {asked} asked;" if log else "access_log off;",
        http=http,
        port=port,
        server=server,
    )
    file = directory / "nginx.conf"
    file.write_text(configuration)
    process = await asyncio.create_subprocess_exec(program, "-p", str(directory), "-c", str(file))
    try:
        await listening(port, process)
        yield Nginx(f"http://127.0.0.1:{port}", process.pid, asked)
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


def free_port() -> int:
    """A port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def listening(port: int, process: asyncio.subprocess.Process, patience: float = 30) -> None:
    """Wait until somebody listens at a port."""
    async with asyncio.timeout(patience):
        while True:
            assert process.returncode is None, "the server ended before it listened"
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(0.01)
            else:
                writer.close()
                return
