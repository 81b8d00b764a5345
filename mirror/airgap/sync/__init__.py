"""Keep a chosen set ahead of demand: decide what is needed, fetch it, prove that it is held.

`fetch` what wishes need and is not held; or only `plan` it, and say what is `lacking`. A `Fetcher` is how the mirror is
reached: `LocalFetcher` in the process that owns the store; a command beside a running mirror is a client of it like any
other, so that only one process ever writes pages and the list of gems, and both may fetch the same file at once.

What is fetched is entered in a set, and what a set names is never evicted. What may surprise: pages are fetched before
files and again on every run, because an installer offline sees them and not the lock.
"""

from collections.abc import Sequence

from mirror.airgap.lockfiles import Target, named, this_machine
from mirror.airgap.sync.bulk import Bulk, crew_size
from mirror.airgap.sync.fetching import Silent, SyncResult, Watcher, fetch, lacking, remember
from mirror.airgap.sync.pieces import FetchQueue, SyncFile, Told
from mirror.airgap.sync.plan import Problem, Resolver, SyncInput, SyncPlan, plan
from mirror.airgap.sync.resolve import Resolvers
from mirror.airgap.sync.ways import CONNECTIONS, Fetcher, Holdings, LocalFetcher, ReadOnlyFetcher, reason_of
from mirror.config import Settings
from mirror.errors import Invalid, Misconfigured

__all__ = [
    "CONNECTIONS",
    "Bulk",
    "FetchQueue",
    "Fetcher",
    "Holdings",
    "LocalFetcher",
    "Problem",
    "ReadOnlyFetcher",
    "Resolver",
    "Resolvers",
    "Silent",
    "SyncFile",
    "SyncInput",
    "SyncPlan",
    "SyncResult",
    "Told",
    "Watcher",
    "check_sets",
    "crew_size",
    "fetch",
    "lacking",
    "plan",
    "reason_of",
    "remember",
    "repository_for",
    "targets_for",
]  # fmt: skip


def targets_for(pythons: Sequence[str], platforms: Sequence[str]) -> tuple[Target, ...]:
    """Every Python on every platform; this machine's where none is given. Raises Invalid."""
    here = this_machine()
    return tuple(
        Target(python, platform) for python in pythons or (here.python,) for platform in platforms or (here.platform,)
    )


def repository_for(settings: Settings, ecosystem: str, chosen: Sequence[str] = ()) -> str:
    """The repository that an ecosystem's files come from: one of the chosen, else the first. Raises Invalid."""
    for name in chosen:
        if name not in settings.repositories:
            raise Invalid(f"There is no repository {name!r} here, only {', '.join(settings.repositories)}.")
    fitting = [name for name, one in settings.repositories.items() if one.format == ecosystem]
    found = [name for name in fitting if name in chosen] or (fitting if not chosen else [])
    if not found:
        raise Invalid(f"No {'chosen ' if chosen else ''}repository here is of the format {ecosystem}.")
    return found[0]


def check_sets(settings: Settings) -> None:
    """Raises Misconfigured for the first [[sync]] table that can never work. Its files are not looked at."""
    seen: set[str] = set()
    for number, one in enumerate(settings.sync):
        if one.name in seen:
            raise Misconfigured(("sync", number, "name"), f"another set is called {one.name!r} too")
        seen.add(one.name)
        try:
            targets_for(one.python, one.platforms)
            for wanted in named(one.names):
                repository_for(settings, wanted.ecosystem, one.repositories)
            for name in one.repositories:
                if name not in settings.repositories:
                    raise Invalid(f"There is no repository {name!r} here.")
        except Invalid as error:
            raise Misconfigured(("sync", number), str(error)) from None
