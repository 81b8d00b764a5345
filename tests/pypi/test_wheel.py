"""METADATA out of a wheel that is elsewhere, by ranges."""

import contextlib
import hashlib
import io
import random
import zipfile
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mirror.errors import DigestMismatch, Invalid, UpstreamProtocolError
from mirror.model import File
from mirror.pypi import FORMAT

METADATA = b"Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.0\n\nAbout\n"
NAME = "foo_bar-1.0-py3-none-any.whl"
INFO = "foo_bar-1.0.dist-info"
FILE = File(filename=NAME, version="1.0")
NOISE = random.Random(1).randbytes(8 << 20)


class Remote:
    """A Body that counts what is read of it."""

    digest = ""
    modified = None
    path: Path | None = None

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return len(self.content)

    @property
    def read_bytes(self) -> int:
        return sum(stop - start for start, stop in self.ranges)

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        stop = self.size if stop is None else stop
        assert 0 <= start < stop <= self.size
        self.ranges.append((start, stop))
        for position in range(start, stop, 5000):
            yield self.content[position : min(position + 5000, stop)]


def wheel(
    *,
    metadata: bytes = METADATA,
    first: bool = False,
    entries: int = 1,
    pad: bytes = NOISE,
    comment: bytes = b"",
    method: int = zipfile.ZIP_DEFLATED,
    zip64: bool = False,
    info: str = INFO,
) -> bytes:
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w", method) as archive:
        archive.comment = comment

        def own() -> None:
            with archive.open(f"{info}/METADATA", "w", force_zip64=zip64) as member:
                member.write(metadata)

        if first:
            own()
        archive.writestr("foo/data.bin", pad, zipfile.ZIP_STORED)
        for number in range(entries):
            archive.writestr(f"foo/module_{number}.py", b"")
        if not first:
            own()
        archive.writestr(f"{info}/RECORD", b"")
    return output.getvalue()


async def make(content: bytes) -> Remote:
    remote = Remote(content)
    assert await FORMAT.make_sidecar(FILE, remote) == METADATA
    return remote


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
async def test_metadata_at_the_end_takes_one_range_and_under_one_percent(method: int) -> None:
    remote = await make(wheel(method=method))
    assert len(remote.ranges) == 1
    assert remote.read_bytes < remote.size / 100


async def test_metadata_at_the_start_takes_two_ranges_and_under_one_percent() -> None:
    remote = await make(wheel(first=True))
    assert len(remote.ranges) == 2
    assert remote.read_bytes < remote.size / 100


async def test_a_long_directory_takes_one_range_more_and_nothing_twice() -> None:
    remote = await make(wheel(first=True, entries=3000))
    assert len(remote.ranges) == 3
    covered = [set(range(start // 64, stop // 64)) for start, stop in remote.ranges]
    assert len(set.union(*covered)) == sum(map(len, covered))


@pytest.mark.parametrize("comment", [b"short", b"x" * 65535])
async def test_a_wheel_with_a_comment_is_read(comment: bytes) -> None:
    remote = await make(wheel(comment=comment, first=True))
    assert len(remote.ranges) <= 4


async def test_a_zip64_wheel_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # makes zipfile write the zip64 end records
    content = wheel(entries=10, zip64=True)
    monkeypatch.undo()
    assert b"PK\x06\x06" in content
    assert b"PK\x06\x07" in content
    await make(content)


async def test_a_tiny_wheel_is_read_in_one_range() -> None:
    remote = await make(wheel(pad=b""))
    assert remote.ranges == [(0, remote.size)]


async def test_the_dist_info_of_a_vendored_project_is_not_taken() -> None:
    output = io.BytesIO(wheel(pad=b""))
    with zipfile.ZipFile(output, "a") as archive:
        archive.writestr("foo/_vendor/foo_bar-1.0.dist-info/METADATA", b"Name: vendored")
        archive.writestr("other-1.0.dist-info/METADATA", b"Name: other")
    await make(output.getvalue())


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
async def test_metadata_in_another_compression_is_read(method: int) -> None:
    await make(wheel(method=method))


@pytest.mark.parametrize(
    "metadata",
    [
        METADATA.replace(b"Foo.Bar", b"other"),
        METADATA.replace(b"1.0", b"2.0"),
        METADATA.replace(b"1.0", b"1.0+local"),
        METADATA.replace(b"1.0", b"not-a-version"),
        METADATA.replace(b"Version: 1.0\n", b""),
        b"",
    ],
)
async def test_metadata_is_given_as_it_is_whatever_it_says_of_itself(metadata: bytes) -> None:
    assert await FORMAT.make_sidecar(FILE, Remote(wheel(metadata=metadata))) == metadata


@pytest.mark.parametrize(
    ("filename", "own", "others"),
    [
        (NAME, INFO, ["foo_bar_more-1.0.dist-info", "foo-1.0.dist-info", "other-1.0.dist-info"]),
        (NAME, INFO, ["foo_bar-0.9.dist-info"]),
        (NAME, "Foo.Bar-1.0.dist-info", ["foo_bar_more-1.0.dist-info"]),
        (NAME, "foo_bar-1.0+local.dist-info", ["foo_bar_more-1.0.dist-info"]),
        (NAME, "foo_bar-one-two.dist-info", []),
        ("foo_bar-1.0+cu121-py3-none-any.whl", INFO, ["foo_bar_more-1.0.dist-info"]),
    ],
)
async def test_metadata_is_found_beside_that_of_other_projects(filename: str, own: str, others: list[str]) -> None:
    output = io.BytesIO(wheel(pad=b"", info=own))
    with zipfile.ZipFile(output, "a") as archive:
        for other in others:
            archive.writestr(f"{other}/METADATA", b"Name: other")
    file = File(filename=filename, version="1.0")
    assert await FORMAT.make_sidecar(file, Remote(output.getvalue())) == METADATA


def small_claim(content: bytes) -> bytes:
    """The wheel with METADATA that claims to unpack to fewer bytes than it does."""
    at = content.index(b"METADATA", content.index(b"PK\x01\x02")) - len(INFO) - 1 - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    return content[: at + 24] + (1000).to_bytes(4, "little") + content[at + 28 :]


def contradiction(kind: str) -> bytes:
    content = wheel(method=zipfile.ZIP_STORED)
    match kind:
        case "empty":
            return b""
        case "cut":
            return content[:-200]
        case "no zip":
            return NOISE
        case "checksum":
            return content.replace(b"About", b"Abuot")
        case "no metadata":
            return wheel(info="other-1.0.dist-info")
        case "twice":
            output = io.BytesIO(content)
            with zipfile.ZipFile(output, "a") as archive:
                archive.writestr("Foo_Bar-1.0.dist-info/METADATA", METADATA)
            return output.getvalue()
        case "bomb":
            return wheel(metadata=METADATA + bytes(50 << 20))
        case "bomb in bzip2":
            return small_claim(wheel(metadata=METADATA + bytes(50 << 20), method=zipfile.ZIP_BZIP2, pad=b""))
        case "bomb in LZMA":
            return small_claim(wheel(metadata=METADATA + bytes(50 << 20), method=zipfile.ZIP_LZMA, pad=b""))
        case "checksum in bzip2":
            content = wheel(method=zipfile.ZIP_BZIP2, pad=b"")
            crc = zlib.crc32(METADATA).to_bytes(4, "little")
            return content.replace(crc, b"abcd")
        case "local header":
            at = content.rindex(b"PK\x03\x04", 0, content.index(METADATA))
            return content[:at] + b"PK\x03\x05" + content[at + 4 :]
        case "second end":
            return wheel(comment=b"PK\x05\x06" * 5000)
        case "offset":
            at = content.rindex(b"PK\x05\x06")
            return content[: at + 16] + b"\xf0\xff\xff\x7f" + content[at + 20 :]
    raise AssertionError(kind)


@pytest.mark.parametrize(
    "kind",
    [
        "empty", "cut", "no zip", "checksum", "no metadata", "twice", "bomb", "bomb in bzip2", "bomb in LZMA",
        "checksum in bzip2", "local header", "offset", "second end",
    ],
)  # fmt: skip
async def test_a_wheel_that_contradicts_itself_is_refused(kind: str) -> None:
    remote = Remote(contradiction(kind))
    with pytest.raises(Invalid):
        await FORMAT.make_sidecar(FILE, remote)
    assert len(remote.ranges) <= 5


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=4))
async def test_a_wheel_with_flipped_bytes_gives_its_metadata_or_is_refused(flips: list[tuple[int, int]]) -> None:
    content = bytearray(wheel(pad=b"", method=zipfile.ZIP_STORED))
    for at, value in flips:
        content[-1 - at % len(content)] = value
    with contextlib.suppress(Invalid):
        assert await FORMAT.make_sidecar(FILE, Remote(bytes(content))) == METADATA


def test_a_sidecar_must_have_the_promised_digest() -> None:
    good = File(
        filename=NAME,
        version="1.0",
        extra={"core-metadata": {"sha256": hashlib.sha256(METADATA).hexdigest()}},
    )
    FORMAT.check_sidecar(good, METADATA)
    with pytest.raises(DigestMismatch):
        FORMAT.check_sidecar(good, METADATA + b"\n")


@pytest.mark.parametrize(
    "content", [b"", b"<html>Not found</html>", b"<pre>\nName: foo\n", b"Not found", METADATA + bytes(9 << 20)]
)
def test_a_sidecar_without_promised_digest_must_be_metadata(content: bytes) -> None:
    FORMAT.check_sidecar(FILE, METADATA)
    FORMAT.check_sidecar(FILE, METADATA.replace(b"1.0", b"1.0+local"))
    with pytest.raises(UpstreamProtocolError):
        FORMAT.check_sidecar(FILE, content)
