"""Ruby's Marshal 4.8: exactly the shapes that the legacy index is made of, read and written.

A reader of hostile bytes: it knows a closed list of classes, builds only the frozen values of this module, and
bounds depth, size and count. It is no general Marshal: everything else raises Invalid. The one surprise:
Gem::Specification is marshalled as a string that is itself a marshalled array of 19 fields.
"""

import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import TypeAlias, Union

import msgspec

from mirror.errors import Invalid
from mirror.rubygems.names import GENERIC, platform_parts

SPEC_LIMIT = 10 << 20
"""Bytes of one inflated specification; RubyGems has the same limit."""
_HEADER = b"\x04\x08"
_DEEPEST = 32


class Symbol(str):
    """A Ruby symbol."""

    __slots__ = ()


class Version(msgspec.Struct, frozen=True):
    """Gem::Version."""

    text: str


class Requirement(msgspec.Struct, frozen=True):
    """Gem::Requirement: clauses of operator and version."""

    clauses: tuple[tuple[str, str], ...] = ((">=", "0"),)

    def __str__(self) -> str:
        return ", ".join(f"{operator} {version}" for operator, version in self.clauses)


class Dependency(msgspec.Struct, frozen=True):
    """Gem::Dependency; `kind` is runtime or development."""

    name: str
    requirement: Requirement = Requirement()
    kind: str = "runtime"
    prerelease: bool = False


class Platform(msgspec.Struct, frozen=True):
    """Gem::Platform."""

    cpu: str | None
    os: str | None
    version: str | None


class Gemspec(msgspec.Struct, frozen=True, kw_only=True):
    """Gem::Specification: the fields that it is marshalled with, and `requirements`, which is not among them."""

    name: str
    version: str
    platform: str = GENERIC
    """As its author wrote it."""
    summary: str | None = None
    description: str | None = None
    authors: tuple[str | None, ...] = ()
    email: str | tuple[str | None, ...] | None = None
    homepage: str | None = None
    licenses: tuple[str | None, ...] = ()
    metadata: Mapping[str, str | None] = {}
    date: datetime | None = None
    """With a time zone; RubyGems keeps the day only."""
    dependencies: tuple[Dependency, ...] = ()
    required_ruby_version: Requirement = Requirement()
    required_rubygems_version: Requirement = Requirement()
    rubygems_version: str | None = None
    specification_version: int = 4
    requirements: tuple[str | None, ...] = ()
    """What has to be there outside RubyGems, for people to read."""


Scalar: TypeAlias = bool | int | float | str | None
Value: TypeAlias = Union[
    Scalar,
    datetime,
    Version,
    Requirement,
    Dependency,
    Platform,
    Gemspec,
    "list[Value]",
    "dict[Scalar, Value]",
]
"""What is marshalled, as Python sees it."""

# --- writing -------------------------------------------------------------------------------------------------


def dump(value: Value) -> bytes:
    """The bytes that Ruby's Marshal.load turns into `value`."""
    writer = _Writer()
    writer.write(value)
    return _HEADER + b"".join(writer.out)


def gemspec_rz(spec: Gemspec) -> bytes:
    """The quick index entry of a gem: its marshalled specification, deflated."""
    return zlib.compress(dump(spec))


class _Writer:
    """Writes without object links, except between the tuples of `dump_specs`: Ruby accepts both."""

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
            case Requirement(clauses):
                out.append(b"U" + self.symbol("Gem::Requirement") + b"[\x06")
                self.write([[operator, Version(version)] for operator, version in clauses])
            case Dependency(name, requirement, kind, prerelease):
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
    """The array of Gem::Specification#_dump, in its order."""
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
    """Ruby's array of `[name, Gem::Version, platform]`, in pieces; equal parts are written once and linked."""
    pieces: list[bytes] = []
    count = 0
    writer = _Writer()
    texts: dict[str, bytes] = {}
    versions: dict[str, bytes] = {}
    index = 1  # the array itself has the object number 0
    piece: list[bytes] = []
    for count, (name, version, platform) in enumerate(rows, 1):  # noqa: B007  how many they are stands in front
        index += 1
        piece.append(b"[\x08")
        link = texts.get(name)
        if link is None:
            texts[name], link, index = b"@" + _long(index), writer.text(name), index + 1
        piece.append(link)
        link = versions.get(version)
        if link is None:
            # A Gem::Version takes three numbers: itself, the array that it is marshalled as, and the text in there.
            versions[version] = b"@" + _long(index)
            link = b"U" + writer.symbol("Gem::Version") + b"[\x06" + writer.text(version)
            index += 3
        piece.append(link)
        link = texts.get(platform)
        if link is None:
            texts[platform], link, index = b"@" + _long(index), writer.text(platform), index + 1
        piece.append(link)
        if len(piece) > 40_000:
            pieces.append(b"".join(piece))
            piece.clear()
    yield _HEADER + b"[" + _long(count)
    yield from pieces
    yield b"".join(piece)


def _long(value: int) -> bytes:
    """Marshal's packed integer."""
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
    """Time#_dump: two words of bit fields, in UTC."""
    at = moment.astimezone(UTC)
    day = 3 << 30 | (at.year - 1900) << 14 | (at.month - 1) << 10 | at.day << 5 | at.hour
    return struct.pack("<II", day, at.minute << 26 | at.second << 20 | at.microsecond)


# --- reading -------------------------------------------------------------------------------------------------


def load(data: bytes, most: int = 200_000) -> Value:
    """The value that the bytes hold. Raises Invalid unless it is made of known shapes and of at most `most` objects."""
    try:
        return _Reader(data, most).document()
    except (IndexError, struct.error, UnicodeError, RecursionError, OverflowError) as error:
        raise Invalid("The marshalled data is cut off or damaged.") from error


def load_gemspec(data: bytes) -> Gemspec:
    """The Gem::Specification that the bytes hold. Raises Invalid."""
    spec = load(data)
    if not isinstance(spec, Gemspec):
        raise Invalid("The marshalled data is not a gem specification.")
    return spec


def read_gemspec_rz(content: bytes) -> Gemspec:
    """The specification in a gemspec.rz. Raises Invalid."""
    return load_gemspec(inflate(content, zlib.MAX_WBITS, SPEC_LIMIT, "The gemspec.rz"))


def inflate(data: bytes, form: int, limit: int, what: str) -> bytes:
    """The whole of `data`, inflated (`form` is zlib's wbits). Raises Invalid when damaged, cut off or above `limit`."""
    inflater = zlib.decompressobj(form)
    try:
        inflated = inflater.decompress(data, limit + 1)
    except zlib.error as error:
        raise Invalid(f"{what} is not compressed as it has to be, or damaged.") from error
    if len(inflated) > limit:
        raise Invalid(f"{what} inflates to more than {limit >> 20} MB.")
    if not inflater.eof:
        raise Invalid(f"{what} is cut off.")
    return inflated


def load_specs(data: bytes, most: int = 4_000_000) -> Iterator[tuple[str, str, str]]:
    """The `(name, version, platform)` rows of a specs index. Raises Invalid, also half-way."""
    rows = load(data, most)
    if not isinstance(rows, list):
        raise Invalid("The marshalled data is not a list of gems.")
    for row in rows:
        match row:
            case [str(name), Version(version), str(platform)]:
                yield name, version, platform or GENERIC
            case [str(name), Version(version), None]:
                yield name, version, GENERIC
            case _:
                raise Invalid("The marshalled list of gems holds something that is not a gem.")


class _Unfinished:
    """Holds the number of an object whose parts are still being read."""


_UNFINISHED = _Unfinished()


class _Reader:
    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._at = 0
        self._most = most
        self._depth = 0
        self._symbols: list[Symbol] = []
        self._objects: list[Value | _Unfinished] = []

    def document(self) -> Value:
        if self._data[:2] != _HEADER:
            raise Invalid("The data is not Ruby's Marshal 4.8.")
        self._at = 2
        value = self._value()
        if self._at != len(self._data):
            raise Invalid("The marshalled data goes on after its end.")
        return value

    def _take(self, length: int) -> bytes:
        stop = self._at + length
        if length < 0 or stop > len(self._data):
            raise Invalid("The marshalled data is cut off.")
        taken = self._data[self._at : stop]
        self._at = stop
        return taken

    def _long(self) -> int:
        first = self._data[self._at]
        self._at += 1
        if first == 0:
            return 0
        if 4 < first < 128:
            return first - 5
        if first < 5:
            return int.from_bytes(self._take(first), "little")
        if first < 252:
            return first - 251  # -5 - (256 - first - …): small negative numbers
        length = 256 - first
        return int.from_bytes(self._take(length), "little") - (1 << 8 * length)

    def _count(self) -> int:
        """A number of elements that can still follow: each of them takes a byte at least."""
        count = self._long()
        if not 0 <= count <= len(self._data) - self._at:
            raise Invalid("The marshalled data announces more than it holds.")
        return count

    def _symbol(self) -> Symbol:
        kind = self._take(1)
        if kind == b":":
            symbol = Symbol(self._take(self._count()).decode())
            self._symbols.append(symbol)
            return symbol
        if kind == b";":
            return self._symbols[self._count_of(self._symbols)]
        raise Invalid("The marshalled data has no symbol where one has to stand.")

    def _count_of(self, table: list[Symbol] | list[Value | _Unfinished]) -> int:
        index = self._long()
        if not 0 <= index < len(table):
            raise Invalid("The marshalled data refers to something that it does not hold.")
        return index

    def _enter(self) -> int:
        """A number for an object whose parts come next."""
        if len(self._objects) >= self._most:
            raise Invalid(f"The marshalled data holds more than {self._most} objects.")
        self._objects.append(_UNFINISHED)
        return len(self._objects) - 1

    def _value(self) -> Value:
        kind = self._data[self._at]
        self._at += 1
        if kind == 0x40:  # "@"
            known = self._objects[self._count_of(self._objects)]
            if isinstance(known, _Unfinished):
                raise Invalid("The marshalled data contains itself.")
            return known
        if kind == 0x5B:  # "["
            number = self._enter()
            self._deeper()
            found: Value = [self._value() for _ in range(self._count())]
            self._depth -= 1
            self._objects[number] = found
            return found
        if kind == 0x49:  # "I"
            return self._with_attributes()
        if kind == 0x30:  # "0"
            return None
        self._deeper()
        found = self._rarer(kind)
        self._depth -= 1
        return found

    def _deeper(self) -> None:
        self._depth += 1
        if self._depth > _DEEPEST:
            raise Invalid("The marshalled data is nested too deep.")

    def _rarer(self, kind: int) -> Value:
        match bytes((kind,)):
            case b'"':
                return self._text()
            case b"T":
                return True
            case b"F":
                return False
            case b"i":
                return self._long()
            case b":" | b";":
                self._at -= 1
                return self._symbol()
            case b"f":
                number = self._enter()
                self._objects[number] = found = self._float(self._take(self._count()))
                return found
            case b"{":
                number = self._enter()
                self._objects[number] = table = self._hash(self._count())
                return table
            case b"u":
                name = self._symbol()
                return self._dumped(name, self._take(self._count()), {})
            case b"U":
                name = self._symbol()
                number = self._enter()
                self._objects[number] = made = _from_marshal(name, self._value())
                return made
            case b"o":
                name = self._symbol()
                number = self._enter()
                self._objects[number] = thing = _from_attributes(name, self._attributes())
                return thing
            case _:
                raise Invalid("The marshalled data holds a shape that no gem index has.")

    def _text(self) -> str:
        number = self._enter()
        self._objects[number] = text = self._take(self._count()).decode("utf-8", "surrogateescape")
        return text

    @staticmethod
    def _float(text: bytes) -> float:
        try:
            return float(text)
        except ValueError:
            raise Invalid("The marshalled data holds a number that is none.") from None

    def _hash(self, count: int) -> "dict[Scalar, Value]":
        table: dict[Scalar, Value] = {}
        for _ in range(count):
            key = self._value()
            if key is not None and not isinstance(key, str | int | float):
                raise Invalid("The marshalled data has a hash key that no gem index has.")
            table[key] = self._value()
        return table

    def _attributes(self) -> dict[str, Value]:
        return {self._symbol(): self._value() for _ in range(self._count())}

    def _with_attributes(self) -> Value:
        """A string with its encoding, or a dumped object (Time) with its time zone."""
        kind = self._take(1)
        self._deeper()
        found: Value
        if kind == b'"':
            found = self._text()
            self._attributes()  # the encoding: UTF-8 and ASCII are read alike, and others go through as they are
        elif kind == b"u":
            name = self._symbol()
            data = self._take(self._count())
            found = self._dumped(name, data, self._attributes())
        else:
            raise Invalid("The marshalled data has attributes where no gem index has them.")
        self._depth -= 1
        return found

    def _dumped(self, name: str, data: bytes, attributes: Mapping[str, Value]) -> Value:
        """An object with _load. It gets its number after its attributes got theirs."""
        found: Value
        if name == "Time" and len(data) == 8:
            found = _read_time(data)
        elif name == "Gem::Specification":
            inner = _Reader(data, self._most)
            inner._depth = self._depth  # the same reader, one string deeper
            found = _specification(inner.document())
        else:
            raise Invalid(f"The marshalled data holds a {name[:60]!r}, which no gem index has.")
        self._objects[self._enter()] = found
        return found


def _read_time(data: bytes) -> datetime:
    day, rest = struct.unpack("<II", data)
    if not day & 1 << 31:  # the oldest form: plain seconds and microseconds
        return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=day, microseconds=rest)
    try:
        # Time#_dump writes UTC always; the bit 30 only says whether the object was in UTC.
        return datetime(
            (day >> 14 & 0xFFFF) + 1900,
            (day >> 10 & 15) + 1,
            day >> 5 & 31,
            day & 31,
            rest >> 26 & 63,
            rest >> 20 & 63,
            rest & 0xFFFFF,
            tzinfo=UTC,
        )
    except ValueError:
        raise Invalid("The marshalled data holds a time that is none.") from None


def _from_marshal(name: str, value: Value) -> Value:
    match name, value:
        case "Gem::Version", [str(text), *_]:
            return Version(text)
        case "Gem::Requirement" | "Gem::Version::Requirement", [clauses, *_]:
            return _requirement(clauses)
        case _:
            raise Invalid(f"The marshalled data holds a {name[:60]!r}, which no gem index has in that shape.")


def _from_attributes(name: str, attributes: Mapping[str, Value]) -> Value:
    match name:
        case "Gem::Version":
            return Version(_need_text(attributes.get("@version")))
        case "Gem::Requirement" | "Gem::Version::Requirement":
            return _requirement(attributes.get("@requirements"))
        case "Gem::Platform":
            parts = [attributes.get(key) for key in ("@cpu", "@os", "@version")]
            return Platform(*(None if part is None else str(part) for part in parts))
        case "Gem::Dependency":
            wanted = attributes.get("@requirement")
            if not isinstance(wanted, Requirement):
                wanted = attributes.get("@version_requirements")
            return Dependency(
                _need_text(attributes.get("@name")),
                wanted if isinstance(wanted, Requirement) else Requirement(),
                str(attributes.get("@type") or "runtime"),
                attributes.get("@prerelease") is True,
            )
        case "YAML::Syck::DefaultKey":
            return "="  # an old YAML library read the operator `=` as this
        case "YAML::PrivateType" | "Psych::PrivateType":
            return None  # and a null as this
        case _:
            raise Invalid(f"The marshalled data holds a {name[:60]!r}, which no gem index has.")


def _requirement(clauses: Value) -> Requirement:
    if not isinstance(clauses, list):
        raise Invalid("The marshalled data holds a requirement that is none.")
    found = []
    for clause in clauses:
        match clause:
            case [str(operator), Version(version)] | [str(operator), str(version)]:
                found.append((str(operator), version))
            case _:
                raise Invalid("The marshalled data holds a requirement that is none.")
    return Requirement(tuple(found)) if found else Requirement()


def _specification(fields: Value) -> Gemspec:
    """A Gem::Specification from the array of its _dump, 16 to 19 fields by its age."""
    match fields:
        case [rubygems, specification, str(name), Version(version), date, summary, ruby, rubygems_wanted, platform,
              list(dependencies), _, email, authors, description, homepage, _, *rest]:  # fmt: skip
            pass
        case _:
            raise Invalid("The marshalled gem specification does not have the fields of one.")
    new_platform, licenses, metadata = [*rest, None, None, None][:3]
    if not isinstance(platform, str):
        platform = new_platform if isinstance(new_platform, str) else GENERIC
    return Gemspec(
        name=name,
        version=version,
        platform=platform or GENERIC,
        summary=_text(summary),
        description=_text(description),
        authors=_texts(authors),
        email=_texts(email) if isinstance(email, list) else _text(email),
        homepage=_text(homepage),
        licenses=_texts(licenses),
        metadata={str(key): _text(item) for key, item in metadata.items()} if isinstance(metadata, dict) else {},
        date=date if isinstance(date, datetime) else None,
        dependencies=tuple(item for item in dependencies if isinstance(item, Dependency)),
        required_ruby_version=ruby if isinstance(ruby, Requirement) else Requirement(),
        required_rubygems_version=rubygems_wanted if isinstance(rubygems_wanted, Requirement) else Requirement(),
        rubygems_version=rubygems.text if isinstance(rubygems, Version) else _text(rubygems),
        specification_version=specification if type(specification) is int else 4,
    )


def _need_text(value: Value) -> str:
    if not isinstance(value, str):
        raise Invalid("The marshalled data lacks a text where one has to stand.")
    return str(value)


def _text(value: Value) -> str | None:
    return str(value) if isinstance(value, str) else None


def _texts(value: Value) -> tuple[str | None, ...]:
    if isinstance(value, str):
        return (str(value),)
    if not isinstance(value, list):
        return ()
    return tuple(_text(item) for part in value for item in (part if isinstance(part, list) else [part]))
