"""[repositories.NAME] and [pages]: the indexes that are served, their upstreams, and the ages of pages."""

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, SecretStr, field_validator, model_validator

from mirror.config.passwords import read_password
from mirror.config.values import (
    Duration,
    Flag,
    HostRules,
    IndexUrl,
    Mount,
    Patterns,
    PatternsOrTrue,
    ProxyUrl,
    ReadableFile,
    Section,
    Size,
    WordList,
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
    """The user name, where the upstream requires a login."""
    password: SecretStr | None = None
    """The password or token. It is better kept in a file of its own: see the next two."""
    password_file: ReadableFile | None = None
    """A file that contains the password and nothing else; read again when the upstream refuses the password."""
    credential: str | None = Field(default=None, pattern=r"^[A-Za-z0-9_][A-Za-z0-9._-]*$")
    """The name of a systemd credential (LoadCredential=) that contains the password."""
    ca_file: ReadableFile | None = None
    """Certificates (PEM) to trust instead of the system's, for an upstream with a private certificate."""
    proxy: ProxyUrl | None = None
    """An HTTP proxy for requests to it; may contain user:password@. Without it, those of HTTP_PROXY, HTTPS_PROXY and
    ALL_PROXY are used, but not for what NO_PROXY names."""
    allow_hosts: HostRules = ()
    """Hosts ("files.example", "*.example"), addresses and networks ("10.1.0.0/16") inside your network to which its
    links and redirects may lead. Without it, only public addresses, and those where the index itself is."""
    allow_page_redirects: HostRules = ()
    """Other hosts to which pages of projects may be redirected: what answers there counts as this index. Without it, it
    is refused, because some registries forward clients without a login to a public index."""
    forbidden_means_missing: Flag = False
    """Whether it answers 403 for what it does not have, as buckets do whose list is not public. Without it, a 403 is an
    error, except for a file where no login is set."""
    legacy_checksums: Flag = False
    """RubyGems: whether gems that are held, and for which its pages have no checksum, are listed with that of the held
    bytes. Without it, pages list what upstream lists."""
    follow: Flag = False
    """Whether to keep a replica of it, which has to be a mirror like this one: changes there arrive at once."""
    follow_only: Patterns = ()
    """Follow only these names, or patterns such as "acme-*"; the rest is fetched when a client asks for it."""

    @model_validator(mode="before")
    @classmethod
    def _spelled_out(cls, given: object) -> object:
        """Make a table of a string, and move a login inside the URL to its own fields, so that no URL is a secret."""
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
            return table  # the field reports it itself, with its place
        if url.user:
            table |= {"username": url.user} | ({"password": url.password} if url.password else {})
            url = url.with_user(None)
        place = f"{url.host}:{url.explicit_port}" if url.explicit_port else f"{url.host}"
        path = url.path.strip("/").removesuffix("simple").strip("/")
        return {"name": f"{place}/{path}" if path else place} | table | {"url": url}

    @model_validator(mode="after")
    def _has_one_password(self) -> Self:
        self.secret()
        return self

    def login(self) -> tuple[str, str] | None:
        """Return user name and password, read from where it is kept at each call, or None. Raises ValueError."""
        secret = self.secret()
        return (self.username, secret.get_secret_value() if secret else "") if self.username or secret else None

    def secret(self) -> SecretStr | None:
        """Return the password, read from where it is kept at each call. Raises ValueError."""
        return read_password(self.password, self.password_file, self.credential)


class AgesSettings(Section):
    """The ages of pages. A page changes; a file never does, and so has no age."""

    fresh: Duration = 600
    """How long a page is served without asking upstream. The public Python index lets clients keep it 10 minutes."""
    stale_while_revalidate: Duration = 300
    """How long after that a stored page is served at once and refreshed in the background; later, a client waits."""
    stale_if_error: Duration = float("inf")
    """How long a stored page is served while the upstream fails. No limit by default: a mirror exists to survive
    outages, and a page of last month still installs, where an error stops the build."""
    negative: Duration = 60
    """How long a project is known not to exist upstream; short, so that a new project appears soon."""
    recheck: Duration = 2
    """How old a page may be for clients that say `no-cache` or `max-age=0`, as pip up to 26.1 always does: upstream is
    asked for it at most once in this time. Uploads are seen at once."""


class PagesSettings(AgesSettings):
    """[pages]: the index documents."""

    memory: Size = 64_000_000
    """How much memory pages may take in all: parsed, rendered, compressed, and as responses that can be repeated."""
    disk: Size = 1_000_000_000
    """How much rendered pages may take on disk, compressed, below `rendered` in the data directory: from there they are
    served at once that memory has no room for, also after a restart. They take at most a tenth of what is free there,
    and may be deleted at any time. 0: none are kept."""
    max_size: Size = 256_000_000
    """The largest page that is accepted from an upstream, decompressed."""


class RepositorySettings(Section):
    """[repositories.NAME]: one index that is served. Names are lower-case letters, digits, `_` and `-`."""

    format: Literal["pypi", "rubygems"]
    """The clients that it serves: "pypi" or "rubygems"."""
    mount: Mount = "/"
    """Where it is served: at "/", the index is /simple/; at "/team", it is /team/simple/. Without it, a repository
    that is named like its format is at "/" and any other at /NAME."""
    upstreams: Annotated[tuple[UpstreamSettings, ...], WordList, BeforeValidator(listed)] = ()
    """Where its projects come from, in this order: the first that has a project provides it. The next one is asked only
    for what those before it say they have not, and never had."""
    private: Patterns = ()
    """Names, or patterns such as "acme-*", that are never requested from an upstream."""
    union: PatternsOrTrue = ()
    """Names or patterns whose files are merged from all sources by file name, the earlier source winning; true: all."""
    pages: AgesSettings = AgesSettings()
    """[repositories.NAME.pages]: ages that differ from those of [pages]."""

    @property
    def open_to_confusion(self) -> bool:
        """Whether every name that its first upstream never had is asked of the next one, whatever the name is."""
        return len(self.upstreams) > 1 and not self.private and not self.union

    @model_validator(mode="after")
    def _checksums_of_gems(self) -> Self:
        if self.format == "pypi" and any(upstream.legacy_checksums for upstream in self.upstreams):
            raise ValueError("has an upstream with legacy_checksums, which is for RubyGems alone")
        return self

    @field_validator("upstreams")
    @classmethod
    def _names_differ(cls, upstreams: tuple[UpstreamSettings, ...]) -> tuple[UpstreamSettings, ...]:
        names = [upstream.name for upstream in upstreams]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"has two upstreams called {name!r}: remove one, or set its `name`")
        return upstreams
