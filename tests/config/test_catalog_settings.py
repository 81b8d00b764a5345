"""[catalog]: where the database is, and where its password comes from."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from mirror.config import CatalogSettings, load
from mirror.errors import ConfigError


def test_without_a_url_the_catalog_is_a_file() -> None:
    assert CatalogSettings().url is None
    assert CatalogSettings().secret() is None


@pytest.mark.parametrize(
    ("url", "shown", "password"),
    [
        ("postgresql://mirror@db.example/mirror", "postgresql://mirror@db.example/mirror", None),
        ("postgres://mirror:s%40cret@db.example:5433/m", "postgres://mirror@db.example:5433/m", "s@cret"),
        ("postgresql://a:b@one.example,two.example/m?x=1", "postgresql://a@one.example,two.example/m?x=1", "b"),
        ("postgresql://mirror@/m?host=%2Frun%2Fpostgresql", "postgresql://mirror@/m?host=%2Frun%2Fpostgresql", None),
    ],
)
def test_a_password_inside_the_url_is_kept_apart(url: str, shown: str, password: str | None) -> None:
    settings = CatalogSettings.model_validate({"url": url})
    secret = settings.secret()
    assert settings.url == shown
    assert (None if secret is None else secret.get_secret_value()) == password
    assert password is None or password not in repr(settings)


@pytest.mark.parametrize(
    "url",
    [
        *("sqlite:///secret", "mysql://u:secret@db.example/m", "db.example/secret", "postgresql+asyncpg://u@db/secret"),
        *("postgresql://u@db.example/m?password=secret", "postgresql://u@db.example/m#secret", "postgresql://[secret"),
    ],
)
def test_a_url_that_is_none_is_refused_without_being_repeated(url: str, tmp_path: Path) -> None:
    file = tmp_path / "mirror.toml"
    file.write_text(f'data_dir = "{tmp_path}"\n[catalog]\nurl = "{url}"\n')
    with pytest.raises(ConfigError) as caught:
        load(file)
    assert f"{file}:3: catalog.url: should" in str(caught.value)
    assert "secret" not in str(caught.value)


def test_the_password_is_read_from_its_file_each_time(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one\n")
    settings = CatalogSettings.model_validate({"url": "postgresql://db.example/m", "password_file": str(file)})
    for password in ("one", "two"):
        file.write_text(f"{password}\n")
        secret = settings.secret()
        assert secret is not None
        assert secret.get_secret_value() == password


def test_only_one_place_may_have_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("one")
    with pytest.raises(ValidationError, match="only one of password, password_file and credential"):
        CatalogSettings.model_validate({"url": "postgresql://a:b@db.example/m", "password_file": str(file)})
