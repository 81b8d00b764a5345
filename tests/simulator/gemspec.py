"""What a .gem says of itself, read from its YAML, and the same as Ruby Marshal 4.8, written by `rubymarshal`.

An implementation of its own, so that the mirror's can be compared with it.
"""

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import yaml
from rubymarshal.classes import RubyObject, Symbol, UserDef, UsrMarshal  # type: ignore[import-untyped]
from rubymarshal.writer import writes  # type: ignore[import-untyped]

Requirement = tuple[tuple[str, str], ...]
"""Pairs of operator and version, as written: ((">=", "1"), ("<", "2"))."""


@dataclass(frozen=True)
class Spec:
    """A gem's specification, and the gem."""

    content: bytes
    fields: Mapping[str, Any]
    name: str
    version: str
    platform: str
    runtime: tuple[tuple[str, Requirement], ...]
    development: tuple[tuple[str, Requirement], ...]
    required_ruby: Requirement
    required_rubygems: Requirement

    @property
    def address(self) -> str | None:
        """The content address of a gem that RubyGems 4.1 built for one Ruby ABI."""
        ruby, rubygems = joined(self.required_ruby), joined(self.required_rubygems)
        one_abi = re.fullmatch(r"~> [0-9]+\.[0-9]+\.0", ruby) and rubygems.startswith(">= 4.1.")
        return self.sha256[:8] if one_abi and self.platform != "ruby" else None

    @property
    def number(self) -> str:
        """The version with the platform or the content address behind it: a token of /versions and /info."""
        suffix = self.address or self.platform
        return self.version if suffix == "ruby" else f"{self.version}-{suffix}"

    @property
    def full_name(self) -> str:
        return f"{self.name}-{self.number}"

    @property
    def prerelease(self) -> bool:
        return re.search("[a-zA-Z]", self.version) is not None

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @classmethod
    def read(cls, content: bytes) -> "Spec":
        """From the bytes of a .gem."""
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            member = archive.extractfile("metadata.gz")
            assert member is not None
            fields: dict[str, Any] = yaml.load(gzip.decompress(member.read()), Loader=_RubyLoader)
        dependencies: dict[str, list[tuple[str, Requirement]]] = {":runtime": [], ":development": []}
        for each in fields["dependencies"]:
            dependencies[each["type"]].append((each["name"], _requirement(each["requirement"])))
        return cls(
            content=content,
            fields=fields,
            name=fields["name"],
            version=fields["version"]["version"],
            platform=_platform_text(fields["platform"]),
            runtime=tuple(dependencies[":runtime"]),
            development=tuple(dependencies[":development"]),
            required_ruby=_requirement(fields["required_ruby_version"]),
            required_rubygems=_requirement(fields["required_rubygems_version"]),
        )

    def info_line(self, created: datetime | None) -> str:
        """The line of /info; `created` adds the created_at of format v2."""
        dependencies = ",".join(f"{name}:{joined(wanted)}" for name, wanted in sorted(self.runtime))
        about = [f"checksum:{self.sha256}"]
        for key, wanted in (("ruby", self.required_ruby), ("rubygems", self.required_rubygems)):
            if joined(wanted) != ">= 0":
                about.append(f"{key}:{joined(wanted)}")
        if self.address:
            about.append(f"platform:= {self.platform}")
        if created is not None:
            about.append(f"created_at:{created.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
        return f"{self.number} {dependencies}|{','.join(about)}"

    def marshalled(self) -> bytes:
        """The content of .gemspec.rz: zlib of Marshal of a Gem::Specification."""
        fields = self.fields
        dumped = [
            fields["rubygems_version"],
            fields["specification_version"],
            self.name,
            _version(self.version),
            _time(fields["date"]),
            fields["summary"],
            _ruby_requirement(self.required_ruby),
            _ruby_requirement(self.required_rubygems),
            self.platform,
            [
                _ruby_dependency(each["name"], _requirement(each["requirement"]), each["type"].lstrip(":"))
                for each in fields["dependencies"]
            ],
            "",
            fields["email"],
            list(fields["authors"]),
            fields["description"],
            fields["homepage"],
            True,
            _ruby_platform(self.platform),
            list(fields.get("licenses") or []),
            dict(fields.get("metadata") or {}),
        ]
        specification = UserDef("Gem::Specification")
        specification._load(writes(dumped))
        return zlib.compress(writes(specification))


def marshalled_tuples(specs: Iterable[Spec]) -> bytes:
    """The content of specs.4.8: an array of [name, version, platform]."""
    tuples = [[spec.name, _version(spec.version), spec.platform] for spec in specs]
    dumped: bytes = writes(tuples)
    return dumped


def joined(wanted: Requirement) -> str:
    """`>= 1&< 2`, sorted: as in /info."""
    return "&".join(sorted(f"{operator} {version}" for operator, version in wanted))


def order(version: str) -> list[tuple[int, int, str]]:
    """Sorts as Gem::Version does: letters before numbers; zeros before the first letter and at the end do not count."""
    parts = re.findall(r"\d+|[a-zA-Z]+", version)
    letter = next((place for place, part in enumerate(parts) if part.isalpha()), len(parts))
    kept = _without_last_zeros(parts[:letter]) + _without_last_zeros(parts[letter:])
    return [(1, int(part), "") if part.isdigit() else (0, 0, part) for part in kept] + [(1, 0, "")]


def _without_last_zeros(parts: list[str]) -> list[str]:
    while parts and parts[-1].strip("0") == "":
        parts = parts[:-1]
    return parts


class _RubyLoader(yaml.SafeLoader):
    pass


def _ruby_object(loader: _RubyLoader, suffix: str, node: yaml.Node) -> object:
    if isinstance(node, yaml.MappingNode):
        return loader.construct_mapping(node, deep=True)
    assert isinstance(node, yaml.SequenceNode)
    return loader.construct_sequence(node, deep=True)


_RubyLoader.add_multi_constructor("!ruby/", _ruby_object)


def _requirement(fields: Mapping[str, Any]) -> Requirement:
    return tuple((operator, version["version"]) for operator, version in fields["requirements"])


def _platform_text(platform: object) -> str:
    if isinstance(platform, dict):
        return "-".join(str(platform[key]) for key in ("cpu", "os", "version") if platform[key])
    return str(platform)


def _version(version: str) -> UsrMarshal:
    value = UsrMarshal("Gem::Version")
    value.marshal_load([version])
    return value


def _ruby_requirement(wanted: Requirement) -> UsrMarshal:
    value = UsrMarshal("Gem::Requirement")
    value.marshal_load([[[operator, _version(version)] for operator, version in wanted]])
    return value


def _ruby_dependency(name: str, wanted: Requirement, kind: str) -> RubyObject:
    return RubyObject(
        "Gem::Dependency",
        {
            "@name": name,
            "@requirement": _ruby_requirement(wanted),
            "@type": Symbol(kind),
            "@prerelease": False,
            "@version_requirements": _ruby_requirement(wanted),
        },
    )


def _ruby_platform(platform: str) -> str | RubyObject:
    if platform == "ruby":
        return platform
    cpu, _, rest = platform.partition("-") if "-" in platform else (None, "", platform)
    system, _, version = rest.partition("-")
    return RubyObject("Gem::Platform", {"@cpu": cpu, "@os": system, "@version": version or None})


def _time(when: datetime) -> UserDef:
    """A UTC time as Ruby's Time#_dump packs it: two little-endian words of bit fields."""
    utc = when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    day = 1 << 31 | 1 << 30 | (utc.year - 1900) << 14 | (utc.month - 1) << 10 | utc.day << 5 | utc.hour
    second = utc.minute << 26 | utc.second << 20 | utc.microsecond
    value = UserDef("Time", {"zone": "UTC"})
    value._load(day.to_bytes(4, "little") + second.to_bytes(4, "little"))
    return value
