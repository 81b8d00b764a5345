"""Commands for developers: style, types and the fast tests; figures of size; what a release consists of.

The fast tests are those of pure code and of single modules: no real client, no process of its own, no large files. They
are a list here and not a mark in each test, so that a new test of a fast folder is fast by default.
"""

import subprocess
import sys
import time
from pathlib import Path

import click

from tests.release import audit, write_sbom
from tests.sizes import sizes

ROOT = Path(__file__).parent.parent
FAST = [
    *("tests/test_architecture.py", "tests/test_docs.py", "tests/test_words.py", "tests/test_paths.py"),
    *("tests/config", "tests/catalog", "tests/blobs", "tests/server", "tests/transfer", "tests/upstream"),
    *("tests/policy/test_policy.py", "tests/policy/test_osv.py", "tests/telemetry/test_statistics.py"),
    *(f"tests/index/test_{name}.py" for name in ("cache", "freshness", "merge", "repository", "sources")),
    *("tests/pypi", "tests/airgap/lockfiles", "tests/web/test_views.py", "tests/web/test_projects.py"),
    *(f"tests/rubygems/test_{name}.py" for name in ("names", "versions", "summary", "pages")),
]
"""What `check` runs of pytest, as far as it exists."""
SLOW = [
    "tests/pypi/test_pages.py::test_html_made_to_take_hours_is_read_in_linear_time",
    "tests/pypi/test_package.py::test_many_entries_are_refused",
    "tests/pypi/test_index.py::test_json_gives_back_the_names_that_were_rendered",
]
"""What is left out of those: tests that take seconds each."""
SHARED = ["--catalog", "postgres", "--blobs", "s3"]
"""The options for mirrors over PostgreSQL and an object store."""
SERVED = [
    *(f"tests/contract/test_{name}.py" for name in ("files_again", "inside", "losses", "other_sources", "recheck")),
    *("tests/contract/test_catalog_outages.py", "tests/pypi/test_upload.py", "tests/index/test_uploads.py"),
    *(f"tests/rubygems/test_{name}.py" for name in ("upload", "yanked")),
    "--deselect=tests/index/test_uploads.py::test_a_running_server_notices_what_commands_change",
    "--deselect=tests/index/test_uploads.py::test_what_was_answered_survives_kill_9",
]
"""What runs over those in `.ci/run`: pages, files and uploads of both kinds, and what is read of them again; but for
two tests that take half a minute each, since tests/nodes have the same with several processes."""
SERVED_ALL = [
    *("tests/contract", "tests/pypi", "tests/rubygems", "tests/index", "tests/policy", "tests/auth", "tests/airgap"),
    *("tests/web", "tests/server", "tests/service/test_serving.py"),
    "tests/service/test_rendered_pages.py",
]
"""What runs over those on demand: all suites in which mirrors serve in the process of the test."""


@click.group()
def main() -> None:
    """Run checks of this checkout."""


@main.command()
def check() -> None:
    """Check style and types, and run the fast tests, in less than a minute."""
    began = time.monotonic()
    python = [sys.executable, "-m"]
    types = subprocess.Popen([*python, "mypy"], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    fast = [path for path in FAST if (ROOT / path).exists()]
    tests = [*python, "pytest", "-q", "-n", "auto", *fast, *(f"--deselect={name}" for name in SLOW)]
    failed = []
    for name, command in (
        ("style", [*python, "ruff", "check", "."]),
        ("format", [*python, "ruff", "format", "--check", "."]),
        ("tests", tests),
    ):
        if subprocess.run(command, cwd=ROOT).returncode != 0:
            failed.append(name)
    report, _ = types.communicate()
    print(report, end="")
    if types.returncode != 0:
        failed.append("types")
    print(f"{time.monotonic() - began:.0f} s: {'failed: ' + ', '.join(failed) if failed else 'all is well'}")
    sys.exit(1 if failed else 0)


@main.command()
@click.option("--all", "whole", is_flag=True, help="All suites in which mirrors serve; takes half an hour.")
@click.argument("options", nargs=-1)
def shared(whole: bool, options: tuple[str, ...]) -> None:
    """Run the suites of what is served over PostgreSQL and an object store; OPTIONS, behind `--`, are pytest's."""
    chosen = SERVED_ALL if whole else SERVED
    cache = ["-o", "cache_dir=.pytest_cache/shared"]  # `--last-failed` is not about the usual runs
    command = [sys.executable, "-m", "pytest", "-q", "-n", "auto", *cache, *SHARED, *chosen, *options]
    sys.exit(subprocess.run(command, cwd=ROOT).returncode)


@main.command("sizes")
@click.argument("directories", nargs=-1, type=click.Path(path_type=Path, exists=True))
def print_sizes(directories: tuple[Path, ...]) -> None:
    """Print the figures of size of this checkout, or of others beside each other."""
    columns = [sizes(directory) for directory in directories or (ROOT,)]
    for name in columns[0]:
        print(f"{name:45}", *(f"{column[name]:8}" for column in columns))


@main.command("audit")
def print_audit() -> None:
    """Check what is installed here against known vulnerabilities; exit status 1 when there is one."""
    report = audit()
    for line in report.vulnerable:
        print(line)
    if not report.checked:
        print("skipped: the advisories cannot be reached from here")
    else:
        left_out = f", {report.skipped} could not be asked about" if report.skipped else ""
        print(f"{report.checked} distributions, {len(report.vulnerable)} known vulnerabilities{left_out}")
    sys.exit(1 if report.vulnerable else 0)


@main.command("sbom")
@click.argument("target", type=click.Path(path_type=Path, dir_okay=False))
def make_sbom(target: Path) -> None:
    """Write what an installation of this checkout consists of, as CycloneDX JSON."""
    print(f"{target}: {write_sbom(target)} components")


if __name__ == "__main__":
    main()
