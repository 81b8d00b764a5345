"""`Gemfile.lock`: sections in upper case, entries distinguished by their indentation.

The format has no version number; an unknown section is refused, because it could change the meaning. `BUNDLED WITH`
does not matter for what has to be fetched.
"""

import re

from mirror.airgap.lockfiles.documents import LockDocument
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, RequirementSet

_SOURCES = ("GEM", "GIT", "PATH", "PLUGIN SOURCE")
_SECTIONS = (*_SOURCES, "PLATFORMS", "DEPENDENCIES", "CHECKSUMS", "RUBY VERSION", "BUNDLED WITH")
_CONFLICT = re.compile(r"^(<{7}|={7}|>{7}|\|{7})", re.MULTILINE)
_SPEC = re.compile(r"(\S+)(?: \(([^()\s]+)\))?")
_CHECKSUM = re.compile(r"(\S+) \(([^()\s]+)\)(?: (\S+))?")
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

    def line(self, number: int, text: str) -> None:
        if not text.strip():
            return
        if not text.startswith(" "):
            if text not in _SECTIONS:
                raise self.document.invalid(f"the section {text[:80]!r} is not known", number)
            self.section, self.remote, self.in_specs = text, "", False
        elif self.section in _SOURCES:
            self._source(number, text)
        elif self.section == "PLATFORMS":
            self.platforms.append(self._fits(_PLATFORM, text.strip(), "platform", number))
        elif self.section == "CHECKSUMS":
            self._checksum(number, text)
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
        hashes = tuple(one.replace("=", ":", 1).lower() for one in (found[3] or "").split(",") if one)
        self.checksums[found[1], found[2]] = hashes  # bundler has not downloaded a gem without one yet

    def _version(self, text: str, number: int) -> tuple[str, str]:
        version, _, platform = text.partition("-")
        self._fits(_VERSION, version, "gem version", number)
        return version, self._fits(_PLATFORM, platform or "ruby", "platform", number)

    def _fits(self, pattern: re.Pattern[str], text: str, what: str, number: int) -> str:
        if pattern.fullmatch(text) is None:
            raise self.document.invalid(f"{text[:80]!r} is not a {what}", number)
        return text


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
    return RequirementSet(
        name=document.name,
        kind="Gemfile.lock",
        ecosystem="rubygems",
        installer="bundler",
        pins=pins,
        external=tuple(reader.external),
        platforms=tuple(reader.platforms),
        indexes=tuple(reader.remotes),
    )
