"""How a sync shows its progress: a bar with rates on a terminal, a line for each file elsewhere."""

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Self

import click
from rich.console import Console
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from mirror.airgap.sync.plan import Problem
from mirror.airgap.sync.queue import SyncFile
from mirror.cli.output import say, say_marked


class ProgressBar:
    """A SyncProgress for people; use it as a context."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(),
            TimeRemainingColumn(), TextColumn("{task.fields[files]}"),
            console=Console(stderr=True, highlight=False), disable=not self._terminal,
        )  # fmt: skip
        self._task = self._progress.add_task("looking", total=None, files="")
        self._files = self._done = self._size = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_found(self, files: Sequence[SyncFile], held: int) -> None:
        """Show that these files are to be fetched as well."""
        if not self._files and files:
            self._progress.reset(self._task, description="fetching")  # rates count from now
        self._files += len(files)
        self._size += sum(one.file.size or 0 for one in files)
        self._progress.update(self._task, total=self._size, files=f"{self._done}/{self._files} files")

    def on_fetched(self, file: SyncFile) -> None:
        """Show that a file has been fetched."""
        self._advance(file)
        if not self._terminal:
            say(f"fetched {file.file.filename}{_size_text(file)}")

    def on_failed(self, file: SyncFile, reason: str) -> None:
        """Show that a file is done with; its problem is printed at the end."""
        self._advance(file)

    def _advance(self, file: SyncFile) -> None:
        self._done += 1
        files = f"{self._done}/{self._files} files"
        self._progress.update(self._task, advance=file.file.size or 0, files=files)


def print_plan(files: Sequence[SyncFile], held: int) -> None:
    """List the files that would be fetched, and their total size."""
    for one in files:
        say(f"{one.file.filename}{_size_text(one)}")
    size = decimal(sum(one.file.size or 0 for one in files))
    say(f"{count_files(len(files))} to fetch ({size}), {held} held already")


def print_problems(problems: Sequence[Problem]) -> None:
    """Print a line for each problem on standard error."""
    for problem in problems:
        say_marked(click.style("mirror: ", fg="red"), str(problem), err=True)


def count_files(count: int) -> str:
    """Return `1 file`, `2 files` and so on."""
    return f"{count:,} file{'' if count == 1 else 's'}"


def _size_text(one: SyncFile) -> str:
    return "" if one.file.size is None else f" ({decimal(one.file.size)})"
