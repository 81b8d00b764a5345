"""No index makes the mirror fetch what is inside the network around it, by whatever it can write on its pages."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web

from tests.file_server import FileServer
from tests.serving import serving
from tests.simulator import SimulatedResponse
from tests.simulator.wire import Representation, redirect

JSON = "application/vnd.pypi.simple.v1+json"
SECRET = b'{"version": 1, "attestation_bundles": [], "key": "inside"}'


@asynccontextmanager
async def service_inside() -> AsyncIterator[tuple[str, list[str]]]:
    """A service that only this machine reaches: its URL, and the paths that it was asked for."""
    seen: list[str] = []

    async def handle(request: web.BaseRequest) -> web.Response:
        seen.append(request.raw_path)
        return web.Response(body=SECRET, content_type="application/json")

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.2", 0).start()
    try:
        yield f"http://127.0.0.2:{runner.addresses[0][1]}/", seen
    finally:
        await runner.cleanup()


def page(*files: dict[str, object]) -> Representation:
    listed = [{"hashes": {}, **one} for one in files]
    body = json.dumps({"meta": {"api-version": "1.0"}, "name": "evil", "files": listed}).encode()
    return Representation(body, JSON)


@pytest.mark.parametrize("allowed", [False, True])
async def test_links_redirects_and_documents_inside_are_not_fetched(tmp_path: Path, allowed: bool) -> None:
    async with service_inside() as (inside, seen), FileServer() as upstream:
        away: SimulatedResponse = redirect(f"{inside}redirected")
        upstream.put("/away.tar.gz", away)
        upstream.put("/simple/moved/", away)
        wheel = "evil-4.0-py3-none-any.whl"
        upstream.put(
            "/simple/evil/",
            page(
                {"filename": "evil-1.0.tar.gz", "url": f"{inside}linked"},
                {"filename": "evil-2.0.tar.gz", "url": f"{upstream.url}away.tar.gz"},
                {"filename": "evil-3.0.tar.gz", "url": f"{upstream.url}x", "provenance": f"{inside}provenance"},
                {"filename": wheel, "url": f"{inside}{wheel}", "core-metadata": True},
            ),
        )
        source = {"url": f"{upstream.url}simple/", "allow_hosts": ["127.0.0.2"] if allowed else []}
        async with serving(
            tmp_path / "data", {"pypi": {"format": "pypi", "mount": "/", "upstreams": [source]}}
        ) as mirror:
            assert (await mirror.get("simple/evil/")).status == 200
            for path in (
                "packages/evil/evil-1.0.tar.gz",
                "packages/evil/evil-2.0.tar.gz",
                "integrity/evil/3.0/evil-3.0.tar.gz/provenance",
                f"packages/evil/{wheel}",
                f"packages/evil/{wheel}.metadata",
                "simple/moved/",
            ):
                reply = await mirror.get(path)
                assert allowed or (reply.status >= 400 and b"inside" not in reply.body.replace(b"inside this", b"")), (
                    path
                )
        assert bool(seen) == allowed
