"""`pylock.toml` (PEP 751). The library `packaging` checks the format; this module only translates."""

from collections.abc import Iterator

from packaging.pylock import (
    Package,
    PackageSdist,
    PackageWheel,
    Pylock,
    PylockUnsupportedVersionError,
    PylockValidationError,
)
from packaging.utils import parse_sdist_filename, parse_wheel_filename

from mirror.airgap.lockfiles.documents import LockDocument, filename_of
from mirror.airgap.lockfiles.requirement_set import ExternalRequirement, Pin, PinnedFile, RequirementSet


def parse(document: LockDocument) -> RequirementSet:
    """Parse a pylock.toml file. Raises InvalidLock."""
    table = document.toml()
    try:
        lock = Pylock.from_dict(table)
    except PylockUnsupportedVersionError as error:
        line = document.line(r"^lock-version\b")
        raise document.invalid(f"pylock version {table.get('lock-version')!r} is not known, only 1", line) from error
    except (PylockValidationError, RecursionError) as error:
        raise document.wrong_value(str(error)) from error
    pins: list[Pin] = []
    external: list[ExternalRequirement] = []
    indexes: dict[str, None] = {}
    for package, line in zip(lock.packages, document.tables("packages"), strict=False):
        if package.is_direct:
            remote = package.vcs or package.archive
            external.append(document.external(package.name, (remote and remote.url) or "", line))
            continue
        if package.index:
            indexes.setdefault(package.index)
        pins.append(
            Pin(
                project=package.name,
                version=_version(package),
                files=tuple(_files(package, document, line)),
                markers=document.markers_of((str(package.marker or ""),), line),
                python=str(package.requires_python or ""),
                index=package.index or "",
                where=document.where(line),
            )
        )
    return RequirementSet(
        name=document.name,
        kind="pylock.toml",
        ecosystem="pypi",
        pins=tuple(pins),
        external=tuple(external),
        python=str(lock.requires_python or ""),
        indexes=tuple(indexes),
        extras=tuple(lock.extras or ()),
        groups=(*(lock.dependency_groups or ()), *(lock.default_groups or ())),
    )


def _version(package: Package) -> str:
    if package.version is not None:
        return str(package.version)
    # PEP 751 allows to omit it where file names contain it; they have been checked.
    if package.sdist is not None:
        return str(parse_sdist_filename(package.sdist.filename)[1])
    return str(parse_wheel_filename((package.wheels or ())[0].filename)[1])


def _files(package: Package, document: LockDocument, line: int | None) -> Iterator[PinnedFile]:
    sdists: list[PackageSdist] = [package.sdist] if package.sdist else []
    artefacts: list[PackageSdist | PackageWheel] = [*sdists, *(package.wheels or ())]
    for one in artefacts:
        yield PinnedFile(
            filename=document.file_of(_filename(one), line).filename,
            url=one.url or "",
            digests={algorithm: str(digest).lower() for algorithm, digest in one.hashes.items()},
            size=one.size,
        )


def _filename(artefact: PackageSdist | PackageWheel) -> str:
    """Return the name of a file in the index: tools may write a normalised one beside a URL with the original."""
    named = filename_of(artefact.url or "")
    return named if named.endswith((".whl", ".tar.gz", ".zip")) else artefact.filename
