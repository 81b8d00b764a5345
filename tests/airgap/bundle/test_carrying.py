"""From one mirror to another without a connection: byte-identical pages, small updates, and what is refused."""

import asyncio
import fcntl
import io
import shutil
import tarfile
from pathlib import Path

import pytest
from multidict import CIMultiDict

from mirror.catalog.bundles import BundleImport, ImportedSerials
from mirror.config import Settings
from mirror.service.open import Mode, open_mirror
from tests.airgap.bundle.nodes import Node, pages, trusting
from tests.builders import Built, gem, wheel
from tests.objects import chosen_blobs
from tests.postgres import chosen_catalog, chosen_rows
from tests.serving import Client, serving
from tests.simulator import Request, Simulator, Status
from tests.uploading import make_token, push, upload

JSON = "application/vnd.pypi.simple.v1+json"
WHEELS = [wheel("six", "1.15"), wheel("six", "1.16"), wheel("attrs", "24.1")]
GEMS = [gem("rack", "3.0"), gem("rack", "3.1"), gem("puma", "6.0", platform="java")]
OURS = [wheel("acme", "1.0"), gem("acme-gem", "1.0")]
BOTH = [*WHEELS, *GEMS]
INDEX = ["simple/", "versions", "names", "specs.4.8.gz", "latest_specs.4.8.gz", "prerelease_specs.4.8.gz"]


def paths(*built: Built) -> list[str]:
    """Return the paths of everything that a client requests about these."""
    found: dict[str, None] = dict.fromkeys(INDEX)
    for one in built:
        if one.filename.endswith(".gem"):
            full = one.filename.removesuffix(".gem")
            found |= dict.fromkeys([f"info/{one.name}", f"gems/{one.filename}", f"quick/Marshal.4.8/{full}.gemspec.rz"])
        else:
            path = f"packages/{one.name}/{one.filename}"
            found |= dict.fromkeys([f"simple/{one.name}/", path, f"{path}.metadata"])
    return list(found)


def publish(simulator: Simulator, *built: Built) -> None:
    for one in built:
        simulator.push(one) if one.filename.endswith(".gem") else simulator.publish(one)


async def ask_all(mirror: Client, *built: Built) -> dict[str, tuple[int, bytes]]:
    """Return every answer, also those in JSON; none of them fails."""
    answers = await pages(mirror, paths(*built), Cache_Control="no-cache")
    for path, answer in (await pages(mirror, [p for p in paths(*built) if "simple" in p], Accept=JSON)).items():
        answers[f"{path} as JSON"] = answer
    assert {path: status for path, (status, _) in answers.items() if status != 200} == {}
    return answers


class Two:
    """Node A with the network, node B without."""

    def __init__(self, simulator: Simulator, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.simulator = simulator
        self.directory = directory
        self.capsys = capsys
        self.a = Node(simulator, directory, "a")
        self.b = Node(simulator, directory, "b", offline=True)

    async def on_a(self, *words: str | Path, status: int = 0) -> str:
        return await self.a(self.capsys, *words, status=status)

    async def on_b(self, *words: str | Path, status: int = 0) -> str:
        return await self.b(self.capsys, *words, status=status)

    async def asked_of_a(self, *built: Built) -> dict[str, tuple[int, bytes]]:
        async with serving(self.a.data_dir, self.a.repositories) as mirror:
            await ask_all(mirror, *built)
            return await ask_all(mirror, *built)  # what was fetched by the first is in the second's index

    async def asked_of_b(self, *built: Built) -> dict[str, tuple[int, bytes]]:
        async with serving(self.b.data_dir, self.b.repositories, offline=True) as mirror:
            return await ask_all(mirror, *built)

    async def exported(self, *words: str | Path, name: str = "bundle.tar") -> Path:
        target = self.directory / name
        await self.on_a("export", "-o", target, *words)
        return target

    async def carried(self, *words: str | Path, name: str = "bundle.tar") -> Path:
        bundle = await self.exported(*words, name=name)
        await self.on_b("import", bundle)
        return bundle

    def state_of_b(self) -> dict[str, str]:
        """Return what B shows, as rows: enough to see that nothing has changed."""
        tables = ("pages", "files", "uploads", "logs", "removed", "imports", "feed")
        return {table: chosen_rows(self.b.data_dir, f"SELECT * FROM {table} ORDER BY 1, 2, 3") for table in tables}


@pytest.fixture
async def two(simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Two:
    """A filled and trusted by B, which is empty."""
    publish(simulator, *BOTH)
    pair = Two(simulator, tmp_path, capsys)
    await trusting(pair.a, pair.b, capsys)
    await pair.asked_of_a(*BOTH)
    return pair


async def test_everything_is_byte_for_byte_the_same_on_the_other_side(two: Two) -> None:
    async with serving(two.a.data_dir, two.a.repositories) as mirror:
        token = await make_token(mirror)
        assert (await upload(mirror, token, OURS[0])).status == 200
        assert (await push(mirror, token, OURS[1].content)).status == 200
    wanted = await two.asked_of_a(*BOTH, *OURS)
    said = await two.on_b("import", await two.exported("--all"))
    assert "new files (6): " in said
    assert "uploads: upload (2): " in said
    assert await two.asked_of_b(*BOTH, *OURS) == wanted


def legacy_index(simulator: Simulator) -> dict[str, tuple[int, bytes]]:
    """Return upstream's own files of the legacy index, as answers."""
    found = {}
    for path in INDEX[3:]:
        answer = simulator.rubygems.answer(Request("GET", f"/{path}", "", CIMultiDict(), 0, 0))
        assert answer is not None
        found[path] = answer.status, bytes(answer.body)
    return found


@pytest.mark.parametrize("words", [["--all"], ["--no-deps", "gem:rack"]], ids=["all of it", "a selection"])
async def test_upstreams_own_legacy_index_is_passed_on_on_the_other_side(two: Two, words: list[str]) -> None:
    await two.carried(*words)
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert await pages(mirror, INDEX[3:]) == legacy_index(two.simulator)


async def test_a_legacy_index_that_comes_after_its_list_is_seen_by_a_mirror_that_serves(
    two: Two, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mirror.rubygems.log.upstream_specs.AGAIN_SECONDS", 0.0)
    publish(two.simulator, gem("rack", "5.0"))
    two.simulator.inject("/*specs.4.8.gz", Status(500))
    ours = {path: answer for path, answer in (await two.asked_of_a(*BOTH)).items() if path in INDEX[3:]}
    assert ours != legacy_index(two.simulator)
    await two.carried("--all")
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert await pages(mirror, INDEX[3:]) == ours
        two.simulator.heal()
        await two.asked_of_a(*BOTH)
        await two.on_b("inventory", "-o", two.directory / "held")
        await two.carried("--for", two.directory / "held", name="update.tar")
        async with asyncio.timeout(20):
            while await pages(mirror, INDEX[3:]) != legacy_index(two.simulator):  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until it has noticed


@pytest.mark.usefixtures("embedded")
async def test_uploads_remain_uploads_with_their_records(two: Two) -> None:
    async with serving(two.a.data_dir, two.a.repositories) as mirror:
        await upload(mirror, await make_token(mirror), OURS[0])
    await two.carried("--all")
    record = f"uploads/pypi/acme/{OURS[0].filename}.json"
    assert (two.b.data_dir / record).read_bytes() == (two.a.data_dir / record).read_bytes()
    (two.b.data_dir / "catalog.sqlite").rename(two.directory / "lost")
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert (await mirror.get(f"packages/acme/{OURS[0].filename}")).body == OURS[0].content
        assert (await upload(mirror, await make_token(mirror), wheel("acme", "1.0", size=10))).status == 400


async def test_an_update_holds_little_more_than_what_is_new(two: Two) -> None:
    await two.carried("--all")
    new = [wheel("six", f"2.{minor}", size=100_000) for minor in range(5)]
    new += [gem("rack", f"4.{minor}", size=100_000) for minor in range(5)]
    publish(two.simulator, *new)
    two.simulator.yank("six", "1.15", "broken")
    two.simulator.rubygems.yank("rack", "3.0")
    left = [one for one in BOTH if one.filename != "rack-3.0.gem"]
    wanted = await two.asked_of_a(*left, *new)
    await two.on_b("inventory", "-o", two.directory / "held")
    update = await two.carried("--for", two.directory / "held", name="update.tar")
    assert await two.asked_of_b(*left, *new) == wanted
    size = sum(one.size for one in new)
    assert update.stat().st_size <= 1.05 * size, (update.stat().st_size, size)
    print(f"\nupdate: {update.stat().st_size} bytes for {size} bytes of new files")
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        page = (await mirror.get("simple/six/", Accept=JSON)).json()
        assert {file["filename"]: file["yanked"] for file in page["files"] if file["yanked"]} == {
            WHEELS[0].filename: "broken"
        }
        assert "rack 3.0," not in (await mirror.get("versions")).text.splitlines()[-1]


async def test_what_changed_since_a_serial_follows_what_was_taken_in(two: Two) -> None:
    said = await two.on_a("export", "-o", two.directory / "full.tar", "--all")
    await two.on_b("import", two.directory / "full.tar")
    serial = said.split()[-1]
    new = wheel("six", "3.0")
    publish(two.simulator, new)
    wanted = await two.asked_of_a(*BOTH, new)
    update = await two.carried("--since", serial, name="update.tar")
    assert await two.asked_of_b(*BOTH, new) == wanted
    with tarfile.open(update) as tar:
        assert len([name for name in tar.getnames() if name.startswith("blobs/")]) == 2


async def test_a_gap_and_steps_back_are_refused(two: Two) -> None:
    first = (await two.on_a("export", "-o", two.directory / "1.tar", "--all")).split()[-1]
    publish(two.simulator, wheel("six", "2.0"))
    await two.asked_of_a(*BOTH, wheel("six", "2.0"))
    second = await two.exported("--since", first, name="2.tar")
    assert "There is a gap: the bundle begins after" in await two.on_b("import", second, status=1)
    await two.on_b("import", two.directory / "1.tar")
    await two.on_b("import", second)
    before = two.state_of_b()
    assert "The bundle was imported before" in await two.on_b("import", second, status=1)
    assert "The bundle is older than the last one" in await two.on_b("import", two.directory / "1.tar", status=1)
    assert two.state_of_b() == before
    await two.on_b("import", two.directory / "1.tar", "--force")
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert "six-2.0" not in (await mirror.get("simple/six/")).text


async def test_what_the_journal_has_forgotten_is_said(two: Two) -> None:
    table = chosen_catalog(two.a.data_dir) | chosen_blobs(two.a.data_dir) | {"data_dir": str(two.a.data_dir)}
    async with open_mirror(Settings.model_validate(table), Mode.ALONE) as opened:
        (third,) = (await opened.journal.since(2))[:1]
        await opened.catalog.database.write(("DELETE FROM feed WHERE serial <= $1", (third.serial,)))
    said = await two.on_a("export", "-o", two.directory / "x.tar", "--since", "1", status=1)
    assert "the journal begins at 4" in said
    assert "the journal of this mirror ends at" in await two.on_a("export", "-o", "x", "--since", "9999", status=1)
    assert not list(two.directory.glob("x.tar*"))


@pytest.mark.parametrize(
    "words",
    [
        ["--all"],
        ["-o", "x.tar"],
        ["-o", "x.tar", "--all", "six"],
        ["-o", "x.tar", "--all", "--since", "3"],
        ["-o", "x.tar", "--all", "--copy"],
        ["--static", "x", "--all"],
    ],
)
async def test_what_cannot_be_meant_is_wrong_usage(two: Two, words: list[str]) -> None:
    await two.on_a("export", *words, status=2)


async def test_there_is_one_import_at_a_time(two: Two) -> None:
    bundle = await two.exported("--all")
    two.b.data_dir.mkdir(exist_ok=True)
    with (two.b.data_dir / "import.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert "Another import is running" in await two.on_b("import", bundle, status=1)
    await two.on_b("import", bundle)


async def test_without_a_key_nothing_is_signed(two: Two) -> None:
    shutil.rmtree(two.a.data_dir / "keys")
    assert "There is no key to sign it with" in await two.on_a("export", "-o", "x.tar", "--all", status=1)


async def test_what_was_made_for_one_mirror_fits_no_other_and_no_other_moment(two: Two) -> None:
    await two.carried("--all")
    await two.on_b("inventory", "-o", two.directory / "held")
    for version in ("2.0", "3.0"):
        publish(two.simulator, wheel("six", version))
        await two.asked_of_a(*BOTH, wheel("six", version))
        await two.exported("--for", two.directory / "held", name=f"{version}.tar")
    await two.on_b("import", two.directory / "2.0.tar")
    before = two.state_of_b()
    refused = await two.on_b("import", two.directory / "2.0.tar", status=1)
    assert "made for an earlier state of this mirror" in refused
    assert "earlier state" in await two.on_b("import", two.directory / "3.0.tar", status=1)
    assert two.state_of_b() == before
    c = Node(two.simulator, two.directory, "c", offline=True)
    line = next(line for line in (await two.on_a("key", "list")).splitlines() if "own" in line).split("  ")[-1]
    await c(two.capsys, "key", "trust", line.strip())
    assert "made for another mirror" in await c(two.capsys, "import", two.directory / "2.0.tar", status=1)


async def test_a_selection_brings_what_a_name_needs(two: Two) -> None:
    bundle = await two.carried("--no-deps", "six", "gem:rack", "--all-versions")
    with tarfile.open(bundle) as tar:
        blobs = [name for name in tar.getnames() if name.startswith("blobs/")]
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        for one in WHEELS[:2]:
            assert (await mirror.get(f"packages/six/{one.filename}.metadata")).body == one.metadata
        assert (await mirror.get("gems/rack-3.0.gem")).body == GEMS[0].content
        assert (await mirror.get("simple/attrs/")).status == 503
    assert len(blobs) == 8
    await two.carried("--all", name="all.tar")
    assert await two.asked_of_b(*BOTH) == await two.asked_of_a(*BOTH)


async def test_both_sides_keep_their_own_uploads(two: Two) -> None:
    mine, theirs = gem("ours-b", "1.0"), gem("ours-a", "1.0")
    await two.carried("--all")
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert (await push(mirror, await make_token(mirror), mine.content)).status == 200
    async with serving(two.a.data_dir, two.a.repositories) as mirror:
        assert (await push(mirror, await make_token(mirror), theirs.content)).status == 200
    await two.on_b("inventory", "-o", two.directory / "held")
    said = await two.on_b("import", await two.exported("--for", two.directory / "held"))
    assert "the list of gems of rubygems differs from the bundle's" in said
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        for name in ("ours-a", "ours-b", "rack"):
            info = await mirror.get(f"info/{name}")
            assert info.status == 200
        async with asyncio.timeout(10):
            while len(named := {line.split()[0] for line in (await mirror.get("versions")).text.splitlines()[2:]}) < 4:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert named >= {"ours-a", "ours-b", "rack", "puma"}


async def test_an_upload_of_both_sides_under_one_name_is_refused(two: Two) -> None:
    one, other = wheel("acme", "1.0"), wheel("acme", "1.0", size=10)
    for node, built in ((two.a, one), (two.b, other)):
        async with serving(node.data_dir, node.repositories) as mirror:
            assert (await upload(mirror, await make_token(mirror), built)).status == 200
    bundle = await two.exported("--all")
    before = two.state_of_b()
    assert "was uploaded on both sides" in await two.on_b("import", bundle, status=1)
    assert two.state_of_b() == before


async def test_what_upstream_took_back_goes_and_yanked_uploads_are_yanked(two: Two) -> None:
    async with serving(two.a.data_dir, two.a.repositories) as mirror:
        assert (await upload(mirror, await make_token(mirror), OURS[0])).status == 200
    await two.carried("--all")
    two.simulator.pypi.remove("attrs")
    await two.on_a("yank", "acme", "1.0", "--reason", "oops")
    async with serving(two.a.data_dir, two.a.repositories) as mirror:
        await mirror.get("simple/attrs/", Cache_Control="no-cache")
        wanted = await pages(mirror, ["simple/attrs/", "simple/acme/", f"packages/attrs/{WHEELS[2].filename}"])
    await two.on_b("inventory", "-o", two.directory / "held")
    bundle = await two.exported("--for", two.directory / "held")
    said = await two.on_b("import", bundle)
    assert "projects that upstream no longer has (1): attrs" in said
    assert f"uploads: yank (1): {OURS[0].filename}" in said
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        assert await pages(mirror, list(wanted)) == wanted
    assert b"blobs/" not in bundle.read_bytes()


async def test_a_mirror_that_serves_meanwhile_shows_it_by_itself(two: Two) -> None:
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        missing = set((await pages(mirror, ["simple/six/", "versions"])).values())
        assert {status for status, _ in missing} == {503}
        await two.carried("--all")
        async with asyncio.timeout(20):
            while set((await pages(mirror, ["simple/six/", "versions"])).values()) & missing:  # noqa: ASYNC110
                await asyncio.sleep(0.05)  # until it has noticed
        assert (await mirror.get(f"packages/six/{WHEELS[0].filename}")).body == WHEELS[0].content
        before = (await mirror.get("versions")).body
        assert b"rack 3.0,3.1 " in before
        publish(two.simulator, gem("rack", "5.0"))
        wanted = await two.asked_of_a(*BOTH, gem("rack", "5.0"))
        await two.on_b("inventory", "-o", two.directory / "held")
        await two.carried("--for", two.directory / "held")
        async with asyncio.timeout(20):
            while (await mirror.get("versions")).body == before:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert await ask_all(mirror, *BOTH, gem("rack", "5.0")) == wanted


async def test_what_was_never_asked_for_turns_over_once_and_for_all(two: Two) -> None:
    paths = ["simple/six/", "simple/attrs/", "versions", "info/rack"]
    async with serving(two.b.data_dir, two.b.repositories, offline=True) as mirror:
        importing = asyncio.create_task(two.carried("--all"))
        turned: set[str] = set()
        while len(turned) < len(paths):
            for path in paths:
                status = (await mirror.get(path)).status
                assert status == (200 if path in turned else status), f"{path} turned back"
                turned |= {path} if status == 200 else set()
            await asyncio.sleep(0.001)
        await importing


async def test_a_bundle_that_is_announced_is_waited_for(two: Two, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mirror.index.journal.LOOK_SECONDS", 3600)
    taken = asyncio.Event()

    async def taken_in() -> None:
        taken.set()

    async with open_mirror(Settings.model_validate({"data_dir": str(two.directory / "c")}), Mode.ALONE) as opened:
        mirror = await opened.mirror()
        bundles = mirror.catalog.bundles
        await bundles.announce("a", 1.0)
        following = asyncio.create_task(opened.journal.follow_others(mirror.rebuild, taken_in))
        await asyncio.sleep(0.01)
        await bundles.take(BundleImport(bundle="x", origin="a", seen=ImportedSerials(1, 1), at=2.0, pages=0, files=0))
        await asyncio.wait_for(taken.wait(), 20)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


async def test_ordinary_tools_read_and_verify_it(two: Two) -> None:
    bundle = await two.exported("--all")
    place = two.directory / "unpacked"
    place.mkdir()
    for command in (["tar", "xf", str(bundle)], ["sha256sum", "--strict", "--quiet", "-c", "SHA256SUMS"]):
        process = await asyncio.create_subprocess_exec(*command, cwd=place)
        assert await process.wait() == 0
    listed = {line.split()[1] for line in (place / "SHA256SUMS").read_text().splitlines()}
    there = {str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()}
    assert there == listed | {"SHA256SUMS", "SHA256SUMS.sig"}
    assert "manifest.json" in listed


async def test_parts_together_are_the_bundle(two: Two) -> None:
    big = wheel("big", "1.0", size=2_500_000)
    publish(two.simulator, big)
    wanted = await two.asked_of_a(*BOTH, big)
    await two.on_a("export", "-o", two.directory / "split.tar", "--all", "--parts", "1MiB")
    parts = sorted(two.directory.glob("split.tar.*"))
    assert [part.name for part in parts] == [f"split.tar.00{number}" for number in range(1, len(parts) + 1)]
    assert len(parts) == 3
    assert {part.stat().st_size for part in parts[:-1]} == {1 << 20}
    with tarfile.open(fileobj=io.BytesIO(b"".join(part.read_bytes() for part in parts))) as tar:
        assert f"blobs/{big.sha256[:2]}/{big.sha256}" in tar.getnames()
    before = two.state_of_b() if (two.b.data_dir / "catalog.sqlite").exists() else None
    assert "The bundle is truncated" in await two.on_b("import", *parts[:-1], status=1)
    assert "tar header is missing" in await two.on_b("import", parts[1], parts[0], parts[2], status=1)
    assert before is None or two.state_of_b() == before
    await two.on_b("import", *parts)
    assert await two.asked_of_b(*BOTH, big) == wanted


@pytest.mark.usefixtures("embedded")
async def test_what_is_lost_on_either_side_is_said(two: Two) -> None:
    lost = two.a.data_dir / "blobs" / WHEELS[0].sha256[:2] / WHEELS[0].sha256
    lost.rename(two.directory / "aside")
    said = await two.on_a("export", "-o", two.directory / "1.tar", "--all", status=1)
    assert f"{WHEELS[0].filename}: its bytes are lost here" in said
    shutil.copyfile(two.directory / "aside", lost)
    await two.carried("--all", name="2.tar")
    (two.b.data_dir / "blobs" / WHEELS[0].sha256[:2] / WHEELS[0].sha256).unlink()
    await two.on_b("inventory", "-o", two.directory / "held")  # what is lost is lacking
    await two.carried("--for", two.directory / "held", name="3.tar")
    assert await two.asked_of_b(*BOTH) == await two.asked_of_a(*BOTH)
