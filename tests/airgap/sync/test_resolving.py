"""Versions that are open: decided by uv and bundler through the mirror, or a sentence that says why not."""

import shutil
from pathlib import Path

import pytest
from yarl import URL

from mirror.airgap.lockfiles import Target, named, parse, this_machine
from mirror.airgap.sync.resolve import Resolvers
from mirror.errors import Invalid
from tests.builders import gem, sdist, wheel
from tests.clients import require_client
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator


def resolvers(mirror: Serving, *, build: bool = False) -> Resolvers:
    paths = {"pypi": "simple/", "rubygems": ""}
    return Resolvers(lambda repository: URL(mirror.url + paths[repository]), build=build)


async def test_each_target_gets_the_versions_that_it_can_install(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("app", "1.0"))
    simulator.publish(wheel("app", "2.0", requires_python=">=3.12", requires=["mine; sys_platform == 'win32'"]))
    simulator.publish(wheel("mine", "1.0"))
    parsed = parse("requirements.in", "app\n")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        resolve = resolvers(mirror)
        for target, expected in {
            Target("3.11", "linux-x86_64"): {"app": "1.0"},
            Target("3.12", "linux-aarch64"): {"app": "2.0"},
            Target("3.13", "windows-amd64"): {"app": "2.0", "mine": "1.0"},
            Target("3.12.1", "manylinux_2_28_x86_64"): {"app": "2.0"},
            Target("3.12", "macos-arm64"): {"app": "2.0"},
        }.items():
            resolved = await resolve(parsed, target, "pypi")
            assert {pin.project: pin.version for pin in resolved.pins} == expected, target
            assert resolved.ranges == ()


async def test_constraints_hold_for_what_is_resolved(simulator: Simulator, tmp_path: Path) -> None:
    (tmp_path / "constraints.txt").write_text("library<2\n")
    for built in (wheel("app", "1.0", requires=["library"]), wheel("library", "1.0"), wheel("library", "2.0")):
        simulator.publish(built)
    parsed = parse("r.txt", "-c constraints.txt\napp\n", open_file=lambda name: (tmp_path / name).read_text())
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        resolved = await resolvers(mirror)(parsed, this_machine(), "pypi")
    assert {(pin.project, pin.version) for pin in resolved.pins} == {("app", "1.0"), ("library", "1.0")}


async def test_no_code_of_a_distribution_runs_unless_it_may(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(sdist("source-only", "0.1"))
    parsed = parse("requirements.in", "source-only\n")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        with pytest.raises(Invalid, match=r"uv finds no versions that fit: .*With --build"):
            await resolvers(mirror)(parsed, this_machine(), "pypi")
        resolved = await resolvers(mirror, build=True)(parsed, this_machine(), "pypi")
    assert [pin.version for pin in resolved.pins] == ["0.1"]


async def test_a_contradiction_is_said_in_the_resolvers_own_words(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("app", "1.0", requires=["library>2"]))
    simulator.publish(wheel("library", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        with pytest.raises(Invalid, match=r"only library==1\.0 is available") as caught:
            await resolvers(mirror)(parse("requirements.in", "app\n"), this_machine(), "pypi")
    assert "\n" not in str(caught.value)


async def test_bundler_decides_for_gems(simulator: Simulator, tmp_path: Path) -> None:
    require_client("bundle")
    for built in (gem("web", "2.1", dependencies={"rack": "< 3"}), gem("rack", "2.9"), gem("rack", "3.0")):
        simulator.push(built)
    (parsed,) = named(["web:~> 2.0"])
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        resolved = await resolvers(mirror)(parsed, Target("3.11", "macos-arm64"), "rubygems")
    assert {(pin.project, pin.version) for pin in resolved.pins} == {("web", "2.1"), ("rack", "2.9")}
    assert "arm64-darwin" in resolved.platforms


@pytest.mark.parametrize(("name", "program"), [("six", "uv"), ("gem:rack", "bundle")])
async def test_a_resolver_that_is_not_there_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, program: str
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name, path: None)
    (parsed,) = named([name])
    with pytest.raises(Invalid, match=r"not installed here.*--no-deps") as caught:
        await Resolvers(lambda repository: URL("http://localhost/"))(parsed, this_machine(), parsed.ecosystem)
    assert ("uv" if program == "uv" else "bundler") in str(caught.value)
    assert str(caught.value).count("\n") == 0
