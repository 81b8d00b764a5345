"""Selecting files: what each target would install, and why something cannot be had."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.markers import Environment
from packaging.pylock import PackageSdist, PackageWheel, Pylock

from mirror.airgap.lockfiles import (
    MissingItem,
    Pin,
    PinnedFile,
    RequirementSet,
    Selector,
    Target,
    VersionRange,
    named,
    parse,
    read,
)
from mirror.model import File, Project

DATA = Path(__file__).parent / "data"
LINUX = Target("3.11", "linux-x86_64")
MAC = Target("3.11", "macos-arm64")
WINDOWS = Target("3.11", "windows-amd64")


def project(name: str, *filenames: str, requires: str | None = None) -> Project:
    """Return a project of wheels and sdists whose versions are the second part of their names."""
    files = (
        File(filename=one, version=one.removesuffix(".tar.gz").removesuffix(".zip").split("-")[1], requires=requires)
        for one in filenames
    )
    return Project(name=name, files=tuple(files))


def gem(name: str, *versions: str, requires: str | None = None) -> Project:
    """Return a gem with versions such as `1.0` and `1.0-x86_64-linux`."""
    return Project(
        name=name,
        files=tuple(
            File(
                filename=f"{name}-{one}.gem",
                version=one.partition("-")[0],
                platform=one.partition("-")[2] or "ruby",
                requires=requires,
            )
            for one in versions
        ),
    )


def pinned(*pins: Pin, python: str = "") -> RequirementSet:
    return RequirementSet(name="lock", kind="uv.lock", ecosystem="pypi", pins=pins, python=python)


class Selected(msgspec.Struct, frozen=True):
    """The selections of all projects."""

    files: Mapping[str, Sequence[File]]
    missing: tuple[MissingItem, ...]


def select(
    parsed: RequirementSet, projects: Mapping[str, Project], targets: Sequence[Target], *, sdists: bool = False
) -> Selected:
    """Select from an index that has these projects."""
    selector = Selector(parsed, targets, sdists=sdists)
    found = {name: selector.select(name, projects.get(name)) for name in selector.projects}
    return Selected(
        {name: one.files for name, one in found.items() if one.files},
        (*selector.missing, *(missing for one in found.values() for missing in one.missing)),
    )


def chosen(selection: Selected) -> list[str]:
    assert not selection.missing
    return [file.filename for files in selection.files.values() for file in files]


X = (
    "x-1.0-cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64.whl",
    "x-1.0-cp311-cp311-musllinux_1_2_x86_64.whl",
    "x-1.0-cp311-cp311-macosx_11_0_arm64.whl",
    "x-1.0-cp312-cp312-manylinux_2_17_x86_64.whl",
    "x-1.0-py3-none-any.whl",
    "x-1.0.tar.gz",
)


@pytest.mark.parametrize(
    ("target", "filename"),
    [(LINUX, X[0]), (Target("3.11", "musllinux-x86_64"), X[1]), (MAC, X[2]), (WINDOWS, X[4])],
)
def test_each_target_gets_its_best_wheel(target: Target, filename: str) -> None:
    parsed = pinned(Pin(project="x", version="1"))
    assert chosen(select(parsed, {"x": project("x", *X)}, [target])) == [filename]


def test_several_targets_get_one_list_in_the_order_of_the_page() -> None:
    parsed = pinned(Pin(project="x", version="1.0"))
    assert chosen(select(parsed, {"x": project("x", *X)}, [MAC, LINUX, LINUX])) == [X[0], X[2]]


def test_sdists_come_when_asked_for() -> None:
    parsed, projects = pinned(Pin(project="x", version="1.0")), {"x": project("x", *X)}
    assert chosen(select(parsed, projects, [LINUX], sdists=True)) == [X[0], X[5]]


def test_the_sdist_is_what_is_left_without_a_wheel() -> None:
    projects = {"x": project("x", "x-1.0-cp312-cp312-win_amd64.whl", "x-1.0.zip", "x-1.0.tar.gz")}
    assert chosen(select(pinned(Pin(project="x", version="1.0")), projects, [LINUX])) == ["x-1.0.tar.gz"]


def test_without_a_fitting_wheel_or_an_sdist_the_target_is_named() -> None:
    projects = {"x": project("x", "x-1.0-cp311-cp311-win_amd64.whl", "x-1.0.exe")}
    selection = select(pinned(Pin(project="x", version="1.0", where="lock:3")), projects, [LINUX, WINDOWS])
    assert selection.missing == (
        MissingItem(
            project="x", version="1.0", reason="no wheel for the target", target="Python 3.11 on linux-x86_64",
            where="lock:3",
        ),
    )  # fmt: skip
    assert [file.filename for file in selection.files["x"]] == ["x-1.0-cp311-cp311-win_amd64.whl"]


def test_a_platform_of_many_machines_gets_a_wheel_for_the_old_and_for_the_new_ones() -> None:
    new, middle, old = (f"x-1.0-cp311-cp311-manylinux_2_{minor}_x86_64.whl" for minor in (39, 28, 17))
    projects = {"x": project("x", old, middle, new, "x-1.0-py3-none-any.whl")}
    parsed = pinned(Pin(project="x", version="1.0"))
    assert chosen(select(parsed, projects, [LINUX])) == [old, middle, new]
    assert chosen(select(parsed, projects, [Target("3.11", "manylinux_2_31_x86_64")])) == [middle]


def test_of_two_builds_the_higher_one_is_taken() -> None:
    projects = {"x": project("x", "x-1.0-9-py3-none-any.whl", "x-1.0-10-py3-none-any.whl", "x-1.0-py3-none-any.whl")}
    assert chosen(select(pinned(Pin(project="x", version="1.0")), projects, [LINUX])) == ["x-1.0-10-py3-none-any.whl"]


def test_a_lock_that_names_its_files_is_not_given_others() -> None:
    listed = project("x", *X)
    parsed = pinned(Pin(project="x", version="1.0", files=(PinnedFile(filename=X[4]), PinnedFile(filename=X[5]))))
    assert chosen(select(parsed, {"x": listed}, [LINUX])) == [X[4]]


def test_a_file_of_the_lock_that_the_index_lost_is_missing_by_name() -> None:
    files = (PinnedFile(filename=X[0]), PinnedFile(filename=X[5]))
    selection = select(pinned(Pin(project="x", version="1.0", files=files)), {"x": project("x", *X[1:])}, [LINUX])
    assert [(one.reason, one.filename) for one in selection.missing] == [("the index does not list it", X[0])]


def test_a_file_with_other_bytes_than_the_lock_promises_is_missing() -> None:
    listed = Project(name="x", files=(File(filename=X[4], version="1.0", digests={"sha256": "bb"}),))
    locked = PinnedFile(filename=X[4], digests={"sha256": "aa"})
    by_file = select(pinned(Pin(project="x", version="1.0", files=(locked,))), {"x": listed}, [LINUX])
    by_hash = select(pinned(Pin(project="x", version="1.0", hashes=("sha256:aa",))), {"x": listed}, [LINUX])
    assert [one.reason for one in by_file.missing] == ["the index lists it with another digest"]
    assert [one.reason for one in by_hash.missing] == ["the index lists it with another digest"]
    assert not by_file.files
    assert not by_hash.files
    allowed = select(pinned(Pin(project="x", version="1.0", hashes=("sha256:bb",))), {"x": listed}, [LINUX])
    assert chosen(allowed) == [X[4]]


def test_requires_python_is_respected() -> None:
    projects = {"x": project("x", *X, requires=">=3.12")}
    parsed = pinned(Pin(project="x", version="1.0"))
    assert [one.reason for one in select(parsed, projects, [LINUX]).missing] == ["not for this version of Python"]
    assert chosen(select(parsed, projects, [Target("3.12", "linux-x86_64")])) == [X[3]]
    patched = {"x": project("x", *X, requires=">=3.11.4")}
    assert chosen(select(parsed, patched, [LINUX])) == [X[0]]
    assert select(parsed, patched, [Target("3.11.3", "linux-x86_64")]).missing


def test_a_lock_for_another_python_says_so_once() -> None:
    parsed = pinned(Pin(project="x", version="1.0"), Pin(project="y", version="1"), python=">=3.12")
    (missing,) = select(parsed, {}, [LINUX]).missing
    assert (missing.project, missing.reason, missing.where) == ("", "not for this version of Python", "lock")


def test_an_unknown_project_and_an_unknown_version_are_distinguished() -> None:
    parsed = pinned(Pin(project="x", version="2"), Pin(project="y", version="1"))
    missing = select(parsed, {"x": project("x", *X)}, [LINUX, MAC]).missing
    assert [(one.project, one.reason) for one in missing] == [
        ("x", "no such version"),
        ("x", "no such version"),
        ("y", "no such project"),
    ]


VERSIONS = ("y-1.0.tar.gz", "y-1.5.tar.gz", "y-2.0-py3-none-any.whl", "y-2.1-py3-none-any.whl", "y-3.0rc1.tar.gz")


@pytest.mark.parametrize(
    ("text", "newest", "expected"),
    [
        ("y", None, VERSIONS[:4]),
        ("y", 1, VERSIONS[3:4]),
        ("y", 2, VERSIONS[2:4]),
        ("y<2", 1, VERSIONS[1:2]),
        ("y<2", 9, VERSIONS[:2]),
        ("y>=3.0rc0", 1, VERSIONS[4:]),
        ("y==2.1", None, VERSIONS[3:4]),
    ],
)
def test_a_name_gets_all_or_the_newest_versions_that_match(
    text: str, newest: int | None, expected: tuple[str, ...]
) -> None:
    (parsed,) = named([text], newest)
    assert tuple(chosen(select(parsed, {"y": project("y", *VERSIONS)}, [LINUX]))) == expected


def test_the_newest_versions_are_those_that_the_target_can_install() -> None:
    (parsed,) = named(["z"], newest=1)
    projects = {"z": project("z", "z-1.0-py3-none-any.whl", "z-2.0-cp311-cp311-win_amd64.whl")}
    assert chosen(select(parsed, projects, [LINUX])) == ["z-1.0-py3-none-any.whl"]
    assert chosen(select(parsed, projects, [WINDOWS])) == ["z-2.0-cp311-cp311-win_amd64.whl"]


def test_a_yanked_file_is_only_for_those_who_pin_it() -> None:
    listed = Project(name="y", files=(File(filename="y-1.0.tar.gz", version="1.0", yanked=""),))
    (open_wanted,) = named(["y"])
    assert [one.reason for one in select(open_wanted, {"y": listed}, [LINUX]).missing] == ["no such version"]
    assert chosen(select(pinned(Pin(project="y", version="1.0")), {"y": listed}, [LINUX])) == ["y-1.0.tar.gz"]


def test_projects_that_must_be_built_get_their_sdist() -> None:
    parsed = parse("r.txt", "--no-binary x\nx==1.0\n", kind="requirements")
    assert chosen(select(parsed, {"x": project("x", *X)}, [LINUX])) == [X[5]]


def test_a_real_lock_selects_one_wheel_for_each_target() -> None:
    parsed = read(DATA / "uv-forks.txt")
    projects = {
        pin.project: Project(
            name=pin.project,
            files=tuple(
                File(filename=file.filename, version=one.version, digests=file.digests)
                for one in parsed.pins
                if one.project == pin.project
                for file in one.files
            ),
        )
        for pin in parsed.pins
    }
    selection = select(parsed, projects, [Target("3.12", "linux-x86_64"), Target("3.13", "macos-arm64")])
    assert selection.missing == ()
    assert [file.filename for file in selection.files["markupsafe"]] == [
        "markupsafe-3.0.4-cp312-cp312-manylinux2014_x86_64.manylinux_2_17_x86_64.manylinux_2_28_x86_64.whl",
        "markupsafe-3.0.4-cp313-cp313-macosx_11_0_arm64.whl",
    ]
    assert [file.filename for file in selection.files["click"]] == ["click-8.5.1-py3-none-any.whl"]
    assert set(selection.files) == {"click", "iniconfig", "markupsafe", "pysocks"}


@pytest.mark.parametrize(
    "target",
    [
        Target("3.9.7", "win_amd64"),
        Target("3.10.2", "macosx_12_0_arm64"),
        Target("3.11.4", "manylinux_2_28_x86_64"),
        Target("3.13.0", "musllinux_1_2_aarch64"),
    ],
    ids=str,
)
def test_the_choice_is_that_of_the_reference_implementation_of_the_format(target: Target) -> None:
    text = (DATA / "pylock-export.txt").read_text()
    parsed = parse("pylock.toml", text)
    files = {
        pin.project: [file for p in parsed.pins if p.project == pin.project for file in p.files] for pin in parsed.pins
    }
    projects = {
        name: Project(name=name, files=tuple(File(filename=file.filename, version="1") for file in of_project))
        for name, of_project in files.items()
    }
    selection = select(parsed, projects, [target])
    assert selection.missing == ()
    reference = Pylock.from_dict(tomllib.loads(text)).select(
        environment=cast(Environment, target.environments[0]), tags=sorted(target.ranks, key=target.ranks.__getitem__)
    )
    expected = {
        package.name: [(file.url or "").rpartition("/")[2]]
        for package, file in reference
        if isinstance(file, PackageSdist | PackageWheel)
    }
    assert {name: [file.filename for file in chosen] for name, chosen in selection.files.items()} == expected


FFI = ("1.17.2", "1.17.2-x86_64-linux-gnu", "1.17.2-x86_64-linux-musl", "1.17.2-arm64-darwin")


def gemfile(specs: list[str], platforms: list[str]) -> RequirementSet:
    lines = ["GEM", "  remote: https://gems.example/", "  specs:", *(f"    ffi ({spec})" for spec in specs)]
    return parse("Gemfile.lock", "\n".join([*lines, "PLATFORMS", *(f"  {one}" for one in platforms)]) + "\n")


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (LINUX, "ffi-1.17.2-x86_64-linux-gnu.gem"),
        (Target("3.11", "musllinux-x86_64"), "ffi-1.17.2-x86_64-linux-musl.gem"),
        (MAC, "ffi-1.17.2-arm64-darwin.gem"),
        (WINDOWS, "ffi-1.17.2.gem"),
    ],
)
def test_a_gemfile_lock_gives_each_target_its_platform(target: Target, expected: str) -> None:
    parsed = gemfile(list(FFI), [one.partition("-")[2] or "ruby" for one in FFI])
    assert chosen(select(parsed, {"ffi": gem("ffi", *FFI)}, [target])) == [expected]


def test_a_generic_lock_gets_the_generic_gem_and_the_one_that_bundler_may_take_instead() -> None:
    projects = {"ffi": gem("ffi", *FFI)}
    assert chosen(select(gemfile(["1.17.2"], ["ruby"]), projects, [LINUX])) == [
        "ffi-1.17.2.gem",
        "ffi-1.17.2-x86_64-linux-gnu.gem",
    ]
    assert chosen(select(gemfile(["1.17.2"], ["ruby", "x86_64-linux"]), projects, [LINUX])) == ["ffi-1.17.2.gem"]


def test_a_gem_that_is_locked_for_other_platforms_only_is_missing() -> None:
    parsed = gemfile(["1.17.2-arm64-darwin"], ["arm64-darwin"])
    (missing,) = select(parsed, {"ffi": gem("ffi", *FFI)}, [LINUX]).missing
    assert (missing.reason, missing.target) == ("no gem for the platform", "linux-x86_64")


def test_a_locked_gem_that_the_index_lost_is_missing_by_file() -> None:
    parsed = gemfile(["1.17.2-x86_64-linux-gnu"], ["x86_64-linux-gnu"])
    (missing,) = select(parsed, {"ffi": gem("ffi", "1.17.2")}, [LINUX]).missing
    assert (missing.reason, missing.filename) == ("the index does not list it", "ffi-1.17.2-x86_64-linux-gnu.gem")
    (unknown,) = select(parsed, {"ffi": gem("ffi", "1.0")}, [LINUX]).missing
    assert unknown.reason == "no such version"


def test_open_gems_get_the_best_platform_of_the_newest_versions() -> None:
    listed = gem("ffi", *FFI, "1.16.0", "1.18.0.rc1", "1.18.0.rc1-x86_64-linux-gnu", "1.17.10-java")
    (parsed,) = named(["ffi:~> 1.0"], newest=2)
    assert chosen(select(parsed, {"ffi": listed}, [LINUX])) == ["ffi-1.17.2-x86_64-linux-gnu.gem", "ffi-1.16.0.gem"]
    (early,) = named(["ffi:>= 1.18.0.rc1"])
    assert chosen(select(early, {"ffi": listed}, [MAC])) == ["ffi-1.18.0.rc1.gem"]
    (none,) = named(["ffi:> 9"])
    assert [one.reason for one in select(none, {"ffi": listed}, [MAC]).missing] == ["no such version"]


def test_a_ruby_version_is_respected_where_the_target_has_one() -> None:
    (parsed,) = named(["gem:ffi"])
    listed = {"ffi": gem("ffi", "1.0", requires=">= 3.0&< 3.5.dev")}
    assert chosen(select(parsed, listed, [Target("3.11", "linux-x86_64", "3.3.0")])) == ["ffi-1.0.gem"]
    assert select(parsed, listed, [Target("3.11", "linux-x86_64", "2.7.0")]).missing
    assert chosen(select(parsed, listed, [LINUX])) == ["ffi-1.0.gem"]


def build(abi: str, address: str) -> File:
    """A build of ffi 1.17.2 for one Ruby ABI."""
    return File(
        filename=f"ffi-1.17.2-{address}.gem",
        version="1.17.2",
        platform="x86_64-linux-gnu",
        requires=f"~> {abi}.0",
        digests={"sha256": address * 8},
        extra={"address": address},
    )


OLD, NEW = build("3.3", "0000000a"), build("3.4", "0000000b")
BUILDS = Project(name="ffi", files=(*gem("ffi", *FFI).files, OLD, NEW))


def addressed(address: str, ruby: str = "", sha256: str = "") -> RequirementSet:
    """A lock of Bundler 4.1."""
    hashed = f" sha256={sha256}" if sha256 else ""
    version = f"\nRUBY VERSION\n   ruby {ruby}\n" if ruby else ""
    return parse(
        "Gemfile.lock",
        "GEM\n  remote: https://gems.example/\n  specs:\n    ffi (1.17.2-x86_64-linux-gnu)\n\nPLATFORMS\n"
        f"  x86_64-linux-gnu\n\nCONTENT ADDRESSES\n  ffi (1.17.2-x86_64-linux-gnu) {address}{hashed}\n{version}",
    )


def test_a_build_for_one_ruby_abi_is_not_the_gem_for_its_platform() -> None:
    parsed = gemfile(["1.17.2-x86_64-linux-gnu"], ["x86_64-linux-gnu"])
    listed = Project(name="ffi", files=(OLD, *gem("ffi", "1.17.2-x86_64-linux-gnu").files))
    assert chosen(select(parsed, {"ffi": listed}, [LINUX])) == ["ffi-1.17.2-x86_64-linux-gnu.gem"]
    (missing,) = select(parsed, {"ffi": Project(name="ffi", files=(OLD,))}, [LINUX]).missing
    assert missing.filename == "ffi-1.17.2-x86_64-linux-gnu.gem"


def test_a_content_address_in_a_lock_is_needed_beside_the_gem_for_the_platform() -> None:
    expected = ["ffi-1.17.2-x86_64-linux-gnu.gem", "ffi-1.17.2-0000000b.gem"]
    assert chosen(select(addressed("0000000b", "3.4.1"), {"ffi": BUILDS}, [LINUX])) == expected
    longer = addressed("0000000b00", sha256="0000000b" * 8)
    assert chosen(select(longer, {"ffi": BUILDS}, [LINUX])) == expected
    assert select(addressed("0000000b"), {"ffi": BUILDS}, [MAC]).missing, "this lock is for Linux alone"


def test_a_build_for_another_ruby_is_left_to_those_who_have_it() -> None:
    selection = select(addressed("0000000a", "3.4.1"), {"ffi": BUILDS}, [LINUX])
    assert chosen(selection) == ["ffi-1.17.2-x86_64-linux-gnu.gem"]
    assert selection.missing == ()
    only = Project(name="ffi", files=(OLD,))
    assert select(addressed("0000000a", "3.3.9"), {"ffi": only}, [LINUX]).missing == ()
    (missing,) = select(addressed("0000000a", "3.4.1"), {"ffi": only}, [LINUX]).missing
    assert missing.filename == "ffi-1.17.2-x86_64-linux-gnu.gem"


def test_a_content_address_that_the_index_does_not_have_is_missing() -> None:
    (missing,) = select(addressed("0000000c"), {"ffi": BUILDS}, [LINUX]).missing
    assert (missing.reason, missing.filename) == ("the index does not list it", "ffi-1.17.2-0000000c.gem")
    (other,) = select(addressed("0000000b", sha256="f" * 64), {"ffi": BUILDS}, [LINUX]).missing
    assert other.reason == "the index lists it with another digest"


def test_names_get_the_builds_for_every_ruby_abi_that_the_target_may_have() -> None:
    (parsed,) = named(["gem:ffi"], newest=1)
    gnu = "ffi-1.17.2-x86_64-linux-gnu.gem"
    assert chosen(select(parsed, {"ffi": BUILDS}, [LINUX])) == [gnu, OLD.filename, NEW.filename]
    newer = Target("3.11", "linux-x86_64", "3.4.2")
    assert chosen(select(parsed, {"ffi": BUILDS}, [newer])) == [gnu, NEW.filename]
    assert chosen(select(parsed, {"ffi": BUILDS}, [MAC])) == ["ffi-1.17.2-arm64-darwin.gem"]


JAVA = Target("3.11", "java")


def test_jruby_is_a_target() -> None:
    listed = {"ffi": gem("ffi", *FFI, "1.17.2-java")}
    assert chosen(select(gemfile([*FFI, "1.17.2-java"], ["java", "ruby"]), listed, [JAVA])) == ["ffi-1.17.2-java.gem"]
    (parsed,) = named(["gem:ffi"], newest=1)
    assert chosen(select(parsed, listed, [JAVA])) == ["ffi-1.17.2-java.gem"]
    wheels = project("x", "x-1.0-py3-none-any.whl", "x-1.0-cp311-cp311-manylinux_2_17_x86_64.whl")
    (python,) = named(["x"], newest=1)
    assert chosen(select(python, {"x": wheels}, [JAVA])) == ["x-1.0-py3-none-any.whl"]


def test_what_only_other_platforms_of_a_lock_need_is_not_missing() -> None:
    listed = {"ffi": gem("ffi", "1.17.2-java")}
    parsed = gemfile(["1.17.2-java"], ["java", "x86_64-linux"])
    selection = select(parsed, listed, [LINUX])
    assert (chosen(selection), selection.missing) == ([], ())
    assert chosen(select(parsed, listed, [JAVA])) == ["ffi-1.17.2-java.gem"]
    assert select(gemfile(["1.17.2-java"], ["java"]), listed, [LINUX]).missing


TAGS = st.sampled_from(
    [
        "py3-none-any",
        "cp311-cp311-win_amd64",
        "cp38-abi3-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux_2_34_x86_64",
        "cp311-none-macosx_11_0_arm64",
        "cp312-cp312-manylinux_2_17_x86_64",
    ]
)


@given(st.lists(TAGS, unique=True), st.booleans(), st.booleans())
def test_a_selection_is_a_part_of_the_page_and_empty_only_with_a_reason(
    tags: list[str], source: bool, sdists: bool
) -> None:
    listed = project("x", *(f"x-1.0-{tag}.whl" for tag in tags), *(["x-1.0.tar.gz"] if source else []))
    parsed = RequirementSet(name="w", kind="names", ecosystem="pypi", ranges=(VersionRange(project="x"),))
    for target in (LINUX, MAC, WINDOWS):
        selection = select(parsed, {"x": listed}, [target], sdists=sdists)
        got = selection.files.get("x", ())
        assert all(file in listed.files for file in got)
        assert bool(got) != bool(selection.missing)
        assert (not source or not sdists) or "x-1.0.tar.gz" in [file.filename for file in got]
