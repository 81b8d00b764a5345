"""`Gemfile.lock`: sections in upper case, entries distinguished by their indentation.

The format has no version number. Bundler skips a section that it does not know, and so is it done here, with a warning:
a newer Bundler may write what older ones can do without. `BUNDLED WITH` does not matter for what has to be fetched.

The surprise: Bundler 4.1 lists a gem as it would be for older versions, and beside it, in `CONTENT ADDRESSES`, the
build for one Ruby ABI that it installs itself. Both become pins: the lock does not say which Bundler will install it.
"""

import re

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, RequirementSet

_SOURCES = ("GEM", "GIT", "PATH", "PLUGIN SOURCE")
_SECTIONS = (*_SOURCES, "PLATFORMS", "DEPENDENCIES", "CHECKSUMS", "CONTENT ADDRESSES", "RUBY VERSION", "BUNDLED WITH")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})", re.MULTILINE)
_SPEC = re.compile(r"(?<!\S)(\S{1,255}+)(?: \(([^()\s]{1,255})\))?")
_CHECKSUM = re.compile(r"(?<!\S)(\S{1,255}+) \(([^()\s]{1,255})\)(?: (\S+))?")
_ADDRESS = re.compile(r"(?<!\S)(\S{1,255}+) \(([^()\s]{1,255})\) ([0-9a-f]{8,64})(?: (\S+))?")
_RUBY = re.compile(r"ruby ([0-9]+\.[0-9]+\.[0-9]+)", re.ASCII)
_HEADING = re.compile(r"[A-Z][A-Z ]*")
_NAME = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)
_VERSION = re.compile(r"[0-9]+(\.[0-9A-Za-z]+)*", re.ASCII)
_PLATFORM = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class _GemfileParser:
    """The parser's state between two lines."""

    def __init__(self, document: LockDocument) -> None:
        self.document = document
        self.section = ""
        self.remote = ""
        self.in_specs = False
        self.remotes: dict[str, None] = {}
        self.platforms: list[str] = []
        self.specs: list[tuple[str, str, str, str, int]] = []
        self.external: list[ExternalRequirement] = []
        self.checksums: dict[tuple[str, str], tuple[str, ...]] = {}
        self.addresses: list[tuple[str, str, str, str, tuple[str, ...], int]] = []
        """Gem, version, platform, content address, hashes and line."""
        self.warnings: list[str] = []
        self.ruby = ""

    def line(self, number: int, text: str) -> None:
        if not text.strip():
            return
        if not text.startswith(" "):
            if text not in _SECTIONS:
                if not _HEADING.fullmatch(text[:80]):
                    raise self.document.invalid(f"{text[:80]!r} is not the heading of a section", number)
                self.warnings.append(f"the section {text[:80]!r} is not known, and is skipped")
            self.section, self.remote, self.in_specs = text, "", False
        elif self.section in _SOURCES:
            self._source(number, text)
        elif self.section == "PLATFORMS":
            self.platforms.append(self._fits(_PLATFORM, text.strip(), "platform", number))
        elif self.section == "CHECKSUMS":
            self._checksum(number, text)
        elif self.section == "CONTENT ADDRESSES":
            self._address(number, text)
        elif self.section == "RUBY VERSION":
            found = _RUBY.match(text.strip())
            self.ruby = found[1] if found else ""
        elif not self.section:
            raise self.document.invalid("an entry stands before the first section", number)

    def _source(self, number: int, text: str) -> None:
        indent = len(text) - len(text.lstrip(" "))
        key, colon, value = text.strip().partition(":")
        if indent == 2 and colon:
            self.in_specs = key == "specs"
            if key == "remote":
                self.remote = value.strip()
                if self.section == "GEM":
                    self.remotes.setdefault(self.remote)
        elif indent == 4 and self.in_specs:
            self._spec(number, text.strip())
        elif indent != 6 or not self.in_specs:  # six spaces: a dependency of the gem above, which is locked as well
            raise self.document.invalid(f"{text.strip()[:80]!r} is not expected here", number)

    def _spec(self, number: int, text: str) -> None:
        found = _SPEC.fullmatch(text)
        if found is None or not found[2]:
            raise self.document.invalid(f"{text[:80]!r} is not a gem with its version", number)
        name = self._fits(_NAME, found[1], "gem name", number)
        if self.section == "GEM":
            version, platform = self._version(found[2], number)
            self.specs.append((name, version, platform, self.remote, number))
        elif self.section == "PATH":
            self.external.append(self.document.external(name, "", number))
        else:
            self.external.append(self.document.external(name, self.remote, number))

    def _checksum(self, number: int, text: str) -> None:
        found = _CHECKSUM.fullmatch(text.strip())
        if found is None:
            raise self.document.invalid(f"{text.strip()[:80]!r} is not a checksum", number)
        self.checksums[found[1], found[2]] = _hashes(found[3])  # bundler has not downloaded a gem without one yet

    def _address(self, number: int, text: str) -> None:
        found = _ADDRESS.fullmatch(text.strip())
        if found is None:
            raise self.document.invalid(f"{text.strip()[:80]!r} is not a content address", number)
        name = self._fits(_NAME, found[1], "gem name", number)
        version, platform = self._version(found[2], number)
        self.addresses.append((name, version, platform, found[3], _hashes(found[4]), number))

    def _version(self, text: str, number: int) -> tuple[str, str]:
        version, _, platform = text.partition("-")
        self._fits(_VERSION, version, "gem version", number)
        return version, self._fits(_PLATFORM, platform or "ruby", "platform", number)

    def _fits(self, pattern: re.Pattern[str], text: str, what: str, number: int) -> str:
        if pattern.fullmatch(text) is None:
            raise self.document.invalid(f"{text[:80]!r} is not a {what}", number)
        return text


def _hashes(text: str | None) -> tuple[str, ...]:
    """Return `sha256=…,sha512=…` as it is written elsewhere."""
    return tuple(one.replace("=", ":", 1).lower() for one in (text or "").split(",") if one)


def parse(document: LockDocument) -> RequirementSet:
    """Parse a Gemfile.lock. Raises InvalidLock."""
    conflict = _CONFLICT.search(document.text)
    if conflict:
        line = document.text.count("\n", 0, conflict.start()) + 1
        raise document.invalid("it has merge conflicts: resolve them first", line)
    reader = _GemfileParser(document)
    for number, text in enumerate(document.text.splitlines(), 1):
        reader.line(number, text.rstrip())
    pins = tuple(
        Pin(
            project=name,
            version=version,
            platform=platform,
            hashes=reader.checksums.get((name, version if platform == "ruby" else f"{version}-{platform}"), ()),
            index=remote,
            where=document.where(number),
        )
        for name, version, platform, remote, number in reader.specs
    )
    remotes = {(pin.project, pin.version): pin.index for pin in pins}
    pins += tuple(
        Pin(
            project=name,
            version=version,
            platform=platform,
            address=address,
            hashes=hashes,
            index=remotes.get((name, version), ""),
            where=document.where(number),
        )
        for name, version, platform, address, hashes, number in reader.addresses
    )
    return RequirementSet(
        name=document.name,
        kind="Gemfile.lock",
        ecosystem="rubygems",
        installer="bundler",
        pins=pins,
        external=tuple(reader.external),
        platforms=tuple(reader.platforms),
        ruby=reader.ruby,
        indexes=tuple(reader.remotes),
        warnings=tuple(reader.warnings),
    )
