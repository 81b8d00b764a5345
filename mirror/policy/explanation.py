"""The verdicts on a project, in lines for people. Pure."""

from collections.abc import Collection

from mirror.model import File, Project
from mirror.policy.verdicts import Policy, Verdict, format_time, verdict


def explain(
    policy: Policy,
    project: Project,
    now: float,
    *,
    version: str | None = None,
    held: Collection[str] = frozenset(),
    removed: Collection[str] = frozenset(),
) -> list[str]:
    """Return for each file (of one version, or of all) its source, its age, whether it is held, and its verdicts.

    `project` is the merged one, before policy; `held` and `removed` are names of files. What is unprintable in text
    from an upstream is escaped.
    """
    wanted = None if version is None else policy.versions.key(version)
    files = [file for file in project.files if wanted is None or policy.versions.key(file.version) == wanted]
    if not files:
        return [f"{project.name}: no file of version {version}." if version else f"{project.name}: no files."]
    lines: list[str] = []
    for file in files:
        removed_upstream = file.filename in removed
        facts = [
            f"from {file.source or 'an unnamed source'}",
            _age(file, now),
            "held" if file.filename in held else "not held",
            *(["yanked" + (f": {file.yanked}" if file.yanked else "")] if file.yanked is not None else []),
            *(["removed upstream"] if removed_upstream else []),
            *(["no metadata can be read from it"] if not file.sidecar else []),
        ]
        lines.append(_printable(f"{file.filename}: {', '.join(facts)}"))
        lines += [f"  {line}" for line in _timeline(policy, project, file, now, removed_upstream)]
    return lines


def _timeline(policy: Policy, project: Project, file: File, now: float, removed_upstream: bool) -> list[str]:
    """Return lines for the verdict now, and for each that follows it by itself."""
    found = verdict(policy, project, file, now, removed=removed_upstream)
    lines = [_line(found)]
    while found.until is not None:
        found = verdict(policy, project, file, found.until, removed=removed_upstream)
        lines.append(f"then {_line(found)}")
    return lines


def _line(found: Verdict) -> str:
    until = f" until {format_time(found.until)}" if found.until is not None else ""
    return f"{found.state}{until}" + (f" by the rule {found.rule!r}: {found.reason}" if found.rule else "")


def _age(file: File, now: float) -> str:
    if file.uploaded is None:
        return "upload time not known"
    moment = file.uploaded.timestamp()
    days, rest = divmod(max(0, int(now - moment)), 86400)
    age = f"{days} days" if days > 1 else f"{(days * 86400 + rest) // 3600} hours"
    return f"uploaded {format_time(moment)} ({age} ago)"


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)
