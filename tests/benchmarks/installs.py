"""What real clients install from a mirror that holds nothing yet, beside a caching nginx with the same upstream.

uv is at its bound: on 2026-11-27 (2 cores) three runs with Debian's Python 3.11.2 gave 1.24, 1.17 and 1.30 times nginx.
With a Python 3.13.0 without profile-guided optimization, and before what follows, it was 1.64, 1.78 and 1.32 times,
and beside other work 1.21 and 1.35. It asks for 60 pages, metadata files and wheels at once, and waits for the 2.5
ms of a core that the three take (0.94, about 0.9, 0.55), while an installation from nginx takes 4 ms a project. In
turns with that code and beside other work, pages of one file take 0.87 times as much by now, metadata and wheels of 20
KB 0.96 times (the median of 14 rounds of 60): what these take is, for a third, files and commits in other threads.
"""

import asyncio
import hashlib
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path

from tests.benchmarks.content import Tree
from tests.benchmarks.nginx import cache_of, nginx
from tests.benchmarks.site import Site, mirror_of
from tests.benchmarks.table import Row
from tests.builders import gem, wheel
from tests.clients.ruby import Ruby
from tests.serving import spawned

PACKAGES = 60
WANTED = 1.25
"""How many times longer an installation may take than from a caching nginx."""


def sizes(count: int) -> list[int]:
    """Sizes of files as they are usual: many small ones, few large ones."""
    chance = random.Random(1)
    return [min(4_000_000, int(chance.lognormvariate(11, 1.3))) for _ in range(count)]


def python_packages(tree: Tree, count: int) -> list[str]:
    """So many projects with one wheel each; returns their names."""
    names = [f"install-{number:03d}" for number in range(count)]
    for name, size in zip(names, sizes(count), strict=True):
        built = wheel(name, "1.0", size=size)
        tree.page(name, [tree.file(name, built.filename, built.content, built.metadata)])
    return names


def ruby_packages(root: Path, count: int) -> tuple[list[str], str]:
    """A static index of so many gems with one version each: their names, and nginx's map of paths to ETags.

    Bundler before 2.5 takes the index for damaged unless its ETags are MD5s.
    """
    names = [f"install-{number:03d}" for number in range(count)]
    lines = ["created_at: 2026-01-01T00:00:00Z", "---"]
    for directory in ("info", "gems"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    for name, size in zip(names, sizes(count), strict=True):
        built = gem(name, "1.0", size=size)
        (root / "gems" / built.filename).write_bytes(built.content)
        info = f"---\n1.0 |checksum:{built.sha256}\n".encode()
        (root / "info" / name).write_bytes(info)
        lines.append(f"{name} 1.0 {hashlib.md5(info).hexdigest()}")
    (root / "versions").write_text("\n".join(lines) + "\n")
    compact = [root / "versions", *(root / "info").iterdir()]
    known = "".join(f"/{one.relative_to(root)} {hashlib.md5(one.read_bytes()).hexdigest()};" for one in compact)
    return names, f"map $uri $md5 {{ default none; {known} }}"


async def uv_install(site: Site) -> AsyncIterator[Row]:
    """`uv pip install` of PACKAGES projects, of which neither side holds anything."""
    names = await asyncio.to_thread(python_packages, site.tree, PACKAGES)
    rounds = []
    for _ in range(site.rounds):
        place = site.place("cache")
        http, server = cache_of(site.upstream.url, place)
        async with nginx(place, server, http) as cache, mirror_of(site.upstream, site.place("mirror")) as mirror:
            mine = await _uv(site.directory, names, f"{mirror.url.rstrip('/')}/simple/")
            rounds.append((mine, await _uv(site.directory, names, f"{cache.url}/simple/")))
    yield _row(f"uv pip install, {len(names)} projects, cold", rounds)


async def _uv(directory: Path, names: Sequence[str], index: str) -> float:
    """Return the seconds that `uv pip install` takes with that index and an empty cache."""
    with tempfile.TemporaryDirectory(dir=directory) as home:
        words = ["pip", "install", *names, "--default-index", index, "--cache-dir", f"{home}/cache", "--no-config"]
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "uv", *words, "--quiet", "--target", f"{home}/there", "--python", sys.executable,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
            env={name: value for name, value in os.environ.items() if not name.startswith(("UV_", "PIP_"))},
        )  # fmt: skip
        _, said = await process.communicate()
        assert process.returncode == 0, said.decode()
        return time.perf_counter() - began


async def bundle_install(site: Site) -> AsyncIterator[Row]:
    """`bundle install` of PACKAGES gems, of which neither side holds anything."""
    if shutil.which("bundle") is None:
        return
    root = site.place("gems")
    names, etags = await asyncio.to_thread(ruby_packages, root, PACKAGES)
    static = f"""root {root}; location / {{ default_type text/plain; etag off; add_header ETag '"$md5"'; }}"""
    rounds = []
    async with nginx(site.place("upstream"), static, etags) as upstream:
        for _ in range(site.rounds):
            place = site.place("cache")
            http, server = cache_of(upstream.url, place)
            table = {"rubygems": {"format": "rubygems", "mount": "/", "upstreams": [f"{upstream.url}/"]}}
            mirroring = spawned(site.place("mirror"), table, log={"access": True})
            async with nginx(place, server, http) as cache, mirroring as mirror:
                rounds.append((await _bundle(names, mirror.url), await _bundle(names, f"{cache.url}/")))
    yield _row(f"bundle install, {len(names)} gems, cold", rounds)


async def _bundle(names: Sequence[str], source: str) -> float:
    """Return the seconds that `bundle install` takes with that source and nothing installed."""
    with Ruby().home(source) as home:
        gemfile = "".join(f'gem "{name}"\n' for name in names)
        await home.bundle("config", "set", "--global", "jobs", "8", gemfile=gemfile)
        began = time.perf_counter()
        await home.bundle("install", "--quiet")
        return time.perf_counter() - began


def _row(what: str, rounds: Sequence[tuple[float, float]]) -> Row:
    mine, beside = (statistics.median(side) for side in zip(*rounds, strict=True))
    return Row(
        what=what,
        ours=f"{mine:.2f} s", beside=f"{beside:.2f} s",
        figure=statistics.median(one / other for one, other in rounds), target=WANTED, better="less",
    )  # fmt: skip


MEASUREMENTS: Mapping[str, Callable[[Site], AsyncIterator[Row]]] = {
    "uv-install": uv_install,
    "bundle-install": bundle_install,
}
