"""Hostile bytes read as Ruby's Marshal 4.8: depth, size and count are bounded, and unknown classes are refused."""

import struct
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta

from mirror.errors import Invalid
from mirror.rubygems.marshal import (
    HEADER,
    SPEC_BYTES,
    GemDependency,
    GemRequirement,
    Gemspec,
    Platform,
    Scalar,
    Symbol,
    Value,
    Version,
)
from mirror.rubygems.names import GENERIC

_DEEPEST = 32


def load(data: bytes, most: int = 200_000) -> Value:
    """Return the value in the bytes. Raises Invalid unless it has known shapes and at most `most` objects."""
    try:
        return _Reader(data, most).document()
    except (IndexError, struct.error, UnicodeError, RecursionError, OverflowError) as error:
        raise Invalid("The marshalled data is cut off or damaged.") from error


def load_gemspec(data: bytes) -> Gemspec:
    """Return the Gem::Specification in the bytes. Raises Invalid."""
    spec = load(data)
    if not isinstance(spec, Gemspec):
        raise Invalid("The marshalled data is not a gem specification.")
    return spec


def read_gemspec_rz(content: bytes) -> Gemspec:
    """Return the specification in a gemspec.rz. Raises Invalid."""
    return load_gemspec(inflate(content, zlib.MAX_WBITS, SPEC_BYTES, "The gemspec.rz"))


def inflate(data: bytes, form: int, limit: int, what: str) -> bytes:
    """Return `data` inflated; `form` is zlib's wbits. Raises Invalid if damaged, cut off or above `limit` bytes."""
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
    """Yield the `(name, version, platform)` rows of a specs index. Raises Invalid, also half-way."""
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


def check_specs(content: bytes) -> None:
    """Check that gzipped bytes begin as a specs index does, whatever follows. Raises Invalid."""
    try:
        head = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(content, 3)
    except zlib.error:
        head = b""
    if head != HEADER + b"[":
        raise Invalid("That is not a marshalled list of gems.")


class _Placeholder:
    """Holds the number of an object whose parts are still being read."""


_PLACEHOLDER = _Placeholder()


class _Reader:
    def __init__(self, data: bytes, most: int) -> None:
        self._data = data
        self._at = 0
        self._most = most
        self._depth = 0
        self._symbols: list[Symbol] = []
        self._objects: list[Value | _Placeholder] = []

    def document(self) -> Value:
        if self._data[:2] != HEADER:
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
        """Read a number of elements, no more than can follow: each of them takes a byte at least."""
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

    def _count_of(self, table: list[Symbol] | list[Value | _Placeholder]) -> int:
        index = self._long()
        if not 0 <= index < len(table):
            raise Invalid("The marshalled data refers to something that it does not hold.")
        return index

    def _enter(self) -> int:
        """Return a number for an object whose parts come next."""
        if len(self._objects) >= self._most:
            raise Invalid(f"The marshalled data holds more than {self._most} objects.")
        self._objects.append(_PLACEHOLDER)
        return len(self._objects) - 1

    def _value(self) -> Value:
        kind = self._data[self._at]
        self._at += 1
        if kind == 0x40:  # "@"
            known = self._objects[self._count_of(self._objects)]
            if isinstance(known, _Placeholder):
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
        self._objects[number] = text = self._take(self._count()).decode("utf-8", "replace")
        return text

    @staticmethod
    def _float(text: bytes) -> float:
        try:
            return float(text)
        except ValueError:
            raise Invalid("The marshalled data holds an invalid number.") from None

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
        """Read a string with its encoding, or a dumped object (Time) with its time zone."""
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
        """Return an object with _load, which gets its number after its attributes get theirs."""
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
        raise Invalid("The marshalled data holds an invalid time.") from None


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
            if not isinstance(wanted, GemRequirement):
                wanted = attributes.get("@version_requirements")
            return GemDependency(
                _need_text(attributes.get("@name")),
                wanted if isinstance(wanted, GemRequirement) else GemRequirement(),
                str(attributes.get("@type") or "runtime"),
                attributes.get("@prerelease") is True,
            )
        case "YAML::Syck::DefaultKey":
            return "="  # an old YAML library read the operator `=` as this
        case "YAML::PrivateType" | "Psych::PrivateType":
            return None  # and a null as this
        case _:
            raise Invalid(f"The marshalled data holds a {name[:60]!r}, which no gem index has.")


def _requirement(clauses: Value) -> GemRequirement:
    if not isinstance(clauses, list):
        raise Invalid("The marshalled data holds an invalid requirement.")
    found = []
    for clause in clauses:
        match clause:
            case [str(operator), Version(version)] | [str(operator), str(version)]:
                found.append((str(operator), version))
            case _:
                raise Invalid("The marshalled data holds an invalid requirement.")
    return GemRequirement(tuple(found)) if found else GemRequirement()


def _specification(fields: Value) -> Gemspec:
    """Return a Gem::Specification from the array of its _dump, which has 16 to 19 fields by its age."""
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
        dependencies=tuple(item for item in dependencies if isinstance(item, GemDependency)),
        required_ruby_version=ruby if isinstance(ruby, GemRequirement) else GemRequirement(),
        required_rubygems_version=rubygems_wanted if isinstance(rubygems_wanted, GemRequirement) else GemRequirement(),
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
    if not isinstance(value, list):
        return (str(value),) if isinstance(value, str) else ()
    return tuple(_text(item) for part in value for item in (part if isinstance(part, list) else [part]))
