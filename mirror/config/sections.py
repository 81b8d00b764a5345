"""The settings: one frozen class per section of the file, and `Settings`, which holds them all.

To add a section, write one class here and one field in `Settings`, then the same keys in config/mirror.toml; the
environment, the errors with their places and the reference follow by themselves. Docstrings below a field are
what the reference says about it. Nothing here reads the environment or the network; of the file system only what
a setting itself names (a certificate, a password file) is opened.
"""

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator
from pydantic_settings import NoDecode

from mirror.config.auth import AuthSettings
from mirror.config.feed import FeedSettings
from mirror.config.policy import PoliciesSettings, RuleSettings
from mirror.config.section import Section
from mirror.config.store import StoreSettings
from mirror.config.sync import SyncSettings
from mirror.config.values import (
    Address,
    Addresses,
    Duration,
    FilePath,
    Flag,
    IndexUrl,
    Mode,
    Mount,
    Networks,
    Patterns,
    PatternsOrTrue,
    ProxyUrl,
    ReadableFile,
    Size,
    Whole,
    index_url,
    listed,
)

DEFAULT_REPOSITORIES: Mapping[str, Mapping[str, object]] = {
    "pypi": {"format": "pypi", "mount": "/", "upstreams": ["https://pypi.org/simple/"]},
    "rubygems": {"format": "rubygems", "mount": "/", "upstreams": ["https://rubygems.org/"]},
}
"""What is served when no file names a repository."""


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


class NetworkSettings(Section):
    """[network]: how upstreams are asked."""

    connect_timeout: Duration = 3
    """How long a connection may take to open. Short: it is all that an unreachable upstream costs a client."""
    read_timeout: Duration = 20
    """How long an upstream may be silent in the middle of an answer."""
    page_timeout: Duration = 30
    """How long a page may take in all, retries included. Files have no such limit, as long as bytes arrive."""
    retries: Whole = Field(default=3, ge=0, le=20)
    """How often a request that may be repeated is repeated, with growing pauses."""
    connections: Whole = Field(default=100, ge=1, le=10_000)
    """The most connections that are open to one upstream at once."""
    breaker_failures: Whole = Field(default=5, ge=1)
    """After so many failures in a row an upstream is not asked for a while; what is stored is served at once."""
    breaker_seconds: Duration = 30
    """How long that while is; then one request tries whether it is back."""
    user_agent: str = Field(default="", max_length=200, pattern=r"^[\x20-\x7e]*$")
    """Added to the User-Agent `mirror/<version>`: a team or an address, so that upstreams know whom to write to."""


class LimitsSettings(Section):
    """[limits]: what a client may ask of us."""

    upload: Size = 4_000_000_000
    """The largest upload."""
    form: Size = 8_000_000
    """The most that the fields of an upload form may take in all, without the file."""
    form_fields: Whole = Field(default=4096, ge=1)
    """The most fields that an upload form may have."""
    headers: Size = 65_536
    """The most that the headers of a request may take."""
    connections: Whole = Field(default=20_000, ge=16)
    """The most clients that are connected at once; the one that has been idle longest makes room. As many as the limit
    of open files (LimitNOFILE=) bears, where that is less."""
    idle: Duration = Field(default=75, gt=0)
    """How long a connection may be idle."""
    head_time: Duration = Field(default=20, gt=0)
    """How long the headers of a request may take to arrive."""
    stall: Duration = Field(default=120, gt=0)
    """How long a client may neither send what it has announced nor take what it has asked for."""
    shutdown_grace: Duration = 30
    """How long running answers may go on after SIGTERM."""


class TLSSettings(Section):
    """[tls]: with a certificate, every TCP address is https; Unix sockets stay plain."""

    certificate: ReadableFile | None = None
    """The certificate with its chain (PEM). Replaced files are taken up within seconds, and on SIGHUP."""
    key: ReadableFile | None = None
    """Its key (PEM), where that does not stand in the same file."""

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.key and not self.certificate:
            raise ValueError("has a key, but no certificate")
        return self


class ProxiesSettings(Section):
    """[proxies]: reverse proxies in front of the mirror."""

    trusted: Networks = ()
    """Addresses and networks whose X-Forwarded-For, -Proto, -Host and -Prefix, or Forwarded, are believed; "unix" is
    whoever comes over a Unix socket. From everybody else these headers mean nothing."""
    standard: Flag = False
    """The proxy sets Forwarded (RFC 7239): then X-Forwarded-* mean nothing, from nobody."""


class LogSettings(Section):
    """[log]: messages go to standard error, and one line for each request to standard output."""

    format: Literal["auto", "text", "json"] = "auto"
    """"text" or "json"; "auto" is text on a terminal and JSON elsewhere."""
    access: Flag = True
    """One line for each request, with hit, miss, joined, stale or offline."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious messages that are written."""


def default_data_dir() -> Path:
    """systemd's STATE_DIRECTORY, else `mirror` in the user's data directory (XDG). Raises ValueError."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])  # several are possible; the first one is ours
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        # XDG Base Directory: a relative path is invalid and ignored.
        return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "mirror"
    except RuntimeError:
        raise ValueError("is not set, and there is no home directory: set it, or MIRROR_DATA_DIR") from None


def default_repositories() -> dict[str, RepositorySettings]:
    """The repositories that are served without a file: the public indexes, both at the root."""
    return {name: RepositorySettings.model_validate(table) for name, table in DEFAULT_REPOSITORIES.items()}


class Settings(Section):
    """Everything that can be set. `Settings()` is the mirror without a file; `mirror.config.load` reads one."""

    listen: Addresses = (Address("127.0.0.1", 8484),)
    """Where to listen: "host:port", "[::1]:port" or "unix:/path"; several are possible."""
    data_dir: FilePath = Field(default_factory=default_data_dir)
    """Where everything is kept. By default systemd's STATE_DIRECTORY, else `mirror` in the user's data directory."""
    socket_mode: Mode = 0o666
    """Who may connect to Unix sockets, as `chmod` writes it: "0660" is for their user and group."""
    offline: Flag = False
    """Never ask an upstream: serve what is held, and say so about the rest."""
    repositories: dict[str, RepositorySettings] = Field(default_factory=default_repositories)
    """[repositories.NAME]: the indexes that are served. Without any, the public ones are mirrored."""
    pages: PagesSettings = PagesSettings()
    """[pages]"""
    network: NetworkSettings = NetworkSettings()
    """[network]"""
    limits: LimitsSettings = LimitsSettings()
    """[limits]"""
    tls: TLSSettings = TLSSettings()
    """[tls]"""
    proxies: ProxiesSettings = ProxiesSettings()
    """[proxies]"""
    log: LogSettings = LogSettings()
    """[log]"""
    auth: AuthSettings = AuthSettings()
    """[auth]"""
    sync: tuple[SyncSettings, ...] = ()
    """[[sync]]: sets of files that are fetched ahead of demand, and kept so."""
    store: StoreSettings = StoreSettings()
    """[store]"""
    feed: FeedSettings = FeedSettings()
    """[feed]"""
    policy: tuple[RuleSettings, ...] = ()
    """[[policy]]: what may not come through. Of several rules the strictest counts, in whatever order they stand."""
    policies: PoliciesSettings = PoliciesSettings()
    """[policies]"""

    @field_validator("listen")
    @classmethod
    def _listens_somewhere(cls, addresses: tuple[Address, ...]) -> tuple[Address, ...]:
        if not addresses:
            raise ValueError("should name at least one address")
        return addresses

    @field_validator("repositories", mode="before")
    @classmethod
    def _mounts_by_name(cls, given: object) -> object:
        """Fill in the mount that follows from a repository's name."""
        if not isinstance(given, dict):
            return given
        return {name: _mounted(name, table) for name, table in given.items()}

    @field_validator("repositories")
    @classmethod
    def _do_not_overlap(cls, repositories: dict[str, RepositorySettings]) -> dict[str, RepositorySettings]:
        if not repositories:
            raise ValueError("should name at least one repository")
        seen: dict[tuple[str, str], str] = {}
        for name, repository in repositories.items():
            if not name.replace("-", "a").replace("_", "a").isalnum() or name != name.lower() or not name.isascii():
                raise ValueError(f"has the name {name!r}: names are lower-case letters, digits, '_' and '-'")
            other = seen.setdefault((repository.format, repository.mount), name)
            if other != name:
                raise ValueError(f"has {other!r} and {name!r}, of one format, both mounted at {repository.mount}")
        return repositories

    @model_validator(mode="after")
    def _rights_are_on_something(self) -> Self:
        """A rule on a repository that there is not would leave open what it was meant to close."""
        used = [("auth", pattern) for pattern in self.auth.repositories()]
        used += [(f"policy {rule.name!r}", pattern) for rule in self.policy for pattern in rule.repositories]
        for where, pattern in used:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in self.repositories):
                raise ValueError(f"{where}: {pattern!r} fits none of the repositories")
        return self

    @property
    def catalog_file(self) -> Path:
        """The database, when it is a file."""
        return self.data_dir / "catalog.sqlite"

    def ages(self, repository: str) -> AgesSettings:
        """The ages that hold for a repository: its own where it sets them, else those of [pages]."""
        common = self.pages.model_dump(include=set(AgesSettings.model_fields))
        return AgesSettings(**common | self.repositories[repository].pages.model_dump(exclude_unset=True))


def _mounted(name: str, table: Any) -> object:
    if not isinstance(table, dict) or "mount" in table:
        return table
    return {**table, "mount": "/" if table.get("format") == name else f"/{name}"}
