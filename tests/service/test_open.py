"""Opening what is stored: who may do it at the same time, and what is made for it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.service.open import Mode, open_mirror


def settings_in(directory: Path) -> Settings:
    table = {"data_dir": str(directory / "data"), "listen": ["127.0.0.1:0"], "log": {"access": False}}
    return Settings.model_validate({**table, "limits": {"shutdown_grace": 1}})


@pytest.mark.parametrize("first", [Mode.SERVE, Mode.ALONE])
@pytest.mark.parametrize("second", [Mode.SERVE, Mode.ALONE])
async def test_only_one_process_works_as_the_mirror(first: Mode, second: Mode, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with open_mirror(settings, first):
        with pytest.raises(ConfigError, match="another mirror is serving from"):
            async with open_mirror(settings, second):
                pass
    async with open_mirror(settings, second) as opened:
        assert (await opened.mirror()).repositories


@pytest.mark.parametrize("mode", [Mode.BESIDE, Mode.READ_ONLY])
async def test_others_work_beside_a_running_mirror(mode: Mode, tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with open_mirror(settings, Mode.SERVE) as running, open_mirror(settings, mode) as opened:
        assert running.urls
        assert not opened.urls
        assert await opened.catalog.files.totals() == (0, 0)
        assert opened.publishers.keys() == settings.repositories.keys()
        mirror = await opened.mirror()
        assert mirror is await opened.mirror()
        assert mirror.settings.offline is (mode is Mode.READ_ONLY)


async def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("a file")
    for mode in (Mode.SERVE, Mode.ALONE):
        with pytest.raises(ConfigError, match=r"data_dir: .* cannot be used: File exists"):
            async with open_mirror(settings_in(tmp_path), mode):
                pass


async def test_a_command_about_rows_makes_the_catalog_and_nothing_else(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    async with open_mirror(settings, Mode.BESIDE) as opened:
        await opened.catalog.accounts.users()
    assert {path.name for path in settings.data_dir.iterdir()} == {
        "catalog.sqlite", "catalog.sqlite.spare", "changes",
    }  # fmt: skip


def test_opening_imports_neither_http_nor_an_ecosystem() -> None:
    code = "import sys, mirror.service.open; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"aiohttp", "mirror.server", "mirror.pypi", "mirror.rubygems"} & set(loaded)


def test_serving_imports_nothing_that_is_of_use_to_few(tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(f'data_dir = "{tmp_path}"\n')
    code = (
        "import sys; from pathlib import Path; import mirror.service.process; from mirror.config import load;"
        " load(Path(sys.argv[1])); print(*sys.modules)"
    )
    bare = {name: value for name, value in os.environ.items() if not name.startswith("MIRROR_")}
    words = [sys.executable, "-c", code, str(file)]
    loaded = set(subprocess.run(words, capture_output=True, text=True, check=True, env=bare).stdout.split())
    others = {"asyncpg", "obstore", "jinja2", "docutils", "argon2", "yaml", "packaging.metadata", "pydantic_settings"}
    assert not {*others, "mirror.airgap", "mirror.doctor.client", "mirror.isolation.worker"} & loaded
