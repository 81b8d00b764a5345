"""Bundles that are altered, truncated, hostile or too large: refused in one sentence, before anything is visible."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import time_machine

from tests.airgap.bundle.nodes import Node, trusting
from tests.builders import gem, wheel
from tests.objects import local_files
from tests.serving import serving
from tests.simulator import Simulator
from tests.uploading import make_token, upload

SIX = wheel("six", "1.0")


class Stage(NamedTuple):
    """B, which trusts the maker of the bundle and is empty."""

    a: Node
    b: Node
    bundle: Path
    capsys: pytest.CaptureFixture[str]

    async def refused(self, bundle: Path, *words: str) -> str:
        """Return the error for a bundle that is refused; nothing of it is visible."""
        said = await self.b(self.capsys, "import", bundle, *words, status=1)
        assert "Traceback" not in said
        async with serving(self.b.data_dir, self.b.repositories, offline=True) as mirror:
            for path in ("simple/six/", "versions", f"packages/six/{SIX.filename}", "simple/acme/"):
                assert (await mirror.get(path)).status in (404, 503), path
        assert not list((local_files(self.b.data_dir) / "incoming").iterdir())
        return said


@pytest.fixture
async def stage(simulator: Simulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Stage:
    simulator.publish(SIX)
    simulator.push(gem("rack", "3.0"))
    a, b = Node(simulator, tmp_path, "a"), Node(simulator, tmp_path, "b", offline=True)
    await trusting(a, b, capsys)
    async with serving(a.data_dir, a.repositories) as mirror:
        for path in ("simple/six/", f"packages/six/{SIX.filename}", "versions", "info/rack", "gems/rack-3.0.gem"):
            assert (await mirror.get(path)).status == 200
        assert (await upload(mirror, await make_token(mirror), wheel("acme", "1.0"))).status == 200
    await a(capsys, "export", "-o", tmp_path / "good.tar", "--all")
    return Stage(a, b, tmp_path / "good.tar", capsys)


Members = dict[str, bytes]


def members(bundle: Path) -> Members:
    """Return name → content, in order."""
    with tarfile.open(bundle) as tar:
        return {info.name: (tar.extractfile(info) or io.BytesIO()).read() for info in tar}


def resummed(content: Members, manifest: dict[str, Any] | None = None) -> Members:
    """Return the members with matching sums, as an attacker without a key would write them."""
    content = dict(content)
    content.pop("SHA256SUMS.sig", None)
    if manifest is not None:
        content["manifest.json"] = json.dumps(manifest).encode()
    names = [name for name in content if not name.startswith("SHA256SUMS")]
    content["SHA256SUMS"] = "".join(f"{hashlib.sha256(content[name]).hexdigest()}  {name}\n" for name in names).encode()
    return content


def write(path: Path, content: Members, change: Callable[[tarfile.TarInfo], None] = lambda info: None) -> Path:
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, body in content.items():
            info = tarfile.TarInfo(name)
            info.size = len(body)
            change(info)
            tar.addfile(info, io.BytesIO(body))
    return path


async def test_rewritten_by_another_tool_it_is_still_good(stage: Stage, tmp_path: Path) -> None:
    same = write(tmp_path / "same.tar", members(stage.bundle))
    await stage.b(stage.capsys, "import", same)


async def test_one_flipped_bit_anywhere_is_noticed(stage: Stage, tmp_path: Path) -> None:
    good = stage.bundle.read_bytes()
    layout_of: list[int] = []
    with tarfile.open(stage.bundle) as tar:
        for info in tar:
            layout_of += [info.offset + 20, info.offset + 130, info.offset_data, info.offset_data + info.size - 1]
    said = set()
    for place in layout_of:
        altered = bytearray(good)
        altered[place] ^= 4
        (tmp_path / "altered.tar").write_bytes(altered)
        output = await stage.b(stage.capsys, "import", tmp_path / "altered.tar", status=1)
        said.add(output.splitlines()[0])
        assert "mirror: " in output
    await stage.refused(tmp_path / "altered.tar")
    assert len(said) > 3, said


@pytest.mark.parametrize("part", [0, 100, 512, 0.2, 0.5, 0.9, -1024, -512])
async def test_a_cut_one_is_refused(stage: Stage, tmp_path: Path, part: float) -> None:
    good = stage.bundle.read_bytes()
    size = int(len(good) * part) if 0 < part < 1 else int(part)
    (tmp_path / "cut.tar").write_bytes(good[:size])
    assert "truncated" in await stage.refused(tmp_path / "cut.tar")


async def test_a_foreign_key_and_none_are_refused_and_unsigned_says_what_it_risks(stage: Stage, tmp_path: Path) -> None:
    (key,) = (stage.b.data_dir / "keys" / "trusted").iterdir()
    await stage.b(stage.capsys, "key", "distrust", key.stem)
    assert "which is not trusted here" in await stage.refused(stage.bundle)
    await stage.a(stage.capsys, "export", "-o", tmp_path / "unsigned.tar", "--all", "--unsigned")
    assert "The bundle is not signed" in await stage.refused(tmp_path / "unsigned.tar")
    said = await stage.b(stage.capsys, "import", tmp_path / "unsigned.tar", "--unsigned")
    assert "anyone may have made this bundle" in said


async def test_nothing_that_is_no_plain_file_of_ours_is_read(stage: Stage, tmp_path: Path) -> None:
    good = members(stage.bundle)
    blob = next(name for name in good if name.startswith("blobs/"))
    types = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.DIRTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE)
    for kind in (*types, tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.GNUTYPE_LONGNAME):

        def change(info: tarfile.TarInfo, kind: bytes = kind) -> None:
            if info.name == blob:
                info.type, info.linkname = kind, "/etc/passwd"

        said = await stage.refused(write(tmp_path / "odd.tar", good, change))
        assert "not a plain file" in said or "tar header is missing" in said
    for name in ("../../escaped", "/tmp/escaped", "blobs/../../escaped", f"{blob}/x"):

        def rename(info: tarfile.TarInfo, name: str = name) -> None:
            info.name = name if info.name == blob else info.name

        assert "is missing" in await stage.refused(write(tmp_path / "odd.tar", good, rename))
        listed = resummed({name if one == blob else one: body for one, body in good.items()})
        said = await stage.refused(write(tmp_path / "odd.tar", listed), "--unsigned")
        assert "has an invalid line" in said
    assert not list(tmp_path.rglob("escaped"))


async def test_sizes_that_cannot_be_are_refused_at_once(stage: Stage, tmp_path: Path) -> None:
    info = tarfile.TarInfo("SHA256SUMS")
    info.size = 1 << 50
    (tmp_path / "huge.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    assert "larger than the bundle" in await stage.refused(tmp_path / "huge.tar")
    manifest = json.loads(members(stage.bundle)["manifest.json"])
    digest = next(iter(manifest["blobs"]))
    for size in (-1, 1 << 60):
        manifest["blobs"][digest] = size
        odd = write(tmp_path / "odd.tar", resummed(members(stage.bundle), manifest))
        said = await stage.refused(odd, "--unsigned")
        assert "an impossible size" in said or "free some space" in said


async def test_a_page_that_is_a_bomb_is_unpacked_no_further_than_it_says(stage: Stage, tmp_path: Path) -> None:
    good = members(stage.bundle)
    manifest = json.loads(good["manifest.json"])
    bomb = gzip.compress(bytes(50 << 20))
    digest = hashlib.sha256(bomb).hexdigest()
    entry = next(page for page in manifest["pages"] if page["name"] == "six")
    content: Members = {}
    for name, body in good.items():
        content |= {f"pages/{digest[:2]}/{digest}.gz": bomb} if entry["body"] in name else {name: body}
    entry["body"] = digest
    ordered = {name: content[name] for name in ("SHA256SUMS", "manifest.json")}
    ordered |= dict(sorted((name, body) for name, body in content.items() if name.startswith("pages/")))
    ordered |= {name: body for name, body in content.items() if name.startswith("blobs/")}
    said = await stage.refused(write(tmp_path / "bomb.tar", resummed(ordered, manifest)), "--unsigned")
    assert "larger than promised" in said


async def test_what_no_disk_has_room_for_is_refused_before_anything_is_written(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = type(shutil.disk_usage("/"))
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: usage(1 << 40, 1 << 40, (64 << 20) + 5))
        said = await stage.b(stage.capsys, "import", stage.bundle, status=1)
    assert "free some space" in said
    assert not list((local_files(stage.b.data_dir) / "blobs").glob("*/*"))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda it: it.update(format=2), "has format 2"),
        (lambda it: it.update(since=-1), "cannot|not a range|impossible size"),
        (lambda it: it.update(serial=0, since=5), "not a range"),
        (lambda it: it["pages"][0].update(source="https://other.example/"), "no repository here has that upstream"),
        (lambda it: it["files"][0].update(digest="0" * 64), "requires|different files"),
        (lambda it: it["files"][0].update(digest="../../etc"), "an invalid digest"),
        (lambda it: it["uploads"][0]["upload"].update(filename="../../acme"), "cannot be used as a name|contradicts"),
        (lambda it: it["uploads"][0].update(facts="{}"), "contradicts itself about the upload"),
        (lambda it: it["uploads"][0]["upload"].update(repository="other"), "none of that name and format"),
        (lambda it: it.pop("pages"), "different files"),
        (lambda it: it.pop("node"), "cannot be parsed"),
        (lambda it: it.update(expires=1e300), "an impossible time"),
        (lambda it: it["modified"].update({next(iter(it["blobs"])): -1}), "an impossible time"),
    ],
)
async def test_a_manifest_that_contradicts_is_refused(
    stage: Stage, tmp_path: Path, change: Callable[[dict[str, Any]], None], said: str
) -> None:
    manifest = json.loads(members(stage.bundle)["manifest.json"])
    change(manifest)
    odd = write(tmp_path / "odd.tar", resummed(members(stage.bundle), manifest))
    output = await stage.refused(odd, "--unsigned")
    assert any(words in output for words in said.split("|")), output


async def test_more_behind_the_end_of_the_manifest_is_refused(stage: Stage, tmp_path: Path) -> None:
    more = members(stage.bundle) | {"blobs/zz/extra": b"extra"}
    assert "has more members" in await stage.refused(write(tmp_path / "odd.tar", more))


async def test_what_no_signature_covers_is_what_mirrors_write_or_is_not_believed(stage: Stage, tmp_path: Path) -> None:
    good = stage.bundle.read_bytes()
    with tarfile.open(stage.bundle) as tar:
        padded = next(info for info in tar if info.size % 512)
    altered = bytearray(good)
    altered[padded.offset_data + padded.size] = 1
    (tmp_path / "padding.tar").write_bytes(altered)
    assert "something between" in await stage.refused(tmp_path / "padding.tar")
    (tmp_path / "end.tar").write_bytes(good + b"more")
    assert "behind its end" in await stage.refused(tmp_path / "end.tar")

    def other_time(info: tarfile.TarInfo) -> None:
        info.mtime = 1_000_000_000

    await stage.b(stage.capsys, "import", write(tmp_path / "times.tar", members(stage.bundle), other_time))
    answers = []
    for node in (stage.a, stage.b):
        async with serving(node.data_dir, node.repositories, offline=True) as mirror:
            answers.append((await mirror.get(f"packages/six/{SIX.filename}")).headers["Last-Modified"])
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("embedded")
async def test_an_expired_bundle_is_refused_unless_forced(stage: Stage, tmp_path: Path) -> None:
    bundle = tmp_path / "short.tar"
    await stage.a(stage.capsys, "export", "-o", bundle, "--all", "--expires", "2d")
    now = time.time()
    with time_machine.travel(now + 3 * 86400, tick=True):
        assert "The bundle expired on" in await stage.b(stage.capsys, "import", bundle, status=1)
        await stage.b(stage.capsys, "import", bundle, "--force")
    assert "should be a duration" in await stage.a(
        stage.capsys, "export", "-o", bundle, "--all", "--expires", "soon", status=1
    )
