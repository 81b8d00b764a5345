"""What costs most to answer does not stop the event loop: its lag in this process, beside each large thing."""

import asyncio
import itertools
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.loop_lag import LAG_SECONDS, LoopLag, loop_lag
from tests.serving import Serving, repositories, serving
from tests.simulator import Instead, Simulator

FILES, NAMES = 5000, 300_000
JSON = "application/vnd.pypi.simple.v1+json"
LAST = f"big-{FILES // 5 - 1}.0.4"
RULES = [
    {"name": "rest", "kind": "cooldown", "reason": "New ones rest.", "age": "3 days"},
    {"name": "evil", "kind": "deny", "reason": "They are.", "projects": ["evil*"]},
]


def document(value: Any, content_type: str = JSON) -> Instead:
    return Instead(json.dumps(value).encode(), content_type)


def page(name: str, files: int) -> Instead:
    """A page of five files a version, all of them wheels."""
    listed = [
        {
            "filename": f"{name}-{number // 5}.0.{number % 5}-py3-none-manylinux_2_17_x86_64.whl",
            "url": f"/f/{number}.whl",
            "hashes": {"sha256": f"{number:064x}"},
            "size": 3,
            "upload-time": "2024-01-01T00:00:00.5Z",
            "requires-python": ">=3.9",
            "yanked": "why" if number % 3 else False,
        }
        for number in range(files)
    ]
    return document({"meta": {"api-version": "1.1"}, "name": name, "files": listed})


def legacy() -> Instead:
    """The JSON of a project: a description that is dear to render, and requirements that are dear to read."""
    rst = ".. |a| replace:: lol\n" + "".join(
        f".. |{c}| replace:: {f'|{b}| ' * 9}\n" for b, c in itertools.pairwise("abcdefgh")
    )
    needs = [f"n{number}[{','.join(f'x{k}' for k in range(20))}]>=1; python_version<'3'" for number in range(2000)]
    needs += [
        "a" + "(" * 9000,
        "a;" + "(" * 9000,
        "a[" + "," * 9000,
        "a " + "<1," * 5000,
        "a;" + "os_name=='x' and " * 800,
    ]
    info = {"name": "big", "version": LAST.partition("-")[2], "description": f"{rst}\n|h|\n" + "*a " * 100_000}
    info |= {"description_content_type": "text/x-rst", "requires_dist": needs, "keywords": "k," * 50_000}
    return document({"info": info, "last_serial": 1, "releases": {}, "urls": []}, "application/json")


@pytest.fixture(scope="module")
def large() -> dict[str, Instead]:
    names = {"meta": {"api-version": "1.1"}, "projects": [{"name": f"project-{number}"} for number in range(NAMES)]}
    return {
        "/simple/big/": page("big", FILES),
        "/simple/": document(names),
        "/pypi/big/json": legacy(),
        "/pypi/big/*/json": legacy(),
    }


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path, large: dict[str, Instead]) -> AsyncIterator[Serving]:
    for path, content in large.items():
        simulator.inject(path, content)
    pages = {"recheck": 3600}
    async with serving(tmp_path / "data", repositories(simulator), policy=RULES, pages=pages) as running:
        assert (await running.get("simple/big/")).status == 200
        yield running


async def together(mirror: Serving, paths: list[str], **headers: str) -> LoopLag:
    """Ask for all of them at once, and return what others waited meanwhile."""
    async with loop_lag() as lag:
        replies = await asyncio.gather(*(mirror.get(path, **headers) for path in paths))
    assert {reply.status for reply in replies} == {200}
    return lag


CASES: list[tuple[list[str], dict[str, str]]] = [
    (["-/explain/pypi/big"] * 3, {"Accept": "application/json"}),
    (["-/explain/pypi/big"] * 2, {"Accept": "text/html"}),
    ([f"at/2026-01-02T0{hour}:00:00Z/simple/big/" for hour in range(4)], {}),
    ([f"at/2026-01-02T0{hour}:00:00Z/pypi/big/json" for hour in range(2)], {}),
    (["pypi/big/json"] * 3, {}),
    (["simple/big/"] * 3, {"Cache-Control": "no-cache"}),
    (["simple/big/"], {"Accept": JSON}),
    (["-/projects/pypi/big/"] * 2, {"Accept": "text/html"}),
    (["-/projects/pypi/big/?version=5.0.1"], {"Accept": "text/html"}),
    (["-/feed?since=0"], {}),
]


async def test_a_project_of_thousands_of_files(mirror: Serving) -> None:
    lags = {f"{paths[0]} {headers}": await together(mirror, paths, **headers) for paths, headers in CASES}
    assert {case: lag.busy for case, lag in lags.items() if lag.busy >= LAG_SECONDS} == {}


async def test_lists_and_searches_of_hundreds_of_thousands_of_names(mirror: Serving) -> None:
    assert (await together(mirror, ["simple/"], Accept=JSON)).busy < LAG_SECONDS
    queries = [f"-/projects/?q={text}" for text in ("zzz", "project-29", "%25")]
    assert (await together(mirror, queries)).busy < LAG_SECONDS


async def test_a_hostile_page_of_eight_megabytes(mirror: Serving, simulator: Simulator) -> None:
    shapes = {
        "deep": b"[" * 8_000_000,
        "links": b"<a href=x>y-1.0.tar.gz</a>" * 320_000,
        "nested": b"<b>" * 2_700_000,
        "attributes": b"<a " + b"a=b " * 2_000_000 + b">",
        "digits": b'{"meta":{"api-version":"1.0"},"name":"digits","files":[' + b"1" * 8_000_000 + b"]}",
    }
    for name, content in shapes.items():
        simulator.inject(f"/simple/{name}/", Instead(content, JSON if content[:1] in b"[{" else "text/html"))
    async with loop_lag() as lag:
        replies = await asyncio.gather(*(mirror.get(f"simple/{name}/") for name in shapes))
    assert {reply.status for reply in replies} <= {200, 502}
    assert lag.busy < LAG_SECONDS
