"""What a release consists of, and which of its parts are known to be vulnerable."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent


class AuditReport(NamedTuple):
    """The answers of the public advisories about the installed distributions."""

    checked: int
    skipped: int
    """Those about which no advisory could be asked for."""
    vulnerable: tuple[str, ...]
    """A line for each known vulnerability: name, version, identifier, the versions that mend it."""


def audit() -> AuditReport:
    """Ask the advisories of the index about everything that is installed beside the mirror."""
    ran = subprocess.run(
        [sys.executable, "-m", "pip_audit", "--format=json", "--progress-spinner=off", "--skip-editable"],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    if not ran.stdout.startswith("{"):
        raise RuntimeError(ran.stderr[-2000:])
    return read_audit(ran.stdout)


def read_audit(text: str) -> AuditReport:
    """Return what pip-audit reports as JSON."""
    found = json.loads(text)["dependencies"]
    checked = [one for one in found if "skip_reason" not in one]
    lines = [
        f"{one['name']} {one['version']}: {hole['id']}, mended in {', '.join(hole['fix_versions']) or 'no version'}"
        for one in checked
        for hole in one["vulns"]
    ]
    return AuditReport(len(checked), len(found) - len(checked), tuple(lines))


def write_sbom(target: Path) -> int:
    """Write a CycloneDX list of what an installation of this checkout consists of; return the number of its parts."""
    with tempfile.TemporaryDirectory() as directory:
        environment = Path(directory, "venv")
        for command in (
            ["uv", "venv", "--quiet", "--python", sys.executable, str(environment)],
            ["uv", "pip", "install", "--quiet", "--python", str(environment / "bin" / "python"), str(ROOT)],
        ):
            subprocess.run([sys.executable, "-m", *command], check=True, cwd=directory)
        subprocess.run(
            [
                *(sys.executable, "-m", "cyclonedx_py", "environment", str(environment / "bin" / "python")),
                *("--pyproject", str(ROOT / "pyproject.toml"), "--mc-type", "application", "--output-reproducible"),
                *("--output-file", str(target.absolute())),
            ],
            check=True,
        )
    return len(json.loads(target.read_text())["components"])
