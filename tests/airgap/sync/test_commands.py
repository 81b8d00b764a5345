"""`mirror sync`, `mirror check` and `mirror lock rewrite`, as a user runs them: output and exit status."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from mirror.cli import main
from tests.builders import Built, gem, noise, sdist, wheel
from tests.serving import repositories, spawned, write_settings
from tests.simulator import Simulator, Status

SIX, OLDER = wheel("six", "1.16"), wheel("six", "1.15")


class Commands:
    """Runs commands in this process, beside the simulator."""

    def __init__(self, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.settings = settings
        self._capsys = capsys

    async def __call__(self, *words: str | Path, status: int = 0) -> tuple[str, str]:
        """Return what a command prints on standard output and on standard error."""
        self._capsys.readouterr()
        ended = await asyncio.to_thread(main, [*map(str, words), "--config", str(self.settings)])
        said = self._capsys.readouterr()
        assert ended == status, said
        return said.out, said.err


@pytest.fixture
def commands(simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return made(simulator, tmp_path, capsys)


def made(simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], **settings: Any) -> Commands:
    return Commands(write_settings(tmp_path / "data", repositories(simulator), **settings), capsys)


async def test_a_dry_run_says_what_would_come_and_fetches_no_file(simulator: Simulator, commands: Commands) -> None:
    simulator.publish(SIX)
    simulator.publish(OLDER)
    said, _ = await commands("sync", "--no-deps", "--newest", "2", "--dry-run", "six")
    first, second, last = said.splitlines()
    assert {first, second} == {f"{SIX.filename} ({SIX.size:,} bytes)", f"{OLDER.filename} ({OLDER.size:,} bytes)"}
    assert last == "2 files to fetch (1.9 kB), 0 held already"
    assert simulator.count("GET", "/packages/*") == 0
    said, _ = await commands("sync", "--no-deps", "six")
    assert said.splitlines() == [
        f"fetched {SIX.filename} ({SIX.size:,} bytes)",
        "1 file fetched (940 bytes), 0 held before",
    ]
    said, _ = await commands("sync", "--no-deps", "--all-versions", "--dry-run", "six")
    assert said.splitlines()[-1] == "1 file to fetch (940 bytes), 1 held already"


async def test_the_bytes_are_counted_that_the_index_does_not_list(simulator: Simulator, commands: Commands) -> None:
    simulator.pypi.configure(html_only=True, sizes=False)
    simulator.publish(SIX)
    said, _ = await commands("sync", "--no-deps", "six")
    assert said.splitlines()[-1] == "1 file fetched (940 bytes), 0 held before"
    simulator.push(gem("rack", "3.0", size=1_500_000))
    said, _ = await commands("sync", "--no-deps", "gem:rack")
    assert said.splitlines()[-1] == "1 file fetched (1.5 MB), 0 held before"


async def test_a_wheel_without_metadata_is_fetched_all_the_same(simulator: Simulator, commands: Commands) -> None:
    content = noise(5000)
    simulator.publish(Built("hollow", "1.0", "hollow-1.0-py3-none-any.whl", content, b""), core_metadata=False)
    said, _ = await commands("sync", "--no-deps", "hollow")
    assert said.splitlines()[-1] == "1 file fetched (5.0 kB), 0 held before"
    assert "all held" in (await commands("check", "hollow", "--no-deps"))[0]


async def test_the_exit_status_says_that_something_is_missing(simulator: Simulator, commands: Commands) -> None:
    simulator.publish(SIX)
    simulator.publish(wheel("broken", "1.0"))
    simulator.inject("*broken-1.0*", Status(404))
    said, complaint = await commands("sync", "--no-deps", "six", "broken", "nobody-has-this", status=1)
    assert said.splitlines()[-1] == "1 file fetched (940 bytes), 0 held before, 2 missing"
    lines = complaint.splitlines()
    assert "mirror: nobody-has-this: no such project (nobody-has-this)" in lines
    assert any(line.startswith("mirror: broken-1.0-py3-none-any.whl: ") for line in lines)


UV_LOCK = """version = {version}
requires-python = ">=3.8"

[[package]]
name = "six"
version = "1.16"
source = {{ registry = "https://index.example/simple" }}
"""


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("uv.lock", UV_LOCK.format(version=99), "uv.lock, line 1: "),
        ("uv.lock", UV_LOCK.format(version=1) + "broken", "uv.lock, line 8: it is not TOML"),
        ("poetry.lock", 'lock-version = "9.0"\n', "poetry.lock"),
        ("pylock.toml", 'lock-version = "7.0"\ncreated-by = "x"\npackages = []\n', "pylock.toml, line 1: "),
        ("Pipfile.lock", '{"_meta": {"pipfile-spec": 1}}', "Pipfile.lock"),
        ("Gemfile.lock", "GEM\n  remote: https://gems.example/\n  specs:\n    rack\n", "Gemfile.lock, line 4: "),
        ("requirements.txt", "six\n===\n", "requirements.txt, line 2: "),
        ("missing.txt", None, "missing.txt: it cannot be read: No such file or directory"),
    ],
)
@pytest.mark.parametrize("command", ["sync", "check"])
async def test_a_file_that_cannot_be_understood_is_refused_with_its_place(
    tmp_path: Path, simulator: Simulator, commands: Commands, command: str, name: str, text: str | None, said: str
) -> None:
    if text is not None:
        (tmp_path / name).write_text(text)
    _, complaint = await commands(command, tmp_path / name, status=2)
    assert said in complaint
    assert complaint.count("\n") == 1
    assert simulator.requests == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["six", "--python", "three"], "is not a Python version"),
        (["six", "--platform", "amiga"], "The platform 'amiga' is not known"),
        (["six", "--repository", "none"], "There is no repository 'none' here, only pypi, rubygems."),
        (["six", "--repository", "rubygems"], "No chosen repository here is of the format pypi."),
        (["!"], "is neither a project with a specifier nor a file"),
        (["--newest", "0", "six"], "--newest"),
    ],
)
async def test_words_that_make_no_sense_are_refused(commands: Commands, words: list[str], said: str) -> None:
    _, complaint = await commands("sync", *words, status=2)
    assert said in complaint


async def test_nothing_is_fetched_for_a_mirror_that_is_offline(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, complaint = await made(simulator, tmp_path, capsys, offline=True)("sync", "six", status=2)
    assert "This mirror is offline" in complaint


async def test_check_names_each_missing_file_with_its_reason(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rule = {"name": "no old ones", "kind": "deny", "reason": "Too old.", "projects": ["six"], "versions": "<1.16"}
    commands = made(simulator, tmp_path, capsys, policy=[rule])
    for built in (SIX, OLDER, wheel("mac", "1.0", tags="py3-none-macosx_11_0_arm64"), wheel("held", "1.0")):
        simulator.publish(built)
    simulator.push(gem("rack", "3.0"))
    requirements, gemfile = tmp_path / "requirements.txt", tmp_path / "Gemfile.lock"
    requirements.write_text("".join(
        f"{name} --hash=sha256:{'0' * 64 if name == 'mac==1.0' else built.sha256}\n"
        for name, built in (("six==1.16", SIX), ("six==1.15", OLDER), ("held==1.0", wheel("held", "1.0")))
    ) + f"mac==1.0 --hash=sha256:{wheel('mac', '1.0', tags='py3-none-macosx_11_0_arm64').sha256}\n")  # fmt: skip
    gemfile.write_text("GEM\n  remote: https://gems.example/\n  specs:\n    rack (3.0)\n\nPLATFORMS\n  ruby\n")
    words = (requirements, gemfile, "--platform", "linux-x86_64")
    await commands("sync", "held==1.0", "--no-deps")
    await commands("sync", *words, "--dry-run", status=1)  # for the pages
    said, complaint = await commands("check", *words, status=1)
    place = str(requirements)
    assert set(said.splitlines()) == {
        f"{SIX.filename}: not held",
        f"six 1.15: blocked by policy: no old ones: Too old ({place}:2)",
        f"mac 1.0: no wheel for the target (Python {_python()} on linux-x86_64) ({place}:4)",
        "rack-3.0.gem: not held",
    }
    assert "no: 4 missing, of 3 files that are needed" in complaint
    await commands("sync", *words, status=1)
    said, _ = await commands("check", *words, "--platform", "linux-x86_64", status=1)
    assert len(said.splitlines()) == 2


def _python() -> str:
    from mirror.airgap.lockfiles import this_machine

    return this_machine().python


async def test_what_is_of_our_own_needs_no_fetching(simulator: Simulator, tmp_path: Path, commands: Commands) -> None:
    path = tmp_path / "acme-1.0-py3-none-any.whl"
    path.write_bytes(wheel("acme", "1.0").content)
    await commands("add", path)
    assert "1 held before" in (await commands("sync", "acme", "--no-deps"))[0]
    assert "yes: 1 file, all held" in (await commands("check", "acme", "--no-deps"))[0]


async def test_a_closed_mirror_is_synchronised_with_a_token_that_is_gone_afterwards(
    simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    simulator.publish(wheel("app", "1.0", requires=["six"]))
    simulator.publish(SIX)
    closed = {"auth": {"rules": [{"read": ["authenticated"]}]}}
    commands = made(simulator, tmp_path, capsys, **closed)
    async with spawned(tmp_path / "data", repositories(simulator), **closed) as mirror:
        assert (await mirror.get("simple/app/")).status == 401
        said, _ = await commands("sync", "app")
        assert said.splitlines()[-1].startswith("2 files fetched")
        assert (await commands("token", "list"))[0] == ""
    assert "2 files, all held" in (await commands("check", "app"))[0]
    assert (await commands("token", "list"))[0] == ""


@pytest.mark.usefixtures("embedded")
async def test_a_set_that_is_named_is_exactly_what_it_needs(simulator: Simulator, commands: Commands) -> None:
    simulator.publish(SIX)
    simulator.publish(OLDER)
    await commands("sync", "--set", "ci", "six==1.15", "--no-deps")
    await commands("sync", "six", "--no-deps")
    assert await _sets(commands) == {"by-hand": 2, "ci": 2}
    await commands("sync", "--set", "ci", "six", "six==1.15", "--no-deps")
    assert await _sets(commands) == {"by-hand": 2, "ci": 4}


async def _sets(commands: Commands) -> dict[str, int]:
    from mirror.catalog import Catalog
    from mirror.catalog.sqlite import SQLite

    database = SQLite(commands.settings.with_suffix("") / "catalog.sqlite")
    await database.open()
    try:
        return await Catalog(database).sets.names()
    finally:
        await database.close()


# mirror lock rewrite

LOCK = UV_LOCK + (
    'wheels = [\n    {{ url = "{file}", hash = "sha256:{digest}", size = 940 }},\n]\n'
)  # fmt: skip


async def test_a_lock_goes_to_the_mirror_and_comes_back_identical(
    simulator: Simulator, tmp_path: Path, commands: Commands
) -> None:
    entry = simulator.publish(SIX)
    lock = tmp_path / "uv.lock"
    text = LOCK.format(version=1, file=f"{simulator.url}{entry.path}", digest=SIX.sha256)
    lock.write_text(text.replace("https://index.example/simple", simulator.simple_url))
    before = lock.read_bytes()
    await commands("sync", lock)
    said, _ = await commands("lock", "rewrite", lock, "--to", "http://localhost:8484/simple/")
    assert said == f"{lock}: names http://localhost:8484/simple/\n"
    assert f'"http://localhost:8484/packages/six/{SIX.filename}"' in lock.read_text()
    assert simulator.url not in lock.read_text()
    copy = tmp_path / "copy.lock"
    await commands("lock", "rewrite", lock, "--to", simulator.simple_url, "-o", copy)
    assert copy.read_bytes() == before
    await commands("lock", "rewrite", lock, "--to", simulator.simple_url)
    assert lock.read_bytes() == before


async def test_unknown_addresses_are_not_guessed(simulator: Simulator, tmp_path: Path, commands: Commands) -> None:
    lock = tmp_path / "uv.lock"
    lock.write_text(
        LOCK.format(version=1, file="http://localhost/packages/six/six-1.16-py3-none-any.whl", digest="0" * 64)
    )
    before = lock.read_bytes()
    _, complaint = await commands("lock", "rewrite", lock, "--to", simulator.simple_url, status=1)
    assert f"The URL of {SIX.filename}" in complaint
    assert lock.read_bytes() == before


async def test_a_lock_with_several_indexes_needs_the_option_from(tmp_path: Path, commands: Commands) -> None:
    lock = tmp_path / "Gemfile.lock"
    lock.write_text(
        "GEM\n  remote: https://gems.example/\n  specs:\n    rack (3.0)\n\n"
        "GEM\n  remote: https://other.example/\n  specs:\n    rake (13.0)\n\nPLATFORMS\n  ruby\n"
    )
    _, complaint = await commands("lock", "rewrite", lock, "--to", "http://localhost:8484/", status=2)
    assert "https://gems.example/, https://other.example/" in complaint
    await commands("lock", "rewrite", lock, "--from", "https://other.example", "--to", "http://localhost:8484/")
    assert "remote: http://localhost:8484/\n" in lock.read_text()
    assert "remote: https://gems.example/\n" in lock.read_text()


async def test_only_four_formats_can_be_rewritten(tmp_path: Path, commands: Commands) -> None:
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("--index-url https://index.example/simple\nsix\n")
    _, complaint = await commands("lock", "rewrite", requirements, "--to", "http://localhost:8484/simple/", status=2)
    assert "cannot be rewritten" in complaint


async def test_an_sdist_comes_where_it_is_asked_for(simulator: Simulator, commands: Commands) -> None:
    source = sdist("six", "1.16")
    simulator.publish(SIX)
    simulator.publish(source)
    await commands("sync", "six", "--no-deps")
    _, complaint = await commands("check", "six", "--no-deps", "--sdists", status=1)
    assert "1 missing" in complaint
    await commands("sync", "six", "--no-deps", "--sdists")
    await commands("check", "six", "--no-deps", "--sdists")
