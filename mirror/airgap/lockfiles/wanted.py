"""What a lock or requirements file asks for, whatever its format: the values that all readers make.

A reader keeps everything the file could ask for, on any machine: all extras, groups and forks, each under its marker.
Which of that one target needs is decided later, by `needed`. Nothing here touches a clock, a file or the network.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Literal

import msgspec
from packaging.markers import InvalidMarker, Marker, UndefinedComparison, UndefinedEnvironmentName

Ecosystem = Literal["pypi", "rubygems"]
Installer = Literal["pip", "bundler"]


class PinnedFile(msgspec.Struct, frozen=True, kw_only=True):
    """One file that a lock names."""

    filename: str
    url: str = ""
    """Where the lock says it lies; empty when it does not say."""
    digests: Mapping[str, str] = {}
    size: int | None = None


class Pin(msgspec.Struct, frozen=True, kw_only=True):
    """One version of one project."""

    project: str
    """Canonical."""
    version: str
    files: tuple[PinnedFile, ...] = ()
    """The files that may be installed; empty when the lock leaves that to the index."""
    hashes: tuple[str, ...] = ()
    """`algorithm:hex` of the files that may be installed, where the lock gives hashes without file names."""
    platform: str | None = None
    """A gem's platform, `ruby` when generic; None for Python."""
    markers: tuple[str, ...] = ()
    """Environment markers, of which one must hold; empty: needed everywhere."""
    python: str = ""
    """The Python versions that the lock says it works on."""
    index: str = ""
    """The URL of the index that the lock names for it."""
    extras: tuple[str, ...] = ()
    """Only where what they bring in is not locked as well."""
    where: str = ""

    @property
    def requirement(self) -> str:
        """The line that asks a Python resolver for it (PEP 508)."""
        marker = " or ".join(f"({one})" for one in self.markers)
        return _requirement(self.project, self.extras, f"=={self.version}", marker)


class Range(msgspec.Struct, frozen=True, kw_only=True):
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
        """The line that asks a Python resolver for it (PEP 508)."""
        return _requirement(self.project, self.extras, self.specifier, self.marker)


def _requirement(project: str, extras: Sequence[str], specifier: str, marker: str) -> str:
    return project + (f"[{','.join(extras)}]" if extras else "") + specifier + (f" ; {marker}" if marker else "")


class Outside(msgspec.Struct, frozen=True, kw_only=True):
    """Something the file asks for that no index can give."""

    name: str
    """The project where it is known, else what is written there. Never holds credentials."""
    reason: str
    local: bool
    """Whether it lies on the disk of the one who installs; else the network is needed for it."""
    where: str = ""


class Need(msgspec.Struct, frozen=True, kw_only=True):
    """An edge of a lock's dependency graph."""

    project: str
    version: str | None = None
    """None: every version of it that the lock holds."""
    marker: str = ""


class Graph(msgspec.Struct, frozen=True, kw_only=True):
    """Who needs whom, for locks that write markers at the dependency and not at the project (uv.lock)."""

    roots: tuple[Need, ...]
    needs: Mapping[tuple[str, str], tuple[Need, ...]]
    """(project, version) → what that one needs; holds every project of the lock."""


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What one file (or the command line) asks for, of one ecosystem."""

    name: str
    """The file, as whoever named it wrote it."""
    kind: str
    """The format: `requirements`, `pylock.toml`, `uv.lock`, …"""
    ecosystem: Ecosystem
    installer: Installer = "pip"
    """Whose rules choose versions and files."""
    pins: tuple[Pin, ...] = ()
    ranges: tuple[Range, ...] = ()
    """Not locked: they have to be resolved first."""
    constraints: tuple[Range, ...] = ()
    """Asked for by nobody, but what is resolved has to fit them."""
    outside: tuple[Outside, ...] = ()
    graph: Graph | None = None
    python: str = ""
    """The Python versions that the whole lock is for."""
    platforms: tuple[str, ...] = ()
    """The gem platforms that the lock is for."""
    indexes: tuple[str, ...] = ()
    """The index URLs that it names, the main one first. May hold credentials: not for display."""
    extras: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    no_binary: tuple[str, ...] = ()
    """Projects to be built from their sdist; `:all:` for all of them."""

    @property
    def complete(self) -> bool:
        """Whether the pins are all that an installation needs; else `pins` and `ranges` are resolved first.

        A requirements file is complete when every line has a hash: pip then takes nothing that is not listed.
        """
        if self.ranges or self.kind == "names":
            return False
        return self.kind != "requirements" or all(pin.hashes for pin in self.pins)


Environment = Mapping[str, str]

_CHOSEN_EXTRA = re.compile(r"""extra\s*[!=]=\s*(?:'[^']*'|"[^"]*")|(?:'[^']*'|"[^"]*")\s*[!=]=\s*extra(?!\w)""")


@lru_cache(maxsize=4096)
def _marker(text: str) -> Marker:
    # Any extra may be chosen when the lock is installed, so a condition on one always holds here.
    return Marker(_CHOSEN_EXTRA.sub("python_version >= '0'", text))


def check_marker(text: str) -> None:
    """Raises ValueError with the reason when `text` is no environment marker."""
    try:
        _marker(text)
    except (InvalidMarker, RecursionError) as error:
        raise ValueError(str(error).splitlines()[0] or "the marker is nested too deeply") from error


def holds(
    marker: str, environments: Iterable[Environment], extras: Sequence[str] = (), groups: Sequence[str] = ()
) -> bool:
    """Whether a marker holds in any of the environments, with all extras and groups chosen."""
    if not marker:
        return True
    chosen = {"extras": frozenset(extras), "dependency_groups": frozenset(groups)}
    try:
        return any(_marker(marker).evaluate({**env, **chosen}, context="lock_file") for env in environments)
    except (UndefinedComparison, UndefinedEnvironmentName):
        return True  # what cannot be decided is fetched: too much is better than too little


def needed(wanted: Wanted, environments: Sequence[Environment]) -> tuple[tuple[Pin, ...], tuple[Range, ...]]:
    """The pins and ranges that any of the environments needs."""

    def applies(*markers: str) -> bool:
        return not markers or any(holds(one, environments, wanted.extras, wanted.groups) for one in markers)

    pins = tuple(pin for pin in wanted.pins if applies(*pin.markers))
    if wanted.graph is not None:
        reached = _reached(wanted.graph, environments)
        pins = tuple(pin for pin in pins if (pin.project, pin.version) in reached)
    return pins, tuple(entry for entry in wanted.ranges if applies(entry.marker))


def _reached(graph: Graph, environments: Sequence[Environment]) -> set[tuple[str, str]]:
    versions: dict[str, list[str]] = {}
    for project, version in graph.needs:
        versions.setdefault(project, []).append(version)
    reached: set[tuple[str, str]] = set()
    open_needs = list(graph.roots)
    while open_needs:
        need = open_needs.pop()
        if not holds(need.marker, environments):
            continue
        for version in versions.get(need.project, ()) if need.version is None else (need.version,):
            key = (need.project, version)
            if key not in reached:
                reached.add(key)
                open_needs += graph.needs.get(key, ())
    return reached
