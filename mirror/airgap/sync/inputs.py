"""The inputs of a sync, and the checks that they make sense with these settings."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from mirror.airgap.lockfiles import RequirementSet, Target, named, this_machine
from mirror.errors import Invalid, Misconfigured

if TYPE_CHECKING:
    from mirror.config import Settings


class SyncInput(msgspec.Struct, frozen=True, kw_only=True):
    """One lock or requirements file, or names; and the targets that it is for."""

    requirements: RequirementSet
    repository: str
    targets: tuple[Target, ...]
    sdists: bool = False
    dependencies: bool = True
    """Whether open versions are resolved; else only what is named is selected, in its newest version."""


def targets_for(pythons: Sequence[str], platforms: Sequence[str]) -> tuple[Target, ...]:
    """Return every Python on every platform; this machine's where none is given. Raises Invalid."""
    here = this_machine()
    return tuple(
        Target(python, platform) for python in pythons or (here.python,) for platform in platforms or (here.platform,)
    )


def repository_for(settings: "Settings", ecosystem: str, chosen: Sequence[str] = ()) -> str:
    """Return the repository for files of an ecosystem: one of the chosen, else the first. Raises Invalid."""
    for name in chosen:
        if name not in settings.repositories:
            raise Invalid(f"There is no repository {name!r} here, only {', '.join(settings.repositories)}.")
    fitting = [name for name, one in settings.repositories.items() if one.format == ecosystem]
    found = [name for name in fitting if name in chosen] or (fitting if not chosen else [])
    if not found:
        raise Invalid(f"No {'chosen ' if chosen else ''}repository here is of the format {ecosystem}.")
    return found[0]


def check_sets(settings: "Settings") -> None:
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
