"""The index as it was at a moment, by upload time.

It is a filter, not a memory: what was deleted upstream since does not come back, and a file counts as yanked if it is
yanked today. A file whose upload time is not known is left out: nobody can say that it was there.
"""

from datetime import UTC, date, datetime, time

from mirror.errors import Invalid
from mirror.model import Project
from mirror.policy.rules import Versions
from mirror.policy.verdicts import narrowed


def as_of(project: Project, moment: datetime, versions: Versions) -> Project:
    """The project with only the files that were uploaded at or before the moment, and with their versions."""
    return narrowed(project, [file for file in project.files if file.uploaded and file.uploaded <= moment], versions)


def moment(text: str) -> datetime:
    """`2026-08-01` (the end of that day, UTC) or a time with its zone, `2026-08-01T12:00:00Z`. Raises Invalid."""
    try:
        if len(text) == len("2026-08-01"):
            return datetime.combine(date.fromisoformat(text), time.max, UTC)
        found = datetime.fromisoformat(text) if len(text) <= 40 else None
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise Invalid("A date is written as 2026-08-01, or with a time and its zone as 2026-08-01T12:00:00Z.")
    return found
