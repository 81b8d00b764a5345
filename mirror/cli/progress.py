"""How a sync shows itself: a bar with rates and what is left on a terminal, a line for each file elsewhere."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click
from rich.filesize import decimal

from mirror.airgap.sync import Problem, SyncFile


class Shown:
    """A SyncProgress for people; use it as a context."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeRemainingColumn,
            TransferSpeedColumn,
        )

        self._terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[files]}"),
            console=Console(stderr=True, highlight=False), disable=not self._terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("", total=None, files="")
        self._files = self._done = self._size = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def looking(self, what: str) -> None:
        """Pages are looked at and versions decided."""
        self._progress.update(self._task, description=what)

    def on_found(self, files: Sequence[SyncFile], held: int) -> None:
        if not self._files and files:
            self._progress.reset(self._task, description="fetching")  # rates count from now
        self._files += len(files)
        self._size += sum(file.file.size or 0 for file in files)
        self._progress.update(self._task, total=self._size, files=f"{self._done}/{self._files} files")

    def on_fetched(self, piece: SyncFile) -> None:
        self._step(piece)
        if not self._terminal:
            click.echo(f"fetched {piece.file.filename}{_sized(piece)}")

    def on_failed(self, piece: SyncFile, reason: str) -> None:
        self._step(piece)

    def _step(self, piece: SyncFile) -> None:
        self._done += 1
        self._progress.update(
            self._task, advance=piece.file.size or 0, files=f"{self._done}/{self._files} files"
        )  # fmt: skip


def listed(pieces: Sequence[SyncFile], held: int) -> None:
    """What would be fetched, and how much that is."""
    for piece in pieces:
        click.echo(f"{piece.file.filename}{_sized(piece)}")
    size = decimal(sum(piece.file.size or 0 for piece in pieces))
    click.echo(f"{files_text(len(pieces))} to fetch ({size}), {held} held already")


def complain(problems: Sequence[Problem]) -> None:
    """Problems on standard error, a line for each."""
    for problem in problems:
        click.echo(click.style("mirror: ", fg="red") + str(problem), err=True)


def files_text(count: int) -> str:
    """`1 file`, `2 files`."""
    return f"{count:,} file{'' if count == 1 else 's'}"


def _sized(piece: SyncFile) -> str:
    return "" if piece.file.size is None else f" ({decimal(piece.file.size)})"
