"""nginx with one worker, as a process of ours: static files, or a cache before an upstream."""

import asyncio
import os
import shutil
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from tests.nginx import running_nginx

_HTTP = """
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000000;
    keepalive_timeout 75s;
    types {{ }}
    {http}
    server {{
        listen {address};
        {server}
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
    log_format = "$request_uri" if log else None

    def block(address: str) -> str:
        return _HTTP.format(http=http, address=address, server=server)

    async with running_nginx(directory, block, log_format) as running:
        await _answer(running.url)
        yield Nginx(running.url.rstrip("/"), running.pid, running.log)


async def _answer(url: str) -> None:
    """Wait for any answer: then its worker runs, which a measurement may look at."""
    reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
    writer.write(b"HEAD / HTTP/1.0\r\n\r\n")
    await reader.read()
    writer.close()


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
