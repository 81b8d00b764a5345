"""The command `mirror`: one table of commands, whose modules are imported when their command runs.

Exit statuses of all commands: 0 done; 1 it failed, or the answer is no; 2 wrong usage or configuration; 130
interrupted. Errors are one sentence on standard error; a traceback is a bug. To add a command, write it as
`NAME_command` in the module of its family, import what is slow to import inside of it, and enter it in `COMMANDS`.
"""

import importlib
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from mirror import __version__
from mirror.errors import ConfigError, MirrorError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class CommandEntry(NamedTuple):
    """One line of `mirror --help`."""

    section: str
    module: str
    """Below `mirror.cli`; it has the command as `NAME_command`, with `_` for `-`."""
    help: str


FOR_OTHERS = frozenset({"export", "inventory", "key", "lock"})
"""The commands that write files for others to read; what all others write is the mirror's own."""

COMMANDS: Mapping[str, CommandEntry] = {
    "serve": CommandEntry("Run", "serve", "Run the mirror."),
    "check-config": CommandEntry("Run", "serve", "Check the settings."),
    "status": CommandEntry("Run", "status", "Show what is held, what it saved, and the state of upstreams."),
    "doctor": CommandEntry("Run", "doctor", "Check this mirror, or any index, as its clients would."),
    "explain": CommandEntry("Run", "explain", "Explain why a project looks as it does."),
    "report": CommandEntry("Run", "status", "List what upstream has removed, and who has fetched it since."),
    "sync": CommandEntry("Before you go offline", "sync", "Fetch what lock files and names need."),
    "check": CommandEntry("Before you go offline", "sync", "Check that it would install offline."),
    "lock": CommandEntry("Before you go offline", "lock", "Change the index that a lock file names."),
    "follow": CommandEntry("Between mirrors", "follow", "Keep a replica of another mirror."),
    "promote": CommandEntry("Between mirrors", "promote", "Become the home of a lost mirror's uploads."),
    "export": CommandEntry("Between mirrors", "export", "Write a bundle, or a tree for any web server."),
    "import": CommandEntry("Between mirrors", "bundle", "Import a bundle from another mirror."),
    "inventory": CommandEntry("Between mirrors", "bundle", "List what is held, for `mirror export --for`."),
    "key": CommandEntry("Between mirrors", "bundle", "Manage the keys that sign bundles."),
    "add": CommandEntry("Your own files", "uploads", "Add files from disk."),
    "yank": CommandEntry("Your own files", "uploads", "Mark an uploaded version as not to be used."),
    "unyank": CommandEntry("Your own files", "uploads", "Undo a yank."),
    "delete": CommandEntry("Your own files", "uploads", "Delete an uploaded version for ever."),
    "release": CommandEntry("Your own files", "release", "Let another source answer for a name that is gone."),
    "token": CommandEntry("Access", "tokens", "Create, list and revoke tokens."),
    "user": CommandEntry("Access", "accounts", "Add, change, list and remove users."),
    "sweep": CommandEntry("Maintenance", "maintenance", "Remove the least recently used files above the limit."),
    "verify": CommandEntry("Maintenance", "maintenance", "Re-read what is held, and fetch damaged files again."),
    "backup": CommandEntry("Maintenance", "maintenance", "Copy the catalog and the uploads to a directory."),
    "restore": CommandEntry("Maintenance", "maintenance", "Fill an empty data directory from a backup."),
    "move": CommandEntry("Maintenance", "move", "Move the catalog and the files to shared ones, or back."),
    "rebuild": CommandEntry("Maintenance", "uploads", "Restore the uploads in a catalog that was lost."),
}


class CommandTable(click.Group):
    """A group whose commands are those of the table; only the one that runs is imported."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module = importlib.import_module(f"mirror.cli.{COMMANDS[cmd_name].module}")
        command: click.Command = getattr(module, f"{cmd_name.replace('-', '_')}_command")
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        width = max(map(len, COMMANDS))
        for section in dict.fromkeys(entry.section for entry in COMMANDS.values()):
            rows = [(name.ljust(width), one.help) for name, one in COMMANDS.items() if one.section == section]
            with formatter.section(section):
                formatter.write_dl(rows)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> "list[CompletionItem]":
        from click.shell_completion import CompletionItem  # only when a shell asks

        names = [name for name in COMMANDS if name.startswith(incomplete)]
        found = [CompletionItem(name, help=COMMANDS[name].help) for name in names]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _show_version(ctx: click.Context, _option: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        from mirror.cli.output import say

        say(f"mirror {__version__}")
        ctx.exit()


@click.group(cls=CommandTable, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version, help="Show the version."
)
@click.pass_context
def group(context: click.Context) -> None:
    """A pull-through caching proxy and mirror for Python and Ruby packages.

    \b
    Exit status: 0 done, 1 failed or the answer is no,
    2 wrong usage or configuration, 130 interrupted.
    """
    if context.invoked_subcommand not in FOR_OTHERS:
        os.umask(0o077)


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
    from mirror.cli.output import say_marked  # only where there is something to say

    colour = False if os.environ.get("NO_COLOR") else None  # None: only on a terminal
    for line in message.splitlines():
        say_marked(click.style("mirror: ", fg="red"), line, err=True, colour=colour)
    return status
