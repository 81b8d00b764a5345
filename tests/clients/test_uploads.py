"""Real clients publish here and install what was published, together with what upstream has."""

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path

import pytest

from tests.builders import Built, gem, sdist, wheel
from tests.clients import require_client
from tests.clients.ruby import Ruby, rubies
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Simulator
from tests.uploading import basic, change_gem, push

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

UNION = {"union": ["patched"]}


class Python:
    """twine, uv and pip, as a user with nothing installed has them."""

    def __init__(self, home: Path, mirror: Spawned, token: str) -> None:
        home.mkdir()
        self.home = home
        self.mirror = mirror
        self.token = token

    def put(self, *builts: Built) -> list[str]:
        """Files in the user's directory; their paths."""
        for built in builts:
            (self.home / built.filename).write_bytes(built.content)
        return [str(self.home / built.filename) for built in builts]

    async def run(self, *words: str, fails: bool = False) -> str:
        """What a client says, on both streams; it has to succeed, or to fail."""
        client = words[0] if words[0] == sys.executable else require_client(words[0])
        environment = {
            "HOME": str(self.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8", "NO_COLOR": "1",
            "UV_CACHE_DIR": str(self.home / "uv"), "PIP_CACHE_DIR": str(self.home / "pip"), "COLUMNS": "500",
            "UV_PYTHON": sys.executable, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "TWINE_NON_INTERACTIVE": "1", "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }  # fmt: skip
        done = await asyncio.to_thread(
            subprocess.run, [client, *words[1:]], capture_output=True, text=True, env=environment, cwd=self.home,
            timeout=180,
        )  # fmt: skip
        said = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, f"{' '.join(words)}\n{said}"
        return said

    async def twine(self, paths: Sequence[str], *options: str, fails: bool = False) -> str:
        url = f"{self.mirror.url}legacy/"
        login = ("-u", "__token__", "-p", self.token, "--disable-progress-bar")
        return await self.run("twine", "upload", "--repository-url", url, *login, *options, *paths, fails=fails)

    async def twine_skipping(self, paths: Sequence[str]) -> None:
        """--skip-existing, which twine of 2026 has for the public indexes only: without its look at the URL."""
        code = (
            "from twine.settings import Settings; from twine.__main__ import main\n"
            "Settings.verify_feature_capability = lambda self: None; raise SystemExit(main())"
        )
        url, login = f"{self.mirror.url}legacy/", ("-u", "__token__", "-p", self.token)
        options = ("--repository-url", url, "--skip-existing", "--disable-progress-bar")
        await self.run(sys.executable, "-c", code, "upload", *options, *login, *paths)

    async def uv_publish(self, paths: Sequence[str], fails: bool = False) -> str:
        url, check = f"{self.mirror.url}legacy/", f"{self.mirror.url}simple/"
        login = ("--token", self.token, "--trusted-publishing", "never")
        return await self.run("uv", "publish", "--publish-url", url, "--check-url", check, *login, *paths, fails=fails)

    async def install(self, client: str, *wanted: str) -> set[str]:
        """Install by `pip` or `uv`; the names and versions that came."""
        target = self.home / f"{client}-{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:8]}"
        index = f"{self.mirror.url}simple/"
        if client == "pip":
            await self.run(
                "pip", "install", "--index-url", index, "--no-build-isolation", "--target", str(target), *wanted
            )
        else:
            await self.run("uv", "pip", "install", "--default-index", index, "--target", str(target), *wanted)
        return {path.name.removesuffix(".dist-info") for path in target.glob("*.dist-info")}


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Spawned]:
    for built in (wheel("six", "1.16"), wheel("acme-tools", "9.0"), wheel("patched", "1.0"), wheel("patched", "3.0")):
        simulator.publish(built)
    for built in (gem("rack", "3.0"), gem("acme-tools", "9.0"), gem("patched", "1.0"), gem("patched", "3.0")):
        simulator.push(built)
    both = repositories(simulator, pypi=UNION, rubygems=UNION)
    async with spawned(tmp_path / "data", both) as mirror:
        yield mirror
        # Dependency confusion: nobody upstream ever heard of a name that is published here.
        assert simulator.asked(path="*acme*") == []


async def command(data: Path, *words: str, given: str = "") -> str:
    """What `mirror …` prints."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, "--data-dir", str(data), cwd=Path(__file__).parent.parent.parent,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate(given.encode())
    assert process.returncode == 0, words
    return out.decode()


@pytest.fixture
async def token(mirror: Spawned, tmp_path: Path) -> str:
    rights = ("--right", "upload", "--right", "yank")
    return (await command(tmp_path / "data", "token", "create", *rights)).split()[-1]


@pytest.fixture
def python(mirror: Spawned, token: str, tmp_path: Path) -> Python:
    return Python(tmp_path / "home", mirror, token)


async def test_twine_publishes_and_pip_and_uv_install_it_with_what_upstream_has(python: Python) -> None:
    files = python.put(wheel("acme-tools", "1.0", requires=["six"]), sdist("acme-tools", "0.9", requires=["six"]))
    await python.twine(files)
    await python.twine(files)  # the same bytes again
    others = python.put(wheel("acme-tools", "1.0", requires=["six"], files={"acme_tools/more.py": b""}))
    assert "File already exists" in await python.twine(others, fails=True)
    await python.twine_skipping(others)
    for client in ("pip", "uv"):
        assert await python.install(client, "acme-tools") == {"acme_tools-1.0", "six-1.16"}
        assert await python.install(client, "acme-tools<1") == {"acme_tools-0.9", "six-1.16"}


async def test_uv_publishes_and_sees_at_once_what_is_there(python: Python) -> None:
    files = python.put(wheel("mine", "1.0"), sdist("mine", "1.0"))
    assert "Uploading" in await python.uv_publish(files)
    assert "already exists" in await python.uv_publish(files)
    others = python.put(wheel("mine", "1.0", files={"mine/more.py": b""}))
    assert "do not match" in await python.uv_publish(others, fails=True)
    assert await python.install("uv", "mine") == {"mine-1.0"}


async def test_a_wrong_token_stops_the_clients_with_the_reason(python: Python) -> None:
    files = python.put(wheel("mine", "1.0"))
    python.token = "mirror_" + "0" * 64
    assert "401" in await python.twine(files, "--verbose", fails=True)
    await python.uv_publish(files, fails=True)


async def test_a_patched_build_shows_beside_the_public_ones_where_it_is_said(python: Python) -> None:
    await python.twine(python.put(wheel("patched", "1.0.post1")))
    for client in ("pip", "uv"):
        assert await python.install(client, "patched<2") == {"patched-1.0.post1"}
        assert await python.install(client, "patched") == {"patched-3.0"}


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_gem_pushes_and_yanks_and_bundler_sees_it(mirror: Spawned, token: str, ruby: Ruby) -> None:
    gemfile = 'gem "acme-tools"\ngem "rack"\n'
    host = mirror.url.rstrip("/")
    key = {"GEM_HOST_API_KEY": token, "RUBYGEMS_HOST": host}

    async def publish(*builts: Built) -> None:
        for built in builts:
            (home.place / built.filename).write_bytes(built.content)
            said = await home.run("gem", "push", built.filename, "--host", host, **key)
            assert f"Successfully registered gem: {built.name} ({built.version})" in said

    async def locked() -> set[str]:
        """What somebody locks who has nothing installed, and updates what they know of the index."""
        (other.place / "Gemfile.lock").unlink(missing_ok=True)
        await other.bundle("lock", gemfile=gemfile)
        return other.locked()

    with ruby.home(mirror.url) as home, ruby.home(mirror.url) as other:
        await other.bundle("lock", gemfile='gem "rack"\n')  # from here on it updates by Range
        await publish(gem("acme-tools", "1.0"), gem("acme-tools", "1.1", dependencies={"rack": ">= 1"}))
        await publish(gem("acme-tools", "1.1", dependencies={"rack": ">= 1"}))  # the same bytes again
        await home.bundle("install", gemfile=gemfile)
        assert {"acme-tools (1.1)", "rack (3.0)"} <= home.locked()
        used = await home.run("bundle", "exec", "ruby", "-e", "require 'acme-tools'; puts $acme_tools_version")
        assert used.strip() == "1.1"
        await home.run("gem", "install", "acme-tools")
        assert "acme-tools (1.1)" in await home.run("gem", "list", "-r")
        assert "acme-tools (1.1)" in await locked()

        said = await home.run("gem", "yank", "acme-tools", "-v", "1.1", "--host", host, **key)
        assert "Successfully" in said
        assert "acme-tools (1.0)" in await locked()
        assert "acme-tools (1.0)" in await home.run("gem", "list", "-r")
        assert (await change_gem(mirror, token, "unyank", "acme-tools", "1.1")).status == 200
        assert "acme-tools (1.1)" in await locked()

        await publish(gem("patched", "1.0.1"))
        listed = await home.run("gem", "list", "-r", "--all", "patched")
        assert "patched (3.0, 1.0.1, 1.0)" in listed


@pytest.mark.parametrize("ruby", rubies(), ids=str)
async def test_gem_owner_gives_somebody_a_gem(mirror: Spawned, tmp_path: Path, ruby: Ruby) -> None:
    host, data = mirror.url.rstrip("/"), tmp_path / "data"
    admin = (await command(data, "token", "create", "--right", "admin")).split()[-1]
    await command(data, "user", "add", "bobby", given="bobbybobby\n")
    assert (await push(mirror, admin, gem("acme-tools", "1.0").content)).status == 200
    login = basic("bobbybobby", "bobby")
    with ruby.home(mirror.url) as home:
        said = await home.run("gem", "owner", "acme-tools", "--add", "bobby", "--host", host, GEM_HOST_API_KEY=admin)
        assert "Owner added successfully." in said
        assert "- bobby" in said
        assert (await push(mirror, login, gem("acme-tools", "1.1").content)).status == 200
        said = await home.run("gem", "owner", "acme-tools", "--remove", "bobby", "--host", host, GEM_HOST_API_KEY=admin)
        assert "Owner removed successfully." in said
        assert "- bobby" not in said
        assert (await push(mirror, login, gem("acme-tools", "1.2").content)).status == 403
