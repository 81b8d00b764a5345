"""Values written as Ruby's Marshal 4.8: without object links, except in a list of gems, which they keep small."""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime

from mirror.errors import Invalid
from mirror.rubygems.marshal import HEADER, GemDependency, GemRequirement, Gemspec, Platform, Symbol, Value, Version
from mirror.rubygems.names import GENERIC, platform_parts


def dump(value: Value) -> bytes:
    """Return the bytes that Ruby's Marshal.load turns into `value`."""
    writer = _Writer()
    writer.write(value)
    return HEADER + b"".join(writer.out)


def gemspec_rz(spec: Gemspec) -> bytes:
    """Return the quick index entry of a gem: its marshalled specification, deflated."""
    return zlib.compress(dump(spec))


class _Writer:
    """The bytes of values, and the symbols among them."""

    def __init__(self) -> None:
        self.out: list[bytes] = []
        self._symbols: dict[str, bytes] = {}

    def symbol(self, name: str) -> bytes:
        link = self._symbols.get(name)
        if link is not None:
            return link
        self._symbols[name] = b";" + _long(len(self._symbols))
        return b":" + _counted(name.encode())

    def text(self, text: str) -> bytes:
        data = text.encode("utf-8", "surrogateescape")
        return b'I"' + _counted(data) + b"\x06" + self.symbol("E") + b"T"

    def write(self, value: Value) -> None:
        out = self.out
        match value:
            case None:
                out.append(b"0")
            case bool():
                out.append(b"T" if value else b"F")
            case int():
                out.append(_integer(value))
            case float():
                out.append(b"f" + _counted(repr(value).encode()))
            case Symbol():
                out.append(self.symbol(value))
            case str():
                out.append(self.text(value))
            case list():
                out.append(b"[" + _long(len(value)))
                for item in value:
                    self.write(item)
            case dict():
                out.append(b"{" + _long(len(value)))
                for key, item in value.items():
                    self.write(key)
                    self.write(item)
            case datetime():
                out.append(b"Iu" + self.symbol("Time") + _counted(_time(value)) + b"\x06" + self.symbol("zone"))
                out.append(b'I"' + _counted(b"UTC") + b"\x06" + self.symbol("E") + b"F")
            case Version(text):
                out.append(b"U" + self.symbol("Gem::Version") + b"[\x06")
                self.write(text)
            case GemRequirement(clauses):
                out.append(b"U" + self.symbol("Gem::Requirement") + b"[\x06")
                self.write([[operator, Version(version)] for operator, version in clauses])
            case GemDependency(name, requirement, kind, prerelease):
                self._object(
                    "Gem::Dependency",
                    {
                        "@name": name,
                        "@requirement": requirement,
                        "@type": Symbol(kind),
                        "@prerelease": prerelease,
                        "@version_requirements": requirement,  # what RubyGems before 1.3.6 reads
                    },
                )
            case Platform(cpu, system, version):
                self._object("Gem::Platform", {"@cpu": cpu, "@os": system, "@version": version})
            case Gemspec():
                out.append(b"u" + self.symbol("Gem::Specification") + _counted(dump(_fields(value))))

    def _object(self, name: str, attributes: Mapping[str, Value]) -> None:
        self.out.append(b"o" + self.symbol(name) + _long(len(attributes)))
        for key, item in attributes.items():
            self.out.append(self.symbol(key))
            self.write(item)


def _fields(spec: Gemspec) -> list[Value]:
    """Return the array of Gem::Specification#_dump, in its order."""
    parts = platform_parts(spec.platform)
    return [
        spec.rubygems_version,
        spec.specification_version,
        spec.name,
        Version(spec.version),
        spec.date,
        spec.summary,
        spec.required_ruby_version,
        spec.required_rubygems_version,
        spec.platform,
        list(spec.dependencies),
        "",  # rubyforge_project, which is no more
        list(spec.email) if isinstance(spec.email, tuple) else spec.email,
        list(spec.authors),
        spec.description,
        spec.homepage,
        True,  # has_rdoc, likewise
        GENERIC if parts is None else Platform(*parts),
        list(spec.licenses),
        dict(spec.metadata.items()),
    ]


def dump_specs(rows: Iterable[tuple[str, str, str]]) -> Iterator[bytes]:
    """Yield Ruby's array of `[name, Gem::Version, platform]` in chunks; equal parts are written once and linked."""
    chunks: list[bytes] = []
    count = 0
    writer = _Writer()
    texts: dict[str, bytes] = {}
    versions: dict[str, bytes] = {}
    index = 1  # the array itself has the object number 0
    chunk: list[bytes] = []
    for count, (name, version, platform) in enumerate(rows, 1):  # noqa: B007  the number of rows precedes them
        index += 1
        chunk.append(b"[\x08")
        link = texts.get(name)
        if link is None:
            texts[name], link, index = b"@" + _long(index), writer.text(name), index + 1
        chunk.append(link)
        link = versions.get(version)
        if link is None:
            # A Gem::Version takes three numbers: itself, the array that it is marshalled as, and the text in there.
            versions[version] = b"@" + _long(index)
            link = b"U" + writer.symbol("Gem::Version") + b"[\x06" + writer.text(version)
            index += 3
        chunk.append(link)
        link = texts.get(platform)
        if link is None:
            texts[platform], link, index = b"@" + _long(index), writer.text(platform), index + 1
        chunk.append(link)
        if len(chunk) > 40_000:
            chunks.append(b"".join(chunk))
            chunk.clear()
    yield HEADER + b"[" + _long(count)
    yield from chunks
    yield b"".join(chunk)


def _long(value: int) -> bytes:
    """Return Marshal's packed integer."""
    if value == 0:
        return b"\0"
    if 0 < value < 123:
        return bytes((value + 5,))
    if -124 < value < 0:
        return struct.pack("b", value - 5)
    length = next(length for length in range(1, 5) if -(1 << 8 * length) <= value < 1 << 8 * length)
    return struct.pack("b", length if value > 0 else -length) + (value & (1 << 8 * length) - 1).to_bytes(
        length, "little"
    )


def _integer(value: int) -> bytes:
    if not -(1 << 30) <= value < 1 << 30:
        raise Invalid(f"{value} is too large a number for a gem specification.")
    return b"i" + _long(value)


def _counted(data: bytes) -> bytes:
    return _long(len(data)) + data


def _time(moment: datetime) -> bytes:
    """Return what Time#_dump does: two words of bit fields, in UTC."""
    at = moment.astimezone(UTC)
    day = 3 << 30 | (at.year - 1900) << 14 | (at.month - 1) << 10 | at.day << 5 | at.hour
    return struct.pack("<II", day, at.minute << 26 | at.second << 20 | at.microsecond)
