"""The exported tree: what stands in it, what does not, and what a second export touches."""

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from mirror.airgap.static import StaticReport, export
from mirror.airgap.static.tree import Tree
from mirror.cli import main
from mirror.cli.export import static_source
from mirror.config import Settings
from mirror.errors import Conflict, Invalid
from mirror.model import File, Project
from mirror.rubygems.log.versions_map import parse_versions
from mirror.service.ecosystems import ECOSYSTEMS
from mirror.service.open import Mode, open_mirror
from mirror.service.services import Mirror
from tests.builders import Built, gem, sdist, wheel
from tests.objects import chosen_blobs
from tests.postgres import chosen_catalog
from tests.serving import Serving, repositories, serving, write_settings
from tests.simulator import Simulator
from tests.uploading import make_token, push, upload

Exporting = Callable[..., Awaitable[StaticReport]]


def settings(data_dir: Path, both: Mapping[str, Any], **more: Any) -> Settings:
    shared = chosen_catalog(data_dir) | chosen_blobs(data_dir)
    return Settings.model_validate(shared | {"data_dir": str(data_dir), "repositories": both} | more)


async def exported(
    tmp_path: Path, both: Mapping[str, Any], more: Mapping[str, Any] | None = None, **how: Any
) -> StaticReport:
    """Export the store below a path into the `tree` beside it, as a command would."""
    async with looking_at(settings(tmp_path / "data", both, **(more or {}))) as mirror:
        return await export(static_source(mirror), tmp_path / "tree", **how)


def tree(directory: Path) -> dict[str, bytes]:
    """Return path → content of everything that a web server would serve."""
    return {
        path.relative_to(directory).as_posix(): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and ".mirror" not in path.parts
    }


def stamps(directory: Path) -> dict[str, tuple[int, int]]:
    """Return what shows whether a file was written again."""
    return {
        path.relative_to(directory).as_posix(): (path.stat().st_ino, path.stat().st_mtime_ns)
        for path in directory.rglob("*")
        if path.is_file() and ".mirror" not in path.parts
    }


ALPHA, ALPHA_SDIST, BETA = wheel("alpha", "1.0", requires=["beta"]), sdist("alpha", "1.1"), wheel("beta", "2.0")
RACK, RACK_JAVA = gem("rack", "3.0"), gem("rack", "3.0", platform="java")


def publish(simulator: Simulator) -> None:
    for built in (ALPHA, ALPHA_SDIST, wheel("alpha", "0.9"), BETA, wheel("unused", "1.0")):
        simulator.publish(built)
    for built in (RACK, RACK_JAVA, gem("rack", "2.0"), gem("unused", "1.0")):
        simulator.push(built)


async def fill(mirror: Serving) -> None:
    """Hold some of what is published, by requests as clients send them."""
    for path in (
        "/simple/alpha/", f"/packages/alpha/{ALPHA.filename}", f"/packages/alpha/{ALPHA.filename}.metadata",
        f"/packages/alpha/{ALPHA_SDIST.filename}", f"/packages/beta/{BETA.filename}", "/simple/unused/",
        "/info/rack", f"/gems/{RACK.filename}", f"/gems/{RACK_JAVA.filename}", "/info/unused",
    ):  # fmt: skip
        reply = await mirror.get(path)
        assert reply.status == 200, path


@pytest.fixture
async def both(simulator: Simulator, tmp_path: Path) -> dict[str, dict[str, Any]]:
    """The repositories of a store in `data` that holds some of what is published."""
    publish(simulator)
    found = repositories(simulator)
    async with serving(tmp_path / "data", found) as mirror:
        await fill(mirror)
    await simulator.go_down()
    simulator.forget()
    return found


async def test_pages_list_what_is_in_the_tree_and_nothing_else(
    simulator: Simulator, tmp_path: Path, both: dict[str, Any]
) -> None:
    report = await exported(tmp_path, both)
    assert report.problems == ()
    assert (report.projects, report.files) == (3, 5)
    there = tree(tmp_path / "tree")
    assert there[f"packages/alpha/{ALPHA.filename}"] == ALPHA.content
    assert there[f"packages/alpha/{ALPHA.filename}.metadata"] == ALPHA.metadata
    assert there[f"packages/beta/{BETA.filename}.metadata"] == BETA.metadata  # no client has requested it so far
    page = json.loads(there["simple/alpha/index.v1_json"])
    assert [file["filename"] for file in page["files"]] == [ALPHA.filename, ALPHA_SDIST.filename]
    assert page["versions"] == ["1.0", "1.1"]
    assert page["files"][0]["url"] == f"../../packages/alpha/{ALPHA.filename}"
    assert page["files"][0]["core-metadata"] == {"sha256": hashlib.sha256(ALPHA.metadata).hexdigest()}
    assert ALPHA.filename in there["simple/alpha/index.html"].decode()
    assert "alpha-0.9" not in there["simple/alpha/index.html"].decode()
    assert [one["name"] for one in json.loads(there["simple/index.v1_json"])["projects"]] == ["alpha", "beta"]
    assert set(json.loads(there["pypi/alpha/json"])["releases"]) == {"1.0", "1.1"}
    assert "unused" not in str(sorted(there))
    assert simulator.requests == []


async def test_the_gem_index_lists_held_gems_with_the_md5_of_the_pages_beside_it(
    tmp_path: Path, both: dict[str, Any]
) -> None:
    await exported(tmp_path, both)
    there = tree(tmp_path / "tree")
    versions = parse_versions(there["versions"])
    assert list(versions) == ["rack"]
    assert set(versions.versions("rack")) == {"3.0", "3.0-java"}
    assert versions.md5("rack") == hashlib.md5(there["info/rack"]).hexdigest()
    assert b"2.0" not in there["info/rack"].replace(b">= 0", b"")
    assert there["names"] == b"---\nrack\n"
    assert there[f"gems/{RACK_JAVA.filename}"] == RACK_JAVA.content
    assert {"quick/Marshal.4.8/rack-3.0.gemspec.rz", "quick/Marshal.4.8/rack-3.0-java.gemspec.rz"} <= there.keys()
    assert b"rack" in gzip.decompress(there["specs.4.8.gz"])
    assert b"rack" not in gzip.decompress(there["prerelease_specs.4.8.gz"])
    assert json.loads(there["api/v1/gems/rack.json"])["version"] == "3.0"
    assert "../info/rack" in there["gems/index.html"].decode()


@pytest.mark.parametrize("held", [[RACK, RACK_JAVA], [RACK]], ids=["all", "one"])
async def test_the_legacy_index_is_upstreams_own_where_the_tree_has_all_that_it_lists(
    simulator: Simulator, tmp_path: Path, held: list[Built]
) -> None:
    simulator.push(RACK)
    simulator.push(RACK_JAVA)
    found = {"rubygems": {"format": "rubygems", "upstreams": [simulator.url]}}
    names = ["specs.4.8.gz", "latest_specs.4.8.gz", "prerelease_specs.4.8.gz"]
    async with serving(tmp_path / "data", found) as mirror:
        theirs = {name: (await mirror.get(name)).body for name in names}
        for one in held:
            assert (await mirror.get(f"gems/{one.filename}")).status == 200
    await exported(tmp_path, found)
    there = tree(tmp_path / "tree")
    same = {name for name in names if there[name] == theirs[name]}
    assert same == ({*names} if len(held) == 2 else {"prerelease_specs.4.8.gz"})
    assert (b"java" in gzip.decompress(there["specs.4.8.gz"])) == (RACK_JAVA in held)


@pytest.mark.usefixtures("embedded")
async def test_files_are_linked_to_the_store_where_that_lets_no_one_into_it(
    tmp_path: Path, both: dict[str, Any]
) -> None:
    place = tmp_path / "tree/packages/alpha" / ALPHA.filename
    store = tmp_path / "data/blobs"
    blob = store / ALPHA.sha256[:2] / ALPHA.sha256
    for file in store.glob("??/*"):
        file.chmod(0o600)
    report = await exported(tmp_path, both)
    assert (report.linked, report.copied) == (report.files, 0)
    assert place.samefile(blob)
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    assert all(stat.S_IMODE(directory.stat().st_mode) == 0o700 for directory in (store, blob.parent))
    blob.chmod(0o600)  # as `chmod -R go=` of the store does
    assert (await exported(tmp_path, both)).linked == 1
    assert place.samefile(blob)
    assert stat.S_IMODE(place.stat().st_mode) == 0o644
    blob.chmod(0o600)
    for directory in (blob.parent, store, store.parent):
        directory.chmod(0o755)  # of a store that others may look into, blobs stay their owner's
    assert (await exported(tmp_path, both)).copied == 1
    assert not place.samefile(blob)
    assert [stat.S_IMODE(one.stat().st_mode) for one in (blob, place)] == [0o600, 0o644]


@pytest.mark.usefixtures("embedded")
async def test_files_are_copied_where_that_is_asked_for(tmp_path: Path, both: dict[str, Any]) -> None:
    place = tmp_path / "tree/packages/alpha" / ALPHA.filename
    blob = tmp_path / "data/blobs" / ALPHA.sha256[:2] / ALPHA.sha256
    linked = await exported(tmp_path, both)
    report = await exported(tmp_path, both, copy=True)
    assert (report.linked, report.copied) == (0, linked.files)
    assert not place.samefile(blob)
    assert (await exported(tmp_path, both)).linked == linked.files
    assert place.samefile(blob)


async def test_again_changes_nothing(tmp_path: Path, both: dict[str, Any]) -> None:
    first = await exported(tmp_path, both)
    before = stamps(tmp_path / "tree")
    for changed in (True, False):
        report = await exported(tmp_path, both, changed=changed)
        assert (report.written, report.removed) == (0, 0)
        assert (report.projects, report.files) == (first.projects, first.files)
        assert stamps(tmp_path / "tree") == before


@pytest.mark.parametrize(
    "built", [wheel("gamma", "1.0"), wheel("alpha", "2.0"), sdist("delta", "1.0")], ids=lambda built: built.filename
)
async def test_changed_after_one_upload_writes_fewer_than_ten_files(
    simulator: Simulator, tmp_path: Path, both: dict[str, Any], built: Any
) -> None:
    both["pypi"]["union"] = ["alpha"]  # otherwise what is uploaded hides what is held of that name
    await exported(tmp_path, both)
    before = stamps(tmp_path / "tree")
    async with serving(tmp_path / "data", both) as mirror:
        assert (await upload(mirror, await make_token(mirror), built)).status == 200
    report = await exported(tmp_path, both, changed=True)
    assert f"packages/{built.name}/{built.filename}" in tree(tmp_path / "tree")
    after = stamps(tmp_path / "tree")
    written = {path for path, stamp in after.items() if before.get(path) != stamp}
    assert len(written) == report.written < 10
    assert all(built.name in path or path.startswith("simple/index.") for path in written)


async def test_changed_after_one_new_gem_writes_fewer_than_ten_files(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    built = gem("fresh", "1.0")
    async with serving(tmp_path / "data", both) as mirror:
        token = await make_token(mirror)
        assert (await push(mirror, token, built.content)).status == 200
    report = await exported(tmp_path, both, changed=True)
    assert report.written < 10
    there = tree(tmp_path / "tree")
    versions = parse_versions(there["versions"])
    assert versions.md5("fresh") == hashlib.md5(there["info/fresh"]).hexdigest()
    assert there["gems/fresh-1.0.gem"] == built.content
    assert (await exported(tmp_path, both)).written == 0  # what a whole one would have written


@pytest.mark.usefixtures("embedded")
async def test_what_is_no_longer_held_goes_with_its_pages(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    async with looking_at(settings(tmp_path / "data", both)) as mirror:
        gone = [held for held in await mirror.catalog.files.all() if held.project == "beta"]
        await mirror.catalog.files.forget_all(gone)
    (tmp_path / "data/blobs" / BETA.sha256[:2] / BETA.sha256).unlink()
    report = await exported(tmp_path, both, changed=True)
    assert report.removed == 5  # the file, its metadata, three pages
    assert not [path for path in tree(tmp_path / "tree") if "beta" in path]
    assert not (tmp_path / "tree/packages/beta").exists()
    assert "beta" not in (tmp_path / "tree/simple/index.html").read_text()


async def test_what_policy_hides_or_blocks_is_not_in_the_tree(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    policy = {"policy": [{"name": "no", "kind": "deny", "reason": "no", "projects": ["beta", "rack"]}]}
    report = await exported(tmp_path, both, policy, changed=True)
    assert report.problems == ()
    there = tree(tmp_path / "tree")
    assert not [path for path in there if "beta" in path or "rack" in path]
    assert f"packages/alpha/{ALPHA.filename}" in there


async def test_changed_notices_settings_that_say_otherwise_what_is_shown(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    both["pypi"]["private"] = ["beta"]
    await exported(tmp_path, both, changed=True)
    assert not [path for path in tree(tmp_path / "tree") if "beta" in path]


async def test_changed_notices_that_a_cooldown_is_over(tmp_path: Path, both: dict[str, Any]) -> None:
    uploaded = json.loads(await _page_of(tmp_path, both, "alpha"))["files"][0]["upload-time"]
    moment = datetime.fromisoformat(uploaded).timestamp()
    policy = {"policy": [{"name": "rest", "kind": "cooldown", "reason": "new", "age": "7d", "projects": ["alpha"]}]}
    now = [moment + 6 * 86400]
    held = settings(tmp_path / "data", both, **policy)
    for seen, day in ((False, 6), (False, 6.5), (True, 8)):
        now[0] = moment + day * 86400
        async with looking_at(held, lambda: now[0]) as mirror:
            await export(static_source(mirror), tmp_path / "tree", changed=True)
        assert (f"packages/alpha/{ALPHA.filename}" in tree(tmp_path / "tree")) == seen


async def _page_of(tmp_path: Path, both: dict[str, Any], project: str) -> bytes:
    async with looking_at(settings(tmp_path / "data", both)) as mirror:
        await export(static_source(mirror), tmp_path / "shown")
    return (tmp_path / f"shown/simple/{project}/index.v1_json").read_bytes()


@asynccontextmanager
async def looking_at(held: Settings, clock: Callable[[], float] = time.time) -> AsyncIterator[Mirror]:
    """Open a read-only mirror with a clock of its own."""
    async with open_mirror(held, Mode.READ_ONLY, clock=clock) as opened:
        yield await opened.mirror()


async def test_what_not_everyone_may_read_is_exported_only_by_name(tmp_path: Path, both: dict[str, Any]) -> None:
    closed = {"auth": {"rules": [{"repositories": ["rubygems"], "read": []}, {"projects": ["beta"], "read": []}]}}
    report = await exported(tmp_path, both, closed)
    assert not [path for path in tree(tmp_path / "tree") if "beta" in path or "rack" in path or path == "versions"]
    assert report.projects == 1
    await exported(tmp_path, both, closed, repositories=["pypi"])
    there = tree(tmp_path / "tree")
    assert f"packages/beta/{BETA.filename}" in there
    assert "versions" not in there
    with pytest.raises(Invalid, match="no repository 'other'"):
        await exported(tmp_path, both, repositories=["other"])


async def test_only_the_chosen_projects(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    await exported(tmp_path, both, only={"pypi": ["beta"]}, changed=True)
    there = tree(tmp_path / "tree")
    assert f"packages/beta/{BETA.filename}" in there
    assert not [path for path in there if "alpha" in path or "rack" in path]


async def test_files_elsewhere_are_linked_to_there(tmp_path: Path, both: dict[str, Any]) -> None:
    report = await exported(tmp_path, both, files_url="https://files.example/all")
    there = tree(tmp_path / "tree")
    assert not [path for path in there if path.endswith((".whl", ".gem", ".tar.gz", ".metadata"))]
    assert (report.linked, report.copied) == (0, 0)
    page = json.loads(there["simple/alpha/index.v1_json"])
    assert page["files"][0]["url"] == f"https://files.example/all/packages/alpha/{ALPHA.filename}"
    assert "quick/Marshal.4.8/rack-3.0.gemspec.rz" in there
    lines = (tmp_path / "tree/.mirror/nginx-server.conf").read_text()
    assert "return 302 https://files.example/all/gems/$1;" in lines
    with pytest.raises(Invalid, match="cannot be where files are"):
        await exported(tmp_path, both, files_url="https://files.example/;}")


async def test_each_mount_is_a_directory(simulator: Simulator, tmp_path: Path) -> None:
    publish(simulator)
    both = repositories(simulator, pypi={"mount": "/python"}, rubygems={"mount": "/ruby/all"})
    async with serving(tmp_path / "data", both) as mirror:
        for path in (f"/python/packages/beta/{BETA.filename}", f"/ruby/all/gems/{RACK.filename}"):
            assert (await mirror.get(path)).status == 200
    await exported(tmp_path, both)
    there = tree(tmp_path / "tree")
    assert {f"python/packages/beta/{BETA.filename}", f"ruby/all/gems/{RACK.filename}", "ruby/all/versions"} <= set(
        there
    )
    assert 'href="ruby/all/"' in there["index.html"].decode()
    assert "<script" not in b"".join(there[path] for path in there if path.endswith(".html")).decode()


async def test_one_that_was_killed_leaves_a_working_tree_and_the_next_one_mends_it(
    tmp_path: Path, both: dict[str, Any]
) -> None:
    whole = tmp_path / "whole"
    async with looking_at(settings(tmp_path / "data", both)) as mirror:
        await export(static_source(mirror), whole)
    wanted, file = tree(whole), write_settings(tmp_path / "data", both)
    for left in (0, 3, 9, 15, 22, 27):
        words = ["export", "--static", str(tmp_path / "tree"), "--changed", "--config", str(file)]
        status, said = await asyncio.to_thread(killed, left, words)
        assert status == -signal.SIGKILL, said
        there = tree(tmp_path / "tree")
        leads_nowhere(there)
        for path, content in there.items():
            assert content == wanted[path], path
        (tmp_path / "tree/simple/stray").mkdir(parents=True, exist_ok=True)
        (tmp_path / "tree/simple/stray/index.html").write_bytes(b"of a project that went meanwhile")
        assert await asyncio.to_thread(main, words) == 0
        assert tree(tmp_path / "tree") == wanted
        shutil.rmtree(tmp_path / "tree")


KILLED = """
import os, sys
from pathlib import Path
from mirror.cli import main

left = int(sys.argv.pop(1))

def counted(real):
    def act(*arguments, **named):
        global left
        if "tree" in str(arguments[-1]):
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
        return real(*arguments, **named)
    return act

os.replace = counted(os.replace)
Path.unlink = counted(Path.unlink)
sys.exit(main(sys.argv[1:]))
"""


def killed(left: int, words: Sequence[str]) -> tuple[int, str]:
    """Run a command that kills itself after it has replaced or removed so many files; return status and output."""
    command = [sys.executable, "-c", KILLED, str(left), *words]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    return done.returncode, done.stderr


async def test_killed_while_it_brings_a_tree_up_to_date_it_leads_nowhere_either(
    tmp_path: Path, both: dict[str, Any]
) -> None:
    await exported(tmp_path, both)
    shutil.copytree(tmp_path / "tree", tmp_path / "before", copy_function=os.link)
    async with serving(tmp_path / "data", both) as mirror:
        token = await make_token(mirror)
        assert (await upload(mirror, token, wheel("alpha", "2.0"))).status == 200  # hides what was held of that name
        assert (await push(mirror, token, gem("fresh", "1.0").content)).status == 200
        beta = [held for held in await mirror.mirror.catalog.files.all() if held.project == "beta"]
        await mirror.mirror.catalog.files.forget_all(beta)
    words = ["export", "--static", str(tmp_path / "tree"), "--changed"]
    words += ["--config", str(write_settings(tmp_path / "data", both))]
    ends, left = set(), 0
    while 0 not in ends:
        shutil.rmtree(tmp_path / "tree")
        shutil.copytree(tmp_path / "before", tmp_path / "tree", copy_function=os.link)
        status, said = await asyncio.to_thread(killed, left, words)
        assert status in (0, -signal.SIGKILL), said
        ends.add(status)
        leads_nowhere(tree(tmp_path / "tree"), settled=status == 0)
        left += 4
    wanted = tree(tmp_path / "tree")
    assert not [path for path in wanted if "beta" in path]
    shutil.rmtree(tmp_path / "tree")
    shutil.copytree(tmp_path / "before", tmp_path / "tree", copy_function=os.link)
    await asyncio.to_thread(killed, 12, words)
    await exported(tmp_path, both, changed=True)
    assert tree(tmp_path / "tree") == wanted


def leads_nowhere(there: Mapping[str, bytes], *, settled: bool = True) -> None:
    """Fail when a page of a tree links to a missing file; a `settled` tree is consistent, too."""
    for path, content in there.items():
        if path.startswith("simple/") and path.endswith("v1_json"):
            document = json.loads(content)
            for file in document.get("files", ()):
                at = file["url"].removeprefix("../../")
                assert at in there
                assert "core-metadata" not in file or f"{at}.metadata" in there
            for project in document.get("projects", ()):
                assert f"simple/{project['name']}/index.html" in there
        elif path == "versions":
            for name in (versions := parse_versions(content)):
                assert not settled or versions.md5(name) == hashlib.md5(there[f"info/{name}"]).hexdigest()
                for number in versions.versions(name):
                    assert f"gems/{name}-{number}.gem" in there
                    assert f"quick/Marshal.4.8/{name}-{number}.gemspec.rz" in there


@pytest.mark.parametrize(
    "path",
    ["../out", "a/../../out", "/etc/out", "a//b", "", ".", "a/.", "a/\0", "a\\b/c", "a/\n", ".mirror/state.json",
     "a/" + "x" * 256, "a/\udcff"],
)  # fmt: skip
def test_no_path_leads_out_of_the_tree(tmp_path: Path, path: str) -> None:
    tree = Tree(tmp_path / "tree")
    blob = tmp_path / "blob"
    blob.write_bytes(b"x")
    for act in (
        lambda: tree.write(path, b"x"), lambda: tree.add(path, blob, copy=False), lambda: tree.remove(path),
        lambda: tree.walk(path),
    ):  # fmt: skip
        with pytest.raises(Invalid):
            act()
    tree.close()
    assert {each.name for each in tmp_path.iterdir()} == {"tree", "blob"}


@pytest.mark.parametrize("name", ["../evil", "..", "a/b", ".mirror/x", "a\0b"])
@pytest.mark.parametrize("format", ["pypi", "rubygems"])
def test_hostile_names_have_no_place_in_either_layout(format: str, name: str) -> None:
    layout = ECOSYSTEMS[format].layout()
    file = File(filename=f"{name}-1.whl", version="1", digests={"sha256": "0" * 64})
    project = Project(name=name, files=(file,))
    with pytest.raises(Invalid):
        layout.file(name, file)
    with pytest.raises(Invalid):
        layout.pages(project, "", None, None)
    hostile = File(filename="../../evil-1.whl", version="../1", platform="../x")
    assert layout.listed(hostile, "0" * 64) is None


async def test_a_state_that_was_tampered_with_removes_nothing_outside(tmp_path: Path, both: dict[str, Any]) -> None:
    await exported(tmp_path, both)
    victim = tmp_path / "victim"
    victim.write_text("here")
    file = tmp_path / "tree/.mirror/state.json"
    state = json.loads(file.read_bytes())
    state["pages"] |= {"../victim": "0" * 64, str(victim): "0" * 64}
    file.write_text(json.dumps(state))
    await exported(tmp_path, both, changed=True)
    assert victim.read_text() == "here"
    file.write_text("[" * 100_000)
    assert (await exported(tmp_path, both, changed=True)).written == 0


async def test_a_directory_with_anything_else_in_it_is_refused(tmp_path: Path, both: dict[str, Any]) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/precious").write_text("keep")
    with pytest.raises(Invalid, match="is not empty and was not made by an export"):
        await exported(tmp_path, both)
    assert os.listdir(tmp_path / "tree") == ["precious"]


async def test_two_exports_into_one_directory_do_not_meet(tmp_path: Path, both: dict[str, Any]) -> None:
    first = Tree(tmp_path / "tree")
    with pytest.raises(Conflict, match="Another export is writing"):
        await exported(tmp_path, both)
    first.close()
    await exported(tmp_path, both)
