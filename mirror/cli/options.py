"""What commands share: options for settings and selections, one error for wrong usage, and the audit line of a change.

The surprise, here and in every module of a command: its head imports nothing of the mirror that takes time to import,
so that `--help` is immediate; each command imports what it needs when it runs.
"""

import os
import pwd
from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple, TypeVar

import click

from mirror.cli.output import say, say_marked
from mirror.errors import Invalid

if TYPE_CHECKING:
    from mirror.airgap.lockfiles import RequirementSet
    from mirror.airgap.sync.inputs import SyncInput
    from mirror.config import Settings

T = TypeVar("T")

INPUT_SUFFIXES = (".txt", ".in", ".lock", ".toml", ".locked")
"""Endings of an argument that means a file, also when there is no such file."""
TOKEN_BYTES = 4096
"""How much of a token file is read."""

repository_option = click.option("--repository", metavar="NAME", help="The repository; needed where several fit.")


class InvalidUsage(click.ClickException):
    """The command line cannot be understood, or not be followed here: exit status 2."""

    exit_code = 2

    def show(self, file: IO[Any] | None = None) -> None:
        """Print it in the form of all our errors."""
        say_marked(click.style("mirror: ", fg="red"), self.message, err=True)


# Settings


class SettingsOptions(NamedTuple):
    """The values of --config and --data-dir."""

    config: Path | None
    data_dir: Path | None

    def read(self, check: "Callable[[Settings], object]" = lambda settings: None) -> "Settings":
        """Return the settings. Raises ConfigError."""
        from mirror.config import load

        return load(self.config, {"data_dir": self.data_dir} if self.data_dir else None, check)

    def load(self) -> "Settings":
        """Return the settings, and log as they say. Raises ConfigError."""
        settings = self.read()
        _configure_log(settings, settings.log.level)
        return settings

    def load_checked(self) -> "Settings":
        """Return the settings, checked as `mirror serve` checks them, and log warnings only. Raises ConfigError."""
        settings = self.read(check_settings)
        _configure_log(settings, "warning")
        return settings


def _configure_log(settings: "Settings", level: str) -> None:
    from mirror.telemetry import log

    log.configure(settings.log.format, level)


def settings_options(command: Callable[..., T]) -> Callable[..., T]:
    """Add --config and --data-dir; the command gets them as `options`, a SettingsOptions."""

    @wraps(command)
    def wrapped(*arguments: Any, config: Path | None, data_dir: Path | None, **rest: Any) -> T:
        return command(*arguments, options=SettingsOptions(config, data_dir), **rest)

    config = click.option(
        "--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings (TOML). [env: MIRROR_CONFIG]"
    )
    directory = click.option(
        "--data-dir", type=click.Path(path_type=Path), metavar="DIR", help="Where everything is kept."
    )
    return config(directory(wrapped))


def check_settings(settings: "Settings") -> None:
    """Check what needs knowledge of the ecosystems: policies and sync sets. Raises Misconfigured."""
    from mirror.policy.records import check as check_policies
    from mirror.service.ecosystems import ECOSYSTEMS

    if settings.sync:
        from mirror.airgap.sync.inputs import check_sets

        check_sets(settings)
    check_policies(settings, {name: ECOSYSTEMS[one.format].versions for name, one in settings.repositories.items()})


def parse_size(option: str, text: str | None) -> int | None:
    """Return the bytes that an option such as `--limit 20G` names; None without it. Raises Invalid."""
    from mirror.config.values import size

    try:
        return None if text is None else size(text)
    except ValueError as error:
        raise Invalid(f"{option} {text}: {error}.") from None


def parse_duration(option: str, text: str | None) -> float | None:
    """Return the seconds that an option such as `--expires "30d"` names; None without it. Raises Invalid."""
    from mirror.config.values import seconds

    try:
        return None if text is None else seconds(text)
    except ValueError as error:
        raise Invalid(f"{option} {text}: {error}.") from None


def read_token(path: Path) -> str:
    """Return the token in a file. Raises Invalid when its content cannot be one, and OSError."""
    with path.open("rb") as file:
        content = file.read(TOKEN_BYTES).strip()
    if not content or not content.isascii() or not content.decode("ascii").isprintable():
        raise Invalid(f"{path} holds no token: it should be one line of text.")
    return content.decode("ascii")


# Selections: lock files and names


class SyncSelection(NamedTuple):
    """Lock files, requirements and names from the command line, and the Pythons and platforms they are for."""

    inputs: tuple[str, ...]
    pythons: tuple[str, ...]
    platforms: tuple[str, ...]
    sdists: bool
    newest: int
    all_versions: bool
    no_deps: bool
    build: bool
    repositories: tuple[str, ...]

    def sync_inputs(self, settings: "Settings") -> "list[SyncInput]":
        """Return what to fetch. Raises InvalidUsage, with file and line where a file is at fault."""
        from mirror.airgap.sync.inputs import SyncInput, repository_for, targets_for

        try:
            targets = targets_for(self.pythons, self.platforms)
            return [
                SyncInput(
                    requirements=wanted, repository=repository_for(settings, wanted.ecosystem, self.repositories),
                    targets=targets, sdists=self.sdists, dependencies=not self.no_deps,
                )
                for wanted in self._read()
            ]  # fmt: skip
        except Invalid as error:
            raise InvalidUsage(str(error)) from None

    def _read(self) -> "list[RequirementSet]":
        from mirror.airgap.lockfiles import named, read

        files = [one for one in self.inputs if _is_file(one)]
        names = [one for one in self.inputs if not _is_file(one)]
        newest = None if self.all_versions else self.newest
        locks = [read(Path(one)) for one in files]
        for lock in locks:
            for warning in lock.warnings:
                say(f"mirror: {lock.name}: {warning}", err=True)
        return [*locks, *(named(names, newest) if names else ())]


def _is_file(text: str) -> bool:
    """Return whether an argument means a file, also one that does not exist."""
    return Path(text).is_file() or "/" in text.partition(":")[0] or text.endswith(INPUT_SUFFIXES)


def selection_options(command: Callable[..., T], *, required: bool = True) -> Callable[..., T]:
    """Add the arguments and options of a selection, and those for settings; the command gets `selection`, `options`.

    `required`: at least one file or name has to be given.
    """

    @wraps(command)
    def wrapped(**values: Any) -> T:
        selection = SyncSelection(**{name: values.pop(name) for name in SyncSelection._fields})
        return command(selection=selection, **values)

    with_options = settings_options(wrapped)
    for option in reversed(
        [
            click.argument("inputs", metavar="FILE|NAME...", nargs=-1, required=required),
            click.option("--python", "pythons", multiple=True, metavar="VERSION",
                         help="For this Python: 3.12, 3.12.4, 3.13t. Can be repeated; default: the one running."),
            click.option("--platform", "platforms", multiple=True, metavar="PLATFORM",
                         help="linux-x86_64, macos-arm64, windows-amd64, manylinux_2_28_x86_64, … Can be repeated; "
                              "default: this machine."),
            click.option("--sdists", is_flag=True, help="Sources as well, not only where there is no wheel."),
            click.option("--newest", type=click.IntRange(min=1), metavar="N", default=1, show_default=True,
                         help="How many versions of a name that leaves the version open."),
            click.option("--all-versions", is_flag=True, help="Every version of such a name."),
            click.option("--no-deps", is_flag=True, help="Only what is named, without its dependencies."),
            click.option("--build", is_flag=True,
                         help="Let uv build an sdist (run its code) when nothing else lists its dependencies."),
            click.option("--repository", "repositories", multiple=True, metavar="NAME",
                         help="From this repository; default: the first of the right format."),
        ]
    ):  # fmt: skip
        with_options = option(with_options)
    return with_options


# Who changes something


@cache
def caller() -> str:
    """Return the name of the user who runs this command, for records."""
    try:
        name = pwd.getpwuid(os.getuid()).pw_name  # not from the environment, which its owner can set to anything
    except KeyError:
        name = f"uid {os.getuid()}"
    return f"{name} (command line)"


def audit_change(what: str, serial: int | None = None, **facts: str | None) -> None:
    """Write an audit line on standard error: a change by the user who runs this command."""
    from mirror.auth.audit import audit

    audit(what, who=caller(), client="local", serial=serial, **facts)
