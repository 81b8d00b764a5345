"""What `mirror sync` and `mirror check` share: locks and names from the command line, and for whom."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import click

from mirror.cli.opening import shared_options

if TYPE_CHECKING:
    from mirror.airgap.lockfiles import Wanted
    from mirror.airgap.sync import SyncInput
    from mirror.config import Settings

T = TypeVar("T")

FILE_ENDINGS = (".txt", ".in", ".lock", ".toml", ".locked")


class Misuse(click.ClickException):
    """What was asked for cannot be understood: exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """In the form of all our errors."""
        click.echo(click.style("mirror: ", fg="red") + self.message, file=file, err=True)


def selection_options(command: Callable[..., T], *, required: bool = True) -> Callable[..., T]:
    """What is wanted, and for which Pythons and platforms; `required`: whether something has to be named."""
    command = shared_options(command)
    for option in reversed(
        [
            click.argument("inputs", metavar="FILE|NAME...", nargs=-1, required=required),
            click.option("--python", "pythons", multiple=True, metavar="VERSION",
                         help="For this Python: 3.12, 3.12.4, 3.13t. Several times; without it, the one running."),
            click.option("--platform", "platforms", multiple=True, metavar="PLATFORM",
                         help="linux-x86_64, macos-arm64, windows-amd64, manylinux_2_28_x86_64, … Several times; "
                              "without it, this machine."),
            click.option("--sdists", is_flag=True, help="Sources as well, not only where there is no wheel."),
            click.option("--newest", type=click.IntRange(min=1), metavar="N", default=1, show_default=True,
                         help="Of a name that leaves the version open, so many versions."),
            click.option("--all-versions", is_flag=True, help="Of such a name, every version."),
            click.option("--no-deps", is_flag=True, help="Only what is named, not what that depends on."),
            click.option("--build", is_flag=True,
                         help="Let uv run the build of an sdist where nothing else says what it depends on."),
            click.option("--repository", "chosen", multiple=True, metavar="NAME",
                         help="From this repository; without it, from the first of the right format."),
        ]
    ):  # fmt: skip
        command = option(command)
    return command


def checked_settings(config: Path | None, data_dir: Path | None) -> "Settings":
    """The settings, as `serve` would have them; of the log only what is wrong. Raises ConfigError."""
    from mirror.cli.checking import check
    from mirror.config import load
    from mirror.telemetry import log

    settings = load(config, {"data_dir": data_dir} if data_dir else None, check)
    log.configure(settings.log.format, "warning")
    return settings


def wishes(
    settings: "Settings",
    inputs: Sequence[str],
    *,
    pythons: Sequence[str],
    platforms: Sequence[str],
    sdists: bool,
    newest: int | None,
    dependencies: bool,
    chosen: Sequence[str],
) -> "list[SyncInput]":
    """What the command line asks for. Raises Misuse, with the file and the line where it is a file's fault."""
    from mirror.airgap.sync import SyncInput, repository_for, targets_for
    from mirror.errors import Invalid

    try:
        targets = targets_for(pythons, platforms)
        return [
            SyncInput(
                wanted=wanted, repository=repository_for(settings, wanted.ecosystem, chosen), targets=targets,
                sdists=sdists, dependencies=dependencies,
            )
            for wanted in _wanted(inputs, newest)
        ]  # fmt: skip
    except Invalid as error:
        raise Misuse(str(error)) from None


def _wanted(inputs: Sequence[str], newest: int | None) -> "list[Wanted]":
    from mirror.airgap.lockfiles import named, read

    files = [one for one in inputs if _is_file(one)]
    names = [one for one in inputs if not _is_file(one)]
    return [*(read(Path(one)) for one in files), *(named(names, newest) if names else ())]


def _is_file(text: str) -> bool:
    """Whether an argument means a file, also one that is not there."""
    return Path(text).is_file() or "/" in text.partition(":")[0] or text.endswith(FILE_ENDINGS)
