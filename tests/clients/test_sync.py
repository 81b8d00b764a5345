"""Fill, prove, disconnect: what `mirror sync` fetched and `mirror check` says yes to installs with the network off."""

import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.builders import gem, sdist, wheel
from tests.clients import require_client
from tests.clients.python import environment, interpreter, running, uv
from tests.clients.ruby import Ruby
from tests.clients.test_pypi import installed
from tests.serving import repositories, spawned, write_settings
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

ROOT = Path(os.path.abspath(__file__)).parents[2]
REQUIREMENTS = "app>=1,<3\nsource-only\n"
GEMS = {"web (2.1)", "rack (3.0)", "native (1.0)"}


def publish(simulator: Simulator) -> None:
    """A few projects and gems that need each other, in several versions."""
    simulator.publish(wheel("app", "1.0"))
    simulator.publish(wheel("app", "2.0", requires=["library>=1", "colours; sys_platform == 'linux'"]))
    simulator.publish(wheel("app", "3.0", requires=["nonsense"]))
    simulator.publish(wheel("library", "1.5"))
    simulator.publish(wheel("library", "2.5", tags="py3-none-manylinux_2_17_x86_64"))
    simulator.publish(wheel("library", "2.5", tags="py3-none-win_amd64"))
    simulator.publish(sdist("library", "2.5"))
    simulator.publish(wheel("colours", "0.4"))
    simulator.publish(sdist("source-only", "0.1", extra_metadata=["License: MIT"]))
    simulator.publish(wheel("locked", "1.1", requires=["library==1.5"]))
    for built in (gem("rack", "2.9"), gem("rack", "3.0"), gem("web", "2.1", dependencies={"rack": [">= 2", "< 4"]})):
        simulator.push(built)
    simulator.push(gem("native", "1.0"))
    simulator.push(gem("native", "1.0", platform="x86_64-linux"))
    simulator.push(gem("native", "1.0", platform="arm64-darwin"))


async def mirror(*words: str | Path, settings: Path, status: int = 0) -> str:
    """What a command of ours prints, on both ways out."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *map(str, words), "--config", str(settings),
        cwd=ROOT, env=environment(), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    said = (await process.communicate())[0].decode()
    assert process.returncode == status, f"{' '.join(map(str, words))} ended with {process.returncode}\n{said}"
    return said


async def uv_lock(project: Path, simulator: Simulator) -> Path:
    """A uv.lock of a project that needs `locked`, made directly from the upstream."""
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["locked>=1"]\n'
    )
    await running(
        uv(), "lock", "--project", project, "--default-index", simulator.simple_url, "--python", sys.executable,
        "--cache-dir", project / "cache",
    )  # fmt: skip
    return project / "uv.lock"


async def gemfile_lock(ruby: Ruby, simulator: Simulator, gemfile: str) -> str:
    with ruby.home(simulator.url) as home:
        await home.bundle("lock", gemfile=gemfile)
        return (home.place / "Gemfile.lock").read_text()


async def pip_installs(url: str, directory: Path, *words: str | Path) -> Mapping[str, str]:
    """Installed into an empty directory, with no cache."""
    await running(
        interpreter((3, 9), (3, 99)), "-m", "pip", "install", "--no-cache-dir", "--index-url", f"{url}simple/",
        "--target", directory, "--no-build-isolation", *words,
    )  # fmt: skip
    return installed(directory)


@pytest.mark.parametrize("beside", [False, True], ids=["alone", "beside a running mirror"])
async def test_what_was_synchronised_and_checked_installs_offline(
    simulator: Simulator, tmp_path: Path, beside: bool
) -> None:
    require_client("bundle")
    publish(simulator)
    ruby, gemfile = Ruby(), 'gem "web"\ngem "native"\n'
    lock = await uv_lock(tmp_path / "project", simulator)
    requirements, gemfile_locked = tmp_path / "requirements.txt", tmp_path / "Gemfile.lock"
    requirements.write_text(REQUIREMENTS)
    gemfile_locked.write_text(await gemfile_lock(ruby, simulator, gemfile))
    inputs = (lock, requirements, gemfile_locked)
    data = tmp_path / "data"
    settings = write_settings(data, repositories(simulator))

    assert "its page is not held" in await mirror("check", *inputs, settings=settings, status=1)
    if beside:
        async with spawned(data, repositories(simulator)):
            said = await mirror("sync", "--build", *inputs, settings=settings)
    else:
        said = await mirror("sync", "--build", *inputs, settings=settings)
    assert "fetched library-2.5-py3-none-manylinux_2_17_x86_64.whl" in said
    assert "win_amd64" not in said
    assert "darwin" not in said
    simulator.forget()
    said = await mirror("sync", "--build", *inputs, settings=settings)
    assert "0 files fetched" in said
    assert simulator.count("GET", "/packages/*") == simulator.count("GET", "/gems/*") == 0

    await simulator.go_down("refused")
    assert "yes: " in await mirror("check", "--build", *inputs, settings=settings)
    async with spawned(data, repositories(simulator), "--offline") as offline:
        assert "yes: " in await mirror("check", "--build", *inputs, settings=settings)  # beside a running mirror too
        assert await pip_installs(offline.url, tmp_path / "by-pip", "-r", requirements) == {
            "app": "2.0", "library": "2.5", "colours": "0.4", "source_only": "0.1",
        }  # fmt: skip
        before = lock.read_bytes()
        await mirror("lock", "rewrite", lock, "--to", f"{offline.url}simple/", settings=settings)
        assert simulator.url.encode() not in lock.read_bytes()
        await running(
            uv(), "sync", "--frozen", "--no-install-project", "--project", lock.parent, "--python", sys.executable,
            "--cache-dir", tmp_path / "uv-cache", UV_PROJECT_ENVIRONMENT=str(tmp_path / "by-uv"),
        )  # fmt: skip
        (packages,) = (tmp_path / "by-uv").glob("lib/python3.*/site-packages")
        assert {"locked": "1.1", "library": "1.5"}.items() <= installed(packages).items()
        await mirror("lock", "rewrite", lock, "--to", simulator.simple_url, settings=settings)
        assert lock.read_bytes() == before  # the upstream's own addresses, out of its stored pages
        with ruby.home(offline.url) as home:
            (home.place / "Gemfile.lock").write_text(gemfile_locked.read_text())
            await home.bundle("config", "set", "--global", f"mirror.{simulator.url}", offline.url)
            await home.bundle("install", gemfile=gemfile, public=simulator.url)
            said = await home.bundle("list")
            assert all(name in said for name in GEMS), said

    await asyncio.to_thread(os.unlink, blob(data, wheel("colours", "0.4").sha256))
    said = await mirror("check", "--build", *inputs, settings=settings, status=1)
    missing = [line for line in said.splitlines() if "not held" in line]
    assert missing == ["colours-0.4-py3-none-any.whl: not held"]
    assert "no: 1 missing" in said


def blob(data: Path, digest: str) -> Path:
    return data / "blobs" / digest[:2] / digest


async def test_names_bring_what_they_depend_on_for_other_machines_too(simulator: Simulator, tmp_path: Path) -> None:
    require_client("bundle")
    publish(simulator)
    settings = write_settings(tmp_path / "data", repositories(simulator))
    words = ("--platform", "windows-amd64", "--platform", "linux-x86_64", "--python", "3.12", "app<3", "web:~> 2.0")
    said = await mirror("sync", *words, settings=settings)
    fetched = {line.split()[1] for line in said.splitlines() if line.startswith("fetched ")}
    assert fetched == {
        "app-2.0-py3-none-any.whl", "library-2.5-py3-none-manylinux_2_17_x86_64.whl",
        "library-2.5-py3-none-win_amd64.whl", "colours-0.4-py3-none-any.whl", "web-2.1.gem", "rack-3.0.gem",
    }  # fmt: skip
    await simulator.go_down("refused")
    assert "yes: 6 files" in await mirror("check", *words, settings=settings)
    assert "no-such: " in await mirror("check", "no-such", settings=settings, status=1)
