"""The specification inside a gem: metadata.gz, the YAML of a Gem::Specification.

No YAML object is constructed: the text is read as events into text, lists and dicts, within bounds, and tags are only
compared with those that RubyGems writes. The surprise: no scalar is resolved, since a version `1.0` is no number.
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

# --- the specification -----------------------------------------------------------------------------------------


def read_spec(metadata: bytes) -> Gemspec:
    """Return the specification in a gem's metadata.gz. Raises Invalid, also for what RubyGems refuses as a new gem."""
    fields, tag = read_yaml(inflate(metadata, GZIP, SPEC_BYTES, "The gem's metadata.gz"))
    if tag != _SPECIFICATION or not isinstance(fields, dict):
        raise Invalid("The gem's metadata is not a gem specification.")
    name = canonical(_text(fields.get("name")) or "")
    version = _version(fields.get("version"))
    platform = _platform(fields.get("platform"))
    if not is_new_version(version) or not is_listed(version, platform):
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
    """Return a list of texts, given as lists or single texts; old gems nest them."""
    if isinstance(node, str):
        return (node,)
    return tuple(_text(item) for part in _list(node) for item in (part if isinstance(part, list) else [part]))


def _version(node: Node) -> str:
    return (_text(node.get("version") if isinstance(node, dict) else node) or "").strip()


def _platform(node: Node) -> str:
    if isinstance(node, dict):  # a Gem::Platform, as some old gems have it
        return "-".join(part for key in ("cpu", "os", "version") if (part := _text(node.get(key)))) or GENERIC
    return _text(node) or GENERIC


def _requirement(node: Node) -> GemRequirement:
    clauses = []
    for clause in _list(node.get("requirements") if isinstance(node, dict) else None):
        match clause:
            case [operator, version]:
                # An old YAML library wrote the operator `=` as an object.
                sign = "=" if isinstance(operator, dict) else operator
                text = _version(version)
            case _:
                sign = text = ""
        if sign not in OPERATORS or not is_version(text):
            raise Invalid("The gem's metadata holds an invalid version requirement.")
        clauses.append((sign, text))
    return GemRequirement(tuple(clauses)) if clauses else GemRequirement()


def _dependency(node: Node) -> GemDependency:
    if not isinstance(node, dict):
        raise Invalid("The gem's metadata holds an invalid dependency.")
    kind = (_text(node.get("type")) or "runtime").removeprefix(":")
    if kind not in {"runtime", "development"}:
        raise Invalid(f"The gem's metadata holds a dependency of the kind {kind[:40]!r}.")
    wanted = node.get("requirement") or node.get("version_requirements")
    prerelease = node.get("prerelease") == "true"
    return GemDependency(canonical(_text(node.get("name")) or ""), _requirement(wanted), kind, prerelease)


_DATE = re.compile(
    r"(\d{4})-(\d\d?)-(\d\d?)(?:[Tt\s]+(\d\d?):(\d\d):(\d\d)(?:\.\d*)?\s*(?:Z|([+-])(\d\d?):?(\d\d))?)?", re.ASCII
)


def _date(text: str | None) -> datetime | None:
    """Return the day in UTC, as RubyGems keeps it. Raises Invalid for no date."""
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
            return base64.b64decode(text).decode("utf-8", "replace")
        except binascii.Error as error:
            raise Invalid("The gem's metadata holds an invalid binary text.") from error
    if (
        event.style in {None, ""}
        and text in {"", "~", "null", "Null", "NULL"}
        and (event.tag or "null").endswith("null")
    ):
        return None
    return text
