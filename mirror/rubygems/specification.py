"""The specification inside a gem: metadata.gz, the YAML of a Gem::Specification.

No YAML object is constructed: the text is read as events into text, lists and dicts, within bounds, and tags are only
compared with those that RubyGems writes. The surprise: no scalar is resolved, since a version `1.0` is no number; one
that Ruby would read as a number is remembered as such (`Number`), and refused where there has to be text.

What is there in the wrong shape is refused. Only what is not there, or is null, gets RubyGems' default.
"""

import base64
import binascii
import re
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import NamedTuple, TypeAlias, Union

import yaml

from mirror.errors import Invalid
from mirror.rubygems.marshal import SPEC_BYTES, GemDependency, GemRequirement, Gemspec
from mirror.rubygems.marshal.reading import inflate
from mirror.rubygems.names import GENERIC, canonical, is_listed, is_new_version
from mirror.rubygems.versions import OPERATORS, is_version

GZIP = 16 + zlib.MAX_WBITS
"""What zlib calls the gzip format."""
_NODES = 150_000
_DEEPEST = 32


class Number(str):
    """A text that stands without quotes where YAML reads a number."""

    __slots__ = ()


Node: TypeAlias = Union[str, "list[Node]", "dict[str, Node]", None]

_NUMBER = re.compile(r"[-+]?[0-9][0-9_,]*+(\.[0-9_]*+)?([eE][-+]?[0-9]+)?|[-+]?\.[0-9]+", re.ASCII)
_EVENTS = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SPECIFICATION = "!ruby/object:Gem::Specification"
_TAGS = frozenset(
    [_SPECIFICATION, "!", "!str", "!binary", "!null", "!int", "!float", "!bool", "!ruby/symbol", "!ruby/sym"]
    + [f"tag:yaml.org,2002:{kind}" for kind in ("str", "binary", "null", "int", "float", "bool", "timestamp")]
    + [f"tag:yaml.org,2002:{kind}" for kind in ("seq", "map")]
    + [f"!ruby/object:Gem::{kind}" for kind in ("Version", "Requirement", "Version::Requirement", "Dependency")]
    + ["!ruby/object:Gem::Platform", "!ruby/object:YAML::Syck::DefaultKey"]
)

# --- the specification -----------------------------------------------------------------------------------------


class Specification(NamedTuple):
    """The contents of metadata.gz."""

    spec: Gemspec
    certificates: tuple[str, ...]
    """The chain of certificates of a signed gem as PEM, the signer's last."""


def read_spec(metadata: bytes) -> Gemspec:
    """Return the specification in a gem's metadata.gz. Raises Invalid, also for what RubyGems refuses as a new gem."""
    return read_specification(metadata).spec


def read_specification(metadata: bytes) -> Specification:
    """Return all that is read of a gem's metadata.gz. Raises Invalid as `read_spec` does."""
    fields, tag = read_yaml(inflate(metadata, GZIP, SPEC_BYTES, "The gem's metadata.gz"))
    if tag != _SPECIFICATION or not isinstance(fields, dict):
        raise Invalid("The gem's metadata is not a gem specification.")
    name = canonical(_needed_text(fields, "name"))
    version = _version(fields.get("version"))
    platform = _platform(fields.get("platform"))
    if not is_new_version(version) or not is_listed(version, platform):
        raise Invalid(f"The gem's version {version[:60]!r} or platform {platform[:60]!r} is not one of RubyGems.")
    email = fields.get("email")
    spec = Gemspec(
        name=name,
        version=version,
        platform=platform,
        summary=_text(fields, "summary"),
        description=_text(fields, "description"),
        authors=_texts(fields, "authors"),
        email=_texts(fields, "email") if isinstance(email, list) else _text(fields, "email"),
        homepage=_text(fields, "homepage"),
        licenses=_texts(fields, "licenses"),
        metadata=_metadata(fields.get("metadata")),
        date=_date(_text(fields, "date")),
        dependencies=tuple(_dependency(entry) for entry in _list(fields, "dependencies")),
        required_ruby_version=_requirement(fields.get("required_ruby_version"), "required_ruby_version"),
        required_rubygems_version=_requirement(fields.get("required_rubygems_version"), "required_rubygems_version"),
        rubygems_version=_text(fields, "rubygems_version"),
        specification_version=_specification_version(_text(fields, "specification_version")),
        requirements=_texts(fields, "requirements"),
    )
    return Specification(spec, tuple(text for text in _texts(fields, "cert_chain") if text))


def _wrong(name: str) -> Invalid:
    return Invalid(f"The gem's metadata holds a {name} of the wrong shape: build the gem again.")


def _text(fields: "dict[str, Node]", name: str) -> str | None:
    """Return a text, or None where there is none. Raises Invalid for anything else."""
    node = fields.get(name)
    if node is not None and not isinstance(node, str):
        raise _wrong(name)
    return node if node is None else str(node)  # a Number is nothing that could be stored


def _needed_text(fields: "dict[str, Node]", name: str) -> str:
    node = fields.get(name)
    if not isinstance(node, str) or isinstance(node, Number):
        raise _wrong(name)
    return node


def _list(fields: "dict[str, Node]", name: str) -> list[Node]:
    """Return a list, empty where there is none. Raises Invalid for anything else."""
    node = fields.get(name)
    if node is not None and not isinstance(node, list):
        raise _wrong(name)
    return node or []


def _texts(fields: "dict[str, Node]", name: str) -> tuple[str | None, ...]:
    """Return a list of texts, given as lists or single texts; old gems nest them. Raises Invalid for anything else."""
    node = fields.get(name)
    if isinstance(node, str):
        return (str(node),)
    found = []
    for part in _list(fields, name):
        for item in part if isinstance(part, list) else [part]:
            if item is not None and not isinstance(item, str):
                raise _wrong(name)
            found.append(item if item is None else str(item))
    return tuple(found)


def _metadata(node: Node) -> dict[str, str | None]:
    if node is None:
        return {}
    if not isinstance(node, dict):
        raise _wrong("metadata")
    return {key: _text(node, key) for key in node}


def _specification_version(text: str | None) -> int:
    if text is None:
        return -1
    if not re.fullmatch(r"-?\d{1,3}", text, re.ASCII):
        raise _wrong("specification_version")
    return int(text)


def _version(node: Node) -> str:
    """Return the text of a Gem::Version; a number is none, since 1.10 would be the same as 1.1."""
    if isinstance(node, dict):
        node = node.get("version")
    if not isinstance(node, str) or isinstance(node, Number):
        raise _wrong("version")
    return node.strip()


def _platform(node: Node) -> str:
    if isinstance(node, dict):  # a Gem::Platform, as some old gems have it
        parts = [_text(node, key) for key in ("cpu", "os", "version")]
        if not parts[1]:
            raise _wrong("platform")
        return ("-" if parts[0] else "").join(part for part in parts if part)
    if node is not None and (not isinstance(node, str) or isinstance(node, Number)):
        raise _wrong("platform")
    return node or GENERIC


def _requirement(node: Node, what: str) -> GemRequirement:
    """Return a Gem::Requirement; where there is none, that everything will do. Raises Invalid for anything else."""
    if node is None:
        return GemRequirement()
    wanted = node.get("requirements") if isinstance(node, dict) else None
    if not isinstance(wanted, list):
        raise _wrong(what)
    clauses = []
    for clause in wanted:
        match clause:
            case [str(sign), version]:
                pass
            case [dict(), version]:  # an old YAML library wrote the operator `=` as an object
                sign = "="
            case _:
                raise _wrong(what)
        text = _version(version)
        if sign not in OPERATORS or not is_version(text):
            raise Invalid(f"The gem's metadata holds a version requirement that RubyGems does not know, in its {what}.")
        clauses.append((sign, text))
    return GemRequirement(tuple(clauses)) if clauses else GemRequirement()


def _dependency(node: Node) -> GemDependency:
    if not isinstance(node, dict):
        raise _wrong("dependency")
    kind = (_text(node, "type") or "runtime").removeprefix(":")
    if kind not in {"runtime", "development"}:
        raise Invalid(f"The gem's metadata holds a dependency of the kind {kind[:40]!r}.")
    wanted = node.get("requirement")
    if wanted is None:
        wanted = node.get("version_requirements")
    prerelease = _text(node, "prerelease") == "true"
    return GemDependency(canonical(_needed_text(node, "name")), _requirement(wanted, "dependency"), kind, prerelease)


_DATE = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:[Tt\s]+(\d\d?):(\d\d):(\d\d)(?:\.\d*)?\s*(?:Z|([+-])(\d\d?):?(\d\d))?)?", re.ASCII
)


def _date(text: str | None) -> datetime | None:
    """Return the day in UTC, as RubyGems keeps it. Raises Invalid for no date, and for one before 1900."""
    if text is None:
        return None
    match = _DATE.match(text)
    if match is None:
        raise Invalid("The gem's metadata has an invalid date.")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    sign, hours, minutes = match.groups()[6:]
    offset = timedelta(hours=int(hours or 0), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1)
    try:
        at = datetime(year, month, day, hour, minute, second, tzinfo=timezone(offset)).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise Invalid("The gem's metadata has an invalid date.") from error
    if at.year < 1900:  # which Ruby's Marshal does not hold in the form that clients read
        raise Invalid("The gem's metadata has a date before 1900: build the gem with the date of its release.")
    return at.replace(hour=0, minute=0, second=0)


# --- the YAML --------------------------------------------------------------------------------------------------


def read_yaml(data: bytes) -> tuple[Node, str | None]:
    """Return the one document as text, lists and dicts, with the tag of its root. Raises Invalid.

    Every scalar stays the text that was written (`1.0` is a version, not a number). Aliases are followed, for old
    gems have them, but each counts as all that it refers to.
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


_TAGGED = (yaml.ScalarEvent, yaml.CollectionStartEvent)  # a union would be made anew for each event


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
        if isinstance(event, _TAGGED):
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
        parent.keys.append(str(node))
    else:
        raise Invalid("The gem's metadata has a key that is not a text.")


def _scalar(event: yaml.ScalarEvent) -> str | None:
    text: str = event.value
    if event.tag is not None and event.tag.endswith("binary"):
        try:
            return base64.b64decode(text).decode("utf-8", "replace")
        except binascii.Error as error:
            raise Invalid("The gem's metadata holds an invalid binary text.") from error
    if (
        event.style in {None, ""}
        and text in {"", "~", "null", "Null", "NULL"}
        and (event.tag or "null").endswith("null")
    ):
        return None
    plain = event.style in {None, ""} and not (event.tag or "").endswith("str")
    return Number(text) if plain and _NUMBER.fullmatch(text) else text
