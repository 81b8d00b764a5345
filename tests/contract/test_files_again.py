"""Small files that are asked for again and again: answered without a question, for as long as nothing changed."""

from pathlib import Path
from typing import Any

import pytest

from mirror.index.repository import Repository
from tests.builders import gem, wheel
from tests.serving import repositories, serving
from tests.simulator import Simulator

SIX, RACK = wheel("six", "1.0"), gem("rack", "3.0")


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that repositories have been asked to open."""
    names: list[str] = []

    def noting(method: str) -> None:
        original = getattr(Repository, method)

        async def asked(self: Repository, project: str, filename: str, *wanted: Any) -> Any:
            names.append(filename)
            return await original(self, project, filename, *wanted)

        monkeypatch.setattr(Repository, method, asked)

    noting("open")
    noting("sidecar")
    return names


@pytest.mark.parametrize(
    ("path", "repository", "project"),
    [
        (f"packages/six/{SIX.filename}", "pypi", "six"),
        (f"packages/six/{SIX.filename}.metadata", "pypi", "six"),
        (f"gems/{RACK.filename}", "rubygems", "rack"),
        ("quick/Marshal.4.8/rack-3.0.gemspec.rz", "rubygems", "rack"),
    ],
)
async def test_a_small_file_is_opened_once_for_many_requests_until_its_project_changes(
    simulator: Simulator, tmp_path: Path, opened: list[str], path: str, repository: str, project: str
) -> None:
    simulator.publish(SIX)
    simulator.push(RACK)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get(f"gems/{RACK.filename}")  # only then is its gemspec what the gem has
        first = await mirror.get(path)
        await mirror.get(path)
        opened.clear()
        again = [await mirror.get(path) for _ in range(5)]
        assert [(reply.status, reply.body) for reply in again] == [(200, first.body)] * 5
        assert opened == []
        mirror.mirror.repositories[repository].forget(project)
        assert (await mirror.get(path)).body == first.body
        assert len(opened) == 1
