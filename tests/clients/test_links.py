"""Signed links that expire, with clients that have a lock file and so ask for files alone."""

import sys
from pathlib import Path

import pytest

from tests.builders import wheel
from tests.clients.python import running, uv
from tests.contract.pypi import mirroring, patient
from tests.simulator import Simulator, Status

pytestmark = [pytest.mark.clients, pytest.mark.timeout(600)]

LIBRARY = wheel("locked-library", "1.5")
APP = wheel("locked-app", "1.1", requires=["locked-library==1.5"])


class Clock:
    now = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize("sidecars", ["there", "gone"])
async def test_uv_syncs_a_frozen_lock_after_every_link_has_expired(
    simulator: Simulator, tmp_path: Path, sidecars: str
) -> None:
    for built in (APP, LIBRARY):
        simulator.publish(built)
    project, clock = tmp_path / "project", Clock()
    project.mkdir()
    (project / "pyproject.toml").write_text(
        '[project]\nname = "mine"\nversion = "0"\nrequires-python = ">=3.11"\ndependencies = ["locked-app"]\n'
    )
    if sidecars == "gone":
        simulator.inject("*.metadata", Status(404))
    async with mirroring(tmp_path / "data", simulator, network=patient(), clock=clock) as mirror:
        words = ("--project", project, "--default-index", f"{mirror.url}simple/", "--python", sys.executable)
        await running(uv(), "lock", *words, "--cache-dir", tmp_path / "first")
        clock.now += 60
        expired = [simulator.pypi.relink(built.name, built.filename) for built in (APP, LIBRARY)]
        simulator.forget()
        await running(uv(), "sync", "--frozen", "--no-install-project", *words, "--cache-dir", tmp_path / "second")
        said = await running(uv(), "pip", "list", "--python", project / ".venv")
        assert "locked-app" in said
        assert "locked-library" in said
        assert simulator.count("GET", "/simple/*/") == 2  # each page once more
        assert all(simulator.count("GET", path) <= 2 for path in expired)

        requirements = tmp_path / "requirements.txt"
        requirements.write_text("locked-app==1.1\nlocked-library==1.5\n")
        await running(uv(), "venv", tmp_path / "other", "--python", sys.executable)
        await running(
            uv(), "pip", "sync", requirements, "--python", tmp_path / "other", "--default-index",
            f"{mirror.url}simple/", "--cache-dir", tmp_path / "third",
        )  # fmt: skip
