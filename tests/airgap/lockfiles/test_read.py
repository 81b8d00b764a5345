"""Locks that the real tools have written, and locks that are broken."""

import time
from contextlib import suppress
from pathlib import Path

import pytest

from mirror.airgap.lockfiles import RequirementSet, Target, kind_of, parse, read
from mirror.airgap.lockfiles import documents as documents_module
from mirror.airgap.lockfiles.requirement_set import GraphEdge, needed
from mirror.errors import Invalid, InvalidLock

DATA = Path(__file__).parent / "data"
LINUX = Target("3.11", "linux-x86_64")
WINDOWS = Target("3.9", "windows-amd64")


def data(name: str) -> RequirementSet:
    return read(DATA / f"{name}.txt")


def names(parsed: RequirementSet, target: Target) -> list[str]:
    return [f"{pin.project} {pin.version}" for pin in needed(parsed, target.environments)[0]]


NEW_LINUX = ["click 8.5.1", "iniconfig 2.3.1", "markupsafe 3.0.4"]
OLD_WINDOWS = ["click 8.1.8", "colorama 0.4.6", "iniconfig 2.1.0", "markupsafe 3.0.4"]


@pytest.mark.parametrize(
    ("name", "kind", "linux", "windows"),
    [
        ("uv-forks", "uv.lock", [*NEW_LINUX, "pysocks 1.7.1"], [*OLD_WINDOWS, "pysocks 1.7.1", "tomli 2.5.0"]),
        ("pylock-export", "pylock.toml", [*NEW_LINUX, "pysocks 1.7.1"], [*OLD_WINDOWS, "pysocks 1.7.1", "tomli 2.5.0"]),
        (
            "poetry-2.1",
            "poetry.lock",
            ["click 8.1.8", "iniconfig 2.1.0", "markupsafe 3.0.4", "pysocks 1.7.1"],
            [*OLD_WINDOWS, "pysocks 1.7.1", "tomli 2.5.0"],
        ),
        (
            "pdm-4.5",
            "pdm.lock",
            ["click 8.1.8", "iniconfig 2.1.0", "markupsafe 3.0.4", "pysocks 1.7.1"],
            [*OLD_WINDOWS, "pysocks 1.7.1", "tomli 2.5.0"],
        ),
        ("requirements-export", "requirements", NEW_LINUX, [*OLD_WINDOWS, "tomli 2.5.0"]),
    ],
)
def test_each_target_needs_what_the_tool_would_install_there(
    name: str, kind: str, linux: list[str], windows: list[str]
) -> None:
    parsed = data(name)
    assert parsed.kind == kind
    assert parsed.ecosystem == "pypi"
    assert names(parsed, LINUX) == linux
    assert names(parsed, WINDOWS) == windows


@pytest.mark.parametrize("name", ["poetry-1.1", "poetry-2.0"])
def test_an_older_poetry_lock_has_no_markers_so_that_all_of_it_is_needed(name: str) -> None:
    parsed = data(name)
    assert names(parsed, LINUX) == [*OLD_WINDOWS, "pysocks 1.7.1", "tomli 2.5.0"]
    assert names(parsed, LINUX) == names(parsed, WINDOWS)
    assert len(parsed.pins[3].files) == len(data("poetry-2.1").pins[3].files) > 50


def test_a_pin_knows_its_files_with_digests_sizes_and_place() -> None:
    click = data("uv-forks").pins[0]
    assert (click.project, click.version, click.index) == ("click", "8.1.8", "https://index.example/simple")
    assert [file.filename for file in click.files] == ["click-8.1.8.tar.gz", "click-8.1.8-py3-none-any.whl"]
    assert click.files[0].url.startswith("https://files.example/packages/b9/2e/")
    assert click.files[0].size == 226593
    assert click.files[0].digests == {"sha256": "ed53c9d8990d83c2a27deae68e4ee337473f6330c040a31d4225c9574d16096a"}
    assert click.where.endswith("uv-forks.txt:9")


@pytest.mark.parametrize("name", ["uv-forks", "pylock-export", "poetry-2.1", "poetry-1.1", "pdm-4.5", "pdm-urls"])
def test_all_formats_agree_on_the_files_of_a_version(name: str) -> None:
    parsed = data(name)
    (markupsafe,) = [pin for pin in parsed.pins if pin.project == "markupsafe"]
    (expected,) = [pin for pin in data("uv-forks").pins if pin.project == "markupsafe"]
    # uv leaves out the wheels of platforms that it does not know and of Pythons that the lock is not for.
    digests = {file.filename: file.digests for file in markupsafe.files}
    assert len(expected.files) > 40
    assert {file.filename: digests.get(file.filename) for file in expected.files} == {
        file.filename: file.digests for file in expected.files
    }


def test_members_of_a_workspace_are_outside_and_what_they_need_is_not() -> None:
    parsed = data("uv-members")
    assert [(one.name, one.local) for one in parsed.external] == [("app", True), ("member", True)]
    assert names(parsed, LINUX) == ["click 8.1.8", "iniconfig 2.3.1"]


def test_a_pipfile_lock_pins_by_hash_and_leaves_open_what_its_maker_could_not_resolve() -> None:
    parsed = data("pipfile-6")
    click = parsed.pins[0]
    assert (click.project, click.version, len(click.hashes)) == ("click", "8.5.1", 2)
    assert click.index == "https://index.example/simple"
    assert [(one.project, one.specifier, one.marker) for one in parsed.ranges] == [
        ("colorama", "", "sys_platform == 'win32'")
    ]
    assert needed(parsed, LINUX.environments)[1] == ()
    assert needed(parsed, Target("3.11", "windows-amd64").environments)[1] == parsed.ranges
    assert parsed.python == "==3.11.*"


def test_a_file_has_the_name_of_its_address_where_the_lock_gives_a_normalised_one_besides() -> None:
    (pysocks,) = [pin for pin in data("pylock-export").pins if pin.project == "pysocks"]
    assert [file.filename for file in pysocks.files] == ["PySocks-1.7.1.tar.gz", "PySocks-1.7.1-py3-none-any.whl"]


def test_a_pylock_of_one_resolution_has_no_index() -> None:
    parsed = data("pylock-compile")
    assert (parsed.indexes, parsed.python) == ((), ">=3.11.7")
    assert [pin.index for pin in parsed.pins] == ["", ""]


UV = """version = 1
revision = 3
requires-python = ">=3.11"

[[package]]
name = "app"
version = "1"
source = { virtual = "." }
dependencies = [{ name = "here" }, { name = "fetched" }, { name = "linked", marker = "sys_platform == 'win32'" }]

[package.optional-dependencies]
cpu = [{ name = "torch", version = "2.0", marker = "extra == 'extra-3-app-cpu'" }]

[[package]]
name = "here"
version = "1"
source = { registry = "https://index.example/simple" }
dependencies = [{ name = "there" }]
wheels = [{ url = "https://files.example/here-1-py3-none-any.whl", hash = "sha256:00" }]

[[package]]
name = "there"
version = "1"
source = { registry = "https://index.example/simple" }
dependencies = [{ name = "here" }]

[[package]]
name = "torch"
version = "2.0"
source = { registry = "https://other.example/simple" }

[[package]]
name = "fetched"
version = "1"
source = { git = "https://user:secret@code.example/fetched.git?rev=1#abc" }
dependencies = [{ name = "deep" }]

[[package]]
name = "deep"
version = "1"
source = { registry = "https://index.example/simple" }

[[package]]
name = "linked"
version = "1"
source = { url = "https://elsewhere.example/linked-1.tar.gz" }
"""


def test_what_comes_from_version_control_is_reported_without_its_password_and_its_needs_are_kept() -> None:
    parsed = parse("uv.lock", UV)
    assert [(one.name, one.local) for one in parsed.external] == [("app", True), ("fetched", False), ("linked", False)]
    assert "code.example/fetched.git" in parsed.external[1].reason
    assert "secret" not in parsed.external[1].reason
    assert "deep 1" in names(parsed, LINUX)
    assert parsed.indexes == ("https://index.example/simple", "https://other.example/simple")


def test_a_circle_of_dependencies_ends_and_every_extra_counts_as_chosen() -> None:
    assert names(parse("uv.lock", UV), LINUX) == ["here 1", "there 1", "torch 2.0", "deep 1"]


def test_a_script_lock_starts_from_its_requirements() -> None:
    text = (
        'version = 1\n[manifest]\nrequirements = [{ name = "a", specifier = ">=1" }]\n'
        '[[package]]\nname = "a"\nversion = "1"\nsource = { registry = "https://index.example/simple" }\n'
        'dependencies = [{ name = "b" }]\n'
        '[[package]]\nname = "b"\nversion = "1"\nsource = { registry = "https://index.example/simple" }\n'
        'dependencies = [{ name = "a" }]\n'
    )
    parsed = parse("uv.lock", text)
    assert parsed.graph is not None
    assert parsed.graph.roots == (GraphEdge(project="a"),)
    assert names(parsed, LINUX) == ["a 1", "b 1"]


PYLOCK = """lock-version = "1.0"
created-by = "hand"
extras = ["fast"]
dependency-groups = ["dev"]
default-groups = ["main"]

[[packages]]
name = "a"
marker = "'fast' in extras and 'dev' in dependency_groups"
wheels = [{ name = "a-1.5-py3-none-any.whl", url = "https://files.example/x", hashes = { sha256 = "AB" } }]

[[packages]]
name = "b"
vcs = { type = "git", url = "https://code.example/b", commit-id = "12" }

[[packages]]
name = "c"
directory = { path = "c" }

[[packages]]
name = "d"
version = "1"
sdist = { url = "https://files.example/d-1.tar.gz", hashes = { sha256 = "cd" } }
requires-python = ">=3.12"
"""


def test_a_pylock_names_its_file_and_its_version_in_more_than_one_way() -> None:
    parsed = parse("pylock.dev.toml", PYLOCK)
    assert [(pin.project, pin.version, pin.python) for pin in parsed.pins] == [("a", "1.5", ""), ("d", "1", ">=3.12")]
    assert parsed.pins[0].files[0].filename == "a-1.5-py3-none-any.whl"
    assert parsed.pins[0].files[0].digests == {"sha256": "ab"}
    assert [(one.name, one.local) for one in parsed.external] == [("b", False), ("c", True)]
    assert names(parsed, LINUX) == ["a 1.5", "d 1"]


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("pylock.toml", "", "pylock.toml"),
        ("pylock.dev.toml", "", "pylock.toml"),
        ("deep/poetry.lock", "", "poetry.lock"),
        ("gems.locked", "", "Gemfile.lock"),
        ("x", "GEM\n  remote: https://gems.example/\n", "Gemfile.lock"),
        ("x", 'lock-version = "1.0"\ncreated-by = "uv"\n', "pylock.toml"),
        ("requirements.txt", "requests\n", "requirements"),
        ("anything", "", "requirements"),
    ],
)
def test_a_format_is_known_by_name_or_by_content(name: str, text: str, kind: str) -> None:
    assert kind_of(name, text) == kind


@pytest.mark.parametrize(
    ("name", "text", "line", "reason"),
    [
        ("uv.lock", "version = 2\n", 1, "uv.lock version 2 is not known"),
        ("uv.lock", "# lock\nrevision = 1\n", None, "uv.lock version None is not known"),
        ("uv.lock", "version = 1\n[[package]\n", 2, "it is not TOML"),
        ("uv.lock", "version = 1\n\n[[package]]\nname = 3\nsource = {}\n", 3, "Expected `str`, got `int`"),
        ("uv.lock", 'version = 1\n[[package]]\nname = "../a"\nversion = "1"\nsource = {}\n', 2, "not a project name"),
        (
            "uv.lock",
            'version = 1\n\n[[package]]\nname = "a"\nversion = "x y"\nsource = { registry = "https://i.example" }\n',
            3,
            "'x y' is not a version",
        ),
        (
            "uv.lock",
            'version = 1\n[[package]]\nname = "a"\nversion = "1"\nsource = { registry = "https://i.example" }\n'
            'sdist = { url = "https://i.example/..%2f..%2fetc" }\n',
            2,
            "is not a file name",
        ),
        (
            "uv.lock",
            'version = 1\n[[package]]\nname = "a"\nversion = "1"\nsource = { virtual = "." }\n'
            'dependencies = [{ name = "b", marker = "os ==" }]\n',
            2,
            "is not an environment marker",
        ),
        ("uv.lock", "version = 1\nx = " + "[" * 5000, None, "nested too deeply"),
        ("pylock.toml", 'lock-version = "2.0"\ncreated-by = "x"\npackages = []\n', 1, "pylock version '2.0'"),
        ("pylock.toml", 'lock-version = "1.0"\npackages = []\n', None, "Missing required value in 'created-by'"),
        (
            "pylock.toml",
            'lock-version = "1.0"\ncreated-by = "x"\n[[packages]]\nname = "A"\n',
            3,
            "'A' is not normalized",
        ),
        ("poetry.lock", '[metadata]\nlock-version = "3.0"\n', 2, "poetry.lock version '3.0'"),
        ("poetry.lock", "package = []\n", None, "poetry.lock version None"),
        ("pdm.lock", '[metadata]\nlock_version = "5.0"\n', 2, "pdm.lock version '5.0'"),
        ("Pipfile.lock", '{"_meta": {\n"pipfile-spec": 7}}', 2, "specification 7 is not known"),
        ("Pipfile.lock", '{"_meta": {\n"pipfile-spec": 6,\n', 2, "it is not JSON"),
        ("Pipfile.lock", '{"_meta": {"pipfile-spec": 6},\n"default": {\n"a": {"version": 1}}}', 3, "the entry of 'a'"),
        (
            "Pipfile.lock",
            '{"_meta": {"pipfile-spec": 6},\n"default": {\n"a": {"version": "\\ud800"}}}',
            3,
            "it is not JSON",
        ),
        ("Pipfile.lock", '{"_meta": {"pipfile-spec": ' + "1" * 5000 + "}}", None, "out of range"),
        ("uv.lock", "version = 1\nx = " + "1" * 5000, None, "a number with too many digits"),
        ("uv.lock", 'version = 1\nx = "\\ud800"', 2, "it is not TOML"),
        ("uv.lock", "version = 1\n[" + "a." * 40 + "a]\n", 2, "a key of more than 32 parts"),
        ("uv.lock", "version = 1\n" + "'a' . " * 40 + "a = 1\n", 2, "a key of more than 32 parts"),
        ("requirements.txt", "\na; " + " or ".join(["os_name=='a'"] * 2000), 2, "longer than 20000 characters"),
        ("Pipfile.lock", '{"x":' * 100_000, 1, "it is not JSON"),
    ],
)
def test_a_broken_lock_is_refused_with_line_and_reason(name: str, text: str, line: int | None, reason: str) -> None:
    with pytest.raises(InvalidLock) as caught:
        parse(name, text)
    assert reason in caught.value.reason
    assert caught.value.line == line
    assert caught.value.file == name
    assert isinstance(caught.value, Invalid)
    assert str(caught.value).startswith(name)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidLock, match="cannot be read: No such file"):
        read(tmp_path / "uv.lock")


def test_a_file_that_is_no_text_is_refused_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "uv.lock").write_bytes(b"version = 1\n\xff\n")
    with pytest.raises(InvalidLock, match="line 2: it is not UTF-8"):
        read(tmp_path / "uv.lock")


def test_a_file_beyond_the_limit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.airgap.lockfiles.MAX_FILE_BYTES", 10)
    (tmp_path / "uv.lock").write_text("version = 1\n" * 2)
    with pytest.raises(InvalidLock, match="larger than"):
        read(tmp_path / "uv.lock")
    assert documents_module.MAX_FILE_BYTES == 32 << 20


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path: Path) -> None:
    (tmp_path / "r.txt").write_bytes("\ufeffclick==8.1.8\n".encode())
    assert [pin.project for pin in read(tmp_path / "r.txt").pins] == ["click"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("requirements.txt", "x" + ".whl[" * 60_000),
        ("requirements.txt", "a" + ">=1," * 60_000 + ">=1"),
        ("uv.lock", "version = 1\n[package.source]\n" + ".".join(["a"] * 60_000) + "=1\n"),
        ("uv.lock", "version = 1\n" + "a" * 300_000),
        ("uv.lock", "version = 1\n" + '"' * 300_000),
        ("Gemfile.lock", "GEM\n  specs:\n    " + "a" * 300_000 + "\n"),
    ],
)
def test_a_hostile_file_takes_no_longer_than_its_length(name: str, text: str) -> None:
    started = time.process_time()
    with suppress(InvalidLock):
        parse(name, text)
    assert time.process_time() - started < 2  # with the square of its length it takes a minute
