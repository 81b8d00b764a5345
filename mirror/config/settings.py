"""The settings: one frozen class for each section of the file, and `Settings`, which holds them all.

To add a section, write a class here and a field in `Settings`, then the same keys in config/mirror.toml; environment,
error messages and the reference follow by themselves. The docstring below a field is its text in the reference. The
sections about indexes, access and policy have modules of their own.
"""

import fnmatch
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from mirror.config.auth import AuthSettings
from mirror.config.blobs import BlobsSettings
from mirror.config.catalog import CatalogSettings
from mirror.config.node import NodeSettings, address_of_node
from mirror.config.policy import PoliciesSettings, RuleSettings
from mirror.config.repositories import AgesSettings, PagesSettings, RepositorySettings
from mirror.config.values import (
    Address,
    Addresses,
    Duration,
    FilePath,
    Flag,
    HostPatterns,
    Mode,
    Networks,
    ReadableFile,
    Section,
    Size,
    Whole,
    WordList,
    listed,
)

DEFAULT_REPOSITORIES: Mapping[str, Mapping[str, object]] = {
    "pypi": {"format": "pypi", "mount": "/", "upstreams": ["https://pypi.org/simple/"]},
    "rubygems": {"format": "rubygems", "mount": "/", "upstreams": ["https://rubygems.org/"]},
}
"""What is served when no file names a repository."""

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Texts = Annotated[tuple[Text, ...], WordList, BeforeValidator(listed)]


class NetworkSettings(Section):
    """[network]: requests to upstreams."""

    connect_timeout: Duration = 10
    """How long a connection may take to open."""
    stale_timeout: Duration = 3
    """How long a client waits for an upstream where something is stored that can be served instead."""
    read_timeout: Duration = 20
    """How long an upstream may be silent in the middle of a response."""
    minimum_rate: Size = 1024
    """How many bytes per second of a file have to arrive, over ten seconds of waiting; 0 for no limit."""
    page_timeout: Duration = 30
    """How long a page may take in all, with its retries. Files have no such limit, as long as bytes arrive."""
    retries: Whole = Field(default=3, ge=0, le=20)
    """How often a request that may be repeated is tried again, with growing pauses; twice as often where the upstream
    asks for fewer requests (429)."""
    connections: Whole = Field(default=100, ge=1, le=10_000)
    """The most connections to one upstream at once."""
    breaker_failures: Whole = Field(default=5, ge=1)
    """After how many failures in a row an address is paused, or with different addresses a class of them (pages, files,
    JSON …), or without a connection the host; meanwhile what is stored is served at once."""
    breaker_seconds: Duration = 30
    """How long it is paused, a minute at most; then one request finds out whether it is back."""
    api_rate: float = Field(default=10, ge=0)
    """The most requests per second to the JSON API of an upstream, which limits those; 0 for no limit."""
    user_agent: str = Field(default="", max_length=200, pattern=r"^[\x20-\x7e]*$")
    """Added to the User-Agent `mirror/<version>`: a team or an address to which upstreams can write."""


class LimitsSettings(Section):
    """[limits]: the limits of what clients may send and keep open."""

    upload: Size = 4_000_000_000
    """The largest upload."""
    form: Size = 8_000_000
    """The largest upload form in all, without the file."""
    forms: Size = 64_000_000
    """The most memory for the forms that are being received, of all clients together."""
    client_share: float = Field(default=0.25, gt=0, le=1)
    """The part of all connections, and of the memory for forms, that one client may take: an address, or a network of
    /64 where that is IPv6. Trusted proxies may take all; of their clients, what each sends is counted."""
    form_fields: Whole = Field(default=4096, ge=1)
    """The most fields that an upload form may have."""
    headers: Size = 65_536
    """The largest headers of a request, in all."""
    connections: Whole = Field(default=20_000, ge=16)
    """The most connections of clients at once; the one that has been idle longest is closed for a new one. The limit of
    open files (LimitNOFILE=) lowers it, where that is less."""
    idle: Duration = Field(default=75, gt=0)
    """How long a connection may be idle."""
    head_time: Duration = Field(default=20, gt=0)
    """How long the headers of a request may take to arrive."""
    body_rate: Size = 1000
    """How many bytes of a body have to arrive in a second, on average over half a minute."""
    stall: Duration = Field(default=120, gt=0)
    """How long a client may neither send what it has announced nor receive what it has requested."""
    shutdown_grace: Duration = 30
    """How long responses may continue after SIGTERM."""


class TLSSettings(Section):
    """[tls]: with a certificate, every TCP address is https; Unix sockets stay plain."""

    certificate: ReadableFile | None = None
    """The certificate with its chain (PEM). A replaced file is used within seconds, and on SIGHUP."""
    key: ReadableFile | None = None
    """Its key (PEM), where that is not in the same file."""

    @model_validator(mode="after")
    def _key_has_a_certificate(self) -> Self:
        if self.key and not self.certificate:
            raise ValueError("has a key, but no certificate")
        return self


class ProxiesSettings(Section):
    """[proxies]: reverse proxies in front of the mirror."""

    trusted: Networks = ()
    """Addresses and networks whose X-Forwarded-For, -Proto, -Host and -Prefix, or Forwarded, are believed; "unix" is
    every client of a Unix socket. From all others these headers are ignored."""
    standard: Flag = False
    """Whether proxies set Forwarded (RFC 7239): then X-Forwarded-* are always ignored."""


class LogSettings(Section):
    """[log]: messages go to standard error, and one line for each request to standard output."""

    format: Literal["auto", "text", "json"] = "auto"
    """"text" or "json"; "auto" is text on a terminal and JSON elsewhere."""
    access: Flag = True
    """Whether each request gets a line, with hit, miss, joined, stale or offline."""
    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least serious messages that are written."""


class StoreSettings(Section):
    """[store]: how much is kept on disk, and how it is verified."""

    limit: Size | None = None
    """The most that files may take; above it the least recently used are evicted. Uploads, files of a sync set and
    files that upstream no longer has are never evicted. Without a limit everything is kept."""
    min_age: Duration = 86_400
    """A file that was requested within this time is not evicted, even when the limit is exceeded."""
    sweep_every: Duration = 600
    """How often `serve` checks whether files have to be evicted, when there is a limit."""
    keep_unverified: Flag = True
    """Whether a file is kept of which its index lists no digest that can be compared; it is served in any case."""
    verify_rate: Size = 0
    """How many bytes of the store `serve` verifies in a second, to find damage on the disk; 0 for none."""


class FeedSettings(Section):
    """[feed]: the journal of changes, which other mirrors follow."""

    keep: Duration = Field(default=30 * 86_400, ge=1)
    """How long changes are kept. A follower that has been away for longer compares everything that is held."""


class SyncSettings(Section):
    """[[sync]]: one set of files. Its lock files are read each time; what they no longer name may be evicted."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """The name of the set in logs and in the catalog."""
    files: Texts = ()
    """Lock and requirements files, by absolute path."""
    names: Texts = ()
    """Names with specifiers: "requests", "django>=4.2", "rack:~> 3.0"; "gem:rack" is a gem of any version."""
    newest: Whole = Field(default=1, ge=0)
    """How many of the newest versions, for a name that leaves the version open; 0 for all of them."""
    dependencies: Flag = True
    """Whether uv and bundler resolve what is not locked; without it, only what is named is fetched."""
    python: Texts = ()
    """For which versions of Python: "3.12", "3.13t". Without it, the version that runs the mirror."""
    platforms: Texts = ()
    """For which platforms: "linux-x86_64", "macos-arm64", … Without it, this machine."""
    sdists: Flag = False
    """Whether sdists are fetched as well; without it, only where there is no wheel."""
    repositories: Texts = ()
    """From which repositories; without it, from the first one of the right format."""
    every: Duration = Field(default=86400, ge=60)
    """How long after it was fetched the set is fetched again."""


def default_data_dir() -> Path:
    """Return systemd's STATE_DIRECTORY, else `mirror` in the user's data directory (XDG). Raises ValueError."""
    if state := os.environ.get("STATE_DIRECTORY"):
        return Path(state.split(":")[0])  # several are possible; the first one is used
    data = os.environ.get("XDG_DATA_HOME", "")
    try:
        # XDG Base Directory: a relative path is invalid and ignored.
        return (Path(data) if os.path.isabs(data) else Path.home() / ".local" / "share") / "mirror"
    except RuntimeError:
        raise ValueError("is not set, and there is no home directory: set it, or MIRROR_DATA_DIR") from None


def default_repositories() -> dict[str, RepositorySettings]:
    """Return the repositories that are served without a file: the public indexes, both at the root."""
    return {name: RepositorySettings.model_validate(table) for name, table in DEFAULT_REPOSITORIES.items()}


class Settings(Section):
    """All settings. `Settings()` is the mirror without a file; `mirror.config.load` reads one."""

    listen: Addresses = (Address("127.0.0.1", 8484),)
    """Where to listen: "host:port", "[::1]:port" or "unix:/path"; several are possible."""
    allowed_hosts: HostPatterns = ()
    """The names under which clients reach the mirror, or patterns such as "*.example.com"; requests for other names are
    refused with 421. Without any, an address of loopback answers to names of loopback only, and others to every name.
    Of a trusted proxy, the name counts that it forwards."""
    data_dir: FilePath = Field(default_factory=default_data_dir)
    """Where everything is stored. By default systemd's STATE_DIRECTORY, else `mirror` in the user's data directory."""
    socket_mode: Mode = 0o666
    """Who may connect to Unix sockets, as `chmod` writes it: "0660" is for their user and group."""
    offline: Flag = False
    """Whether upstreams are never asked: what is held is served, and everything else is answered with an error."""
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
    node: NodeSettings = NodeSettings()
    """[node]"""
    sync: tuple[SyncSettings, ...] = ()
    """[[sync]]: sets of files that are fetched before clients ask for them."""
    store: StoreSettings = StoreSettings()
    """[store]"""
    catalog: CatalogSettings = CatalogSettings()
    """[catalog]"""
    blobs: BlobsSettings = BlobsSettings()
    """[blobs]"""
    feed: FeedSettings = FeedSettings()
    """[feed]"""
    policy: tuple[RuleSettings, ...] = ()
    """[[policy]]: what is not let through. Of several rules the strictest counts, whatever their order."""
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
        """Fill in the mounts that follow from the repositories' names."""
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
    def _patterns_match_a_repository(self) -> Self:
        """Check that every pattern matches a repository: one that matches none leaves open what it should close."""
        used = [("auth", pattern) for pattern in self.auth.repositories()]
        used += [(f"policy {rule.name!r}", pattern) for rule in self.policy for pattern in rule.repositories]
        for where, pattern in used:
            if not any(fnmatch.fnmatchcase(name, pattern) for name in self.repositories):
                raise ValueError(f"{where}: {pattern!r} fits none of the repositories")
        return self

    @model_validator(mode="after")
    def _node_has_a_place_of_its_own(self) -> Self:
        """Check that there are other nodes, and that they do not reach what answers clients."""
        if self.node.address is None:
            return self
        if self.catalog.url is None:
            raise ValueError("node: has an address, but no [catalog] url: nodes share a catalog in PostgreSQL")
        place = address_of_node(self.node.address)
        for one in self.listen:
            if one.path is None and one.port == place.port and one.host in (place.host, "0.0.0.0", "::"):
                raise ValueError(f"node: has the address of `listen` ({one}): give it a port of its own")
        return self

    @property
    def catalog_file(self) -> Path:
        """The path of the database, where [catalog] names none."""
        return self.data_dir / "catalog.sqlite"

    def ages(self, repository: str) -> AgesSettings:
        """Return the ages for a repository: its own where it sets them, else those of [pages]."""
        common = self.pages.model_dump(include=set(AgesSettings.model_fields))
        return AgesSettings(**common | self.repositories[repository].pages.model_dump(exclude_unset=True))


def _mounted(name: str, table: Any) -> object:
    if not isinstance(table, dict) or "mount" in table:
        return table
    return {**table, "mount": "/" if table.get("format") == name else f"/{name}"}
