"""Targets of a selection: a Python version on a platform, as wheel tags, marker environments and gem platforms.

A target may stand for many machines: `linux-x86_64` for every glibc from OLDEST_GLIBC on, `3.11` for every 3.11.x. So a
platform tag has a `level` (how new a machine must be), and markers are evaluated in more than one environment. Exact
targets name one machine: `manylinux_2_28_x86_64`, `macosx_14_0_arm64`, `3.11.4`.
"""

import platform as machine
import re
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache

import msgspec
from packaging import tags
from packaging.tags import Tag

from mirror.airgap.lockfiles.requirement_set import Environment
from mirror.errors import Invalid

Level = tuple[int, int]

OLDEST_GLIBC: Level = (2, 17)
NEWEST_GLIBC: Level = (2, 43)
OLDEST_MUSL: Level = (1, 2)
NEWEST_MUSL: Level = (1, 2)
OLDEST_MACOS: Mapping[str, Level] = {"arm64": (11, 0), "x86_64": (10, 13)}
NEWEST_MACOS: Level = (26, 0)
ANY_MACHINE: Level = (0, 0)
LAST_MICRO = 99
"""Beyond any patch release that a Python series has had."""

_LEGACY_MANYLINUX: Mapping[Level, str] = {(2, 17): "manylinux2014", (2, 12): "manylinux2010", (2, 5): "manylinux1"}
_WINDOWS = {"amd64": ("win_amd64", "AMD64"), "arm64": ("win_arm64", "ARM64"), "x86": ("win32", "x86")}
_ALIASES = {"x64": "x86_64", "amd64": "x86_64", "arm64": "aarch64", "x86": "i686"}
_LINUX_MACHINES = ("x86_64", "aarch64", "i686", "armv7l", "ppc64le", "s390x", "riscv64", "loongarch64")
_PYTHON = re.compile(r"(3)\.(\d{1,2})(?:\.(\d{1,2}))?(t?)")
_LEVEL = re.compile(r"(?:manylinux|musllinux|macosx)_(\d+)_(\d+)_")


class _System(msgspec.Struct, frozen=True):
    """The systems that a platform name stands for."""

    family: str
    """linux, musllinux, macos, windows, java"""
    machine: str
    oldest: Level = ANY_MACHINE
    newest: Level = ANY_MACHINE


class Target(msgspec.Struct, frozen=True, dict=True):
    """A Python version on a platform; for gems a Ruby version (or any) on it."""

    python: str
    """`3.11` for all of the series, `3.11.4` for that one, `3.13t` for the free-threaded build."""
    platform: str
    """linux-x86_64, musllinux-aarch64, macos-arm64, windows-amd64, …, java for JRuby, or a platform tag of wheels."""
    ruby: str | None = None
    """Required Ruby versions are checked against it; None: not checked."""

    def __post_init__(self) -> None:
        """Check both names. Raises Invalid."""
        if _PYTHON.fullmatch(self.python) is None:
            raise Invalid(f"{self.python!r} is not a Python version: write it as 3.11, 3.11.4 or 3.13t.")
        _system(self.platform)

    def __str__(self) -> str:
        return f"Python {self.python} on {self.platform}"

    @property
    def system(self) -> _System:
        return _system(self.platform)

    @cached_property
    def python_versions(self) -> tuple[str, ...]:
        """The full versions: one, or the first and the last of a series."""
        text = self.python.removesuffix("t")
        return (text,) if text.count(".") == 2 else (f"{text}.0", f"{text}.{LAST_MICRO}")

    @cached_property
    def environments(self) -> tuple[Environment, ...]:
        """The environments for markers, one for each of `python_versions`."""
        return tuple(_environment(self.system, version) for version in self.python_versions)

    @cached_property
    def ranks(self) -> Mapping[Tag, int]:
        """The compatible wheel tags, the best with the lowest number."""
        return _ranks(self.python, self.platform)

    def level(self, tag: Tag) -> Level:
        """Return how new a machine of this target must be for a tag; ANY_MACHINE when all are new enough."""
        level = _level(tag.platform)
        return level if level > self.system.oldest else ANY_MACHINE

    def gem_rank(self, platform: str) -> int | None:
        """Return how well a gem's platform fits, 0 best; None when it does not fit."""
        for rank, pattern in enumerate(_gem_platforms(self.platform)):
            if pattern.fullmatch(platform):
                return rank
        return None


def this_machine() -> Target:
    """Return the target that this process runs on."""
    python = ".".join(map(str, sys.version_info[:3])) + ("t" if sysconfig.get_config_var("Py_GIL_DISABLED") else "")
    # The first tag that names a libc or system version is the newest that this machine can use.
    found = next((tag for tag in tags.platform_tags() if _LEVEL.match(tag)), None)
    if found is None:
        name = machine.machine().lower()
        found = f"windows-{name}" if sys.platform == "win32" else f"linux-{_ALIASES.get(name, name)}"
    return Target(python, found)


@lru_cache(maxsize=256)
def _system(platform: str) -> _System:
    """Parse a platform name. Raises Invalid."""
    exact = _LEVEL.match(platform)
    if exact:
        level = (int(exact[1]), int(exact[2]))
        family = {"ma": "linux", "mu": "musllinux"}[platform[:2]] if "linux" in platform else "macos"
        name = platform[exact.end() :]
        if _known(family, name) and max(level) < 100:
            return _System(family, name, level, level)
    if platform in ("win_amd64", "win_arm64", "win32"):
        return _System("windows", {"win32": "x86"}.get(platform, platform.removeprefix("win_")))
    if platform == "java":
        return _System("java", "java")
    family, _, name = platform.partition("-")
    if family in ("linux", "musllinux"):
        name = _ALIASES.get(name, name)
    elif family == "windows":
        name = {"x86_64": "amd64", "x64": "amd64", "i686": "x86"}.get(name, name)
    elif family == "macos":
        name = {"aarch64": "arm64", "amd64": "x86_64", "x64": "x86_64"}.get(name, name)
    if _known(family, name):
        match family:
            case "linux":
                return _System(family, name, OLDEST_GLIBC, NEWEST_GLIBC)
            case "musllinux":
                return _System(family, name, OLDEST_MUSL, NEWEST_MUSL)
            case "macos":
                return _System(family, name, OLDEST_MACOS[name], NEWEST_MACOS)
            case _:
                return _System(family, name)
    known = "linux-x86_64, linux-aarch64, musllinux-x86_64, macos-arm64, macos-x86_64, windows-amd64, java (JRuby)"
    raise Invalid(f"The platform {platform!r} is not known: {known} and the platform tags of wheels are.")


def _known(family: str, name: str) -> bool:
    match family:
        case "linux" | "musllinux":
            return name in _LINUX_MACHINES
        case "macos":
            return name in OLDEST_MACOS
        case "windows":
            return name in _WINDOWS
        case _:
            return False


def _level(platform_tag: str) -> Level:
    found = _LEVEL.match(platform_tag)
    if found:
        return int(found[1]), int(found[2])
    legacy = platform_tag.partition("_")[0]
    return next((level for level, name in _LEGACY_MANYLINUX.items() if name == legacy), ANY_MACHINE)


def _platform_tags(system: _System) -> Iterator[str]:
    """Yield the platform tags that the newest machine accepts, the best first."""
    match system.family:
        case "linux":
            yield f"linux_{system.machine}"
            for minor in range(system.newest[1], 4, -1):
                yield f"manylinux_2_{minor}_{system.machine}"
                if (2, minor) in _LEGACY_MANYLINUX:  # PEP 600: the old names follow the new ones
                    yield f"{_LEGACY_MANYLINUX[2, minor]}_{system.machine}"
        case "musllinux":
            yield f"linux_{system.machine}"
            for minor in range(system.newest[1], -1, -1):
                yield f"musllinux_{system.newest[0]}_{minor}_{system.machine}"
        case "macos":
            yield from tags.mac_platforms(system.newest, system.machine)
        case "java":
            return  # JRuby: no Python
        case _:
            yield _WINDOWS[system.machine][0]


@lru_cache(maxsize=64)
def _ranks(python: str, platform: str) -> Mapping[Tag, int]:
    found = _PYTHON.fullmatch(python)
    assert found is not None  # Target checks it
    version = (int(found[1]), int(found[2]))
    interpreter = f"cp{version[0]}{version[1]}"
    platforms = list(_platform_tags(_system(platform)))
    ranks: dict[Tag, int] = {}
    for tag in tags.cpython_tags(version, [interpreter + found[4]], platforms):
        ranks.setdefault(tag, len(ranks))
    for tag in tags.compatible_tags(version, interpreter, platforms):
        ranks.setdefault(tag, len(ranks))
    return ranks


def _environment(system: _System, python: str) -> Environment:
    os_name, sys_platform, name = {
        "windows": ("nt", "win32", "Windows"),
        "macos": ("posix", "darwin", "Darwin"),
    }.get(system.family, ("posix", "linux", "Linux"))
    return {
        "os_name": os_name,
        "sys_platform": sys_platform,
        "platform_system": name,
        "platform_machine": _WINDOWS[system.machine][1] if system.family == "windows" else system.machine,
        "platform_release": "",
        "platform_version": "",
        "platform_python_implementation": "CPython",
        "implementation_name": "cpython",
        "implementation_version": python,
        "python_full_version": python,
        "python_version": ".".join(python.split(".")[:2]),
    }


@lru_cache(maxsize=64)
def _gem_platforms(platform: str) -> tuple[re.Pattern[str], ...]:
    """Return the gem platforms that fit, the best first. `ruby` is the generic one and fits everywhere."""
    system = _system(platform)
    cpu = {"i686": "(?:x86|i[3-6]86)", "armv7l": "arm(?:v[67]l?)?"}.get(system.machine, system.machine)
    match system.family:
        case "linux":
            patterns = [rf"{cpu}-linux-gnu(?:eabi(?:hf)?)?", rf"{cpu}-linux(?:-eabi(?:hf)?)?"]
        case "musllinux":
            # A gem that names no libc is installed on musl machines as well.
            patterns = [rf"{cpu}-linux-musl(?:eabi(?:hf)?)?", rf"{cpu}-linux(?:-eabi(?:hf)?)?"]
        case "macos":
            patterns = [rf"{cpu}-darwin(?:-?\d+)?", r"universal-darwin(?:-?\d+)?"]
        case "java":
            patterns = [r"java|jruby", r"(?:universal-)?java-?[\d.]+"]
        case _:
            patterns = {
                # x64-mingw32 was the C runtime of Rubies before 3.1; later ones refuse it.
                "amd64": ["x64-mingw-ucrt", "x64-mingw", "universal-mingw(?:32)?"],
                "arm64": ["aarch64-mingw-ucrt", "universal-mingw(?:32)?"],
                "x86": ["x86-mingw(?:32|-ucrt)?", "universal-mingw(?:32)?"],
            }[system.machine]
    return tuple(map(re.compile, (*patterns, "ruby")))
