"""Files that are added to our own: what is asked for, what has passed the checks, and what became of it."""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from mirror.catalog import Upload, UploadRow
from mirror.errors import Conflict, MirrorError
from mirror.index.upload_bytes import UploadBytes
from mirror.model import AcceptedUpload, File

_decode = msgspec.json.Decoder(File).decode


class AlreadyUploaded(Conflict):
    """Another file of that name is here, or was and is `deleted`; with its digest."""

    def __init__(self, filename: str, digest: str, deleted: bool) -> None:
        super().__init__(
            f"The file name {filename} was deleted here, and is not used again: publish another version."
            if deleted
            else f"There is another file named {filename} here: files are never overwritten; publish another version."
        )
        self.filename = filename
        self.digest = digest
        self.deleted = deleted


class Change(msgspec.Struct, frozen=True):
    """The result of a change."""

    upload: Upload
    """The upload after the change."""
    serial: int | None
    """The serial of the event in the journal; None when nothing had to be changed."""


class NewFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that is to be added."""

    path: Path
    """It is moved away from there, unless it stays."""
    kept: AcceptedUpload
    by: str
    origin: str
    attestations: str = ""
    stays: bool = False
    """Whether the file stays at `path`, which is for small ones."""
    uploaded: float | None = None
    """When it was uploaded elsewhere, in seconds since the epoch; None: now."""


class AddedFile(msgspec.Struct, frozen=True):
    """The outcome for one of several files: a change, or an error."""

    change: Change | None = None
    error: MirrorError | None = None


class PendingFile(msgspec.Struct, frozen=True):
    """A file that has passed the checks."""

    number: int
    """Its place among those that are added together."""
    upload: Upload
    file: File
    facts: str
    stored: UploadBytes


class UploadBatch(msgspec.Struct, kw_only=True):
    """Files that are added together, and how far that has come; a change by another process makes it begin again."""

    files: Sequence[NewFile]
    pending: list[PendingFile] = []
    """Those that have passed the checks."""
    newest: dict[str, float] = {}
    """When each project had changed last when they were checked."""
    sidecars: dict[int, str] = {}
    """The digests of the sidecars of those whose bytes are stored, by number."""
    recorded: dict[int, Upload] = {}
    """The records that were written, by number."""
    sizes: dict[int, int] = {}
    """Bytes, by number."""


class ProjectFiles(msgspec.Struct, frozen=True):
    """The files of one of our own projects, while others are added to it."""

    rows: Sequence[UploadRow]
    """Those in the catalog, also deleted ones."""
    pending: Sequence[PendingFile]

    @property
    def newest(self) -> float:
        """The time of its last change, in seconds since the epoch; 0 for a project that never had a file."""
        changed = (one.changed for one in (*(row.upload for row in self.rows), *(new.upload for new in self.pending)))
        return max(changed, default=0.0)

    def check(self, file: File, exclude: Callable[[File, File], bool]) -> None:
        """Check that a file can be published beside the others. Raises Conflict."""
        files = [(row.upload.filename, _file_of(row)) for row in self.rows]
        files += [(new.upload.filename, new.file) for new in self.pending]
        for name, other in files:
            same_version = other is None or other.version == file.version
            if same_version and _plain_name(name) == _plain_name(file.filename):
                raise Conflict(
                    f"There is, or was, a file named {name} here, and {file.filename} is only another spelling of that"
                    " name: publish another version."
                )
        for name, other in files:
            if other is not None and exclude(file, other):
                raise Conflict(
                    f"{name} is here for the same version and platform as {file.filename}: files are never replaced by"
                    " others; publish another version."
                )


def _file_of(row: UploadRow) -> File | None:
    """Return what is known of a file; None for a deleted one."""
    return None if row.upload.deleted else _decode(row.facts)


def _plain_name(filename: str) -> str:
    """Return what all spellings of a file name have in common."""
    return filename.lower().replace("-", ".").replace("_", ".")
