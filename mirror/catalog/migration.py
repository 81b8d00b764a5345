"""The numbered migrations of the catalog, which every engine applies in its own way.

A file is written once for all engines: types are spelled so that SQLite and PostgreSQL both take them, and a line that
begins with `-- postgresql:` is for PostgreSQL only, a comment to all others. Migrations only expand: a version of the
mirror goes on working with a catalog that the next version has migrated.
"""

from collections.abc import Iterator
from importlib.resources import files

import msgspec

POSTGRESQL_LINE = "-- postgresql:"


class Migration(msgspec.Struct, frozen=True):
    """One numbered file."""

    number: int
    name: str
    text: str

    def statements(self, only: str = "") -> Iterator[str]:
        """Return the statements; `only` is the comment that begins the lines which are for this engine only."""
        lines = []
        for line in self.text.splitlines():
            bare = line.lstrip()
            if only and bare.startswith(only):
                lines.append(bare.removeprefix(only))
            elif not bare.startswith("--"):
                lines.append(line)
        return (statement for statement in "\n".join(lines).split(";") if statement.strip())


def migrations() -> list[Migration]:
    """Return all migrations, oldest first."""
    entries = [entry for entry in files("mirror.catalog").joinpath("migrations").iterdir() if entry.name[:4].isdigit()]
    found = [Migration(int(entry.name[:4]), entry.name, entry.read_text()) for entry in entries]
    return sorted(found, key=lambda migration: migration.number)
