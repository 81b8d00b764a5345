"""Looking inside wheels and sdists on disk."""

import base64
import gzip
import hashlib
import io
import random
import struct
import tarfile
import time
import tracemalloc
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import Invalid
from mirror.model import File
from mirror.pypi import package
from mirror.pypi.metadata import METADATA_LIMIT
from mirror.pypi.strict_zip import ENTRIES_LIMIT

METADATA = b"Metadata-Version: 2.1\nName: Foo.Bar\nVersion: 1.0\nRequires-Python: >=3.8\n\nAbout foo: \xc3\xa4\n"
WHEEL = "foo_bar-1.0-py3-none-any.whl"
SDIST = "foo_bar-1.0.tar.gz"
INFO = "foo_bar-1.0.dist-info"
TOP = "foo_bar-1.0"

Entry = tuple[str | zipfile.ZipInfo, bytes]


def usual(metadata: bytes = METADATA, directory: str = INFO) -> list[Entry]:
    return [
        ("foo.py", b"x = 1"),
        (f"{directory}/METADATA", metadata),
        (f"{directory}/WHEEL", b""),
        (f"{directory}/RECORD", b""),
    ]


def zipped(entries: Iterable[Entry], comment: bytes = b"", method: int = zipfile.ZIP_DEFLATED) -> bytes:
    output = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(output, "w", method) as archive:
        warnings.simplefilter("ignore")  # entries that are there twice
        archive.comment = comment
        for name, content in entries:
            archive.writestr(name, content, compress_type=None if isinstance(name, str) else name.compress_type)
    return output.getvalue()


def member(name: str, content: bytes = b"", **fields: object) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


def tarred(members: Iterable[tuple[tarfile.TarInfo, bytes]], format: int = tarfile.PAX_FORMAT) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w:gz", format=format, compresslevel=1) as archive:
        for info, content in members:
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()


def link(name: str, target: str, kind: bytes = tarfile.SYMTYPE) -> tuple[tarfile.TarInfo, bytes]:
    return member(name, type=kind, linkname=target)


PKG_INFO = member(f"{TOP}/PKG-INFO", METADATA)


def look(tmp_path: Path, filename: str, content: bytes) -> File:
    path = tmp_path / "incoming"
    path.write_bytes(content)
    return package.inspect(filename, path)


def test_a_wheel_says_what_it_is(tmp_path: Path) -> None:
    content = zipped(usual())
    assert look(tmp_path, WHEEL, content) == File(
        filename=WHEEL,
        version="1.0",
        size=len(content),
        requires=">=3.8",
        digests={
            "sha256": hashlib.sha256(content).hexdigest(),
            "md5": hashlib.md5(content).hexdigest(),
            "blake2b_256": hashlib.blake2b(content, digest_size=32).hexdigest(),
        },
        extra={
            "metadata": METADATA.decode(),
            "core-metadata": {"sha256": hashlib.sha256(METADATA).hexdigest()},
        },
    )


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_an_sdist_says_what_it_is(tmp_path: Path, format: int) -> None:
    long = member(f"{TOP}/{'d' * 90}/{'e' * 90}.py", b"x" * 3_000_000)
    content = tarred([member(TOP, type=tarfile.DIRTYPE), long, PKG_INFO, member(f"{TOP}/src/PKG-INFO", b"no")], format)
    file = look(tmp_path, SDIST, content)
    assert (file.version, file.requires, file.extra) == ("1.0", ">=3.8", {"metadata": METADATA.decode()})
    assert file.digests["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_sdist_may_be_a_zip_file(tmp_path: Path) -> None:
    file = look(tmp_path, "foo-bar-1.0.zip", zipped([(f"{TOP}/PKG-INFO", METADATA), (f"{TOP}/setup.py", b"")]))
    assert file.extra == {"metadata": METADATA.decode()}


def test_an_sdist_may_have_links_that_stay_inside(tmp_path: Path) -> None:
    links = [link(f"{TOP}/a/l", "../b"), link(f"{TOP}/h", f"{TOP}/b", tarfile.LNKTYPE), link(f"{TOP}/c/d/up", "../..")]
    assert look(tmp_path, SDIST, tarred([PKG_INFO, member(f"./{TOP}/b", b"1"), *links])).version == "1.0"


@pytest.mark.parametrize(
    "metadata",
    [
        b"Metadata-Version: 2.1\nName: foo_bar\nVersion: 1.0.0\nLicense-File: LICENSE\n\n",
        b"Metadata-Version: 1.0\nName: foo-bar\nVersion: 1.0\nX-Own: 1\nSummary: UNKNOWN\nLicense: UNKNOWN\n",
        b"Metadata-Version: 2.9\r\nName: foo-bar\r\nVersion: v1.0\r\nContent-Type: multipart/a; boundary=x\r\n\r\n--x",
    ],
)
def test_what_old_and_new_tools_write_is_taken(tmp_path: Path, metadata: bytes) -> None:
    file = look(tmp_path, WHEEL, zipped(usual(metadata)))
    assert (file.version, file.extra["metadata"]) == ("1.0", metadata.decode())


def with_headers(*lines: bytes) -> bytes:
    return b"\n".join([b"Metadata-Version: 2.1", b"Name: foo-bar", b"Version: 1.0", *lines]) + b"\n\n"


BAD_METADATA = {
    "empty": b"",
    "no name": b"Metadata-Version: 2.1\nVersion: 1.0\n\n",
    "no version": b"Metadata-Version: 2.1\nName: foo-bar\n\n",
    "no metadata version": b"Name: foo-bar\nVersion: 1.0\n\n",
    "metadata version 3": b"Metadata-Version: 3.0\nName: foo-bar\nVersion: 1.0\n\n",
    "two names": with_headers(b"Name: other"),
    "two versions": with_headers(b"Version: 2.0"),
    "another name": b"Metadata-Version: 2.1\nName: other\nVersion: 1.0\n\n",
    "another version": b"Metadata-Version: 2.1\nName: foo-bar\nVersion: 1.1\n\n",
    "name of a path": b"Metadata-Version: 2.1\nName: ../foo-bar\nVersion: 1.0\n\n",
    "version that is none": b"Metadata-Version: 2.1\nName: foo-bar\nVersion: one\n\n",
    "bad requires-python": with_headers(b"Requires-Python: three"),
    "bad requirement": with_headers(b"Requires-Dist: a b c"),
    "nested requirement": with_headers(b"Requires-Dist: a; " + b"(" * 3000),
    "bad extra": with_headers(b"Provides-Extra: a b"),
    "endless requirement": with_headers(b"Requires-Dist: a" + b"a" * 100_000),
    "many requirements": with_headers(*[b"Requires-Dist: a"] * 6000),
    "many fields": with_headers(*[b"X-%d: 1" % number for number in range(200_000)]),
    "many lines": with_headers(*[b"Classifier: a"] * 100_000),
    "not UTF-8": with_headers(b"Author: \xe4"),
    "too large": with_headers() + b"x" * METADATA_LIMIT,
    "nothing but brackets": b"[" * 100_000,
}


@pytest.mark.parametrize("metadata", BAD_METADATA.values(), ids=BAD_METADATA)
@pytest.mark.parametrize("filename", [WHEEL, SDIST])
def test_bad_metadata_is_refused(tmp_path: Path, filename: str, metadata: bytes) -> None:
    content = zipped(usual(metadata)) if filename == WHEEL else tarred([member(f"{TOP}/PKG-INFO", metadata)])
    with pytest.raises(Invalid):
        look(tmp_path, filename, content)


EVIL = b"import evil\n"


class Crafted:
    """A zip file written by hand, which can say one thing in its directory and another before its entries."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self.content = b""
        self.directory = b""
        self.count = 0
        for name, content in entries:
            assert isinstance(name, str)
            self.add(name, content)

    def local(self, name: str, content: bytes, **changes: int) -> "Crafted":
        """Append an entry that the directory does not have."""
        self.content += self._header(b"PK\3\4", "<4s5H3L2H", name, content, **changes) + name.encode() + content
        return self

    def add(self, name: str, content: bytes, local: str = "", stands: bytes | None = None, **changes: int) -> "Crafted":
        """Append an entry; `local` is its name before its content, `stands` the deflated content if it is that."""
        start = len(self.content)
        sizes = {"size": len(content), "crc": zlib.crc32(content), "method": 0 if stands is None else 8}
        stands = content if stands is None else stands
        self.local(local or name, stands, **sizes | changes)
        head = self._header(b"PK\1\2", "<4s6H3L2H", name, stands, **sizes, flags=changes.get("flags", 0))
        self.directory += head + struct.pack("<3H2L", 0, 0, 0, 0, start) + name.encode()
        self.count += 1
        return self

    def _header(self, mark: bytes, layout: str, name: str, content: bytes, **changes: int) -> bytes:
        values = {"flags": 0, "method": 0, "time": 0, "date": 33, "crc": zlib.crc32(content)}
        values |= {"packed": len(content), "size": len(content), "name": len(name.encode()), "extra": 0}
        versions = (20, 20) if mark == b"PK\1\2" else (20,)
        return struct.pack(layout, mark, *versions, *(values | changes).values())

    def whole(self, comment: bytes = b"", count: int | None = None, before: bytes = b"") -> bytes:
        count = self.count if count is None else count
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, count, count, len(self.directory), len(self.content), 0)
        return self.content + self.directory + before + end[:-2] + struct.pack("<H", len(comment)) + comment


def deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def streamed(method: int = zipfile.ZIP_DEFLATED) -> bytes:
    """A wheel that was written to a pipe: each entry's length stands behind it."""

    class Pipe(io.RawIOBase):
        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            written.extend(data)
            return len(data)

    written = bytearray()
    with zipfile.ZipFile(Pipe(), "w", method) as archive:  # type: ignore[arg-type]
        for name, content in usual():
            archive.writestr(name, content)
    return bytes(written)


def with_record(*lines: str, more: Iterable[Entry] = ()) -> bytes:
    """A wheel whose RECORD has the right lines for the usual files, and these."""
    *files, _ = usual()
    own = [f"{name},sha256={urlsafe(hashlib.sha256(content))},{len(content)}" for name, content in files]
    return zipped([*files, *more, (f"{INFO}/RECORD", "\n".join([*own, *lines, f"{INFO}/RECORD,,"]).encode())])


def urlsafe(digest: Any) -> str:
    return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Crafted(usual()).whole(),
        lambda: streamed(),
        lambda: zipped([("empty/", b""), *usual(), ("empty2/", b"")]),
        lambda: zipped([(f"{INFO}/RECORD", f"foo.py,,\n{INFO}/METADATA,,\n{INFO}/WHEEL,,".encode()), *usual()[:3]]),
        lambda: with_record(),
        lambda: with_record("foo.txt,,", more=[("foo.txt", b"x")]),
        lambda: with_record(f"a b.py,sha512={urlsafe(hashlib.sha512(b'x'))},1", more=[("a b.py", b"x")]),
        lambda: with_record('"a,b.py",,', more=[("a,b.py", b"x")]),
        lambda: with_record(more=[(f"{INFO}/RECORD.jws", b"{}")]),
    ],
)
def test_a_wheel_as_tools_write_it_is_taken(tmp_path: Path, make: Callable[[], bytes]) -> None:
    assert look(tmp_path, WHEEL, make()).version == "1.0"


def test_a_wheel_with_zip64_records_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zipfile, "ZIP_FILECOUNT_LIMIT", 2)  # makes zipfile write the records at the end
    output = io.BytesIO()
    with zipfile.ZipFile(output, "w") as archive:
        for name, content in usual():
            with archive.open(name, "w", force_zip64=True) as member:
                member.write(content)
    monkeypatch.undo()
    assert b"PK\6\6" in output.getvalue()
    look(tmp_path, WHEEL, output.getvalue())
    with pytest.raises(Invalid):
        look(tmp_path, WHEEL, output.getvalue().replace(b"PK\6\6", b"PK\6\6"[::-1]))


def zip64_that_contradicts() -> bytes:
    """A record in 64 bits that leads to another directory than the one in 32 bits."""
    good, evil = Crafted(usual()), Crafted([*usual(), ("evil.py", EVIL)])
    both = good.content + good.directory + evil.content + evil.directory
    start, size, count = len(both) - len(evil.directory), len(evil.directory), evil.count
    record = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, size, start)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, len(both), 1)
    end = (0, 0, good.count, good.count, len(good.directory), len(good.content), 0)
    return both + record + locator + struct.pack("<4s4H2LH", b"PK\5\6", *end)


AMBIGUOUS_WHEELS = {
    "another name before the content": lambda: Crafted(usual()).add("a.py", b"x", local="b.py").whole(),
    "another size before the content": lambda: Crafted(usual()).add("a.py", b"x" * 9, size=5).whole(),
    "another packed size before the content": lambda: (
        Crafted(usual()).add("a.py", b"x" * 9, stands=deflated(b"x" * 9), packed=1).whole()
    ),
    "another checksum before the content": lambda: Crafted(usual()).add("a.py", b"x", crc=7).whole(),
    "other flags before the content": lambda: patched(
        Crafted(usual()).whole(), b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\2\0"
    ),
    "another method before the content": lambda: Crafted(usual()).add("a.py", b"x", method=8).whole(),
    "an entry for those who stream": lambda: Crafted(usual()).local("foo.py", EVIL).add("z.py", b"").whole(),
    "an entry upwards for those who stream": lambda: Crafted(usual()).local("../evil.py", EVIL).whole(),
    "bytes behind the end": lambda: Crafted(usual()).whole() + b"more",
    "a second archive behind the end": lambda: zipped(usual()) + zipped([*usual(), ("evil.py", EVIL)]),
    "bytes before the beginning": lambda: b"#!/bin/sh\n" + zipped(usual()),
    "bytes before the beginning, counted": lambda: before_the_beginning(),
    "an end in the comment": lambda: Crafted(usual()).whole(comment=b"x" * 10 + zipped(usual())[-22:]),
    "a comment": lambda: zipped(usual(), comment=b"x"),
    "a gap": lambda: gap(),
    "fewer entries than the directory has": lambda: Crafted(usual()).whole(count=3),
    "bytes between directory and end": lambda: Crafted(usual()).whole(before=b"x" * 40),
    "content longer than it unpacks from": lambda: (
        Crafted(usual()).add("a.py", b"x", stands=deflated(b"x") + b"hidden").whole()
    ),
    "stored, with its length behind it": lambda: streamed(zipfile.ZIP_STORED),
    "another length behind the content": lambda: patched(streamed(), b"PK\7\10", b"PK\7\11"),
    "64 bits against 32 bits": zip64_that_contradicts,
    "a second name in an extra field": lambda: second_name(),
    "names that differ in case": lambda: zipped([*usual(), ("FOO.py", EVIL)]),
    "names that differ in form": lambda: zipped([*usual(), ("\u00e4.py", b""), ("a\u0308.py", EVIL)]),
    "a second dist-info": lambda: zipped([("evil-1.0.dist-info/METADATA", b"Name: evil"), *usual()]),
    "a second dist-info in capitals": lambda: zipped([("evil-1.0.DIST-INFO/METADATA", b"Name: evil"), *usual()]),
    "RECORD with another digest": lambda: with_record(f"a.py,sha256={'A' * 43},1", more=[("a.py", b"x")]),
    "RECORD with another size": lambda: with_record("a.py,,2", more=[("a.py", b"x")]),
    "RECORD without a file": lambda: with_record(more=[("a.py", b"x")]),
    "RECORD without the last file": lambda: zipped([*usual()[:3], (f"{INFO}/RECORD", b"foo.py,,\n")]),
    "RECORD with a file that is not there": lambda: with_record("a.py,,"),
    "RECORD with a file twice": lambda: with_record("a.py,,1", "a.py,,1", more=[("a.py", b"x")]),
    "RECORD with a digest that nobody knows": lambda: with_record("a.py,md5=abc,1", more=[("a.py", b"x")]),
    "RECORD that is no text": lambda: zipped([*usual()[:3], (f"{INFO}/RECORD", b"\xff\xfe,,\n")]),
    "RECORD with an endless field": lambda: with_record(f'"{"x" * 200_000}",,'),
    "a file behind an empty RECORD": lambda: zipped([*usual(), ("foo-1.0.data/scripts/pip", EVIL)]),
}


def before_the_beginning() -> bytes:
    crafted = Crafted([])
    crafted.content = b"#!/bin/sh\n"
    for name, content in usual():
        assert isinstance(name, str)
        crafted.add(name, content)
    return crafted.whole()


def gap() -> bytes:
    crafted = Crafted(usual())
    crafted.content += b"\0" * 100
    return crafted.add("z.py", b"").whole()


def second_name() -> bytes:
    extra = zipfile.ZipInfo("a.py")
    extra.extra = struct.pack("<2HBL", 0x7075, 5 + 7, 1, zlib.crc32(b"a.py")) + b"evil.py"
    return zipped([*usual(), (extra, b"x")])


@pytest.mark.parametrize("make", AMBIGUOUS_WHEELS.values(), ids=AMBIGUOUS_WHEELS)
def test_a_wheel_that_two_readers_may_read_differently_is_refused(tmp_path: Path, make: object) -> None:
    refused(tmp_path, WHEEL, make)


def test_a_zipped_sdist_that_two_readers_may_read_differently_is_refused(tmp_path: Path) -> None:
    name, top = "foo_bar-1.0.zip", f"{TOP}/PKG-INFO"
    look(tmp_path, name, Crafted([(top, METADATA)]).whole())
    for crafted in (
        Crafted([(top, METADATA)]).local(f"{TOP}/setup.py", EVIL).whole(),
        Crafted([(top, METADATA)]).add(f"{TOP}/a.py", b"x", local=f"{TOP}/b.py").whole(),
        Crafted([(top, METADATA)]).add(f"{TOP}/a.py", b"x", stands=b"\xff\xff").whole(),
        b"#!" + Crafted([(top, METADATA)]).whole(),
    ):
        with pytest.raises(Invalid):
            look(tmp_path, name, crafted)


def attributes(name: str, mode: int = 0o100644, method: int = zipfile.ZIP_DEFLATED) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    info.compress_type = method
    return info


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def overlapping() -> bytes:
    """A directory whose hundred entries all point to one member of a megabyte."""
    content = zipped([*usual(), ("pad", random.Random(1).randbytes(1 << 20))])
    start = content.rindex(b"PK\x05\x06")
    directory = int.from_bytes(content[start + 16 : start + 20], "little")
    last = content[content.rindex(b"PK\x01\x02") : start]
    more = b"".join(last.replace(b"pad", b"%03d" % number) for number in range(100))
    end = bytearray(content[start:])
    count = (int.from_bytes(end[8:10], "little") + 100).to_bytes(2, "little")
    end[8:12] = count * 2
    end[12:16] = (start - directory + len(more)).to_bytes(4, "little")
    return content[:start] + more + bytes(end)


def endless_directory() -> bytes:
    """An end record that claims a directory of 20 MB, in a file that is large enough for it."""
    content = b"\0" * (20 << 20) + zipped(usual())
    start = content.rindex(b"PK\x05\x06")
    return content[: start + 12] + (20 << 20).to_bytes(4, "little") + content[start + 16 :]


def encrypted() -> bytes:
    content = bytearray(zipped(usual()))
    at = content.index(b"PK\x01\x02")
    while at >= 0:
        content[at + 8] |= 1
        at = content.find(b"PK\x01\x02", at + 1)
    return bytes(content)


HOSTILE_WHEELS = {
    "empty": lambda: b"",
    "not a zip": lambda: b"PK\x03\x04" + b"x" * 1000,
    "cut": lambda: zipped(usual())[:-30],
    "no entries": lambda: zipped([]),
    "no METADATA": lambda: zipped(entry for entry in usual() if "METADATA" not in str(entry[0])),
    "no RECORD": lambda: zipped(entry for entry in usual() if "RECORD" not in str(entry[0])),
    "no WHEEL": lambda: zipped(entry for entry in usual() if "WHEEL" not in str(entry[0])),
    "METADATA twice": lambda: zipped([*usual(), (f"{INFO}/METADATA", METADATA)]),
    "two dist-info": lambda: zipped([*usual(), *usual(directory="Foo.Bar-1.0.dist-info")[1:]]),
    "dist-info of another project": lambda: zipped(usual(directory="other-1.0.dist-info")),
    "dist-info of another version": lambda: zipped(usual(directory="foo_bar-2.0.dist-info")),
    "any entry twice": lambda: zipped([*usual(), ("foo.py", b"y")]),
    "path upwards": lambda: zipped([*usual(), ("../evil", b"")]),
    "path upwards inside": lambda: zipped([*usual(), ("a/../../evil", b"")]),
    "absolute path": lambda: zipped([*usual(), ("/etc/passwd", b"")]),
    "drive": lambda: zipped([*usual(), ("C:evil", b"")]),
    "backslash": lambda: patched(zipped([*usual(), ("..!evil", b"")]), b"..!evil", b"..\\evil"),
    "NUL": lambda: patched(zipped([*usual(), ("a!evil", b"")]), b"a!evil", b"a\0evil"),
    "newline": lambda: zipped([*usual(), ("a\nb", b"")]),
    "deep": lambda: zipped([*usual(), ("a/" * 200 + "b", b"")]),
    "symbolic link": lambda: zipped([*usual(), (attributes("l", 0o120777), b"/etc/passwd")]),
    "encrypted": encrypted,
    "unusual compression": lambda: zipped([*usual(), (attributes("b", method=zipfile.ZIP_BZIP2), b"x")]),
    "bomb": lambda: zipped([*usual(), ("zeros", bytes(BOMB))]),
    "METADATA bomb": lambda: zipped(usual(METADATA + bytes(BOMB))),
    "overlapping entries": overlapping,
    "endless directory": endless_directory,
    "wrong checksum": lambda: patched(zipped(usual(), method=zipfile.ZIP_STORED), b"About foo", b"About bar"),
    "local name differs": lambda: zipped(usual()).replace(f"{INFO}/METADATA".encode(), f"{INFO}/METADATe".encode(), 1),
    "a tarball": lambda: tarred([PKG_INFO]),
}
BOMB = 100 << 20

HOSTILE_SDISTS = {
    "empty": lambda: b"",
    "not gzip": lambda: b"\x1f\x8b" + b"x" * 1000,
    "gzip of nothing": lambda: gzip.compress(b""),
    "not a tar": lambda: gzip.compress(b"x" * 100_000),
    "cut": lambda: tarred([member(f"{TOP}/a", random.Random(1).randbytes(100_000)), PKG_INFO])[:-2000],
    "wrong checksum": lambda: tarred([PKG_INFO])[:-8] + b"\0" * 8,
    "followed by something": lambda: tarred([PKG_INFO]) + b"more",
    "two streams": lambda: tarred([PKG_INFO]) + gzip.compress(b"more"),
    "hidden behind the end": lambda: gzip.compress(
        gzip.decompress(tarred([PKG_INFO])) + gzip.decompress(tarred([PKG_INFO]))
    ),
    "no PKG-INFO": lambda: tarred([member(f"{TOP}/setup.py")]),
    "PKG-INFO too deep": lambda: tarred([member(f"{TOP}/x/PKG-INFO", METADATA)]),
    "PKG-INFO without directory": lambda: tarred([member("PKG-INFO", METADATA)]),
    "PKG-INFO twice": lambda: tarred([PKG_INFO, PKG_INFO]),
    "PKG-INFO a link": lambda: tarred([member(f"{TOP}/x", METADATA), link(f"{TOP}/PKG-INFO", "x")]),
    "two directories": lambda: tarred([PKG_INFO, member("other/x")]),
    "path upwards": lambda: tarred([PKG_INFO, member(f"{TOP}/../../evil")]),
    "absolute path": lambda: tarred([PKG_INFO, member("/etc/passwd")]),
    "link upwards": lambda: tarred([PKG_INFO, link(f"{TOP}/l", "../..")]),
    "absolute link": lambda: tarred([PKG_INFO, link(f"{TOP}/l", "/etc/passwd")]),
    "hard link outside": lambda: tarred([PKG_INFO, link(f"{TOP}/l", "../etc/passwd", tarfile.LNKTYPE)]),
    "hard link to an absolute path": lambda: tarred([PKG_INFO, link(f"{TOP}/l", "/etc/passwd", tarfile.LNKTYPE)]),
    "link across a link": lambda: tarred([PKG_INFO, link(f"{TOP}/a/l", ".."), link(f"{TOP}/m", "a/l/../..")]),
    "file inside of a link": lambda: tarred([PKG_INFO, link(f"{TOP}/a", "b"), member(f"{TOP}/a/x")]),
    "device": lambda: tarred([PKG_INFO, member(f"{TOP}/d", type=tarfile.CHRTYPE)]),
    "pipe": lambda: tarred([PKG_INFO, member(f"{TOP}/d", type=tarfile.FIFOTYPE)]),
    "bomb": lambda: tarred([member(f"{TOP}/zeros", bytes(BOMB)), PKG_INFO]),
    "bomb in a header": lambda: gzip.compress(
        member("x", bytes(0), type=tarfile.XHDTYPE, size=BOMB)[0].tobuf(tarfile.USTAR_FORMAT) + bytes(BOMB), 1
    ),
    "bomb in a long name": lambda: gzip.compress(
        member("x", bytes(0), type=tarfile.GNUTYPE_LONGNAME, size=BOMB)[0].tobuf(tarfile.USTAR_FORMAT) + bytes(BOMB), 1
    ),
    "a wheel": lambda: zipped(usual()),
}


@pytest.mark.parametrize("make", HOSTILE_WHEELS.values(), ids=HOSTILE_WHEELS)
def test_a_hostile_wheel_is_refused_in_bounded_memory(tmp_path: Path, make: object) -> None:
    refused(tmp_path, WHEEL, make)


@pytest.mark.parametrize("make", HOSTILE_SDISTS.values(), ids=HOSTILE_SDISTS)
def test_a_hostile_sdist_is_refused_in_bounded_memory(tmp_path: Path, make: object) -> None:
    refused(tmp_path, SDIST, make)


def refused(tmp_path: Path, filename: str, make: object) -> None:
    content = make()  # type: ignore[operator]
    path = tmp_path / "incoming"
    path.write_bytes(content)
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(Invalid):
            package.inspect(filename, path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 48 << 20
    assert time.process_time() - started < 20  # without limits, hours


def test_many_entries_are_refused(tmp_path: Path) -> None:
    content = tarred((member(f"{TOP}/{number}") for number in range(ENTRIES_LIMIT + 1)), tarfile.USTAR_FORMAT)
    with pytest.raises(Invalid, match="entries"):
        look(tmp_path, SDIST, content)


@pytest.mark.parametrize("filename", ["foo_bar-1.0.egg", "../foo-1.0.tar.gz", "foo_bar-1.0.tar.bz2", ""])
def test_other_file_names_are_refused_before_the_file_is_opened(tmp_path: Path, filename: str) -> None:
    with pytest.raises(Invalid):
        package.inspect(filename, tmp_path / "does not exist")
