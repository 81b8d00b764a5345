"""Syncs of one mirror: its parts in the form that `mirror.airgap.sync` takes, and sets that are kept on a schedule."""

import asyncio
import hashlib
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from yarl import URL

from mirror.airgap.lockfiles import named
from mirror.airgap.lockfiles.isolated import read_isolated
from mirror.airgap.sync.bulk import BulkFetcher
from mirror.airgap.sync.fetchers import CONNECTIONS, Holdings, LocalFetcher, ReadOnlyFetcher
from mirror.airgap.sync.fetching import NoProgress, fetch, remember
from mirror.airgap.sync.inputs import SyncInput, repository_for, targets_for
from mirror.airgap.sync.resolve import Resolvers
from mirror.airgap.sync.workers import WorkerConfig, WorkerPool, WorkerUpstream
from mirror.auth.credentials import digest, new_token
from mirror.catalog import Token
from mirror.config import RepositorySettings, Settings, SyncSettings
from mirror.errors import Invalid, MirrorError, Offline
from mirror.index.freshness import Freshness
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import Grant
from mirror.service.blobs import store_for_workers
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.services import Mirror

logger = logging.getLogger(__name__)

TOKEN_SECONDS = 24 * 3600.0
"""Time after which the token of a sync that was killed expires."""
LEASE_SECONDS = 900.0
"""Time after which another node may fetch a set whose node has died; two at once would do the work twice."""
DONE_SHARE = 0.9
"""The part of its period for which a set that is complete is not fetched again by any of several processes."""


def holdings(mirror: Mirror) -> Holdings:
    """Return the queries about what a mirror holds."""
    return Holdings(mirror.repositories, mirror.catalog, mirror.blobs)


@asynccontextmanager
async def local_fetcher(
    mirror: Mirror, connections: int = CONNECTIONS, pool: WorkerPool | None = None
) -> AsyncIterator[LocalFetcher]:
    """A fetcher for a sync in the process of a mirror, for the length of the block. `pool`: see `BulkFetcher`."""
    slots = asyncio.Semaphore(connections)
    bulk = BulkFetcher(
        mirror.repositories, worker_config(mirror), mirror.catalog.files, mirror.journal, slots, connections,
        mirror.clock, pool,
    )  # fmt: skip
    indexes = {name: partial(published.current, Freshness.NOW) for name, published in mirror.published_indexes.items()}
    async with bulk.open():
        yield LocalFetcher(mirror.repositories, indexes, holdings(mirror), bulk, slots)


def worker_config(mirror: Mirror) -> WorkerConfig:
    """Return how workers reach the upstreams and the store of a mirror; upstreams that need a proxy are left out."""
    blob_store, blob_settings = store_for_workers(mirror.settings)
    return WorkerConfig(
        formats={name: f"mirror.{name}:FORMAT" for name in {one.format.name for one in mirror.repositories.values()}},
        upstreams={
            str(upstream.url): WorkerUpstream(
                url=str(upstream.url),
                authorization=upstream.authorization,
                user_agent=upstream.options.user_agent,
                ca_file=str(upstream.options.ca_file) if upstream.options.ca_file else None,
                allow_hosts=upstream.options.allow_hosts,
                connect_timeout=upstream.options.connect_timeout,
                read_timeout=upstream.options.read_timeout,
            )
            for upstream in mirror.upstreams.values()
            if upstream.options.proxy is None
        },
        blob_store=blob_store,
        blob_settings=blob_settings,
        data_dir=str(mirror.settings.data_dir.absolute()),
    )


def read_only_fetcher(mirror: Mirror) -> ReadOnlyFetcher:
    """Return the fetcher of a mirror that is offline: what is not stored is reported as missing."""
    indexes = {name: partial(_list_is_held, mirror, name) for name in mirror.published_indexes}
    return ReadOnlyFetcher(mirror.repositories, indexes)


async def _list_is_held(mirror: Mirror, repository: str) -> None:
    """Raise Offline when no upstream's list of gems is stored, without which clients see no gem at all."""
    followed = mirror.published_indexes[repository].upstreams
    for one in followed:
        await one.open()
    if followed and all(one.map is None for one in followed):
        raise Offline("The list of all gems is not held.")


class Access:
    """The addresses of a mirror's repositories for clients, with a token where not everyone may read."""

    def __init__(self, mirror: Mirror, urls: Sequence[str], secret: str) -> None:
        """`secret`: that of a token, or empty where none is needed."""
        self._repositories = mirror.settings.repositories
        self._urls = urls
        self._secret = secret

    def __call__(self, repository: str) -> URL:
        """Return the index of a repository, as clients name it. Raises Invalid when there is only a Unix socket."""
        root = next((URL(url) for url in self._urls if url.startswith(("http:", "https:"))), None)
        if root is None:
            raise Invalid("uv and bundler need an address to ask the mirror at: listen at one besides the Unix socket.")
        url = index_url(root, self._repositories[repository])
        return url.with_user("__token__").with_password(self._secret) if self._secret else url

    @property
    def headers(self) -> dict[str, str]:
        """The headers of a request to the mirror."""
        return {"Authorization": f"Bearer {self._secret}"} if self._secret else {}


@asynccontextmanager
async def grant_access(mirror: Mirror, urls: Sequence[str]) -> AsyncIterator[Access]:
    """Access to a mirror at these URLs; where one is needed, with a token that is valid for the length of the block."""
    if all(mirror.guard.read_access(one).open for one in mirror.settings.repositories):
        yield Access(mirror, urls, "")
        return
    name, secret, now = f"sync-{secrets.token_hex(4)}", new_token(), mirror.clock()
    grants = (Grant(rights=frozenset({"read"})),)
    token = Token(name=name, sha256=digest(secret), grants=grants, created=now, expires=now + TOKEN_SECONDS)
    await mirror.catalog.accounts.add_token(token)
    try:
        yield Access(mirror, urls, secret)
    finally:
        await mirror.catalog.accounts.remove_token(name)


def reachable(root: URL) -> URL:
    """Return the URL for clients on the same machine of a mirror that may listen at all addresses."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(root.host or "")
    return root.with_host(host) if host else root


def index_url(root: URL, repository: RepositorySettings) -> URL:
    """Return the URL that clients are given as the index of a repository."""
    at = reachable(root).with_path(f"{repository.mount.rstrip('/')}/")
    return at.join(URL(ECOSYSTEMS[repository.format].index_path))


# Sets on a schedule


async def sync_inputs(settings: Settings, one: SyncSettings) -> list[SyncInput]:
    """Read what a [[sync]] table names, its files as they are now, in a process of their own. Raises Invalid."""
    newest = None if one.newest == 0 else one.newest
    targets = targets_for(one.python, one.platforms)
    processes = IsolatedProcesses(most=1)
    try:
        wanted = [await read_isolated(Path(file), processes) for file in one.files]
    finally:
        await processes.close()
    for lock in wanted:
        for warning in lock.warnings:
            logger.warning("the set %s: %s: %s", one.name, lock.name, warning)
    wanted += named(one.names, newest) if one.names else ()
    return [
        SyncInput(
            requirements=each, repository=repository_for(settings, each.ecosystem, one.repositories), targets=targets,
            sdists=one.sdists, dependencies=one.dependencies,
        )
        for each in wanted
    ]  # fmt: skip


async def sync_set(mirror: Mirror, urls: Sequence[str], one: SyncSettings) -> bool:
    """Fetch what one set lacks, unless another node is at it; return whether all of it is here."""
    leases, alone = mirror.catalog.leases, not mirror.store.database.shared and mirror.settings.node.count == 1
    done = f"synced {one.name} {hashlib.sha256(one.model_dump_json().encode()).hexdigest()[:16]}"
    try:
        if not alone and await leases.held_names(done, mirror.clock()):
            return True  # another process has fetched it in this period
        async with leases.held(f"sync {one.name}", mirror.clock, LEASE_SECONDS) as mine:
            if not mine:
                return False
            wanted = await sync_inputs(mirror.settings, one)
            async with grant_access(mirror, urls) as index, local_fetcher(mirror) as fetcher:
                result = await fetch(wanted, fetcher, Resolvers(index), holdings(mirror), NoProgress())
            await remember(mirror.catalog.under(mine).sets, one.name, result, only=True)
            if not alone and not result.problems:
                await leases.take(done, mirror.clock(), DONE_SHARE * one.every)
    except MirrorError as error:
        logger.error("the set %s could not be fetched: %s", one.name, error)
        return False
    for problem in result.problems:
        logger.warning("the set %s lacks %s", one.name, problem)
    logger.info("the set %s: %d files fetched, %d held before", one.name, result.fetched, result.held)
    return not result.problems
