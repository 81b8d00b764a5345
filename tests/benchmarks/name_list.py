"""The list of all names, `/simple/`, of 800,000 projects: the first, the next and a 304, and who has to wait meanwhile.

    python -m tests.benchmarks name-list

nginx serves the same bytes as a file that is compressed already.

The first takes 1.2 s of a core in a process of its own: 0.65 to parse 50 MB (0.3 of it the dictionary, whose table is
larger than the processor's caches), 0.2 for gzip, 0.15 to render, 0.1 to merge, 0.1 to start. So it depends on how much
of a core is free for it.
"""

import asyncio
import statistics
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack
from pathlib import Path

import msgspec

from mirror.catalog import Catalog
from mirror.catalog.sqlite import SQLite
from mirror.model import Page, Stamp, UpstreamResponse
from mirror.pypi import FORMAT
from tests.benchmarks.load import Pulse, ask
from tests.benchmarks.many_pages import UPSTREAM, mirror_of, name_of, page_of
from tests.benchmarks.nginx import Captured, answers_of, nginx
from tests.benchmarks.site import JSON, Site, processor
from tests.benchmarks.table import Row

NAMES, QUICK_NAMES = 800_000, 20_000
HEADERS = {"Accept": JSON, "Accept-Encoding": "gzip"}
FIRST_SECONDS = 2.0
NEXT_MS = 5.0
WAIT_MS = 20.0


async def make(directory: Path, names: int) -> None:
    """Write a catalog with a list of so many names and one page, as if both had just been fetched."""
    data = directory / "data"
    data.mkdir(parents=True)
    database = SQLite(data / "catalog.sqlite")
    await database.open()
    now = time.time()
    listed = [{"name": f"project-{number:06d}-of-some-length", "_last-serial": number} for number in range(names)]
    one = name_of(0)
    bodies = {
        Page("names"): msgspec.json.encode({"meta": {"api-version": "1.1", "_last-serial": names}, "projects": listed}),
        Page("project", one): page_of(one, 5),
    }
    for page, body in bodies.items():
        response = UpstreamResponse(url=UPSTREAM, content_type=JSON, body=body)
        await Catalog(database).pages.put(UPSTREAM, page, response, Stamp(now, True, FORMAT.revision(body)))
    await database.close()


def timed(url: str, headers: Mapping[str, str]) -> tuple[float, str]:
    """The seconds of a request, and the head of its response. Blocking."""
    began = time.perf_counter()
    head, _ = ask(url, headers)
    return time.perf_counter() - began, head


async def name_list(site: Site) -> AsyncIterator[Row]:
    """The list after a restart for which nothing was rendered yet."""
    names = QUICK_NAMES if site.rounds == 1 else NAMES
    directory = site.place("names")
    await make(directory, names)
    what = f"/simple/ of {names:,} names"
    async with AsyncExitStack() as stack:
        mirror = await stack.enter_async_context(mirror_of(directory))
        url = mirror.url.rstrip("/") + "/simple/"
        await asyncio.to_thread(ask, f"{url}{name_of(0)}/", HEADERS)
        pulse = Pulse(f"{url}{name_of(0)}/")
        pulse.start()
        await asyncio.sleep(0.1)  # so that there is an answer to compare with, however quick the list is
        first, head = await asyncio.to_thread(timed, url, HEADERS)
        waited = max(pulse.end()) * 1e3
        assert head.startswith("HTTP/1.1 200"), head
        file = directory / "answer"
        reply = await mirror.get("/simple/", Accept=JSON, Accept_Encoding="gzip")
        await asyncio.to_thread(file.write_bytes, reply.body)
        answers = answers_of([Captured(file, JSON, "gzip")])
        beside = await stack.enter_async_context(nginx(site.place("nginx"), answers))
        yield Row(
            what=f"{what}: first", ours=f"{first:.2f} s", figure=first, unit="s", target=FIRST_SECONDS, better="less"
        )
        yield Row(
            what=f"{what}: longest wait of others meanwhile",
            ours=f"{waited:.1f} ms", figure=waited, unit="ms", target=WAIT_MS, better="less",
        )  # fmt: skip
        conditional = {**HEADERS, "If-None-Match": reply.headers["ETag"]}
        for case, headers in {"next": HEADERS, "304": conditional}.items():
            before = processor(mirror.pid)
            ours = [(await asyncio.to_thread(timed, url, headers))[0] for _ in range(20)]
            each = (processor(mirror.pid) - before) / 20 * 1e3
            others = [(await asyncio.to_thread(timed, f"{beside.url}/answer", HEADERS))[0] for _ in range(20)]
            figure = statistics.median(ours) * 1e3
            yield Row(
                what=f"{what}: {case}",
                ours=f"{figure:.1f} ms, {each:.1f} of a core",
                beside=f"{statistics.median(others) * 1e3:.1f} ms" if case == "next" else "",
                figure=figure, unit="ms", target=NEXT_MS, better="less",
            )  # fmt: skip


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {"name-list": name_list}
