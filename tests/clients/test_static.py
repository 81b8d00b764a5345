"""pip, uv, gem and bundler against an exported tree that plain nginx serves, with no mirror anywhere."""

from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.builders import gem, wheel
from tests.clients.nginx import Nginx, nginx
from tests.clients.python import having, running
from tests.clients.ruby import Ruby, rubies
from tests.clients.test_pypi import APP, INSTALLED, NEWER, PLAIN, Pip, Uv, installed, publish
from tests.clients.test_sync import mirror
from tests.genuine import GEMS
from tests.serving import repositories, spawned, write_settings
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

PYTHON = [f"packages/{built.name}/{built.filename}" for built in (APP, NEWER, PLAIN)]
GEMFILE = 'gem "sinatra"\ngem "tiny"\n'


async def grow(tmp_path: Path, both: dict[str, Any], *paths: str) -> Path:
    """Hold what clients of a mirror would fetch by these paths, and write what has changed into the tree beside it."""
    async with spawned(tmp_path / "data", both) as filling:
        for path in paths:
            reply = await filling.get(path)
            assert reply.status == 200, (path, reply.text)
    settings = write_settings(tmp_path / "data", both)
    await mirror("export", "--static", tmp_path / "tree", "--changed", settings=settings)
    return tmp_path / "tree"


@pytest.mark.parametrize("client", ["pip", "old pip", "uv"])
async def test_python_clients_install_from_the_tree(simulator: Simulator, tmp_path: Path, client: str) -> None:
    publish(simulator)
    root = await grow(tmp_path, repositories(simulator), *PYTHON)
    await simulator.go_down()
    requirement, newest = {"pip": ("pip", (3, 99)), "old pip": ("pip==22.3.1", (3, 11))}.get(client, ("", (0, 0)))
    chosen = Pip(having(requirement, most=newest) / "python") if requirement else Uv()
    home = tmp_path / "home"
    home.mkdir()
    async with nginx(root, tmp_path / "nginx") as server:
        assert await chosen.install(server, home, "app") == INSTALLED
        asked = server.asked()
        assert {status for _, _, status, _ in asked} == {200}, asked
        if client != "old pip":  # which knows no metadata beside files
            assert [path for _, path, _, _ in asked if path.endswith(".metadata")]


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_gem_and_bundler_install_from_the_tree_and_see_what_is_new(
    simulator: Simulator, tmp_path: Path, ruby: Ruby
) -> None:
    simulator.load_genuine(GEMS)
    for built in (gem("tiny", "1.0"), gem("tiny", "2.0", dependencies={"fresh": [">= 1"]}), gem("fresh", "1.0")):
        simulator.push(built)
    both = repositories(simulator)
    root = await grow(tmp_path, both, *(f"gems/{one.name}" for one in GEMS.glob("*.gem")), "gems/tiny-1.0.gem")
    async with nginx(root, tmp_path / "nginx") as server:
        with ruby.home(server.url) as home:
            await home.bundle("install", gemfile=GEMFILE)
            used = await home.run("bundle", "exec", "ruby", "-e", "require 'sinatra/base'; puts Sinatra::VERSION")
            assert used.strip().splitlines()[-1] == "4.1.1"
            assert "tiny (1.0)" in home.locked()
            only_the_compact_index(server)
            await grow(tmp_path, both, "gems/tiny-2.0.gem", "gems/fresh-1.0.gem")
            await home.bundle("update", "tiny")
            assert {"tiny (2.0)", "fresh (1.0)"} <= home.locked()
            only_the_compact_index(server)
            await home.bundle("update", "tiny")  # nothing is new
            only_the_compact_index(server)
        with ruby.home(server.url) as home:
            await home.run("gem", "install", "sinatra")
            await home.run("gem", "install", "tiny", "-v", "1.0")
            await home.run("gem", "fetch", "sinatra")
            assert "tiny (2.0)" in await home.run("gem", "list", "-r")
            assert (await home.run("gem", "search", "^sin")).split() == ["sinatra", "(4.1.1)"]
            assert "tiny (1.0 < 2.0)" in await home.run("gem", "outdated")
            asked = server.asked()
            assert not [one for one in asked if one[2] >= 400 and not one[1].startswith("/api/v1/dependencies")], asked


def only_the_compact_index(server: Nginx) -> None:
    """Bundler has found no fault with it: it asked for nothing of the older indexes."""
    asked = server.asked()
    paths = [path for _, path, _, _ in asked]
    assert "/versions" in paths
    assert not [path for path in paths if "specs" in path or path.startswith(("/quick/", "/api/"))], paths
    assert not [one for one in asked if one[2] >= 400], asked


async def test_nginx_hands_out_each_page_as_it_should(simulator: Simulator, tmp_path: Path) -> None:
    publish(simulator)
    simulator.push(gem("tiny", "1.0"))
    root = await grow(tmp_path, repositories(simulator), *PYTHON, "gems/tiny-1.0.gem")
    json_type, html_type = "application/vnd.pypi.simple.v1+json", "text/html; charset=utf-8"
    asks = {
        "/simple/": html_type, "/simple/library/": html_type, "/pypi/library/json": "application/json",
        "/": "text/html", "/gems/": "text/html", "/packages/library/library-2.5-py3-none-any.whl": "application/zip",
        "/packages/library/library-2.5-py3-none-any.whl.metadata": "application/octet-stream",
        "/versions": "text/plain; charset=utf-8", "/names": "text/plain; charset=utf-8",
        "/info/tiny": "text/plain; charset=utf-8", "/gems/tiny-1.0.gem": "application/octet-stream",
        "/quick/Marshal.4.8/tiny-1.0.gemspec.rz": "application/octet-stream",
        "/api/v1/gems/tiny.json": "application/json", "/specs.4.8.gz": "application/octet-stream",
        "/latest_specs.4.8": "application/octet-stream",
    }  # fmt: skip
    async with nginx(root, tmp_path / "nginx") as server, aiohttp.ClientSession() as session:
        for path, media_type in asks.items():
            async with session.get(server.url[:-1] + path, headers={"Accept-Encoding": "identity"}) as answer:
                assert (answer.status, answer.headers["Content-Type"]) == (200, media_type), path
                assert "Content-Encoding" not in answer.headers
                assert await answer.read()
        for accept, expected in {
            f"{json_type}, application/vnd.pypi.simple.v1+html; q=0.1, text/html; q=0.01": json_type,
            "application/vnd.pypi.simple.latest+json": json_type,
            "text/html": html_type,
        }.items():
            async with session.get(f"{server.url}simple/library/", headers={"Accept": accept}) as answer:
                assert (answer.headers["Content-Type"], answer.headers["Vary"]) == (expected, "Accept")
        conditions = {"Range": "bytes=5-", "If-None-Match": '"0"'}
        async with session.get(f"{server.url}versions", headers=conditions) as answer:
            assert answer.status == 200
            assert "ETag" not in answer.headers
            assert await answer.read() == (root / "versions").read_bytes()
        async with session.get(f"{server.url}simple/library", allow_redirects=False) as answer:
            assert (answer.status, answer.headers["Location"]) == (301, "/simple/library/")
        for path in (".mirror/state.json", ".mirror/nginx-server.conf", "simple/nothing/", "info/nothing"):
            async with session.get(server.url + path) as answer:
                assert answer.status == 404, path
        assert "[emerg]" not in server.complaints()
        assert "[warn]" not in server.complaints()


async def test_without_its_lines_nginx_still_serves_everybody(simulator: Simulator, tmp_path: Path) -> None:
    publish(simulator)
    simulator.push(gem("tiny", "1.0"))
    root = await grow(tmp_path, repositories(simulator), *PYTHON, "gems/tiny-1.0.gem")
    home = tmp_path / "home"
    home.mkdir()
    async with nginx(root, tmp_path / "nginx", snippets=False) as server:
        for ruby in rubies():
            with ruby.home(server.url) as gems:
                await gems.bundle("install", gemfile='gem "tiny"\n')
                assert gems.locked() == {"tiny (1.0)"}
        pip = Pip(having("pip", (3, 9)) / "python")
        assert await pip.install(server, home, "app") == INSTALLED


async def test_files_may_be_on_a_mirror(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("alone", "1.0"))
    simulator.push(gem("tiny", "1.0"))
    both = repositories(simulator)
    await grow(tmp_path, both, "packages/alone/alone-1.0-py3-none-any.whl", "gems/tiny-1.0.gem")
    settings = write_settings(tmp_path / "data", both)
    async with spawned(tmp_path / "data", both) as files:
        pages = tmp_path / "pages"
        await mirror("export", "--static", pages, "--files-url", files.url, settings=settings)
        async with nginx(pages, tmp_path / "nginx") as server:
            python = having("pip", (3, 9)) / "python"
            await running(
                python, "-m", "pip", "install", "--no-cache-dir", "--index-url", f"{server.url}simple/",
                "--target", tmp_path / "installed", "alone",
            )  # fmt: skip
            assert installed(tmp_path / "installed") == {"alone": "1.0"}
            with Ruby().home(server.url) as home:
                await home.run("gem", "install", "tiny")
            assert 302 in {status for _, path, status, _ in server.asked() if path == "/gems/tiny-1.0.gem"}
