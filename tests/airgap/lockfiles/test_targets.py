"""Targets: tags, environments and gem platforms of machines that are not this one."""

import sys

import pytest
from packaging.tags import Tag, sys_tags

from mirror.airgap.lockfiles import Target, this_machine
from mirror.airgap.lockfiles.targets import ANY_MACHINE
from mirror.errors import Invalid


def fits(target: Target, *tags: str) -> list[bool]:
    return [Tag(*tag.split("-")) in target.ranks for tag in tags]


def test_linux_takes_manylinux_of_its_machine_and_nothing_of_musl() -> None:
    target = Target("3.11", "linux-x86_64")
    assert fits(
        target,
        "cp311-cp311-manylinux_2_17_x86_64",
        "cp311-cp311-manylinux2014_x86_64",
        "cp39-abi3-manylinux_2_28_x86_64",
        "py3-none-any",
        "py2-none-any",
        "cp312-cp312-manylinux_2_17_x86_64",
        "cp311-cp311-musllinux_1_2_x86_64",
        "cp311-cp311-manylinux_2_17_aarch64",
        "cp311-cp311t-manylinux_2_17_x86_64",
        "cp312-abi3-manylinux_2_17_x86_64",
    ) == [True, True, True, True, False, False, False, False, False, False]


def test_every_platform_takes_its_own_wheels() -> None:
    assert fits(Target("3.12", "musllinux-aarch64"), "cp312-cp312-musllinux_1_1_aarch64") == [True]
    mac = Target("3.12", "macos-arm64")
    assert fits(mac, "cp312-cp312-macosx_11_0_arm64", "cp312-cp312-macosx_10_9_universal2") == [True, True]
    assert fits(mac, "cp312-cp312-macosx_11_0_x86_64") == [False]
    assert fits(Target("3.12", "macos-x86_64"), "cp312-cp312-macosx_10_9_x86_64") == [True]
    assert fits(Target("3.12", "windows-amd64"), "cp312-cp312-win_amd64", "cp312-cp312-win32") == [True, False]
    assert fits(Target("3.13t", "linux-x86_64"), "cp313-cp313t-manylinux_2_28_x86_64") == [True]
    assert fits(Target("3.13t", "linux-x86_64"), "cp313-cp313-manylinux_2_28_x86_64") == [False]


def test_a_platform_tag_means_one_machine() -> None:
    target = Target("3.11", "manylinux_2_28_x86_64")
    assert fits(target, "cp311-cp311-manylinux_2_28_x86_64", "cp311-cp311-manylinux_2_29_x86_64") == [True, False]
    assert target.level(Tag("cp311", "cp311", "manylinux_2_28_x86_64")) == ANY_MACHINE
    assert fits(Target("3.11", "macosx_12_0_arm64"), "cp311-cp311-macosx_13_0_arm64") == [False]


def test_a_platform_of_many_machines_knows_how_new_each_has_to_be() -> None:
    target = Target("3.11", "linux-x86_64")
    assert target.level(Tag("cp311", "cp311", "manylinux_2_28_x86_64")) == (2, 28)
    assert target.level(Tag("cp311", "cp311", "manylinux2014_x86_64")) == ANY_MACHINE
    assert target.level(Tag("cp311", "cp311", "manylinux1_x86_64")) == ANY_MACHINE


def test_tags_of_this_machine_are_those_that_the_library_finds() -> None:
    target = this_machine()
    assert target.python.startswith(f"{sys.version_info[0]}.{sys.version_info[1]}.{sys.version_info[2]}")
    mine, theirs = target.ranks, list(sys_tags())
    assert [tag for tag in theirs if tag in mine] == theirs
    assert sorted(mine, key=mine.__getitem__)[0] == theirs[0]


def test_markers_see_the_target_and_not_this_machine() -> None:
    (first, last) = Target("3.9", "windows-amd64").environments
    assert (first["sys_platform"], first["platform_machine"], first["os_name"]) == ("win32", "AMD64", "nt")
    assert (first["python_version"], first["python_full_version"], last["python_full_version"]) == (
        "3.9",
        "3.9.0",
        "3.9.99",
    )
    (one,) = Target("3.13.1t", "macos-arm64").environments
    assert (one["python_full_version"], one["platform_system"], one["platform_machine"]) == (
        "3.13.1",
        "Darwin",
        "arm64",
    )


@pytest.mark.parametrize(
    ("platform", "takes", "refuses"),
    [
        ("linux-x86_64", ["x86_64-linux-gnu", "x86_64-linux", "ruby"], ["x86_64-linux-musl", "aarch64-linux", "java"]),
        ("musllinux-x86_64", ["x86_64-linux-musl", "x86_64-linux", "ruby"], ["x86_64-linux-gnu"]),
        ("linux-armv7l", ["arm-linux-gnu", "arm-linux", "ruby"], ["aarch64-linux"]),
        ("macos-arm64", ["arm64-darwin", "universal-darwin", "ruby"], ["x86_64-darwin"]),
        ("macos-arm64", ["arm64-darwin-23", "ruby"], ["arm64-darwinx"]),
        ("windows-amd64", ["x64-mingw-ucrt", "x64-mingw", "ruby"], ["x64-mingw32", "x86-mingw32"]),
    ],
)
def test_gems_are_taken_by_platform_and_the_generic_one_last(
    platform: str, takes: list[str], refuses: list[str]
) -> None:
    target = Target("3.11", platform)
    ranks = [target.gem_rank(one) for one in takes]
    assert None not in ranks
    assert ranks == sorted(ranks, key=lambda rank: rank or 0)
    assert len(set(ranks)) == len(ranks)
    assert [target.gem_rank(one) for one in refuses] == [None] * len(refuses)


@pytest.mark.parametrize(("short", "full"), [("linux-arm64", "linux-aarch64"), ("macos-aarch64", "macos-arm64")])
def test_other_names_of_a_machine_are_understood(short: str, full: str) -> None:
    assert Target("3.11", short).ranks == Target("3.11", full).ranks


@pytest.mark.parametrize(
    ("python", "platform"),
    [
        ("2.7", "linux-x86_64"),
        ("3", "linux-x86_64"),
        ("3.x", "linux-x86_64"),
        ("3.11", "linux"),
        ("3.11", "solaris-sparc"),
        ("3.11", "manylinux_2_28_"),
        ("3.11", "manylinux_2_999999_x86_64"),
    ],
)
def test_what_is_no_target_is_refused(python: str, platform: str) -> None:
    with pytest.raises(Invalid):
        Target(python, platform)
