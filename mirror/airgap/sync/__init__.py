"""Keep a chosen set ahead of demand: decide what is needed, fetch it, record that it is held.

`fetch` what the inputs need and is not held; or only `plan` it, and list what is `lacking`. A `Fetcher` is how the
mirror is reached: `LocalFetcher` in the process that owns the store; a command beside a running mirror is a client of
it like any other, so that only one process ever writes pages and the list of gems, and both may fetch the same file at
once. plan (what is needed), resolve (uv and bundler decide versions), fetching (the run), queue (files on their way),
fetchers, bulk and workers (many small files).

What is fetched is entered in a set, and what a set names is never evicted. The surprise: pages are fetched before files
and again on every run, because an installer that is offline reads them and not the lock.
"""

from collections.abc import Sequence

from mirror.airgap.lockfiles import Target, named, this_machine
from mirror.airgap.sync.bulk import BulkFetcher, pool_size
from mirror.airgap.sync.fetchers import CONNECTIONS, Fetcher, Holdings, LocalFetcher, ReadOnlyFetcher, reason_of
from mirror.airgap.sync.fetching import NoProgress, SyncProgress, SyncResult, fetch, lacking, remember
from mirror.airgap.sync.plan import Problem, Resolver, SyncInput, SyncPlan, plan
from mirror.airgap.sync.queue import FetchCallback, FetchQueue, SyncFile
from mirror.airgap.sync.resolve import Resolvers
from mirror.config import Settings
from mirror.errors import Invalid, Misconfigured

__all__ = [
    "CONNECTIONS",
    "BulkFetcher",
    "FetchCallback",
    "FetchQueue",
    "Fetcher",
    "Holdings",
    "LocalFetcher",
    "NoProgress",
    "Problem",
    "ReadOnlyFetcher",
    "Resolver",
    "Resolvers",
    "SyncFile",
    "SyncInput",
    "SyncPlan",
    "SyncProgress",
    "SyncResult",
    "check_sets",
    "fetch",
    "lacking",
    "plan",
    "pool_size",
    "reason_of",
    "remember",
    "repository_for",
    "targets_for",
]  # fmt: skip


def targets_for(pythons: Sequence[str], platforms: Sequence[str]) -> tuple[Target, ...]:
    """Return every Python on every platform; this machine's where none is given. Raises Invalid."""
    here = this_machine()
    return tuple(
        Target(python, platform) for python in pythons or (here.python,) for platform in platforms or (here.platform,)
    )


def repository_for(settings: Settings, ecosystem: str, chosen: Sequence[str] = ()) -> str:
    """Return the repository for files of an ecosystem: one of the chosen, else the first. Raises Invalid."""
    for name in chosen:
        if name not in settings.repositories:
            raise Invalid(f"There is no repository {name!r} here, only {', '.join(settings.repositories)}.")
    fitting = [name for name, one in settings.repositories.items() if one.format == ecosystem]
    found = [name for name in fitting if name in chosen] or (fitting if not chosen else [])
    if not found:
        raise Invalid(f"No {'chosen ' if chosen else ''}repository here is of the format {ecosystem}.")
    return found[0]


def check_sets(settings: Settings) -> None:
    """Raise Misconfigured for the first [[sync]] table that can never work. Its files are not read."""
    seen: set[str] = set()
    for number, one in enumerate(settings.sync):
        if one.name in seen:
            raise Misconfigured(("sync", number, "name"), f"another set is called {one.name!r} too")
        seen.add(one.name)
        try:
            targets_for(one.python, one.platforms)
            for requirements in named(one.names):
                repository_for(settings, requirements.ecosystem, one.repositories)
            for name in one.repositories:
                if name not in settings.repositories:
                    raise Invalid(f"There is no repository {name!r} here.")
        except Invalid as error:
            raise Misconfigured(("sync", number), str(error)) from None
