"""The command `mirror`: one module for each subcommand, imported when it is asked for.

Exit statuses, of all commands: 0 done; 1 it failed, or the answer is no; 2 wrong usage or configuration; 130
interrupted. Errors are one sentence on standard error; a traceback is a bug. To add a command, write a module with a
click command called `command` and name it in `COMMANDS`. What surprises: `mirror --help` imports all of these modules,
so at their top they import nothing heavier than click.
"""

import importlib
import os
from collections.abc import Sequence
from typing import Any

import click

from mirror import __version__
from mirror.errors import ConfigError, MirrorError

COMMANDS = {
    "serve": "mirror.cli.serve",
    "check-config": "mirror.cli.check_config",
    "status": "mirror.cli.status",
    "sync": "mirror.cli.sync",
    "check": "mirror.cli.check",
    "follow": "mirror.cli.follow",
    "lock": "mirror.cli.lock",
    "import": "mirror.cli.import_",
    "inventory": "mirror.cli.inventory",
    "key": "mirror.cli.key",
    "add": "mirror.cli.add",
    "yank": "mirror.cli.yank",
    "unyank": "mirror.cli.unyank",
    "delete": "mirror.cli.delete",
    "rebuild": "mirror.cli.rebuild",
    "sweep": "mirror.cli.sweep",
    "verify": "mirror.cli.verify",
    "backup": "mirror.cli.backup",
    "restore": "mirror.cli.restore",
    "export": "mirror.cli.export",
    "explain": "mirror.cli.explain",
    "report": "mirror.cli.reports",
    "doctor": "mirror.cli.doctor",
    "token": "mirror.cli.token",
    "user": "mirror.cli.user",
}


class Commands(click.Group):
    """A group whose commands are modules."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[cmd_name]).command
        return command


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"mirror {__version__}")
        ctx.exit()


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
def group() -> None:
    """A pull-through caching proxy and mirror for Python and Ruby packages.

    \b
    Exit status: 0 done, 1 failed or the answer is no,
    2 wrong usage or configuration, 130 interrupted.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status. Never raises for what a user can cause."""
    try:
        status: Any = group.main(args=arguments, prog_name="mirror", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return 130
    except ConfigError as error:
        return _fail(str(error), 2)
    except MirrorError as error:
        return _fail(str(error), 1)
    except OSError as error:
        return _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error), 1)
    return status if isinstance(status, int) else 0


def _fail(message: str, status: int) -> int:
    colour = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    for line in message.splitlines():
        click.echo(click.style("mirror: ", fg="red") + line, err=True, color=colour)
    return status
