"""Locks that are moved from one index to another, and back to the same bytes."""

import contextlib
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.lockfiles import mirror_files, parse, rewrite
from mirror.errors import Invalid, InvalidLock

DATA = Path(__file__).parent / "data"
PUBLIC = "https://index.example/simple"
MIRROR = "http://mirror.example:8484/team/simple/"
THERE = {PUBLIC: MIRROR}
BACK = {MIRROR: PUBLIC}


def data(name: str) -> str:
    with (DATA / f"{name}.txt").open(newline="") as stream:
        return stream.read()


def addresses(text: str, kind: str) -> dict[tuple[str, str], str]:
    """Return (project, file name) → URL for all files in a lock, as another index would report them."""
    pins = parse(kind, text, kind=kind).pins
    return {(pin.project, file.filename): file.url for pin in pins for file in pin.files}


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("uv-forks", "uv.lock"),
        ("uv-members", "uv.lock"),
        ("pylock-export", "pylock.toml"),
        ("pylock-compile", "pylock.toml"),
        ("poetry-2.1", "poetry.lock"),
        ("poetry-2.0", "poetry.lock"),
        ("poetry-1.1", "poetry.lock"),
    ],
)
def test_there_and_back_gives_the_same_bytes(name: str, kind: str) -> None:
    original = data(name)
    known = addresses(original, kind)
    moved = rewrite(original, kind, THERE, mirror_files(MIRROR))
    assert moved != original or name == "pylock-compile"
    assert "index.example" not in moved
    assert "files.example" not in moved
    assert rewrite(moved, kind, BACK, lambda project, filename: known[project, filename]) == original


def test_only_addresses_change() -> None:
    moved = rewrite(data("uv-forks"), "uv.lock", THERE, mirror_files(MIRROR))
    click = tomllib.loads(moved)["package"][0]
    assert click["source"] == {"registry": "http://mirror.example:8484/team/simple"}
    assert click["sdist"]["url"] == "http://mirror.example:8484/team/packages/click/click-8.1.8.tar.gz"
    changed = [
        (old, new) for old, new in zip(data("uv-forks").splitlines(), moved.splitlines(), strict=True) if old != new
    ]
    assert changed
    assert all("index.example" in old or "files.example" in old for old, _ in changed)


def test_the_command_line_that_a_tool_notes_at_the_top_moves_too() -> None:
    text = (
        "# made by: uv pip compile --index-url http://mirror.example:8484/team/simple/ x.in\n"
        'lock-version = "1.0"\ncreated-by = "uv"\npackages = []\n'
    )
    moved = rewrite(text, "pylock.toml", BACK)
    assert "--index-url https://index.example/simple/ x.in" in moved
    assert rewrite(moved, "pylock.toml", THERE) == text


MIXED = """version = 1

[[package]]
name = "ours"
version = "1"
source = { registry = "https://index.example/simple/" }
wheels = [{ url = 'https://files.example/a/ours-1-py3-none-any.whl', hash = "sha256:aa" }]

[[package]]
name = "theirs"
version = "1"
source = { registry = "https://other.example/simple" }
wheels = [{ url = "https://files.example/a/theirs-1-py3-none-any.whl", hash = "sha256:bb" }]

[[package]]
name = "direct"
version = "1"
source = { url = "https://elsewhere.example/direct-1-py3-none-any.whl" }
wheels = [{ url = "https://elsewhere.example/direct-1-py3-none-any.whl", hash = "sha256:cc" }]

[[package]]
name = "text"
version = "1"
source = { registry = "https://index.example/simple" }
note = '''
registry = "https://index.example/simple"
'''
"""


def test_other_indexes_and_direct_files_stay_and_quotes_and_slashes_are_kept() -> None:
    moved = rewrite(MIXED, "uv.lock", THERE, mirror_files(MIRROR))
    ours, theirs, direct, text = moved.split("[[package]]")[1:]
    assert "'http://mirror.example:8484/team/packages/ours/ours-1-py3-none-any.whl'" in ours
    assert '"http://mirror.example:8484/team/simple/"' in ours
    assert "mirror.example" not in theirs + direct
    assert 'registry = "http://mirror.example:8484/team/simple" }' in text
    assert "'''\nregistry = \"https://index.example/simple\"\n'''" in text


def test_a_file_that_the_new_index_does_not_know_keeps_its_address() -> None:
    moved = rewrite(MIXED, "uv.lock", THERE, lambda project, filename: None)
    assert "https://files.example/a/ours-1-py3-none-any.whl" in moved
    assert "https://index.example/simple/" not in moved


GEMFILE = """GIT
  remote: https://gems.example/
  revision: 12
  specs:
    fork (1.0)

GEM
  remote: https://gems.example/
  remote: https://other.example/
  specs:
    rack (3.1.16)
    native (1.0-x86_64-linux)

CONTENT ADDRESSES
  native (1.0-x86_64-linux) 78be552b sha256=78be552b

A SECTION OF THE FUTURE
  remote: https://gems.example/

BUNDLED WITH
   2.6.2
"""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_gemfile_lock_moves_its_gem_remotes_and_nothing_else(end: str) -> None:
    original = GEMFILE.replace("\n", end)
    moved = rewrite(original, "Gemfile.lock", {"https://gems.example": "http://mirror.example:8484"})
    assert moved.count("mirror.example") == 1
    assert f"GEM{end}  remote: http://mirror.example:8484/{end}" in moved
    assert rewrite(moved, "Gemfile.lock", {"http://mirror.example:8484/": "https://gems.example/"}) == original


def test_a_lock_with_file_addresses_needs_someone_who_knows_them() -> None:
    with pytest.raises(Invalid, match="must be asked"):
        rewrite(data("uv-forks"), "uv.lock", BACK | THERE)
    assert rewrite(data("poetry-2.1"), "poetry.lock", THERE) != data("poetry-2.1")


@pytest.mark.parametrize("url", ['https://x.example/"', "https://x.example/\n", "https://x.example/\\"])
def test_an_address_that_would_break_the_lock_is_refused(url: str) -> None:
    with pytest.raises(Invalid, match="is not a valid URL for a lock file"):
        rewrite(MIXED, "uv.lock", THERE, lambda project, filename: url)


def test_what_cannot_be_rewritten_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot be rewritten"):
        rewrite("", "requirements", THERE)
    with pytest.raises(InvalidLock, match="line 1: it is not TOML"):
        rewrite("[", "uv.lock", THERE)
    with pytest.raises(InvalidLock, match=r"it is not a uv\.lock"):
        rewrite("package = 1", "uv.lock", THERE)


SEGMENT = st.from_regex(r"[a-z][a-z0-9.-]{0,8}", fullmatch=True)
COMMENT = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=20)


@given(
    st.lists(st.tuples(SEGMENT, SEGMENT, st.sampled_from("\"'"), st.booleans(), COMMENT), max_size=6),
    st.sampled_from(["\n", "\r\n"]),
)
def test_any_lock_comes_back_as_it_was(packages: list[tuple[str, str, str, bool, str]], end: str) -> None:
    lines = ["version = 1"]
    known: dict[tuple[str, str], str] = {}
    for count, (name, directory, quote, slash, comment) in enumerate(packages):
        url = known[name, f"f{count}.whl"] = f"https://files.example/{directory}/{count}/f{count}.whl"
        lines += [
            f"# {comment} {PUBLIC}",
            "[[package]]",
            f'name = "{name}"',
            f"source = {{ registry = {quote}{PUBLIC}{'/' if slash else ''}{quote} }}  # {comment}",
            f"wheels = [{{ url = {quote}{url}{quote} }}]",
        ]
    original = end.join(lines)
    moved = rewrite(original, "uv.lock", THERE, mirror_files(MIRROR))
    assert f'"{PUBLIC}' not in moved
    tomllib.loads(moved)
    assert rewrite(moved, "uv.lock", BACK, lambda project, filename: known[project, filename]) == original


@given(st.text(max_size=100))
def test_any_text_is_rewritten_or_refused_and_never_more(text: str) -> None:
    for kind in ("uv.lock", "Gemfile.lock"):
        with contextlib.suppress(InvalidLock):
            assert rewrite(text, kind, THERE, mirror_files(MIRROR)) == text or PUBLIC in text
