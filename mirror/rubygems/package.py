"""Look inside a .gem: what it says of itself, whether it is whole, and the gemspec.rz made from it.

A gem is a plain tar with metadata.gz (YAML), data.tar.gz and checksums.yaml.gz. Nothing is extracted and no
YAML object is constructed: the YAML is read as events into text, lists and dicts. The one surprise: `Scan` asks
for byte ranges instead of reading, so that one walk serves a file on disk and a Body alike.
"""

import base64
import binascii
import hashlib
import posixpath
import re
import zlib
from collections.abc import Generator, Iterator, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeAlias, Union

import msgspec
import yaml

from mirror.errors import Invalid
from mirror.model import Body, File
from mirror.rubygems import marshal
from mirror.rubygems.marshal import SPEC_LIMIT, Dependency, Gemspec, Requirement, inflate
from mirror.rubygems.names import GENERIC, canonical, full_name, is_listed, is_version, normal_platform

_MEMBERS = 64
_CHECKSUMS_LIMIT = 1 << 20
_CONTENTS = 100_000
"""Files in one gem."""
_NODES = 150_000
_DEEPEST = 32
_ALWAYS_ALLOWED = 64 << 20
_MOST_EXPANSION = 100
_CONTENTS_LIMIT = 4 << 30
_BLOCK = 512
_CHUNK = 256 << 10
_OPERATORS = frozenset({"=", "!=", ">", "<", ">=", "<=", "~>"})


def inspect(filename: str, path: Path) -> File:
    """What the gem at `path` says of itself; `extra["spec"]` holds its Gemspec as plain values.

    Blocking, in bounded memory and time. Raises Invalid unless it is a whole gem whose checksums hold, whose
    contents stay inside its folder, and whose specification agrees with the file name.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        members = _run(scan(size), file)
        _verify(members, file)
        spec = read_spec(_slice(file, members["metadata.gz"]))
        contents = members.get("data.tar.gz")
        if contents is None:
            raise Invalid("The gem has no data.tar.gz.")
        _check_contents(file, contents)
    return msgspec.structs.replace(file_of(spec, filename), digests={"sha256": sha256}, size=size)


def file_of(spec: Gemspec, filename: str) -> File:
    """The File that a specification describes, without digests. Raises Invalid unless it agrees with the file name."""
    platforms = (spec.platform, normal_platform(spec.platform))
    for platform in platforms:
        if filename == f"{full_name(spec.name, spec.version, platform)}.gem":
            break
    else:
        inside = f"{full_name(spec.name, spec.version, platforms[1])}.gem"
        raise Invalid(f"The file is named {filename[:100]!r}, but its specification says {inside!r}.")
    wanted = spec.required_ruby_version
    return File(
        filename=filename,
        version=spec.version,
        platform=platform,
        requires=None if wanted == Requirement() else str(wanted),
        extra={"spec": msgspec.to_builtins(spec)},
    )


async def make_sidecar(file: File, body: Body) -> bytes:
    """The gemspec.rz of a gem, reading only its tar headers and its metadata. Raises Invalid."""
    walk = scan(body.size, until="metadata.gz")
    try:
        start, stop = next(walk)
        while True:
            start, stop = walk.send(await _read(body, start, stop))
    except StopIteration as done:
        member: Member = done.value["metadata.gz"]
    spec = read_spec(await _read(body, member.start, member.start + member.size))
    file_of(spec, file.filename)
    return marshal.gemspec_rz(spec)


# --- the tar ---------------------------------------------------------------------------------------------------


class Member(NamedTuple):
    """One entry of a tar: where its bytes start and how many they are."""

    name: str
    kind: bytes
    link: str
    start: int
    size: int

    @property
    def stop(self) -> int:
        """Where the next header is."""
        return self.start + -(-self.size // _BLOCK) * _BLOCK


Scan: TypeAlias = Generator[tuple[int, int], bytes, dict[str, Member]]
"""Yields the (start, stop) that it wants to see, is sent those bytes, and returns the members by name."""


def scan(size: int, until: str | None = None) -> Scan:
    """Walk over the headers of a gem of `size` bytes, as far as the member `until`. Raises Invalid."""
    members: dict[str, Member] = {}
    at = 0
    while at + _BLOCK <= size:
        member = _header((yield at, at + _BLOCK), at + _BLOCK)
        if member is None:
            break
        if member.kind not in {b"0", b"\0"} or "/" in member.name or member.name in {"", ".", ".."}:
            raise Invalid("The gem holds something besides plain files.")
        if member.name in members or len(members) == _MEMBERS:
            raise Invalid("The gem holds the same file twice, or too many files.")
        if member.start + member.size > size:
            raise Invalid("The gem is cut off.")
        members[member.name] = member
        if member.name == until:
            return members
        at = member.stop
    if "metadata.gz" not in members:
        raise Invalid("The file is not a gem: it has no metadata.gz.")
    return members


def _header(block: bytes, start: int) -> Member | None:
    """The member that a tar header describes, None for the empty block at the end. Raises Invalid."""
    if not any(block):
        return None
    if sum(block) - sum(block[148:156]) + 8 * 0x20 != _octal(block[148:156]):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    name, link = _field(block[:100]), _field(block[157:257])
    if block[257:262] == b"ustar" and (prefix := _field(block[345:500])):
        name = f"{prefix}/{name}"
    return Member(name, block[156:157], link, start, _octal(block[124:136]))


def _field(raw: bytes) -> str:
    return raw.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")


def _octal(raw: bytes) -> int:
    digits = raw.strip(b" \0") or b"0"
    if not re.fullmatch(rb"[0-7]+", digits):
        raise Invalid("The file is not a gem: its tar headers are damaged.")
    return int(digits, 8)


def _run(walk: Scan, file: BinaryIO) -> dict[str, Member]:
    try:
        start, stop = next(walk)
        while True:
            file.seek(start)
            start, stop = walk.send(file.read(stop - start))
    except StopIteration as done:
        members: dict[str, Member] = done.value
        return members


async def _read(body: Body, start: int, stop: int) -> bytes:
    if stop - start > SPEC_LIMIT:
        raise Invalid("The gem's metadata is too large.")
    return b"".join([chunk async for chunk in body.read(start, stop)])


def _slice(file: BinaryIO, member: Member) -> bytes:
    if member.size > SPEC_LIMIT:
        raise Invalid(f"The gem's {member.name} is too large.")
    file.seek(member.start)
    return file.read(member.size)


def _chunks(file: BinaryIO, member: Member) -> Iterator[bytes]:
    file.seek(member.start)
    left = member.size
    while left and (chunk := file.read(min(_CHUNK, left))):
        left -= len(chunk)
        yield chunk


# --- what has to hold ------------------------------------------------------------------------------------------


def _verify(members: Mapping[str, Member], file: BinaryIO) -> None:
    """Raises Invalid unless every checksum that the gem lists holds. Gems of before RubyGems 2 list none."""
    listed = members.get("checksums.yaml.gz")
    if listed is None:
        return
    sums = _yaml(inflate(_slice(file, listed), _GZIP, _CHECKSUMS_LIMIT, "checksums.yaml.gz"))[0]
    for algorithm, entries in (sums if isinstance(sums, dict) else {}).items():
        kind = algorithm.lower()
        if kind not in {"sha1", "sha256", "sha512", "md5"} or not isinstance(entries, dict):
            raise Invalid(f"The gem's checksums.yaml.gz uses {algorithm[:40]!r}, which is not known here.")
        for name, expected in entries.items():
            member = members.get(name)
            if member is None:
                raise Invalid(f"The gem lists a checksum for {name[:60]!r}, but has no such file.")
            digest = hashlib.new(kind, usedforsecurity=False)
            for chunk in _chunks(file, member):
                digest.update(chunk)
            if digest.hexdigest() != expected:
                raise Invalid(f"The gem's {name} does not have the {algorithm} that the gem itself lists.")


def _check_contents(file: BinaryIO, member: Member) -> None:
    """Raises Invalid unless data.tar.gz inflates to a sane size and all its paths stay inside. Keeps nothing."""
    limit = min(max(_ALWAYS_ALLOWED, member.size * _MOST_EXPANSION), _CONTENTS_LIMIT)
    pending = bytearray()
    skip = entries = 0
    ended = False
    for data in _inflated(_chunks(file, member), limit):
        if ended:
            continue
        if skip >= len(data):
            skip -= len(data)
            continue
        pending += data[skip:]
        skip = at = 0
        while not ended and at + _BLOCK <= len(pending):
            inner = _header(bytes(pending[at : at + _BLOCK]), 0)
            at += _BLOCK
            if inner is None:
                ended = True
                continue
            entries += 1
            if entries > _CONTENTS:
                raise Invalid(f"The gem holds more than {_CONTENTS} files.")
            _check_path(inner)
            at += inner.stop
        skip = max(0, at - len(pending))
        del pending[:at]
    if skip or (pending and not ended):
        raise Invalid("The gem's data.tar.gz is cut off.")


def _check_path(inner: Member) -> None:
    if inner.kind not in {b"0", b"\0", b"5", b"2"}:
        raise Invalid("The gem's data.tar.gz holds something besides files, folders and symbolic links.")
    parts = inner.name.split("/")
    target = posixpath.normpath(posixpath.join(posixpath.dirname(inner.name), inner.link))
    if inner.name.startswith("/") or ".." in parts or target.startswith("/") or target.split("/")[0] == "..":
        raise Invalid(f"The gem's data.tar.gz holds a path that leaves its folder: {inner.name[:80]!r}.")


_GZIP = 16 + zlib.MAX_WBITS


def _inflated(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    inflater = zlib.decompressobj(_GZIP)
    total = 0
    try:
        for chunk in chunks:
            while chunk and not inflater.eof:
                data = inflater.decompress(chunk, _CHUNK)
                chunk = inflater.unconsumed_tail  # what did not fit into one piece
                total += len(data)
                if total > limit:
                    raise Invalid(f"The gem's data.tar.gz inflates to more than {limit >> 20} MB.")
                yield data
    except zlib.error as error:
        raise Invalid("The gem's data.tar.gz is damaged.") from error
    if not inflater.eof:
        raise Invalid("The gem's data.tar.gz is cut off.")


# --- the YAML --------------------------------------------------------------------------------------------------

Node: TypeAlias = Union[str, "list[Node]", "dict[str, Node]", None]

_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SPECIFICATION = "!ruby/object:Gem::Specification"
_TAGS = frozenset(
    [_SPECIFICATION, "!", "!str", "!binary", "!null", "!int", "!float", "!bool", "!ruby/symbol", "!ruby/sym"]
    + [f"tag:yaml.org,2002:{kind}" for kind in ("str", "binary", "null", "int", "float", "bool", "timestamp")]
    + [f"tag:yaml.org,2002:{kind}" for kind in ("seq", "map")]
    + [f"!ruby/object:Gem::{kind}" for kind in ("Version", "Requirement", "Version::Requirement", "Dependency")]
    + ["!ruby/object:Gem::Platform", "!ruby/object:YAML::Syck::DefaultKey"]
)


def _yaml(data: bytes) -> tuple[Node, str | None]:
    """The one document as text, lists and dicts, with the tag of its root. Raises Invalid.

    Every scalar stays the text that was written (`1.0` is a version, not a number). Aliases are followed, for old
    gems have them, but each counts as all that it stands for.
    """
    try:
        return _compose(yaml.parse(data, Loader=_EVENTS))
    except (yaml.YAMLError, UnicodeError, ValueError) as error:
        raise Invalid("The gem's metadata is not the YAML that RubyGems writes.") from error


class _Open(NamedTuple):
    """A list or dict that is being filled."""

    node: "list[Node] | dict[str, Node]"
    anchor: str | None
    before: int
    keys: list[str]


def _compose(events: Iterator[yaml.Event]) -> tuple[Node, str | None]:
    root: list[Node] = []
    root_tag: str | None = None
    stack = [_Open(root, None, 0, [])]
    anchors: dict[str, tuple[Node, int]] = {}
    count = 0
    for event in events:
        node: Node
        if isinstance(event, yaml.NodeEvent):
            count += 1
        if isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent):
            if event.tag is not None and event.tag not in _TAGS:
                raise Invalid(f"The gem's metadata holds a {event.tag[:80]!r}, which no specification has.")
            if len(stack) == 1:
                root_tag = event.tag
        match event:
            case yaml.ScalarEvent():
                node = _scalar(event)
                if event.anchor:
                    anchors[event.anchor] = node, 1
            case yaml.AliasEvent():
                if event.anchor not in anchors:
                    raise Invalid("The gem's metadata refers to itself, or to something that it does not hold.")
                node, weight = anchors[event.anchor]
                count += weight
            case yaml.SequenceStartEvent() | yaml.MappingStartEvent():
                if len(stack) > _DEEPEST:
                    raise Invalid("The gem's metadata is nested too deep.")
                anchors.pop(event.anchor or "", None)
                opened: list[Node] | dict[str, Node] = [] if isinstance(event, yaml.SequenceStartEvent) else {}
                stack.append(_Open(opened, event.anchor, count, []))
                continue
            case yaml.SequenceEndEvent() | yaml.MappingEndEvent():
                node, anchor, before, _ = stack.pop()
                if anchor:
                    anchors[anchor] = node, count - before + 1
            case _:
                continue
        if count > _NODES:
            raise Invalid(f"The gem's metadata holds more than {_NODES} values.")
        _put(stack[-1], node)
    if len(root) != 1:
        raise Invalid("The gem's metadata is not one YAML document.")
    return root[0], root_tag


def _put(parent: _Open, node: Node) -> None:
    if isinstance(parent.node, list):
        parent.node.append(node)
    elif parent.keys:
        parent.node[parent.keys.pop()] = node
    elif isinstance(node, str):
        parent.keys.append(node)
    else:
        raise Invalid("The gem's metadata has a key that is not a text.")


def _scalar(event: yaml.ScalarEvent) -> str | None:
    text: str = event.value
    if event.tag is not None and event.tag.endswith("binary"):
        try:
            return base64.b64decode(text).decode("utf-8", "surrogateescape")
        except binascii.Error as error:
            raise Invalid("The gem's metadata holds a binary text that is none.") from error
    if (
        event.style in {None, ""}
        and text in {"", "~", "null", "Null", "NULL"}
        and (event.tag or "null").endswith("null")
    ):
        return None
    return text


# --- the specification -----------------------------------------------------------------------------------------


def read_spec(metadata: bytes) -> Gemspec:
    """The specification in a gem's metadata.gz. Raises Invalid, also for what RubyGems would refuse as a new gem."""
    fields, tag = _yaml(inflate(metadata, _GZIP, SPEC_LIMIT, "The gem's metadata.gz"))
    if tag != _SPECIFICATION or not isinstance(fields, dict):
        raise Invalid("The gem's metadata is not a gem specification.")
    name = canonical(_text(fields.get("name")) or "")
    version = _version(fields.get("version"))
    platform = _platform(fields.get("platform"))
    if not is_version(version) or not is_listed(version, platform):
        raise Invalid(f"The gem's version {version[:60]!r} or platform {platform[:60]!r} is not one of RubyGems.")
    email = fields.get("email")
    metadata_hash = fields.get("metadata")
    specification_version = _text(fields.get("specification_version")) or "-1"
    return Gemspec(
        name=name,
        version=version,
        platform=platform,
        summary=_text(fields.get("summary")),
        description=_text(fields.get("description")),
        authors=_texts(fields.get("authors")),
        email=_texts(email) if isinstance(email, list) else _text(email),
        homepage=_text(fields.get("homepage")),
        licenses=_texts(fields.get("licenses")),
        metadata={key: _text(value) for key, value in metadata_hash.items()} if isinstance(metadata_hash, dict) else {},
        date=_date(_text(fields.get("date"))),
        dependencies=tuple(_dependency(entry) for entry in _list(fields.get("dependencies"))),
        required_ruby_version=_requirement(fields.get("required_ruby_version")),
        required_rubygems_version=_requirement(fields.get("required_rubygems_version")),
        rubygems_version=_text(fields.get("rubygems_version")),
        specification_version=int(specification_version) if re.fullmatch(r"-?\d{1,3}", specification_version) else -1,
        requirements=_texts(fields.get("requirements")),
    )


def _text(node: Node) -> str | None:
    return node if isinstance(node, str) else None


def _list(node: Node) -> list[Node]:
    return node if isinstance(node, list) else []


def _texts(node: Node) -> tuple[str | None, ...]:
    """A list of texts, as lists or single texts; old gems nest them."""
    if isinstance(node, str):
        return (node,)
    return tuple(_text(item) for part in _list(node) for item in (part if isinstance(part, list) else [part]))


def _version(node: Node) -> str:
    return (_text(node.get("version") if isinstance(node, dict) else node) or "").strip()


def _platform(node: Node) -> str:
    if isinstance(node, dict):  # a Gem::Platform, as some old gems have it
        return "-".join(part for key in ("cpu", "os", "version") if (part := _text(node.get(key)))) or GENERIC
    return _text(node) or GENERIC


def _requirement(node: Node) -> Requirement:
    clauses = []
    for clause in _list(node.get("requirements") if isinstance(node, dict) else None):
        match clause:
            case [operator, version]:
                sign = (
                    "=" if isinstance(operator, dict) else operator
                )  # the operator `=`, as an old YAML library wrote it
                text = _version(version)
            case _:
                sign = text = ""
        if sign not in _OPERATORS or not is_version(text.replace("-", ".pre.")):
            raise Invalid("The gem's metadata holds a version requirement that is none.")
        clauses.append((sign, text))
    return Requirement(tuple(clauses)) if clauses else Requirement()


def _dependency(node: Node) -> Dependency:
    if not isinstance(node, dict):
        raise Invalid("The gem's metadata holds a dependency that is none.")
    kind = (_text(node.get("type")) or "runtime").removeprefix(":")
    if kind not in {"runtime", "development"}:
        raise Invalid(f"The gem's metadata holds a dependency of the kind {kind[:40]!r}.")
    wanted = node.get("requirement") or node.get("version_requirements")
    prerelease = node.get("prerelease") == "true"
    return Dependency(canonical(_text(node.get("name")) or ""), _requirement(wanted), kind, prerelease)


_DATE = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:[Tt\s]+(\d\d?):(\d\d):(\d\d)(?:\.\d*)?\s*(?:Z|([+-])(\d\d?):?(\d\d))?)?", re.ASCII
)


def _date(text: str | None) -> datetime | None:
    """The day in UTC, as RubyGems keeps it. Raises Invalid when it is none."""
    if text is None:
        return None
    match = _DATE.match(text)
    if match is None:
        raise Invalid("The gem's metadata has a date that is none.")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    sign, hours, minutes = match.groups()[6:]
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("The gem's metadata has a date that is none.") from error
    return at.replace(hour=0, minute=0, second=0)
