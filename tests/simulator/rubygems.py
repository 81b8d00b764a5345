"""The RubyGems side (in the making): the compact index, the legacy index, gems and JSON."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tests.builders import Built

from .wire import Answer, Request


class RubyGems:
    """A gem index."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock

    def push(self, gem: Built | bytes, *, created: datetime | None = None, before_last: int = 0) -> None:
        """List a gem: a line at the end of /versions, or before the last `before_last` lines (a late commit)."""
        raise NotImplementedError

    def yank(self, name: str, version: str, platform: str = "ruby") -> None:
        """Take a version out of /info and the specs; append its removal to /versions. The file stays, as it does in public."""
        raise NotImplementedError

    def unyank(self, name: str, version: str, platform: str = "ruby") -> None:
        """Undo a yank: its line in /versions vanishes, and the last line of the name gets the new MD5."""
        raise NotImplementedError

    def rewrite(self) -> None:
        """The monthly compaction: a new created_at, one line for each name, sorted, nothing yanked."""
        raise NotImplementedError

    def load_genuine(self, gems: Path, info: Path | None = None) -> None:
        """Push every .gem of a folder; with `info`, serve that folder's bodies byte for byte and list what they list."""
        raise NotImplementedError

    def answer(self, request: Request) -> Answer | None:
        """None when the path is none of ours."""
        return None
