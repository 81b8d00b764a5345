"""Gems without a checksum on upstream's pages: listed with ours once they are held, where that is wanted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from mirror.config.repositories import RepositorySettings
from mirror.model import File
from mirror.rubygems.identity import with_checksum
from mirror.rubygems.pages import info_line, revision
from tests.builders import gem
from tests.serving import Serving, serving
from tests.simulator import Simulator

OLD = gem("old", "1.0")


def settings(simulator: Simulator, wanted: bool) -> Mapping[str, Any]:
    return {
        "rubygems": {
            "format": "rubygems",
            "upstreams": [{"url": simulator.url, "legacy_checksums": wanted}],
        }
    }


async def pages(mirror: Serving) -> tuple[bytes, bool]:
    """Return `/info/old` as it is listed, and whether `/versions`, read before it, has its MD5."""
    listed = (await mirror.get("versions")).text.rstrip().rpartition("\nold ")[2].split()[-1]
    info = await mirror.get("info/old")
    assert info.status == 200
    return info.body, listed == revision(info.body)


@pytest.mark.parametrize("wanted", [True, False])
async def test_a_held_gem_is_listed_with_our_checksum_where_that_is_wanted(
    simulator: Simulator, tmp_path: Path, wanted: bool
) -> None:
    simulator.rubygems.configure(checksums=False)
    simulator.push(OLD)
    simulator.push(gem("old", "2.0"))
    async with serving(tmp_path / "data", settings(simulator, wanted)) as mirror:
        upstreams, agrees = await pages(mirror)
        assert b"checksum" not in upstreams
        assert agrees
        assert (await mirror.get(f"gems/{OLD.filename}")).body == OLD.content
        body, agrees = await pages(mirror)
        assert agrees, "clients learn from /versions that the page has changed"
        assert (body.count(f"checksum:{OLD.sha256}".encode()), body.count(b"checksum")) == (
            (1, 1) if wanted else (0, 0)
        )
        assert (await mirror.get(f"gems/{OLD.filename}")).outcome == "hit"
        simulator.push(gem("old", "3.0"))
        for one in mirror.mirror.upstream_indexes.values():
            one.asked_at = 0
        await mirror.get("versions", Cache_Control="no-cache")
        await mirror.get("info/old")
        body, agrees = await pages(mirror)
        assert b"\n3.0 " in body
        assert agrees
        assert body.count(b"checksum") == wanted
    async with serving(tmp_path / "data", settings(simulator, wanted)) as mirror:
        assert await pages(mirror) == (body, True)


def test_the_setting_is_for_gems_alone() -> None:
    upstream = {"url": "https://index.example/simple/", "legacy_checksums": True}
    with pytest.raises(ValueError, match="for RubyGems alone"):
        RepositorySettings.model_validate({"format": "pypi", "upstreams": [upstream]})


async def test_pages_with_all_checksums_stay_as_upstream_wrote_them(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(OLD)
    async with serving(tmp_path / "data", settings(simulator, True)) as mirror:
        before = await pages(mirror)
        await mirror.get(f"gems/{OLD.filename}")
        assert await pages(mirror) == before == (simulator.rubygems.info("old"), True)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b"1.0 |", b"1.0 |checksum:S"),
        (b"1.0 a:>= 1,b:= 2&> 1|ruby:>= 2", b"1.0 a:>= 1,b:= 2&> 1|checksum:S,ruby:>= 2"),
        (b"1.0", b"1.0 |checksum:S"),
        (b"1.0-java a:>= 1\r", b"1.0-java a:>= 1|checksum:S"),
        (b"1.0 |odd:1,checksum:no", b"1.0 |odd:1,checksum:no"),
    ],
)
def test_a_line_gets_its_checksum_first(line: bytes, expected: bytes) -> None:
    sha256 = "ab" * 32
    file = with_checksum(File(filename="old-1.0.gem", version="1.0", extra={"line": line}), sha256)
    assert info_line(file) == expected.replace(b"S", sha256.encode())
