"""[catalog]: the database of what is known about pages, files, uploads and users."""

from typing import Annotated, Self
from urllib.parse import SplitResult, parse_qsl, unquote, urlsplit

from pydantic import AfterValidator, Field, SecretStr, model_validator

from mirror.config.passwords import read_password
from mirror.config.values import ReadableFile, Section

SCHEMES = ("postgresql", "postgres")


def database_url(value: str) -> str:
    """Return the URL of a PostgreSQL database, without a password. Raises ValueError."""
    parts = _split(value)
    if parts is None or parts.scheme not in SCHEMES:
        raise ValueError(
            'should be the URL of a database, "postgresql://USER@HOST/DATABASE"; without it, the catalog is a file in'
            " data_dir"
        )
    if parts.fragment:
        raise ValueError("should be a URL without a fragment; a # in a name is written %23")
    if any(name == "password" for name, _ in parse_qsl(parts.query)):
        raise ValueError("should not have a password in its query: set password_file")
    return value


def _split(value: str) -> SplitResult | None:
    try:
        return urlsplit(value)
    except ValueError:
        return None


class CatalogSettings(Section):
    """[catalog]: the database, which several nodes can share."""

    url: Annotated[str, AfterValidator(database_url)] | None = None
    """A PostgreSQL database as libpq writes it ("postgresql://mirror@db.example/mirror?sslmode=verify-full"), for
    several nodes. Without it, the catalog is a file in `data_dir`, and nothing has to be installed."""
    password: SecretStr | None = None
    """The password of the role. It is better kept in a file of its own: see the next two, and PGPASSFILE."""
    password_file: ReadableFile | None = None
    """A file that contains the password and nothing else; read again for each connection."""
    credential: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """The name of a systemd credential (LoadCredential=) that contains the password."""

    @model_validator(mode="before")
    @classmethod
    def _without_login(cls, given: object) -> object:
        """Move a password inside the URL to its own field, so that no URL is a secret."""
        if not isinstance(given, dict) or not isinstance(url := given.get("url"), str):
            return given
        parts = _split(url)
        login, at, host = (parts.netloc if parts else "").rpartition("@")
        user, colon, password = login.partition(":")
        if parts is None or not at or not colon:
            return given
        return {"password": unquote(password)} | given | {"url": parts._replace(netloc=f"{user}@{host}").geturl()}

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        self.secret()
        return self

    def secret(self) -> SecretStr | None:
        """Return the password, read from where it is kept at each call. Raises ValueError."""
        return read_password(self.password, self.password_file, self.credential)
