"""A catalog that nodes share: one of them serves at a time, and several workers are refused."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from mirror.config import Settings
from mirror.errors import ConfigError
from mirror.service import process
from mirror.service.open import Mode, open_mirror
from tests.postgres import free_port


def settings_of(data_dir: Path, url: str) -> Settings:
    return Settings.model_validate(
        {
            "data_dir": str(data_dir),
            "listen": [f"127.0.0.1:{free_port()}"],
            "catalog": {"url": url},
            "repositories": {"pypi": {"format": "pypi", "upstreams": ["http://127.0.0.1:1/simple/"]}},
            "log": {"access": False},
        }
    )


async def test_a_second_node_is_refused_while_the_first_one_serves_and_takes_over_when_it_has_ended(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "TAKEOVER_SECONDS", 1.0)
    async with open_mirror(settings_of(tmp_path / "one", postgres_url), Mode.SERVE):
        with pytest.raises(ConfigError, match="another node serves from this database"):
            async with open_mirror(settings_of(tmp_path / "two", postgres_url), Mode.SERVE):
                pass
    async with asyncio.timeout(20), open_mirror(settings_of(tmp_path / "two", postgres_url), Mode.SERVE) as second:
        assert second.urls


def test_several_workers_are_refused_where_one_process_serves(tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text('[repositories.python]\nformat = "pypi"\n[catalog]\nurl = "postgresql:///x"\n')
    words = ["serve", "--config", str(file), "--data-dir", str(tmp_path / "data"), "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-m", "mirror", *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert "remove catalog.url" in done.stderr
    assert not (tmp_path / "data").exists()
