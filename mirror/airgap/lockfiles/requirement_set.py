"""What a lock or requirements file requires, whatever its format: the values that all parsers return. Pure.

A parser keeps everything that the file could require on any machine: all extras, groups and forks, each with its
marker. What one target needs of that is decided later, by `needed`.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

EcosystemName = Literal["pypi", "rubygems"]
Installer = Literal["pip", "bundler"]


class PinnedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a lock names."""

    filename: str
    url: str = ""
    """Where the lock locates it; empty when it does not."""
    digests: Mapping[str, str] = {}
    size: int | None = None


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one project."""

    project: str
    """Canonical."""
    version: str
    files: tuple[PinnedFile, ...] = ()
    """The files that may be installed; empty when the index decides."""
    hashes: tuple[str, ...] = ()
    """`algorithm:hex` of the files that may be installed, where the lock has hashes without file names."""
    platform: str | None = None
    """A gem's platform, `ruby` when generic; None for Python."""
    address: str = ""
    """The content address of a gem that is named after it."""
    markers: tuple[str, ...] = ()
    """Environment markers of which one must be true; empty: needed everywhere."""
    python: str = ""
    """The Python versions that the lock limits it to."""
    index: str = ""
    """The URL of the index that the lock names for it."""
    extras: tuple[str, ...] = ()
    """Only where the dependencies that they add are not locked as well."""
    where: str = ""

    @property
    def requirement(self) -> str:
        """The line for a Python resolver (PEP 508)."""
        marker = " or ".join(f"({one})" for one in self.markers)
        return _requirement(self.project, self.extras, f"=={self.version}", marker)


class VersionRange(msgspec.Struct, frozen=True, kw_only=True):
    """A project whose version is still open."""

    project: str
    """Canonical."""
    specifier: str = ""
    """As the ecosystem writes it: `>=4.2,<5`, `~> 3.0`; empty for any version."""
    extras: tuple[str, ...] = ()
    marker: str = ""
    hashes: tuple[str, ...] = ()
    newest: int | None = None
    """How many of the newest matching versions; None for all of them."""
    where: str = ""

    @property
    def requirement(self) -> str:
        """The line for a Python resolver (PEP 508)."""
        return _requirement(self.project, self.extras, self.specifier, self.marker)


def _requirement(project: str, extras: Sequence[str], specifier: str, marker: str) -> str:
    return project + (f"[{','.join(extras)}]" if extras else "") + specifier + (f" ; {marker}" if marker else "")


class ExternalRequirement(msgspec.Struct, frozen=True, kw_only=True):
    """A requirement that no index can provide."""

    name: str
    """The project where it is known, else what is written there, without credentials."""
    reason: str
    local: bool
    """Whether it is on the disk of the machine that installs; else the network is needed for it."""
    where: str = ""


class GraphEdge(msgspec.Struct, frozen=True, kw_only=True):
    """An edge of a lock's dependency graph."""

    project: str
    version: str | None = None
    """None: every version of it that the lock holds."""
    marker: str = ""


class DependencyGraph(msgspec.Struct, frozen=True, kw_only=True):
    """The dependencies, for locks whose markers stand at the dependency and not at the project (uv.lock)."""

    roots: tuple[GraphEdge, ...]
    edges: Mapping[tuple[str, str], tuple[GraphEdge, ...]]
    """(project, version) → its dependencies; has every project of the lock."""


class RequirementSet(msgspec.Struct, frozen=True, kw_only=True):
    """The requirements of one file (or of the command line), in one ecosystem."""

    name: str
    """The file, as it was named."""
    kind: str
    """The format: `requirements`, `pylock.toml`, `uv.lock`, …"""
    ecosystem: EcosystemName
    installer: Installer = "pip"
    """The installer whose rules choose versions and files."""
    pins: tuple[Pin, ...] = ()
    ranges: tuple[VersionRange, ...] = ()
    """Not locked: they are resolved first."""
    constraints: tuple[VersionRange, ...] = ()
    """Not required themselves, but limits for what is resolved."""
    external: tuple[ExternalRequirement, ...] = ()
    graph: DependencyGraph | None = None
    python: str = ""
    """The Python versions that the whole lock is limited to."""
    platforms: tuple[str, ...] = ()
    """The gem platforms that the lock is for."""
    ruby: str = ""
    """The version of Ruby that the lock is for; empty where it names none."""
    indexes: tuple[str, ...] = ()
    """The index URLs that it names, the main one first. May contain credentials: not for display."""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    no_binary: tuple[str, ...] = ()
    """Projects to be built from their sdist; `:all:` for all of them."""
    warnings: tuple[str, ...] = ()
    """Sentences about what was not understood, and does not matter as far as is known."""

    @property
    def complete(self) -> bool:
        """Whether the pins are all that an installation needs; else `pins` and `ranges` are resolved first.

        A requirements file is complete when every line has a hash: pip then installs nothing that is not listed.
        """
        if self.ranges or self.kind == "names":
            return False
        return self.kind != "requirements" or all(pin.hashes for pin in self.pins)


Environment = Mapping[str, str]

MAX_MARKER_CHARACTERS = 20_000
"""The longest environment marker: each is evaluated for every target."""

_EXTRA_CONDITION = re.compile(r"""extra\s*[!=]=\s*(?:'[^']*'|"[^"]*")|(?:'[^']*'|"[^"]*")\s*[!=]=\s*extra(?!\w)""")


@lru_cache(maxsize=4096)
def _marker(text: str) -> Marker:
    # Any extra may be chosen when the lock is installed, so a condition on one is always true here.
    return Marker(_EXTRA_CONDITION.sub("python_version >= '0'", text))


def check_marker(text: str) -> None:
    """Raise ValueError with the reason unless `text` is an environment marker."""
    if len(text) > MAX_MARKER_CHARACTERS:
        raise ValueError(f"it is longer than {MAX_MARKER_CHARACTERS} characters")
    try:
        _marker(text)
    except (InvalidMarker, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0] or "the marker is nested too deeply") from error


def is_true(
    marker: str, environments: Iterable[Environment], extras: Sequence[str] = (), groups: Sequence[str] = ()
) -> bool:
    """Return whether a marker is true in any of the environments, with all extras and groups chosen."""
    if not marker:
        return True
    chosen = {"extras": frozenset(extras), "dependency_groups": frozenset(groups)}
    try:
        return any(_marker(marker).evaluate({**env, **chosen}, context="lock_file") for env in environments)
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True  # undecidable: too much is better than too little


def needed(
    requirements: RequirementSet, environments: Sequence[Environment]
) -> tuple[tuple[Pin, ...], tuple[VersionRange, ...]]:
    """Return the pins and ranges that any of the environments needs."""

    def applies(*markers: str) -> bool:
        return not markers or any(
            is_true(one, environments, requirements.extras, requirements.groups) for one in markers
        )

    pins = tuple(pin for pin in requirements.pins if applies(*pin.markers))
    if requirements.graph is not None:
        reached = _reachable(requirements.graph, environments)
        pins = tuple(pin for pin in pins if (pin.project, pin.version) in reached)
    return pins, tuple(entry for entry in requirements.ranges if applies(entry.marker))


def _reachable(graph: DependencyGraph, environments: Sequence[Environment]) -> set[tuple[str, str]]:
    versions: dict[str, list[str]] = {}
    for project, version in graph.edges:
        versions.setdefault(project, []).append(version)
    reached: set[tuple[str, str]] = set()
    waiting = list(graph.roots)
    while waiting:
        edge = waiting.pop()
        if not is_true(edge.marker, environments):
            continue
        for version in versions.get(edge.project, ()) if edge.version is None else (edge.version,):
            key = (edge.project, version)
            if key not in reached:
                reached.add(key)
                waiting += graph.edges.get(key, ())
    return reached
