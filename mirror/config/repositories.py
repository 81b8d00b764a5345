"""[repositories.NAME] and [pages]: the indexes that are served, the upstreams that they come from, and ages of pages.

Nothing here reads the environment or the network; of the file system only what a setting names (a password file,
a certificate) is opened.
"""

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from mirror.config.values import (
    Duration,
    Flag,
    IndexUrl,
    Mount,
    Patterns,
    PatternsOrTrue,
    ProxyUrl,
    ReadableFile,
    Section,
    Size,
    index_url,
    listed,
)


class UpstreamSettings(Section):
    """[[repositories.NAME.upstreams]]: an index that files come from. A string stands for a table with only `url`."""

    url: IndexUrl
    """The address of the index: for PyPI the simple index (…/simple/), for RubyGems the root."""
    name: str = Field(default="", max_length=200)
    """What logs, metrics and `mirror status` call it; without it, the host and path of its URL."""
    username: str = ""
    """Who we are, where the upstream asks for a login."""
    password: SecretStr | None = None
    """The password or token. Better kept in a file of its own: see the next two."""
    password_file: ReadableFile | None = None
    """A file that holds the password and nothing else."""
    credential: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """The name of a systemd credential (LoadCredential=) that holds the password."""
    ca_file: ReadableFile | None = None
    """Certificates (PEM) to trust instead of the system's, for an upstream with a certificate of its own."""
    proxy: ProxyUrl | None = None
    """An HTTP proxy on the way to it; may hold user:password@."""
    follow: Flag = False
    """It is a mirror like this one: have at once what changes there, and hold what it holds."""
    follow_only: Patterns = ()
    """Follow only these names, or patterns such as "acme-*"; the rest comes when it is asked for, as always."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: object) -> object:
        """A string becomes a table; a login inside the URL moves to its own fields, so that no URL is a secret."""
        if isinstance(given, UpstreamSettings):
            return given
        table: dict[str, object] = {"url": given} if isinstance(given, str) else {}
        if isinstance(given, dict):
            table |= given
        if not table:
            raise ValueError("should be a URL, or a table with `url`")
        try:
            url = index_url(table.get("url"))
        except ValueError:
            return table  # the field says so itself, with its place
        if url.user:
            table |= {"username": url.user} | ({"password": url.password} if url.password else {})
            url = url.with_user(None)
        place = f"{url.host}:{url.explicit_port}" if url.explicit_port else f"{url.host}"
        path = url.path.strip("/").removesuffix("simple").strip("/")
        return {"name": f"{place}/{path}" if path else place} | table | {"url": url}

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        if sum(given is not None for given in (self.password, self.password_file, self.credential)) > 1:
            raise ValueError("should have only one of password, password_file and credential")
        self.secret()
        return self

    def secret(self) -> SecretStr | None:
        """The password, from wherever it is kept; it is read anew on each call. Raises ValueError."""
        if self.credential is not None:
            directory = os.environ.get("CREDENTIALS_DIRECTORY")
            if not directory:
                raise ValueError("names a credential, but systemd has not given any (CREDENTIALS_DIRECTORY is not set)")
            return _content(Path(directory, self.credential), f"the credential {self.credential!r}")
        if self.password_file is not None:
            return _content(self.password_file, "password_file")
        return self.password


def _content(path: Path, what: str) -> SecretStr:
    try:
        with path.open("rb") as file:
            text = file.read(65536).decode().strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"cannot read {what}") from None
    if not text:
        raise ValueError(f"finds nothing in {what}")
    return SecretStr(text)


class AgesSettings(Section):
    """How long a page is good for. A page changes; a file never does, and so has no age."""

    fresh: Duration = 600
    """How long a page is served without asking upstream. The public Python index tells its own clients 10 minutes."""
    stale_while_revalidate: Duration = 300
    """For so long after that, the stored page is served at once and refreshed behind; later, a client waits."""
    stale_if_error: Duration = float("inf")
    """For how long a stored page is served while the upstream fails. No limit by default: a mirror exists to survive
    outages, and a page of last month still installs, where an error stops the build."""
    negative: Duration = 60
    """How long we remember that a project does not exist upstream; short, so that a new project appears soon."""


class PagesSettings(AgesSettings):
    """[pages]: the index documents."""

    memory: Size = 64_000_000
    """How much memory rendered pages may take, with their compressed forms."""
    max_size: Size = 256_000_000
    """The largest page that is accepted from an upstream, decompressed."""


class RepositorySettings(Section):
    """[repositories.NAME]: one index that is served. Names are lower-case letters, digits, `_` and `-`."""

    format: Literal["pypi", "rubygems"]
    """Which clients it is for: "pypi" or "rubygems"."""
    mount: Mount = "/"
    """Where it is served: at "/", the index is /simple/; at "/team", it is /team/simple/. Without it, a repository
    named like its format is at "/" and any other at /NAME."""
    upstreams: Annotated[tuple[UpstreamSettings, ...], NoDecode, BeforeValidator(listed)] = ()
    """Where its projects come from, asked in this order. The first that has a project is the only one asked for it."""
    private: Patterns = ()
    """Names, or patterns such as "acme-*", that are never asked upstream."""
    union: PatternsOrTrue = ()
    """Names or patterns whose files are merged from all sources by file name, the earlier source winning; true: all."""
    pages: AgesSettings = AgesSettings()
    """[repositories.NAME.pages]: ages that differ from those of [pages]."""

    @field_validator("upstreams")
    @classmethod
    def _names_differ(cls, upstreams: tuple[UpstreamSettings, ...]) -> tuple[UpstreamSettings, ...]:
        names = [upstream.name for upstream in upstreams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"has two upstreams called {name!r}: remove one, or set its `name`")
        return upstreams
