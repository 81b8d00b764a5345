"""Core metadata: the text of METADATA and PKG-INFO, parsed leniently to be shown and strictly to be accepted.

The text is hostile. An email parser takes quadratic time over header names that never repeat, and recurses into
multipart bodies, so its input is bounded and stripped first.

The surprise: strict is not `Metadata.from_email(validate=True)`. That refuses what half of all files on the public
index contain (License-File under metadata version 2.1, fields of single tools), and installers accept.
"""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec
from packaging.version import InvalidVersion, Version

from mirror.errors import Invalid
from mirror.pypi.names import canonical

if TYPE_CHECKING:
    from packaging.metadata import RawMetadata

METADATA_LIMIT = 8 << 20
"""The largest METADATA or PKG-INFO, in bytes."""
_LINES_LIMIT = 20_000
_FIELDS_LIMIT = 100
_VALUE_LIMIT = 4096
_REQUIREMENTS_LIMIT = 5000
_METADATA_VERSION = re.compile(r"[12]\.[0-9]")
_MIME = re.compile(rb"\A(?:content-|mime-version).*?:", re.IGNORECASE)
_PLAIN_HEAD = re.compile(rb"\A(?:[!-9;-~]+:[^\n]*\n(?:[ \t][^\n]*\n)*)+")
_PLAIN_FIELD = re.compile(
    rb"^(metadata-version|name|version|requires-python):([^\n]*)\n([ \t])?", re.IGNORECASE | re.MULTILINE
)  # fmt: skip
_ANY_FIELD = re.compile(rb"^(?:metadata-version|name):", re.IGNORECASE | re.MULTILINE)
_ONCE = ("metadata-version", "name", "version", "requires-python")
_CHECKED = (
    *("name", "version", "summary", "description_content_type", "requires_python", "requires_dist"),
    *("provides_extra", "project_urls", "license_expression"),
)


class DistributionIdentity(msgspec.Struct, frozen=True):
    """The project and version that metadata describes."""

    project: str
    """Canonical."""
    version: str
    """Normalised."""
    requires: str | None = None
    """Requires-Python, as written."""


@lru_cache(maxsize=2)  # metadata out of a wheel is checked once more when it is advertised
def identify(raw: bytes) -> DistributionIdentity:
    """Return name and version of core metadata. Raises Invalid unless it has each exactly once."""
    return _identity_of_plain_head(raw) or _identity(*_fields(raw))


def _identity_of_plain_head(raw: bytes) -> DistributionIdentity | None:
    """Return the identity without a parser, for metadata as tools write it; None for any other, valid or not."""
    head = _split(raw)[0].rstrip(b"\n") + b"\n"
    if len(raw) > METADATA_LIMIT or _PLAIN_HEAD.fullmatch(head) is None:
        return None
    found = _PLAIN_FIELD.findall(head)
    fields = {name.lower(): value.strip() for name, value, _ in found}
    plain = all(value.isascii() and not goes_on for _, value, goes_on in found)
    name, version = fields.get(b"name"), fields.get(b"version")
    if not plain or len(found) != len(fields) or not name or not version:
        return None
    return _identity_of(name.decode(), version.decode(), fields.get(b"requires-python", b"").decode())


def validate(raw: bytes) -> DistributionIdentity:
    """Check that metadata may be uploaded: UTF-8, and valid in every field that tools use. Raises Invalid."""
    from packaging.metadata import InvalidMetadata, Metadata

    try:
        raw.decode()
    except UnicodeDecodeError:
        raise Invalid("The metadata is not UTF-8.") from None
    fields, unparsed = _fields(raw)
    identity = _identity(fields, unparsed)
    if _METADATA_VERSION.fullmatch(fields.get("metadata_version", "")) is None:
        raise Invalid(f"Metadata-Version {fields.get('metadata_version', '')[:20]!r} is unknown.")
    if len(fields.get("requires_dist", ())) > _REQUIREMENTS_LIMIT:
        raise Invalid(f"The metadata has more than {_REQUIREMENTS_LIMIT} requirements.")
    checked = Metadata.from_raw(fields, validate=False)
    values: Mapping[str, Any] = fields
    for name in _CHECKED:
        value = values.get(name) or ()
        if any(len(item) > _VALUE_LIMIT for item in ([value] if isinstance(value, str) else value)):
            raise Invalid(f"The metadata field {name!r} is longer than {_VALUE_LIMIT} characters.")
        try:
            getattr(checked, name)
        except InvalidMetadata as error:
            raise Invalid(f"The metadata is invalid: {str(error)[:300]}.") from error
        except RecursionError:
            raise Invalid(f"The metadata field {name!r} is nested too deeply.") from None
    return identity


def looks_like_metadata(raw: bytes) -> bool:
    """Return whether bytes can be core metadata at all, and not a web page in its place."""
    head = _split(raw[:METADATA_LIMIT])[0]
    return len(raw) <= METADATA_LIMIT and not head.lstrip().startswith(b"<") and _ANY_FIELD.search(head) is not None


def info_from_metadata(raw: bytes) -> dict[str, Any]:
    """Return the JSON API's `info` out of core metadata, leniently: an absent field is None.

    Raises Invalid only for metadata that is too large to be parsed.
    """
    fields, _ = _fields(raw)
    text: Mapping[str, Any] = fields
    return {
        "author": text.get("author"),
        "author_email": text.get("author_email"),
        "bugtrack_url": None,
        "classifiers": list(fields.get("classifiers", ())),
        "description": text.get("description"),
        "description_content_type": text.get("description_content_type"),
        "docs_url": None,
        "download_url": text.get("download_url"),
        "downloads": {"last_day": -1, "last_month": -1, "last_week": -1},
        "dynamic": _list(fields.get("dynamic")),
        "home_page": text.get("home_page"),
        "keywords": ",".join(fields.get("keywords", ())) or None,
        "license": text.get("license"),
        "license_expression": text.get("license_expression"),
        "license_files": _list(text.get("license_files")),
        "maintainer": text.get("maintainer"),
        "maintainer_email": text.get("maintainer_email"),
        "name": text.get("name"),
        "package_url": None,
        "platform": ",".join(fields.get("platforms", ())) or None,
        "project_url": None,
        "project_urls": dict(fields.get("project_urls", {})) or None,
        "provides_extra": _list(fields.get("provides_extra")),
        "release_url": None,
        "requires_dist": _list(fields.get("requires_dist")),
        "requires_python": text.get("requires_python"),
        "summary": text.get("summary"),
        "version": text.get("version"),
        "yanked": False,
        "yanked_reason": None,
    }


def _list(values: Sequence[str] | None) -> list[str] | None:
    return list(values) if values else None


def _fields(raw: bytes) -> tuple["RawMetadata", dict[str, list[str]]]:
    """Parse into fields, and fields that are unreadable or repeated. Raises Invalid when there are absurdly many."""
    from packaging.metadata import parse_email  # here, as serving needs no email parser

    if len(raw) > METADATA_LIMIT:
        raise Invalid(f"The metadata is larger than {METADATA_LIMIT} bytes.")
    head, blank, body = _split(raw)
    lines = head.split(b"\n", _LINES_LIMIT)
    if len(lines) > _LINES_LIMIT:
        raise Invalid(f"The metadata has more than {_LINES_LIMIT} lines of fields.")
    kept, names, skipping = [], set(), False
    for line in lines:
        if not line.startswith((b" ", b"\t")):
            skipping = _MIME.match(line) is not None  # would make the parser search the body for parts and encodings
            names.add(line.partition(b":")[0].lower())
        if not skipping:
            kept.append(line)
    if len(names) > _FIELDS_LIMIT:
        raise Invalid(f"The metadata has more than {_FIELDS_LIMIT} different fields.")
    try:
        return parse_email(b"\n".join(kept) + blank + body)
    except (ValueError, LookupError, AssertionError, RecursionError) as error:
        raise Invalid("The metadata cannot be read.") from error


def _split(raw: bytes) -> tuple[bytes, bytes, bytes]:
    """Return the fields, the blank line, and the description."""
    raw = raw.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return raw.partition(b"\n\n")


def _identity(fields: "RawMetadata", unparsed: Mapping[str, list[str]]) -> DistributionIdentity:
    for field in _ONCE:
        if field in unparsed:
            raise Invalid(f"The metadata has the field {field!r} twice, or not as text.")
    name, version = fields.get("name"), fields.get("version")
    if not name or not version:
        raise Invalid(f"The metadata has no {'Version' if name else 'Name'}.")
    return _identity_of(name, version, fields.get("requires_python"))


def _identity_of(name: str, version: str, requires: str | None) -> DistributionIdentity:
    try:
        normalised = str(Version(version[:_VALUE_LIMIT]))
    except InvalidVersion:
        raise Invalid(f"The version {version[:80]!r} in the metadata is not valid (PEP 440).") from None
    return DistributionIdentity(canonical(name), normalised, requires or None)
