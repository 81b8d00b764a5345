"""Poetry, PDM, pipenv, Flit and Hatch, as their users run them: they install from a mirror, and publish to it."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.builders import Built, sdist, wheel
from tests.clients.python import PATIENCE, environment, having
from tests.serving import Spawned, repositories, spawned
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

APP = wheel("app", "2.0", requires=["library>=1,<3"], requires_python=">=3.8")
LIBRARY = wheel("library", "2.5", requires=["plain"])
PLAIN = sdist("plain", "0.1")
INSTALLED = {"app": "2.0", "library": "2.5", "plain": "0.1"}
OURS = wheel("acme-tools", "1.0"), sdist("acme-tools", "1.0")
PROJECT = """
[project]
name = "acme-tools"
version = "1.0"
description = "Tools."
requires-python = ">=3.11"
dependencies = [{dependencies}]
"""


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Spawned]:
    for built in (APP, LIBRARY, PLAIN):
        simulator.publish(built)
    async with spawned(tmp_path / "data", repositories(simulator)) as mirror:
        yield mirror


class Project:
    """Somebody's project, in which a client is run by a user who has nothing but that."""

    def __init__(self, directory: Path, client: Path, text: str) -> None:
        self.home = directory / "home"
        self.root = directory / "project"
        self.home.mkdir()
        self.root.mkdir()
        self.client = client
        (self.root / "pyproject.toml").write_text(text)

    async def run(self, *words: str, fails: bool = False, **variables: str) -> str:
        """What the client says, on both streams; it has to succeed, or to fail."""
        given = {
            "HOME": str(self.home), "PATH": f"{self.client.parent}:{os.environ['PATH']}", "LANG": "C.UTF-8",
            "NO_COLOR": "1", "CI": "1", "PYTHON_KEYRING_BACKEND": "keyring.backends.null.Keyring",
        }  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            self.client, *words, cwd=self.root, env=environment() | given | variables,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE):
            out, _ = await process.communicate()
        said = out.decode()
        assert (process.returncode != 0) == fails, f"{self.client.name} {' '.join(words)}\n{said}"
        return said

    def built(self, *builts: Built) -> list[str]:
        """Put what has been built where the client looks for it."""
        (self.root / "dist").mkdir(exist_ok=True)
        for built in builts:
            (self.root / "dist" / built.filename).write_bytes(built.content)
        return [f"dist/{built.filename}" for built in builts]

    @property
    def installed(self) -> dict[str, str]:
        """What is in the virtual environment of the project; not what every such environment has."""
        found = self.root.glob(".venv/lib/python*/site-packages/*.dist-info")
        names = dict(path.name.removesuffix(".dist-info").split("-") for path in found)
        return {name: version for name, version in names.items() if name not in ("pip", "setuptools", "wheel")}


async def token(data: Path) -> str:
    """A token that may upload."""
    words = ("token", "create", "--right", "upload", "--data-dir", str(data))
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, cwd=Path(__file__).parent.parent.parent,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    out, _ = await process.communicate()
    return out.decode().split()[-1]


async def published(mirror: Spawned) -> set[str]:
    """The names of our own files on their page."""
    page = await mirror.get("simple/acme-tools/", Accept="application/vnd.pypi.simple.v1+json")
    return {file["filename"] for file in page.json()["files"]}


async def test_poetry_locks_installs_and_publishes(mirror: Spawned, simulator: Simulator, tmp_path: Path) -> None:
    source = f'[[tool.poetry.source]]\nname = "mirror"\nurl = "{mirror.url}simple/"\npriority = "primary"\n'
    text = PROJECT.format(dependencies='"app"') + f"[tool.poetry]\npackage-mode = true\n{source}"
    project = Project(tmp_path, having("poetry") / "poetry", text)
    inside = {"POETRY_VIRTUALENVS_IN_PROJECT": "true", "POETRY_NO_INTERACTION": "1"}
    await project.run("lock", **inside)
    assert all(digest in (project.root / "poetry.lock").read_text() for digest in (APP.sha256, PLAIN.sha256))
    await project.run("install", "--no-root", **inside)
    assert project.installed == INSTALLED
    secret = await token(tmp_path / "data")
    project.built(*OURS)
    await project.run("config", "repositories.mirror", f"{mirror.url}legacy/")
    publish = ("publish", "--repository", "mirror", "--username", "__token__", "--password")
    await project.run(*publish, secret, **inside)
    assert await published(mirror) == {built.filename for built in OURS}
    assert "The token is wrong" in await project.run(*publish, "mirror_wrong", fails=True, **inside)
    project.built(wheel("acme-tools", "1.0", files={"acme_tools/more.py": b""}))
    assert "already exists" in await project.run(*publish, secret, fails=True, **inside)
    await project.run(*publish, secret, "--skip-existing", **inside)
    assert simulator.asked(path="*acme*") == []


async def test_pdm_locks_installs_and_publishes(mirror: Spawned, simulator: Simulator, tmp_path: Path) -> None:
    # Its newest release alone does not run with the newest of what it needs.
    client = having("pdm[locked]") / "pdm"
    project = Project(tmp_path, client, PROJECT.format(dependencies='"app"') + "[tool.pdm]\ndistribution = false\n")
    quiet = {"PDM_CHECK_UPDATE": "0", "PDM_NON_INTERACTIVE": "1"}
    await project.run("config", "pypi.url", f"{mirror.url}simple/", **quiet)
    await project.run("lock", **quiet)
    assert all(digest in (project.root / "pdm.lock").read_text() for digest in (APP.sha256, PLAIN.sha256))
    await project.run("sync", "--no-self", **quiet)
    assert project.installed == INSTALLED
    secret = await token(tmp_path / "data")
    project.built(*OURS)
    publish = ("publish", "--no-build", "--repository", f"{mirror.url}legacy/", "--username", "__token__", "--password")
    await project.run(*publish, secret, **quiet)
    assert await published(mirror) == {built.filename for built in OURS}
    await project.run(*publish, "mirror_wrong", fails=True, **quiet)
    project.built(wheel("acme-tools", "1.0", files={"acme_tools/more.py": b""}))
    await project.run(*publish, secret, fails=True, **quiet)
    await project.run(*publish, secret, "--skip-existing", **quiet)
    assert simulator.asked(path="*acme*") == []


async def test_pipenv_locks_and_installs(mirror: Spawned, tmp_path: Path) -> None:
    project = Project(tmp_path, having("pipenv") / "pipenv", "")
    (project.root / "Pipfile").write_text(
        f'[[source]]\nname = "mirror"\nurl = "{mirror.url}simple/"\nverify_ssl = true\n\n[packages]\napp = "*"\n'
    )
    await project.run("install", PIPENV_VENV_IN_PROJECT="1")
    assert all(built.sha256 in (project.root / "Pipfile.lock").read_text() for built in (APP, LIBRARY, PLAIN))
    assert project.installed == INSTALLED


async def test_flit_publishes(mirror: Spawned, tmp_path: Path) -> None:
    system = '[build-system]\nrequires = ["flit_core"]\nbuild-backend = "flit_core.buildapi"\n'
    project = Project(tmp_path, having("flit") / "flit", PROJECT.format(dependencies="") + system)
    (project.root / "acme_tools.py").write_text('"""Tools."""\n')
    login = {"FLIT_INDEX_URL": f"{mirror.url}legacy/", "FLIT_USERNAME": "__token__"}
    await project.run("publish", FLIT_PASSWORD="mirror_wrong", fails=True, **login)
    await project.run("publish", FLIT_PASSWORD=await token(tmp_path / "data"), **login)
    assert await published(mirror) == {"acme_tools-1.0-py3-none-any.whl", "acme_tools-1.0.tar.gz"}


async def test_hatch_publishes(mirror: Spawned, tmp_path: Path) -> None:
    project = Project(tmp_path, having("hatch") / "hatch", PROJECT.format(dependencies=""))
    files = project.built(*OURS)
    publish = ("publish", "--no-prompt", "--repo", f"{mirror.url}legacy/", "--user", "__token__", "--auth")
    await project.run(*publish, "mirror_wrong", *files, fails=True)
    await project.run(*publish, await token(tmp_path / "data"), *files)
    assert await published(mirror) == {built.filename for built in OURS}
