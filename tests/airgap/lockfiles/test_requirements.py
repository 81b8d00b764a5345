"""Requirements files: what pip accepts is understood, what no index can give is reported, the rest is refused."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirror.airgap.lockfiles import RequirementSet, parse, read
from mirror.errors import InvalidLock


def requirements(text: str, files: dict[str, str] | None = None, **environ: str) -> RequirementSet:
    def open_file(name: str) -> str:
        if files is None or name not in files:
            raise FileNotFoundError(name)
        return files[name]

    return parse("requirements.txt", text, kind="requirements", open_file=open_file, environ=environ)


def test_an_exact_version_is_a_pin_and_everything_else_is_open() -> None:
    parsed = requirements("A.B==1.0\nb===2\nc\nd>=1,<2\ne==1.*\nf[x,y]~=1.2 ; python_version < '3.12'\n")
    assert [(pin.project, pin.version) for pin in parsed.pins] == [("a-b", "1.0"), ("b", "2")]
    assert [entry.requirement for entry in parsed.ranges] == [
        "c",
        "d<2,>=1",
        "e==1.*",
        'f[x,y]~=1.2 ; python_version < "3.12"',
    ]
    assert parsed.ranges[1].where == "requirements.txt:4"


def test_only_a_file_with_a_hash_on_every_line_needs_no_resolver() -> None:
    assert requirements("a==1 --hash=sha256:ab\nb==2 --hash=sha256:cd\n").complete
    assert not requirements("a==1 --hash=sha256:ab\nb==2\n").complete
    assert not requirements("a --hash=sha256:ab\n").complete
    assert parse("uv.lock", "version = 1\n").complete


def test_a_pin_can_be_asked_of_a_resolver_with_its_extras_and_marker() -> None:
    (pin,) = requirements("A[y,x]==1 ; os_name == 'nt'\n").pins
    assert pin.requirement == 'a[x,y]==1 ; (os_name == "nt")'
    assert requirements(pin.requirement).pins[0].project == "a"


def test_hashes_and_continued_lines_belong_together() -> None:
    parsed = requirements("a==1 \\\n    --hash=sha256:AB \\\n    --hash sha256:cd\n    # via x\nb==2 # why\n")
    assert [(pin.project, pin.hashes) for pin in parsed.pins] == [("a", ("sha256:ab", "sha256:cd")), ("b", ())]
    assert parsed.pins[1].where == "requirements.txt:5"


def test_a_comment_ends_a_continued_line() -> None:
    assert [pin.project for pin in requirements("a==1 \\\n# over\nb==1\n").pins] == ["a", "b"]


def test_indexes_are_named_with_the_main_one_first() -> None:
    parsed = requirements("--extra-index-url https://two.example/simple\n-i https://one.example/simple\n")
    assert parsed.indexes == ("https://one.example/simple", "https://two.example/simple")


def test_variables_come_from_the_environment() -> None:
    parsed = requirements("--index-url https://${TOKEN}@one.example/simple\n", TOKEN="t")
    assert parsed.indexes == ("https://t@one.example/simple",)
    with pytest.raises(InvalidLock, match="line 1: the environment variable VERSION is not set"):
        requirements("a==${VERSION}\n")


def test_included_files_are_relative_to_the_one_that_includes_them() -> None:
    files = {"sub/base.txt": "b==1\n-r more.txt\n", "sub/more.txt": "c\n", "limits.txt": "d<2\ne==5\n"}
    parsed = requirements("-r sub/base.txt\n--constraint=limits.txt\na\n", files)
    assert [pin.project for pin in parsed.pins] == ["b"]
    assert [(entry.project, entry.where) for entry in parsed.ranges] == [
        ("c", "sub/more.txt:1"),
        ("a", "requirements.txt:3"),
    ]
    assert [entry.requirement for entry in parsed.constraints] == ["d<2", "e==5"]


def test_files_are_read_from_the_disk_beside_the_named_one(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "r.txt").write_text("-rsub/s.txt\n")
    (tmp_path / "sub" / "s.txt").write_text("-c c.txt\na==${V}\n")
    (tmp_path / "sub" / "c.txt").write_text("b<1\n")
    parsed = read(tmp_path / "r.txt", {"V": "3"})
    assert [(pin.project, pin.version) for pin in parsed.pins] == [("a", "3")]
    assert [entry.project for entry in parsed.constraints] == ["b"]


def test_a_circle_of_files_is_refused() -> None:
    with pytest.raises(InvalidLock) as caught:
        requirements("-r a.txt\n", {"a.txt": "\n-r b.txt\n", "b.txt": "-r a.txt\n"})
    assert (caught.value.file, caught.value.line) == ("b.txt", 1)
    assert "includes itself" in caught.value.reason


def test_files_that_include_without_end_are_refused() -> None:
    def open_file(name: str) -> str:
        return f"-r x{name}\n"

    with pytest.raises(InvalidLock, match="too many files"):
        parse("r.txt", "-r x.txt\n", kind="requirements", open_file=open_file)
    with pytest.raises(InvalidLock, match="too many files"):
        parse("r.txt", "-r x.txt\n" * 200, kind="requirements", open_file=lambda _: "a==1\n")


@pytest.mark.parametrize(
    ("line", "local"),
    [
        ("-e .", True),
        ("--editable=git+https://user:secret@code.example/x.git", False),
        ("./dir", True),
        ("wheels/a-1-py3-none-any.whl", True),
        ("https://files.example/a-1.tar.gz", False),
        ("git+ssh://git@code.example/x.git@main#egg=x", False),
        ("a @ https://files.example/a-1.tar.gz", False),
        ("a @ file:///srv/a-1.tar.gz", True),
    ],
)
def test_what_no_index_can_give_is_reported_with_its_line(line: str, local: bool) -> None:
    parsed = requirements(f"b==1\n{line}\n")
    assert [pin.project for pin in parsed.pins] == ["b"]
    (external,) = parsed.external
    assert (external.where, external.local) == ("requirements.txt:2", local)
    assert "secret" not in external.reason
    assert "secret" not in external.name


def test_projects_that_must_be_built_are_known() -> None:
    assert requirements("--no-binary A_b,c\n").no_binary == ("a-b", "c")
    assert requirements("--no-binary=:all:\n--no-binary=:none:\n").no_binary == ()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("a==1\n\nb=1\n", 3, "'b=1' is not a requirement"),
        ("a ; python_version\n", 1, "is not a requirement"),
        ("--wat\n", 1, "the option --wat is not known"),
        ("--wat=1\n", 1, "the option --wat is not known"),
        ("a==1 --wat\n", 1, "not known after a requirement"),
        ("a==1 --hash=sha256\n", 1, "is not a hash"),
        ("-r\n", 1, "needs a value"),
        ("-r none.txt\n", 1, "'none.txt' that it includes cannot be read"),
        ("-r https://one.example/r.txt\n", 1, "remote file"),
        ("-i 'https://one.example\n", 1, "the quotes do not match"),
        ("a" + "(" * 10_000 + "\n", 1, "is not a requirement"),
        ("a; " + "(" * 10_000 + "python_version>'3'\n", 1, "is not a requirement"),
    ],
)
def test_a_bad_line_is_refused_with_its_number_and_the_reason(text: str, line: int, reason: str) -> None:
    with pytest.raises(InvalidLock) as caught:
        requirements(text)
    assert caught.value.line == line
    assert reason in caught.value.reason
    assert len(str(caught.value)) < 600


NAMES = st.from_regex(r"[A-Za-z]([A-Za-z0-9._-]{0,10}[A-Za-z0-9])?", fullmatch=True)
VERSIONS = st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3}){0,3}((a|b|rc)[0-9]{1,2})?(\.post[0-9]{1,2})?", fullmatch=True)
HASHES = st.lists(st.integers(0, 2**256 - 1).map("sha256:{:064x}".format), max_size=3)
MARKERS = st.sampled_from(["", "python_version >= '3.8'", "sys_platform == 'win32' or os_name == 'nt'"])
PADDING = st.sampled_from(["", "  ", "\t", "  # a comment"])


@given(st.lists(st.tuples(NAMES, VERSIONS, MARKERS, HASHES, PADDING, st.booleans()), max_size=8))
def test_every_pin_is_found_however_it_is_written(
    entries: list[tuple[str, str, str, list[str], str, bool]],
) -> None:
    text = ""
    for name, version, marker, hashes, padding, continued in entries:
        joint = " \\\n    " if continued else " "
        line = f"{name}=={version}" + (f" ; {marker}" if marker else "")
        text += joint.join([line, *(f"--hash={one}" for one in hashes)]) + padding + "\n"
    pins = requirements(text).pins
    assert [(pin.version, list(pin.hashes), len(pin.markers)) for pin in pins] == [
        (version, hashes, bool(marker)) for _, version, marker, hashes, _, _ in entries
    ]


@given(st.text(max_size=200))
def test_any_text_is_understood_or_refused_and_never_more(text: str) -> None:
    with contextlib.suppress(InvalidLock):
        assert requirements(text).kind == "requirements"
