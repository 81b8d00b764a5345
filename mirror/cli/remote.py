"""Sync and follow beside a running mirror: over HTTP like any client, while its store is only read.

So the process that serves is the only one that writes pages and fetches files, and a sync joins the downloads of its
clients. The last byte of a file is asked for alone: it can be read as soon as the whole file is verified and stored.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
from yarl import URL

from mirror.airgap.sync.queue import FetchCallback, FetchQueue
from mirror.catalog import Files
from mirror.cli.ask import proves
from mirror.config import Settings
from mirror.errors import (
    Blocked,
    ConfigError,
    NotFound,
    Offline,
    Unavailable,
    UnknownFile,
    UnknownProject,
    UpstreamUnavailable,
)
from mirror.index.ecosystem import Ecosystem
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import File
from mirror.server.negotiate import SHORT_RANGE_BYTES
from mirror.service import scheduled_sync
from mirror.service.directory import RunningMirror
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.open import Mode, open_mirror
from mirror.service.scheduled_sync import Access, reachable
from mirror.service.services import Mirror

FILE_SECONDS = 24 * 3600.0
"""How long one file may take."""
RENEW_SECONDS = 2.1
"""After this time a running mirror asks its upstream for the log of an index again, if it did so just before."""
STORED_SECONDS = 5.0
"""How long a page that was answered is looked for in the store."""
RETRY_SECONDS = 0.25
"""Pause between two requests for the log, or two looks into the store."""


@asynccontextmanager
async def beside_running(
    settings: Settings, running: RunningMirror, connections: int
) -> AsyncIterator[tuple[Mirror, "RemoteFetcher", Access]]:
    """Open the store of a running mirror for reading, with a fetcher that asks that mirror, and access for clients.

    Raises ConfigError when it is only starting, or when what answers cannot prove that it is that mirror.
    """
    urls = running.urls
    if not urls:
        raise ConfigError("A mirror is just starting in this data directory: try again in a moment.")
    asked = dict.fromkeys((urls[0], *(url for url in urls if url.startswith("http:"))))  # a resolver asks the latter
    for url in asked:
        if not await asyncio.to_thread(proves, url, running.secret):
            raise ConfigError(f"What answers at {url} does not prove that it is this mirror: restart the mirror.")
    async with open_mirror(settings, Mode.READ_ONLY) as opened:
        mirror = await opened.mirror()
        async with scheduled_sync.grant_access(mirror, urls) as access:
            mounts = {name: one.mount for name, one in settings.repositories.items()}
            fetcher = RemoteFetcher(urls[0], mirror.repositories, mounts, connections, access.headers)
            try:
                yield mirror, fetcher, access
            finally:
                await fetcher.close()


class RemoteFetcher:
    """A Fetcher that asks a running mirror."""

    def __init__(
        self,
        url: str,
        repositories: Mapping[str, Repository],
        mounts: Mapping[str, str],
        connections: int,
        headers: Mapping[str, str],
    ) -> None:
        """`repositories` are offline and read the store; `headers` go with every request."""
        if url.startswith("http+unix://"):
            path = URL(url).host or ""
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path=path.replace("%2F", "/"))
            self._root = URL("http://localhost")
        else:
            # Its address stands in our own data directory: no name in a certificate could prove more.
            connector, self._root = aiohttp.TCPConnector(limit=0, ssl=False), reachable(URL(url))
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=FILE_SECONDS))
        self._repositories = repositories
        self._mounts = mounts
        self._slots = asyncio.Semaphore(connections)
        self._headers = headers

    async def fetch_index(self, repository: str) -> None:
        """Have the running mirror fetch the log that lists every version, where there is one."""
        if log := self._ecosystem(repository).log_path:
            await self._request("HEAD", repository, log, None)

    async def project(self, repository: str, name: str) -> View:
        """Have the running mirror fetch a project's page, and return the project from the store.

        The mirror answers with a new page a moment before it is stored.
        """
        await self._request_page(repository, name)
        until = time.monotonic() + STORED_SECONDS
        while True:
            try:
                return await self._repositories[repository].project(name, Freshness.ANY)
            except Offline:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(RETRY_SECONDS)

    async def fetch(self, repository: str, project: str, file: File) -> None:
        """Have the running mirror fetch a file with its sidecar."""
        format = self._repositories[repository].format
        clients = self._ecosystem(repository).clients
        unknown = UnknownFile(project, file.filename)
        async with self._slots:
            # A shorter range would be passed through, and nothing kept.
            last = f"bytes=-{SHORT_RANGE_BYTES}"
            await self._request("GET", repository, clients.file_path(project, file), unknown, Range=last)
            if format.has_sidecar(file):
                path = clients.sidecar_path(project, format.sidecar_name(file))
                await self._request("GET", repository, path, unknown)

    def is_small(self, file: File) -> bool:
        """Return False: over HTTP all files are fetched alike."""
        return False

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: FetchCallback) -> None:
        """Do nothing: there are no small files."""

    async def renew(self, repository: str, name: str = "") -> str:
        """Have the running mirror fetch a project's page, or without a name the log, as it is now upstream.

        Returns its ETag. Raises NotFound, Unavailable (also when only an older one can be had), UpstreamError.
        """
        if name:
            headers = await self._request_page(repository, name, **{"Cache-Control": "no-cache"})
        else:
            log = self._ecosystem(repository).log_path or ""
            headers = await self._request("HEAD", repository, log, None, **{"Cache-Control": "no-cache"})
        if headers.get("X-Mirror-Cache") == "stale":
            raise UpstreamUnavailable(f"The page of {name or 'all gems'} cannot be fetched as it is now.")
        return headers.get("ETag", "")

    def has_log(self, repository: str) -> bool:
        """Return whether a repository's index is a log, which has to be up to date before its projects are."""
        return self._ecosystem(repository).log_path is not None

    def _ecosystem(self, repository: str) -> Ecosystem:
        return ECOSYSTEMS[self._repositories[repository].format.name]

    async def _request_page(self, repository: str, name: str, **headers: str) -> Mapping[str, str]:
        ecosystem = self._ecosystem(repository)
        # A page that a log lists is small, and is read whole so that it is compared with the log.
        method = "GET" if ecosystem.log_path else "HEAD"
        path = ecosystem.clients.project_path(name)
        return await self._request(method, repository, path, UnknownProject(name), **headers)

    async def _request(
        self, method: str, repository: str, path: str, unknown: NotFound | None, **headers: str
    ) -> Mapping[str, str]:
        url = self._root.with_path(f"{self._mounts[repository].rstrip('/')}/{path}", encoded=True)
        try:
            async with self._session.request(
                method, url, headers={**self._headers, **headers}, allow_redirects=False
            ) as response:
                text = (await response.read()).decode(errors="replace").strip()[:500]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailable(f"The running mirror does not answer: {error or type(error).__name__}.") from None
        if response.status in (404, 410):
            raise unknown or NotFound(text)
        if response.status == 403:
            raise Blocked(path.rpartition("/")[2], "policy", text)
        if response.status not in (200, 206):
            raise Unavailable(text or f"The running mirror answered {response.status}.")
        return response.headers

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()


class RemoteApplier:
    """An Applier that asks a running mirror for everything it should have."""

    def __init__(self, fetcher: RemoteFetcher, repository: str, source: str, files: Files) -> None:
        self._fetcher = fetcher
        self._repository = repository
        self._source = source
        self._files = files
        self._etag: str | None = None

    async def index(self) -> None:
        """Have the log fetched, until it is a newer one or the mirror must have asked its upstream again."""
        if not self._fetcher.has_log(self._repository):
            return
        until = time.monotonic() + RENEW_SECONDS
        etag = await self._fetcher.renew(self._repository)
        while etag == self._etag and time.monotonic() < until:  # perhaps it asked its upstream just before
            await asyncio.sleep(RETRY_SECONDS)
            etag = await self._fetcher.renew(self._repository)
        self._etag = etag

    async def page(self, project: str) -> None:
        """Have a project's page fetched as it is now."""
        await self._fetcher.renew(self._repository, project)

    async def file(self, project: str, filename: str) -> bool:
        """Have a file fetched; return whether it is new here."""
        known = await self._files.get(self._source, project, filename)
        await self._fetcher.fetch(self._repository, project, File(filename=filename, version=""))
        return known is None
