"""Inspect wheels and sdists on disk: their metadata, and whether they may be published.

Nothing is ever unpacked to a disk. Archives are hostile: how much is read, inflated and kept in memory is limited
beforehand, and two readers have to see the same in them (`strict_zip`, `sdist`).

The surprise: a RECORD without a line is accepted, as simple build scripts write it; it vouches for nothing. One that
lists anything has to list everything, as it is.
"""

import base64
import binascii
import csv
import hashlib
import unicodedata
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from mirror.errors import Invalid
from mirror.model import AcceptedUpload, File
from mirror.pypi import sdist
from mirror.pypi.metadata import METADATA_LIMIT, DistributionIdentity, identify, validate
from mirror.pypi.names import canonical, parse_filename, same_version
from mirror.pypi.strict_zip import StrictZip

_RECORD_DIGESTS = ("sha256", "sha384", "sha512", "blake2b", "blake2s", "sha3_256", "sha3_384", "sha3_512")
"""The algorithms that RECORD may name: PEP 427 wants SHA-256 or better."""
_SIGNATURES = ("RECORD.jws", "RECORD.p7s")


def filename_of(filename: str, path: Path) -> str:
    """Return the file name itself, by which a distribution is known everywhere."""
    return filename


def inspect(filename: str, path: Path) -> File:
    """Inspect a wheel or an sdist on disk, with its digests: sha256, md5 and blake2b_256.

    `extra` has `metadata` (the core metadata's text; its fields: `metadata.info_from_metadata`) and for a wheel
    `core-metadata` (its digest, PEP 714). Blocking. Raises Invalid for anything that must not be published.
    """
    parts = parse_filename(filename)
    with path.open("rb") as file:
        if parts.kind == "wheel":
            raw = _wheel(file)
        else:
            raw = _zipped_sdist(file) if filename.endswith(".zip") else sdist.read_pkg_info(file)
        identity = validate(raw)
        if identity.project != parts.project or not same_version(identity.version, parts.version):
            raise Invalid(
                f"{filename} contains {identity.project} {identity.version}, "
                f"but its name is that of {parts.project} {parts.version}."
            )
        file.seek(0)
        size, digests = _digests(file)
    extra: dict[str, Any] = {"metadata": raw.decode()}
    if parts.kind == "wheel":
        extra["core-metadata"] = {"sha256": hashlib.sha256(raw).hexdigest()}
    return File(
        filename=filename,
        version=parts.version,
        digests=digests,
        size=size,
        requires=identity.requires,
        extra=extra,
    )


def _wheel(file: BinaryIO) -> bytes:
    """Check every entry of a wheel, and return its METADATA. Raises Invalid."""
    archive = StrictZip(file)
    directories = {name.partition("/")[0] for name in archive.entries}
    found = [name for name in directories if name.lower().endswith(".dist-info")]
    if len(found) != 1:
        raise Invalid(f"The wheel has {len(found)} .dist-info directories, not one.")
    directory = found[0]
    for required in ("METADATA", "WHEEL", "RECORD"):  # PEP 427
        if f"{directory}/{required}" not in archive.entries:
            raise Invalid(f"The wheel has no {directory[:200]}/{required}.")
    spellings: dict[str, str] = {}
    for name in archive.entries:
        other = spellings.setdefault(unicodedata.normalize("NFC", name).casefold(), name)
        if other != name:
            raise Invalid(f"{name[:200]!r} and {other[:200]!r} in the wheel are one file on some systems.")
    raw = archive.read(f"{directory}/METADATA", METADATA_LIMIT)
    _check_directory(directory, identify(raw))
    _check_record(archive, directory)
    return raw


def _zipped_sdist(file: BinaryIO) -> bytes:
    """Check every entry of a zipped sdist, and return its PKG-INFO. Raises Invalid."""
    archive = StrictZip(file)
    tops = {name.partition("/")[0] for name in archive.entries}
    if len(tops) != 1 or f"{(top := tops.pop())}/PKG-INFO" not in archive.entries:
        raise Invalid("An sdist needs one directory at its top, with PKG-INFO in it.")
    raw = archive.read(f"{top}/PKG-INFO", METADATA_LIMIT)
    for name in archive.entries:
        for _ in archive.content(name):
            pass  # each chunk is checked as it is unpacked
    return raw


def _check_record(archive: StrictZip, directory: str) -> None:
    """Check that RECORD lists the files of a wheel as they are, and read all of them. Raises Invalid."""
    own = f"{directory}/RECORD"
    record = _read_record(archive.read(own, METADATA_LIMIT))
    lists = bool(record)
    unlisted = {own, *(f"{directory}/{name}" for name in _SIGNATURES)}
    behind = False
    for name, entry in archive.entries.items():
        listed = record.pop(name, None)
        if listed is None and (lists or behind) and name not in unlisted and not entry.is_dir():
            raise Invalid(f"RECORD of the wheel does not list {name[:200]!r}.")
        algorithm, digest, size = listed or ("", b"", None)
        hasher = hashlib.new(algorithm or "sha256")
        for chunk in archive.content(name):
            hasher.update(chunk)
        if (algorithm and hasher.digest() != digest) or size not in (None, entry.file_size):
            raise Invalid(f"RECORD of the wheel has another digest or size of {name[:200]!r} than the file.")
        behind = behind or name == own  # what was put behind a finished wheel
    if missing := record.keys() - unlisted:
        raise Invalid(f"RECORD of the wheel lists {min(missing)[:200]!r}, which is not there.")


def _read_record(raw: bytes) -> dict[str, tuple[str, bytes, int | None]]:
    """Return path → algorithm, digest and size, as far as RECORD has them. Raises Invalid."""
    found: dict[str, tuple[str, bytes, int | None]] = {}
    try:
        for row in csv.reader(raw.decode().splitlines()):
            if not row:
                continue
            path, written, size = (*row, "", "")[:3]
            algorithm, _, digest = written.partition("=")
            if path in found or (algorithm and algorithm not in _RECORD_DIGESTS):
                raise Invalid(f"RECORD of the wheel lists {path[:200]!r} twice, or with an unknown kind of digest.")
            decoded = base64.b64decode(digest + "=" * (-len(digest) % 4), altchars=b"-_", validate=True)
            found[path] = algorithm, decoded, int(size) if size else None
    except (csv.Error, binascii.Error, ValueError) as error:
        raise Invalid("RECORD of the wheel cannot be read.") from error
    return found


def _check_directory(directory: str, identity: DistributionIdentity) -> None:
    name, _, version = directory.removesuffix(".dist-info").rpartition("-")
    if canonical(name) != identity.project or not same_version(version.replace("_", "-"), identity.version):
        raise Invalid(
            f"The directory {directory[:200]} contains the metadata of {identity.project} {identity.version}."
        )


def _digests(file: BinaryIO) -> tuple[int, dict[str, str]]:
    sha256, md5, blake2b = hashlib.sha256(), hashlib.md5(usedforsecurity=False), hashlib.blake2b(digest_size=32)
    size = 0
    while chunk := file.read(1 << 20):
        size += len(chunk)
        for update in (sha256.update, md5.update, blake2b.update):
            update(chunk)
    return size, {"sha256": sha256.hexdigest(), "md5": md5.hexdigest(), "blake2b_256": blake2b.hexdigest()}


def accept(inspected: File, attested: bool) -> AcceptedUpload:
    """Return what to store of an inspected file."""
    extra = {key: value for key, value in inspected.extra.items() if key != "metadata"}
    # Simple pages show SHA-256 alone: pip gives up at the name of an algorithm that hashlib does not know.
    extra["digests"] = {name: digest for name, digest in inspected.digests.items() if name != "sha256"}
    if attested:
        extra["provenance"] = inspected.filename
    return AcceptedUpload(
        project=parse_filename(inspected.filename).project,
        file=msgspec.structs.replace(inspected, digests={"sha256": inspected.digests["sha256"]}, extra=extra),
        sidecar=inspected.extra["metadata"].encode(),
    )
