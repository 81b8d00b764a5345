"""What `mirror doctor` looks at: an index at a URL, or this mirror with its machine. Prints nothing."""

import asyncio
import base64
import ssl
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import NamedTuple

import aiohttp
import msgspec
from yarl import URL

from mirror import __version__
from mirror.catalog.inspection import held_projects, inspect
from mirror.cli.ask import get_from_address, get_from_url, json_from_address, json_from_url, proves
from mirror.config import RepositorySettings, Settings, UpstreamSettings
from mirror.doctor import (
    ExamineOptions,
    Finding,
    IndexClient,
    Login,
    Requirement,
    WireSession,
    machine,
    open_session,
)
from mirror.doctor.database import check_database, check_nodes
from mirror.doctor.objects import check_object_store
from mirror.errors import ConfigError, Invalid, MirrorError, UpstreamError
from mirror.index.ecosystem import Ecosystem
from mirror.service.directory import served_by
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.store import catalog_password
from mirror.transfer.nodes import NodeClient
from mirror.upstream import Outgoing

_SERVES = Requirement("index/serves", "There is an index at the URL.", "everyone whose client uses it")
_CONFIGURATION = Requirement(
    "mirror/settings", "The settings are right.", "everyone: `mirror serve` does not start with them"
)
_RUNNING = Requirement("mirror/running", "The mirror runs and answers.", "everyone")
_READY = Requirement(
    "mirror/ready",
    "It is ready, and can keep what it fetches.",
    "everyone: uploads are refused, downloads are not kept",
)
_SAME = Requirement(
    "mirror/version",
    "The running mirror has the version that is installed.",
    "everyone who expects what the newer version does",
)
_LISTENS = Requirement("mirror/listens", "It answers at every address of `listen`.", "clients that use that address")


class DoctorSection(msgspec.Struct, frozen=True):
    """Findings about one index, or about this mirror."""

    about: str
    findings: list[Finding]


class DoctorOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The options of `mirror doctor`."""

    project: str | None = None
    gem: str | None = None
    upload: str | None = None
    token: str | None = None

    def for_ecosystem(self, ecosystem: Ecosystem, held: tuple[str, ...] = ()) -> ExamineOptions:
        """Return it for one ecosystem; `held` are projects that can be looked at if none is named."""
        project = {"project": self.project, "gem": self.gem}[ecosystem.noun]
        return ExamineOptions(project=project, held=held, upload=self.upload, token=self.token)


# An index at a URL


async def examine_url(text: str, wanted: DoctorOptions) -> list[DoctorSection]:
    """Examine an index at a URL, of whatever ecosystem it is. Raises Invalid when it is no URL."""
    url = _url(text)
    async with open_session(Outgoing(url.with_user(None))) as session:
        return await _examine(session, url, tuple(ECOSYSTEMS), wanted, {})


def _url(text: str) -> URL:
    try:
        url = URL(text)
    except ValueError:
        url = URL()
    if url.scheme not in {"http", "https"} or not url.host:
        raise Invalid("The URL of an index begins with http:// or https:// and names a host.")
    return url.with_query(None).with_fragment(None)


async def _examine(
    session: WireSession,
    url: URL,
    formats: Sequence[str],
    wanted: DoctorOptions,
    held: dict[str, tuple[str, ...]],
) -> list[DoctorSection]:
    base = url.with_user(None)
    login = await _login(session, url, wanted.token)
    found: list[DoctorSection] = []
    last_error = ""
    for ecosystem in map(ECOSYSTEMS.__getitem__, formats):
        options = wanted.for_ecosystem(ecosystem, held.get(ecosystem.name, ()))
        try:
            findings = await ecosystem.examine(IndexClient(session, login), base, options)
        except UpstreamError as error:
            last_error = str(error)
            continue
        if findings is not None:
            found.append(DoctorSection(f"{ecosystem.title} index at {base}", findings))
    if not found:
        kinds = " or ".join(ECOSYSTEMS[format].title for format in formats)
        found.append(DoctorSection(str(base), [_SERVES.fails(last_error or f"no index of {kinds} was found there")]))
    return found


async def _login(session: WireSession, url: URL, token: str | None) -> Login | None:
    """Return the credentials in the URL; without any, the token, if reading needs one."""
    if url.user is not None:
        return Login(url.origin(), _basic(url.user, url.password or ""))
    if token is None:
        return None
    base = url.with_path(url.path.rstrip("/") + "/")
    indexes = [base.join(URL(one.log_path or one.index_path)) for one in ECOSYSTEMS.values()]
    for place in (*indexes, base):
        try:
            response = await IndexClient(session).get(place, most=1, part=True)
        except MirrorError:
            continue
        if response.status == 401:
            return Login(url.origin(), _basic("__token__", token))
    return None


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


# This mirror


def unusable_settings(error: ConfigError) -> list[DoctorSection]:
    """Return what can be said when the settings are wrong: nothing else can be looked at."""
    return [DoctorSection("this mirror", [_CONFIGURATION.fails(line) for line in str(error).splitlines()])]


async def examine_here(settings: Settings, wanted: DoctorOptions) -> list[DoctorSection]:
    """Examine the mirror of these settings: the machine, and then its repositories as clients see them."""
    running = await asyncio.to_thread(_RunningMirror, settings)
    status = running.status
    held = status.get("bytes")
    catalog = await _inspect_catalog(settings)
    upstreams = [] if settings.offline else [(one.name, await _ask_upstream(one)) for one in _upstreams(settings)]
    now = time.time()
    offsets = {name: clock - now for name, (clock, _) in upstreams if clock is not None}
    troubles = {name: trouble for name, (_, trouble) in upstreams} | running.paused_upstreams()
    findings = [
        _CONFIGURATION.ok(),
        *await asyncio.to_thread(running.findings),
        *machine.check_storage(settings, held if isinstance(held, int) else 0),
        *await check_object_store(settings, catalog.files),
        *catalog.findings,
        machine.check_upstreams(troubles, settings.offline),
        machine.check_names(settings),
        *machine.check_clock(now, offsets, catalog.newest),
        *machine.check_certificate(settings, datetime.now(UTC)),
        machine.check_libraries(),
    ]
    return [DoctorSection("this mirror", findings), *await running.repositories(wanted)]


class CatalogReport(NamedTuple):
    """The state of the catalog, as far as it can be found out."""

    findings: list[Finding]
    newest: float | None = None
    """When something changed last, in seconds since the epoch; None where that cannot be found out."""
    files: int | None = None
    """The identity of the object store that has the files, if the catalog tells."""


async def _inspect_catalog(settings: Settings) -> CatalogReport:
    """Return how the catalog is."""
    if settings.catalog.url is not None:
        return await _inspect_database(settings, settings.catalog.url)
    if not settings.catalog_file.exists():
        return CatalogReport([machine.catalog_not_checked("there is none yet")])
    try:
        inspection = await asyncio.to_thread(inspect, settings.catalog_file)
    except OSError as error:
        return CatalogReport([machine.catalog_not_checked(f"it cannot be opened: {error.strerror}")])
    return CatalogReport([machine.check_catalog(inspection.damage, inspection.unfinished)], inspection.newest)


async def _inspect_database(settings: Settings, url: str) -> CatalogReport:
    try:
        from mirror.catalog.postgres.inspection import inspect_database
    except ModuleNotFoundError:
        return CatalogReport([machine.catalog_not_checked("pip install 'mirror[postgres]'")])
    formats = {name: one.format for name, one in settings.repositories.items()}
    seen = await inspect_database(url, catalog_password(settings), formats)
    findings = check_database(seen.trouble, seen.latency, seen.offset, seen.schema, seen.known)
    if not seen.trouble and settings.node.address is not None:
        client = NodeClient(settings.node.secret())
        answers = await asyncio.gather(*(client.answers(address) for address in seen.nodes))
        await client.close()
        findings.append(check_nodes(dict(zip(seen.nodes, answers, strict=True))))
    return CatalogReport(findings, seen.newest, seen.files)


def _upstreams(settings: Settings) -> list[UpstreamSettings]:
    every = (one for repository in settings.repositories.values() for one in repository.upstreams)
    return list({one.name: one for one in every}.values())


async def _ask_upstream(upstream: UpstreamSettings) -> tuple[float | None, str]:
    """Return the time of an upstream's clock, and what is wrong with it (empty: nothing), from one HEAD request."""
    url = URL(str(upstream.url))
    secret = upstream.secret()
    login = (
        Login(url.origin(), _basic(upstream.username, secret.get_secret_value() if secret else ""))
        if upstream.username or secret
        else None
    )
    try:
        outgoing = Outgoing(
            url,
            ca_file=upstream.ca_file,
            proxy=upstream.proxy.get_secret_value() if upstream.proxy else None,
            allow_hosts=upstream.allow_hosts,
        )
    except ConfigError as error:
        return None, str(error)
    async with open_session(outgoing) as session:
        try:
            response = await IndexClient(session, login).head(url, Accept="*/*")
        except MirrorError as error:
            return None, str(error)
    return machine.time_sent(response), machine.trouble_of(response)


class _RunningMirror:
    """The process that serves from the data directory, if there is one."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        try:
            running = served_by(settings.data_dir)
        except OSError:
            running = None  # only the server may read the directory: its configured addresses are tried
        self._secret = running.secret if running else b""
        configured = [f"unix:{one.path}" if one.path else str(one.url) for one in settings.listen]
        self.urls = list(running.urls) if running and running.urls else configured
        self.base = next((url for url in self.urls if url.startswith(("http://", "https://"))), None)
        self.status = self._ask_status()

    def _ask_status(self) -> dict[str, object]:
        responses = [json_from_url(self.base, "/-/status")] if self.base and URL(self.base).scheme == "http" else []
        if not any(responses):
            responses = [json_from_address(address, "/-/status") for address in self._settings.listen]
        return next((one for one in responses if one and "running" in one), {})

    def findings(self) -> list[Finding]:
        """Return whether it runs, is ready and answers where it should."""
        if not self.status:
            return [_RUNNING.fails(f"no mirror answers at {', '.join(self.urls)}")]
        version = self.status.get("version")
        degraded = str(self.status.get("degraded") or "")
        silent = [
            str(address)
            for address in self._settings.listen
            if (address.path or address.port) and get_from_address(address, "/health") is None
        ]
        return [
            _RUNNING.ok(", ".join(self.urls)),
            _READY.judge(self._ready() and not degraded, degraded or "/ready is not answered 200"),
            _SAME.judge(version == __version__, f"{version} runs, {__version__} is installed: restart it"),
            _LISTENS.judge(not silent, f"no mirror answers at {', '.join(silent)}"),
        ]

    def _ready(self) -> bool:
        responses = [get_from_url(self.base, "/ready")] if self.base else []
        if not any(responses):
            responses = [get_from_address(address, "/ready") for address in self._settings.listen]
        return any(response is not None and response.status == 200 for response in responses)

    def paused_upstreams(self) -> dict[str, str]:
        """Return upstream → why the running mirror does not ask it at present."""
        listed = self.status.get("upstreams")
        return {
            str(one.get("name")): f"the mirror has paused it: {one.get('last_error')}"
            for one in (listed if isinstance(listed, list) else [])
            if isinstance(one, dict) and one.get("state") == "down"
        }

    async def repositories(self, wanted: DoctorOptions) -> list[DoctorSection]:
        """Examine each repository as its clients see it."""
        if not self.status:
            return []
        if wanted.token is not None and not await asyncio.to_thread(self._proves):
            wanted = msgspec.structs.replace(wanted, token=None)  # it may be anyone who listens there
        root, connector = self._connection()
        found: list[DoctorSection] = []
        async with open_session(connector) as session:
            for name, repository in self._settings.repositories.items():
                url = root.with_path(f"{repository.mount.rstrip('/')}/")
                held: dict[str, tuple[str, ...]] = {repository.format: self._held(repository)}
                sections = await _examine(session, url, [repository.format], wanted, held)
                found += [DoctorSection(f"repository {name}: {one.about}", one.findings) for one in sections]
        return found

    def _proves(self) -> bool:
        return proves(self.base or self.urls[0], self._secret)

    def _connection(self) -> tuple[URL, aiohttp.BaseConnector]:
        if self.base is not None:
            # Its certificate is for another name than this address; it is our own mirror.
            return URL(self.base), aiohttp.TCPConnector(ssl=ssl._create_unverified_context())
        path = next(one.path for one in self._settings.listen if one.path)
        return URL("http://localhost/"), aiohttp.UnixConnector(str(path))

    def _held(self, repository: RepositorySettings) -> tuple[str, ...]:
        sources = [str(one.url) for one in repository.upstreams]
        if self._settings.catalog.url is not None:
            return ()
        try:
            return held_projects(self._settings.catalog_file, sources) if sources else ()
        except OSError:
            return ()
