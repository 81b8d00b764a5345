"""A running mirror as the way of a sync: asked over HTTP, as any client asks, while its store is only looked at.

So the process that serves is the only one that writes pages and fetches files, and a sync joins the downloads of its
clients. The last byte of a file is asked for alone: it can be read as soon as the whole is verified and kept.
"""

import asyncio
from collections.abc import Mapping

import aiohttp
from yarl import URL

from mirror.airgap.sync import FetchQueue, OnFetched
from mirror.errors import Blocked, NotFound, Unavailable, UnknownFile, UnknownProject, UpstreamUnavailable
from mirror.index.ecosystem import Ecosystem
from mirror.index.freshness import Freshness
from mirror.index.repository import Repository, View
from mirror.model import File
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.scheduled_sync import reachable

LONGEST = 24 * 3600.0
"""Seconds that one file may take."""


class RemoteFetcher:
    """The way through a running mirror."""

    def __init__(
        self,
        url: str,
        repositories: Mapping[str, Repository],
        mounts: Mapping[str, str],
        connections: int,
        headers: Mapping[str, str],
    ) -> None:
        """`repositories` are offline and look into the store; `headers` go with every request."""
        if url.startswith("http+unix://"):
            path = URL(url).host or ""
            connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path=path.replace("%2F", "/"))
            self._root = URL("http://localhost")
        else:
            # Its address stands in our own data directory: no name in a certificate could say more.
            connector, self._root = aiohttp.TCPConnector(limit=0, ssl=False), reachable(URL(url))
        self._session = aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=LONGEST))
        self._repositories = repositories
        self._mounts = mounts
        self._slots = asyncio.Semaphore(connections)
        self._headers = headers

    async def fetch_index(self, repository: str) -> None:
        if log := self._ecosystem(repository).log_path:
            await self._ask("HEAD", repository, log, None)

    async def project(self, repository: str, name: str) -> View:
        await self._ask_for_page(repository, name)
        return await self._repositories[repository].project(name, Freshness.ANY)

    async def fetch(self, repository: str, project: str, file: File) -> None:
        format = self._repositories[repository].format
        clients = self._ecosystem(repository).clients
        unknown = UnknownFile(project, file.filename)
        async with self._slots:
            await self._ask("GET", repository, clients.file_path(project, file), unknown, Range="bytes=-1")
            if format.has_sidecar(file):
                path = clients.sidecar_path(project, format.sidecar_name(file))
                await self._ask("GET", repository, path, unknown)

    def is_small(self, file: File) -> bool:
        return False  # to one who asks over HTTP all are alike

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: OnFetched) -> None:
        """There are none."""

    async def renewed(self, repository: str, name: str = "") -> str:
        """Have the page of a project as it is now at upstream, or without a name the index of gems; its ETag.

        Raises NotFound, Unavailable (also when all that can be had is older), UpstreamError.
        """
        if name:
            headers = await self._ask_for_page(repository, name, **{"Cache-Control": "no-cache"})
        else:
            log = self._ecosystem(repository).log_path or ""
            headers = await self._ask("HEAD", repository, log, UnknownProject(name), **{"Cache-Control": "no-cache"})
        if headers.get("X-Mirror-Cache") == "stale":
            raise UpstreamUnavailable(f"The page of {name or 'all gems'} cannot be had as it is now.")
        return headers.get("ETag", "")

    def has_log(self, repository: str) -> bool:
        """Return whether a repository's index is a log, which has to be up to date before its projects are."""
        return self._ecosystem(repository).log_path is not None

    def _ecosystem(self, repository: str) -> Ecosystem:
        return ECOSYSTEMS[self._repositories[repository].format.name]

    async def _ask_for_page(self, repository: str, name: str, **headers: str) -> Mapping[str, str]:
        ecosystem = self._ecosystem(repository)
        # A page that a log lists is small, and is read in whole so that it is compared with the log.
        method = "GET" if ecosystem.log_path else "HEAD"
        return await self._ask(
            method, repository, ecosystem.clients.project_path(name), UnknownProject(name), **headers
        )

    async def _ask(
        self, method: str, repository: str, path: str, unknown: NotFound | None, **headers: str
    ) -> Mapping[str, str]:
        url = self._root.with_path(f"{self._mounts[repository].rstrip('/')}/{path}", encoded=True)
        try:
            async with self._session.request(
                method, url, headers={**self._headers, **headers}, allow_redirects=False
            ) as response:
                said = (await response.read()).decode(errors="replace").strip()[:500]
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UpstreamUnavailable(f"The running mirror does not answer: {error or type(error).__name__}.") from None
        if response.status in (404, 410):
            raise unknown or NotFound(said)
        if response.status == 403:
            raise Blocked(path.rpartition("/")[2], "policy", said)
        if response.status not in (200, 206):
            raise Unavailable(said or f"The running mirror answered {response.status}.")
        return response.headers

    async def close(self) -> None:
        """Close the connections."""
        await self._session.close()
