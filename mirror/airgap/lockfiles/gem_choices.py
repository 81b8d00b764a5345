"""The choice of gems for one target, as Bundler makes it. Pure."""

from collections.abc import Sequence

from mirror.airgap.lockfiles.choices import FoundFiles, MissingItem, Reason, hash_allowed
from mirror.airgap.lockfiles.requirement_set import Pin, RequirementSet, VersionRange
from mirror.airgap.lockfiles.targets import Target
from mirror.errors import Invalid
from mirror.model import File, Project
from mirror.rubygems import versions as gem_versions
from mirror.rubygems.names import GENERIC, FullName, address_of

_NO_FIT = 1 << 16


class GemChooser:
    """Chooses gems for one target.

    Bundler 4.1 prefers a build for its own Ruby ABI, which is named after its content, to the gem for its platform; any
    other Bundler takes the latter. Which of them installs is not known here, so both are chosen where both are there.
    """

    def __init__(self, target: Target, requirements: RequirementSet) -> None:
        self.target = target
        self.ruby = target.ruby or requirements.ruby
        self.locked: dict[tuple[str, str], list[str]] = {}
        """(gem, version) → its platforms in the lock."""
        self.addressed: set[tuple[str, str, str]] = set()
        """The (gem, version, platform) of those that the lock has a content address for."""
        for pin in requirements.pins:
            self.locked.setdefault((pin.project, pin.version), []).append(pin.platform or GENERIC)
            if pin.address:
                self.addressed.add((pin.project, pin.version, pin.platform or GENERIC))
        # A target whose platform is in the lock gets exactly the gems that the lock names.
        self.exact = any(one != GENERIC and target.gem_rank(one) is not None for one in requirements.platforms)

    def for_pin(self, project: Project, pin: Pin) -> FoundFiles:
        """Yield the gem of one version and platform, when it is the one that the target installs."""
        platforms = self.locked[pin.project, pin.version]
        best = min((self._rank(one), one) for one in platforms)
        if best[0] == _NO_FIT:
            # In a lock for several platforms, a gem may be needed on others alone.
            if not self.exact:
                yield self._missing(pin, "no gem for the platform")
            return
        platform = pin.platform or GENERIC
        if platform != best[1]:
            return
        files = [file for file in project.files if _same_gem_version(file.version, pin.version)]
        if pin.address:
            yield from self._addressed(files, pin)
        else:
            yield from self._traditional(files, pin)

    def _addressed(self, files: Sequence[File], pin: Pin) -> FoundFiles:
        """Yield the build that a lock pins by its content, unless it is for another Ruby than the target's."""
        # An index makes an address longer where the shorter one is taken.
        named = [
            (address, file) for file in files
            if (address := address_of(file)) and (address.startswith(pin.address) or pin.address.startswith(address))
        ]  # fmt: skip
        if not named:
            name = FullName(pin.project, pin.version, pin.address).filename
            yield self._missing(pin, "the index does not list it" if files else "no such version", name)
            return
        _, listed = named[0]
        if not self._allows_ruby(listed):
            return
        if hash_allowed(listed, pin.hashes):
            yield listed
        else:
            yield self._missing(pin, "the index lists it with another digest", listed.filename)

    def _traditional(self, files: Sequence[File], pin: Pin) -> FoundFiles:
        """Yield the gem that is named after its platform."""
        platform = pin.platform or GENERIC
        builds = [file for file in files if address_of(file) and file.platform == platform and self._allows_ruby(file)]
        files = [file for file in files if address_of(file) is None]
        listed = next((file for file in files if (file.platform or GENERIC) == platform), None)
        others = [] if self.exact or platform != GENERIC else [
            file for file in files if file is not listed and self._rank(file.platform or GENERIC) != _NO_FIT
        ]  # fmt: skip
        # Without the target's platform in the lock, bundler installs the best gem of the index, not the generic one.
        yield from sorted(others, key=lambda file: self._rank(file.platform or GENERIC))[:1]
        if listed is None:
            # Where there are only builds for single Ruby ABIs, Bundler writes this line all the same.
            addressed = bool(builds) and (pin.project, pin.version, platform) in self.addressed
            if not others and not addressed:
                name = FullName(pin.project, pin.version, platform).filename
                yield self._missing(pin, "the index does not list it" if files else "no such version", name)
        elif hash_allowed(listed, pin.hashes):
            yield listed
        else:
            yield self._missing(pin, "the index lists it with another digest", listed.filename)

    def for_range(self, project: Project, entry: VersionRange) -> FoundFiles:
        """Yield the best gem of each of the newest (or all) matching versions, and its builds for single Ruby ABIs."""
        by_version: dict[bytes, list[File]] = {}
        for file in project.files:
            fits = self._rank(file.platform or GENERIC) != _NO_FIT and self._allows_ruby(file)
            if file.yanked is None and fits and gem_versions.allows(entry.specifier, file.version):
                by_version.setdefault(gem_versions.version_key(file.version), []).append(file)
        versions = sorted(by_version, reverse=True)[: entry.newest]
        for version in versions:
            traditional = [file for file in by_version[version] if address_of(file) is None]
            if traditional:
                yield min(traditional, key=lambda file: self._rank(file.platform or GENERIC))
            yield from (file for file in by_version[version] if address_of(file) is not None)
        if not versions:
            yield MissingItem(
                project=project.name, reason="no such version", version=entry.specifier, target=str(self.target),
                where=entry.where,
            )  # fmt: skip

    def _rank(self, platform: str) -> int:
        rank = self.target.gem_rank(platform)
        return _NO_FIT if rank is None else rank

    def _allows_ruby(self, file: File) -> bool:
        if not self.ruby or not file.requires or not gem_versions.is_version(self.ruby):
            return True
        try:
            return gem_versions.allows(file.requires.replace("&", ","), self.ruby)
        except Invalid:
            return True  # undecidable: too much is better than too little

    def _missing(self, pin: Pin, reason: Reason, filename: str = "") -> MissingItem:
        return MissingItem(
            project=pin.project, version=pin.version, reason=reason, filename=filename,
            target=self.target.platform, where=pin.where,
        )  # fmt: skip


def _same_gem_version(one: str, other: str) -> bool:
    if not (gem_versions.is_version(one) and gem_versions.is_version(other)):
        return one == other
    return gem_versions.version_key(one) == gem_versions.version_key(other)
