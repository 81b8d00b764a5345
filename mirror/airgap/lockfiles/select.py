"""The choice of the files that targets need, and the reasons why something required cannot be had. Pure.

The caller decides whether projects are filtered by policy. What a lock names and only the unfiltered project has is
hidden by policy; only the caller can know that.
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache

import msgspec
from packaging.specifiers import SpecifierSet
from packaging.tags import Tag
from packaging.utils import parse_sdist_filename, parse_wheel_filename
from packaging.version import Version

from mirror.airgap.lockfiles.choices import FoundFiles, MissingItem, Reason, hash_allowed
from mirror.airgap.lockfiles.gem_choices import GemChooser
from mirror.airgap.lockfiles.requirement_set import Pin, RequirementSet, VersionRange, needed
from mirror.airgap.lockfiles.targets import ANY_MACHINE, Target
from mirror.model import File, Project


class ProjectSelection(msgspec.Struct, frozen=True, kw_only=True):
    """The files selected of one project."""

    files: tuple[File, ...]
    """The needed files, in the order of the project's page."""
    missing: tuple[MissingItem, ...]


class _Wheel(msgspec.Struct, frozen=True):
    build: tuple[int, str] | tuple[()]
    tags: frozenset[Tag]


class Selector:
    """Selects the files that targets need of required projects, one project after the other in any order.

    Of the wheels of a version it selects the one that pip or uv would, for each machine that a target stands for. The
    sdist where there is no wheel; with `sdists` always. Of a gem the best platform.
    """

    def __init__(self, requirements: RequirementSet, targets: Sequence[Target], *, sdists: bool = False) -> None:
        missing: dict[MissingItem, None] = {}
        self._entries: dict[str, list[tuple[_Chooser, Pin | VersionRange]]] = {}
        """Project → what is required of it, and the chooser for a target."""
        for target in targets:
            if requirements.python and not _allows_python(requirements.python, target):
                reason: Reason = "not for this version of Python"
                missing.setdefault(MissingItem(project="", reason=reason, target=str(target), where=requirements.name))
                continue
            chooser: _Chooser
            if requirements.installer == "pip":
                chooser = _PythonChooser(target, requirements.no_binary, sdists=sdists)
            else:
                chooser = GemChooser(target, requirements)
            pins, ranges = needed(requirements, target.environments)
            entries: list[Pin | VersionRange] = [*pins, *ranges]
            for entry in entries:
                self._entries.setdefault(entry.project, []).append((chooser, entry))
        self.missing = tuple(missing)
        """What is missing whatever the index has."""

    @property
    def projects(self) -> tuple[str, ...]:
        """The projects to look up in the index, in the order in which they are required."""
        return tuple(self._entries)

    def select(self, name: str, project: Project | None) -> ProjectSelection:
        """Return the needed files of a project; `project` is None when the index does not have it."""
        chosen: set[str] = set()
        missing: dict[MissingItem, None] = {}
        for chooser, entry in self._entries[name]:
            if project is None:
                version = entry.version if isinstance(entry, Pin) else ""
                missing.setdefault(
                    MissingItem(project=name, version=version, reason="no such project", where=entry.where)
                )
                continue
            found = chooser.for_pin(project, entry) if isinstance(entry, Pin) else chooser.for_range(project, entry)
            for one in found:
                if isinstance(one, MissingItem):
                    missing.setdefault(one)
                else:
                    chosen.add(one.filename)
        files = () if project is None else tuple(file for file in project.files if file.filename in chosen)
        return ProjectSelection(files=files, missing=tuple(missing))


class _PythonChooser:
    """Chooses wheels and sdists for one target."""

    def __init__(self, target: Target, no_binary: Sequence[str], *, sdists: bool) -> None:
        self.target = target
        self.no_binary = no_binary
        self.sdists = sdists

    def for_pin(self, project: Project, pin: Pin) -> FoundFiles:
        """Yield the files of one version."""
        if pin.python and not _allows_python(pin.python, self.target):
            yield self._missing(pin, "not for this version of Python")
        elif pin.files:
            yield from self._locked(project, pin)
        else:
            yield from self._unlocked(project, pin)

    def _locked(self, project: Project, pin: Pin) -> FoundFiles:
        # The installer chooses among the files that the lock names, and so does this.
        named = [File(filename=one.filename, version=pin.version, digests=one.digests) for one in pin.files]
        picked = self._pick(project.name, named)
        if not picked:
            yield self._missing(pin, "no wheel for the target")
        for file in picked:
            listed = project.file(file.filename)
            if listed is None:
                yield self._missing(pin, "the index does not list it", file.filename)
            elif _differ(file.digests, listed.digests):
                yield self._missing(pin, "the index lists it with another digest", file.filename)
            else:
                yield listed

    def _unlocked(self, project: Project, pin: Pin) -> FoundFiles:
        files = [file for file in project.files if _same_version(file.version, pin.version)]
        if not files:
            yield self._missing(pin, "no such version")
            return
        allowed = [file for file in files if hash_allowed(file, pin.hashes)]
        fitting = [file for file in allowed if _allows_python(file.requires, self.target)]
        picked = self._pick(project.name, fitting)
        if picked:
            yield from picked
        elif not allowed:
            yield self._missing(pin, "the index lists it with another digest")
        elif not fitting:
            yield self._missing(pin, "not for this version of Python")
        else:
            yield self._missing(pin, "no wheel for the target")

    def for_range(self, project: Project, entry: VersionRange) -> FoundFiles:
        """Yield the files of the newest (or all) matching versions that the target can install."""
        by_version: dict[Version, list[File]] = {}
        for file in project.files:
            version = _version(file.version)
            # PEP 592: a yanked file is only for exact pins.
            usable = file.yanked is None and hash_allowed(file, entry.hashes)
            if version is not None and usable and _allows_python(file.requires, self.target):
                by_version.setdefault(version, []).append(file)
        count = 0
        for version in sorted(_specifier(entry.specifier).filter(by_version), reverse=True):
            picked = self._pick(project.name, by_version[version])
            yield from picked
            count += bool(picked)
            if count == entry.newest:
                break
        if not count:
            yield MissingItem(
                project=project.name, reason="no such version", version=entry.specifier, target=str(self.target),
                where=entry.where,
            )  # fmt: skip

    def _pick(self, project: str, files: Iterable[File]) -> list[File]:
        """Return the files of one version that the target installs."""
        files = list(files)
        sources = [file for file in files if _is_sdist(file.filename)]
        sources.sort(key=lambda file: file.filename)
        source = next((file for file in sources if file.filename.endswith(".tar.gz")), next(iter(sources), None))
        no_wheels = project in self.no_binary or ":all:" in self.no_binary
        wheels = [] if no_wheels else self._wheels(files)
        wants_source = source is not None and (self.sdists or not wheels)
        return [*wheels, source] if source is not None and wants_source else wheels

    def _wheels(self, files: Iterable[File]) -> list[File]:
        """Return the wheels, best first, each only if it fits a machine that none before it fits."""
        ranked: list[tuple[int, tuple[int, str], tuple[int, int], File]] = []
        for file in files:
            wheel = _wheel(file.filename)
            fitting = [tag for tag in wheel.tags if tag in self.target.ranks] if wheel else []
            if wheel and fitting:
                rank = min(self.target.ranks[tag] for tag in fitting)
                level = min(self.target.level(tag) for tag in fitting)
                number, suffix = wheel.build or (-1, "")
                # Of equal tags the higher build number is preferred; negated, so that one sort does both.
                ranked.append((rank, (-number, suffix), level, file))
        ranked.sort(key=lambda one: one[:2])
        best: list[File] = []
        oldest = (1 << 16, 0)
        for _, _, level, file in ranked:
            if level < oldest:
                best.append(file)
                oldest = level
            if oldest == ANY_MACHINE:
                break
        return best

    def _missing(self, pin: Pin, reason: Reason, filename: str = "") -> MissingItem:
        return MissingItem(
            project=pin.project, version=pin.version, reason=reason, filename=filename, target=str(self.target),
            where=pin.where,
        )  # fmt: skip


_Chooser = _PythonChooser | GemChooser


@lru_cache(maxsize=1 << 16)
def _version(text: str) -> Version | None:
    try:
        return Version(text)
    except ValueError:  # InvalidVersion, or a number that is longer than Python reads
        return None


@lru_cache(maxsize=1 << 14)
def _specifier(text: str) -> SpecifierSet:
    """Parse a specifier; an invalid one allows everything, as pip treats a broken Requires-Python."""
    try:
        return SpecifierSet(text)
    except ValueError:
        return SpecifierSet()


@lru_cache(maxsize=1 << 14)
def _wheel(filename: str) -> _Wheel | None:
    try:
        _, _, build, tags = parse_wheel_filename(filename)
    except ValueError:
        return None
    return _Wheel(build, tags)


@lru_cache(maxsize=1 << 14)
def _is_sdist(filename: str) -> bool:
    try:
        parse_sdist_filename(filename)
    except ValueError:
        return False
    return True


def _allows_python(specifier: str | None, target: Target) -> bool:
    return _allows(specifier or "", target.python_versions)


@lru_cache(maxsize=1 << 14)
def _allows(specifier: str, versions: Sequence[str]) -> bool:
    allowed = _specifier(specifier)
    return any(allowed.contains(version, prereleases=True) for version in versions)


def _same_version(one: str, other: str) -> bool:
    return one == other or ((version := _version(one)) is not None and version == _version(other))


def _differ(one: Mapping[str, str], other: Mapping[str, str]) -> bool:
    """Return whether two sets of digests contradict each other."""
    return any(other[algorithm] != digest for algorithm, digest in one.items() if algorithm in other)
