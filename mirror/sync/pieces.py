"""What a sync fetches: one file after the other, or many small ones together."""

from typing import Protocol

import msgspec

from mirror.model import File


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """One file that is needed, with its sidecar."""

    repository: str
    project: str
    file: File

    @property
    def key(self) -> tuple[str, str, str]:
        return self.repository, self.project, self.file.filename


class Told(Protocol):
    """Whoever is told how it went with a piece: it is held now, or there was an error."""

    def __call__(self, piece: Piece, error: Exception | None = None, /) -> None: ...
