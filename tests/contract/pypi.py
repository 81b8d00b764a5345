"""What the suites of the PyPI protocol share: a mirror of one simulated index, and what it has stored."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from mirror.model import Page
from tests.serving import Reply, Serving, repositories, serving
from tests.simulator import Simulator

JSON = "application/vnd.pypi.simple.v1+json"
HTML = "application/vnd.pypi.simple.v1+html"
NOW = {"Cache_Control": "max-age=0"}
"""Header of a client that wants to know now."""


@asynccontextmanager
async def mirroring(
    data_dir: Path, *simulators: Simulator, repository: Mapping[str, Any] | None = None, **settings: Any
) -> AsyncIterator[Serving]:
    """A mirror with one PyPI repository at the root; the simulators are its upstreams in that order."""
    urls = [simulator.simple_url for simulator in simulators]
    pypi = repositories(simulators[0], pypi={"upstreams": urls} | dict(repository or {}))["pypi"]
    async with serving(data_dir, {"pypi": pypi}, **settings) as mirror:
        yield mirror


def patient(**changes: Any) -> dict[str, Any]:
    """[network] for tests with upstreams that fail: no pauses between tries, and no breaker that opens by itself."""
    return {"retries": 0, "breaker_failures": 1000} | changes


async def page_of(mirror: Serving, name: str, **headers: str) -> Reply:
    """The JSON page of a project, which has to be there."""
    reply = await mirror.get(f"/simple/{name}/", Accept=JSON, **headers)
    assert reply.status == 200, reply.text
    assert reply.headers["Content-Type"] == JSON
    return reply


async def filenames(mirror: Serving, name: str, **headers: str) -> list[str]:
    """The names of the files on a project's page."""
    return [file["filename"] for file in (await page_of(mirror, name, **headers)).json()["files"]]


async def held(mirror: Serving) -> set[str]:
    """The digests of all blobs in the store."""
    return {blob.digest async for blob in mirror.mirror.blobs.walk()}


async def stored(mirror: Serving, simulator: Simulator, kind: str, name: str = "") -> bytes | None:
    """The raw body that is stored of an upstream's page, once all is written that was answered ahead of the disk."""
    await mirror.written()
    answer = await mirror.mirror.catalog.pages.answer(simulator.simple_url, Page(kind, name))
    return answer.body if answer else None


async def eventually(true: Callable[[], Awaitable[bool]]) -> None:
    """Wait for what has no event of its own; pytest's time limit ends the waiting."""
    while not await true():  # noqa: ASYNC110
        await asyncio.sleep(0.01)


async def settled(mirror: Serving) -> None:
    """Wait until no transfer runs."""

    async def idle() -> bool:
        return not mirror.mirror.transfers.active()

    await eventually(idle)


def is_sentence(reply: Reply) -> bool:
    """Whether an error says one thing, in plain text, to a person."""
    return (
        reply.headers["Content-Type"].startswith("text/plain")
        and "Traceback" not in reply.text
        and len(reply.text) < 600
        and reply.text.count("\n") == 1
        and reply.text.endswith(".\n")
    )
