"""Wheels, sdists and gems made to do harm: each is what an attacker would upload, and none may be taken.

`HOSTILE` maps what is wrong to a file name and its bytes; they are built when asked for. All are called acme 1.0, so
that a test can see at one place whether anything of them was kept.
"""

import gzip
import hashlib
import io
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Mapping

from tests.builders import gem, metadata, noise, sdist, wheel

WHEEL = "acme-1.0-py3-none-any.whl"
SDIST = "acme-1.0.tar.gz"
GEM = "acme-1.0.gem"
ABOUT = metadata("acme", "1.0")
LARGE = 150 << 20
"""Bytes that a bomb unpacks to."""

Members = Mapping[str, bytes | tuple[str, int, bytes]]
"""Path → content; for a tar also (link target, type, content)."""


# --- wheels ----------------------------------------------------------------------------------------------------


def _wheel(extra: Mapping[str, bytes] | None = None, about: bytes | None = ABOUT, without: str = "") -> bytes:
    members = {"acme/__init__.py": b"", **(extra or {})}
    if about is not None:
        members["acme-1.0.dist-info/METADATA"] = about
    members["acme-1.0.dist-info/WHEEL"] = b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
    members["acme-1.0.dist-info/RECORD"] = b""
    members.pop(without, None)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for path, content in members.items():
            archive.writestr(zipfile.ZipInfo(path), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()


def _linked_wheel() -> bytes:
    buffer = io.BytesIO(_wheel())
    with zipfile.ZipFile(buffer, "a") as archive:
        entry = zipfile.ZipInfo("acme/passwords")
        entry.create_system, entry.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
        archive.writestr(entry, "/etc/passwd")
    return buffer.getvalue()


def _doubled_wheel() -> bytes:
    """Two entries of one name: installers disagree which one counts."""
    return _wheel({"acme/__init__.pX": b"import os"}).replace(b"acme/__init__.pX", b"acme/__init__.py")


def _overlapping_wheel() -> bytes:
    """A thousand entries that all point at one large piece: small on the wire, 10 GB unpacked, no entry too packed."""
    piece = noise(10 << 10)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    packed = packer.compress(piece) + packer.flush()
    crc = zlib.crc32(piece)
    local = struct.pack("<4s5H3I2H", b"PK\3\4", 20, 0, 8, 0, 33, crc, len(packed), len(piece), 1, 0) + b"a" + packed
    directory = b"".join(
        struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 8, 0, 33, crc, len(packed), len(piece), 5, 0, 0, 0, 0, 0, 0)
        + f"a{number:04}".encode()
        for number in range(1000)
    )
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 1000, 1000, len(directory), len(local), 0)
    return local + directory + end


def _countless_wheel() -> bytes:
    """A directory that says it has millions of entries in a few bytes."""
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 65535, 65535, 0xFFFFFFF0, 0, 0)
    return _wheel()[:-22] + end


# --- sdists ----------------------------------------------------------------------------------------------------


def _tar(members: Members, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=kind) as archive:
        for path, content in members.items():
            entry = tarfile.TarInfo(path)
            if isinstance(content, tuple):
                entry.linkname, typed, content = content
                entry.type = bytes([typed])
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _sdist(extra: Members | None = None, about: bytes | None = ABOUT, kind: int = tarfile.USTAR_FORMAT) -> bytes:
    members: dict[str, bytes | tuple[str, int, bytes]] = {"acme-1.0/setup.py": b""}
    if about is not None:
        members["acme-1.0/PKG-INFO"] = about
    return gzip.compress(_tar({**members, **(extra or {})}, kind), mtime=0)


SYMLINK, HARDLINK, DEVICE = (ord(kind) for kind in "213")


# --- gems ------------------------------------------------------------------------------------------------------


def _gem(
    about: bytes | None = None, data: bytes | None = None, extra: Mapping[str, bytes] | None = None, sums: bool = True
) -> bytes:
    parts = {
        "metadata.gz": gzip.compress(gem("acme", "1.0").metadata if about is None else about, mtime=0),
        "data.tar.gz": gzip.compress(_tar({"lib/acme.rb": b""}), mtime=0) if data is None else data,
    }
    if sums:
        lines = [f"  {name}: {hashlib.sha256(content).hexdigest()}\n" for name, content in parts.items()]
        parts["checksums.yaml.gz"] = gzip.compress(("---\nSHA256:\n" + "".join(lines)).encode(), mtime=0)
    return _tar({**parts, **(extra or {})})


def _changed_spec(old: str, new: str) -> bytes:
    about = gem("acme", "1.0").metadata.decode()
    assert old in about, old
    return about.replace(old, new).encode()


def _yaml_bomb() -> bytes:
    """Nine levels of nine aliases: 387 million values in a few hundred bytes."""
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    return ("--- !ruby/object:Gem::Specification\nname: acme\n" + "\n".join(levels) + "\n").encode()


HOSTILE: dict[str, tuple[str, Callable[[], bytes]]] = {
    # Wheels
    "a zip bomb": (WHEEL, lambda: _wheel({"acme/zeros": bytes(LARGE)})),
    "a zip bomb whose entries overlap": (WHEEL, _overlapping_wheel),
    "a zip directory without end": (WHEEL, _countless_wheel),
    "a wheel that unpacks above its folder": (WHEEL, lambda: _wheel({"../../evil.pth": b"import os"})),
    "a wheel that unpacks to the root": (WHEEL, lambda: _wheel({"/etc/cron.d/evil": b""})),
    "a wheel that unpacks elsewhere on Windows": (WHEEL, lambda: _wheel({"C:\\evil.py": b""})),
    "a wheel with a symbolic link": (WHEEL, _linked_wheel),
    "a wheel with a file twice": (WHEEL, _doubled_wheel),
    "a wheel of another project": (WHEEL, lambda: _wheel(about=metadata("requests", "1.0"))),
    "a wheel of another version": (WHEEL, lambda: _wheel(about=metadata("acme", "2.0"))),
    "a wheel without metadata": (WHEEL, lambda: _wheel(about=None)),
    "a wheel without a record": (WHEEL, lambda: _wheel(without="acme-1.0.dist-info/RECORD")),
    "a wheel with two names": (WHEEL, lambda: _wheel(about=ABOUT + b"Name: requests\n")),
    "a wheel with a requirement that is none": (WHEEL, lambda: _wheel(about=ABOUT + b"Requires-Dist: six >< 1\n")),
    "a wheel with endless metadata": (WHEEL, lambda: _wheel(about=ABOUT + b"Keywords: x\n" * 1_000_000)),
    "a wheel with metadata that nests": (WHEEL, lambda: _wheel(about=ABOUT + b"Requires-Dist: six; " + b"(" * 3000)),
    "a wheel that is cut off": (WHEEL, lambda: wheel("acme", "1.0", size=50_000).content[:30_000]),
    "a wheel that is none": (WHEEL, lambda: noise(50_000)),
    "an empty wheel": (WHEEL, lambda: b""),
    # Sdists
    "a tar bomb": (SDIST, lambda: _sdist({"acme-1.0/zeros": bytes(LARGE)})),
    "a tar bomb behind the end": (
        SDIST, lambda: gzip.compress(gzip.decompress(_sdist()) + bytes(LARGE), mtime=0),
    ),
    "an sdist that unpacks above its folder": (SDIST, lambda: _sdist({"acme-1.0/../../evil": b""})),
    "an sdist that unpacks to the root": (SDIST, lambda: _sdist({"/etc/cron.d/evil": b""})),
    "an sdist with a link that leads out": (SDIST, lambda: _sdist({"acme-1.0/x": ("../../etc", SYMLINK, b"")})),
    "an sdist with a hard link that leads out": (SDIST, lambda: _sdist({"acme-1.0/x": ("/etc/passwd", HARDLINK, b"")})),
    "an sdist that writes through a link": (
        SDIST, lambda: _sdist({"acme-1.0/x": (".", SYMLINK, b""), "acme-1.0/x/evil": b""}),
    ),
    "an sdist with a device": (SDIST, lambda: _sdist({"acme-1.0/null": ("", DEVICE, b"")})),
    "an sdist with two folders": (SDIST, lambda: _sdist({"other/evil": b""})),
    "an sdist of another project": (SDIST, lambda: _sdist(about=metadata("requests", "1.0"))),
    "an sdist without metadata": (SDIST, lambda: _sdist(about=None)),
    "an sdist with a header that never ends": (
        SDIST, lambda: _sdist({"acme-1.0/" + "x" * 10_000_000: b""}, kind=tarfile.GNU_FORMAT),
    ),
    "an sdist that is cut off": (SDIST, lambda: sdist("acme", "1.0", size=50_000).content[:30_000]),
    # Gems
    "a gem whose files are a bomb": (GEM, lambda: _gem(data=gzip.compress(_tar({"zeros": bytes(LARGE)}), mtime=0))),
    "a gem whose specification is a bomb": (GEM, lambda: _gem(about=b"--- " + b" " * LARGE)),
    "a gem whose specification grows by aliases": (GEM, lambda: _gem(about=_yaml_bomb())),
    "a gem whose specification nests": (GEM, lambda: _gem(about=b"--- " + b"[" * 100_000)),
    "a gem that makes objects": (
        GEM, lambda: _gem(about=b"--- !ruby/object:Gem::Installer\ni: x\n"),
    ),
    "a gem that makes objects inside": (
        GEM, lambda: _gem(about=_changed_spec("summary: ", "post: !ruby/object:Net::WriteAdapter {}\nsummary: ")),
    ),
    "a gem whose specification is Marshal": (GEM, lambda: _gem(about=b"\x04\bo:\x10Gem::Package\x06:\n@evali\x06")),
    "a gem named after a path": (GEM, lambda: _gem(about=_changed_spec("name: acme\n", "name: ../../acme\n"))),
    "a gem with a version that is none": (GEM, lambda: _gem(about=_changed_spec("version: '1.0'", "version: 1/../0"))),
    "a gem that unpacks above its folder": (
        GEM, lambda: _gem(data=gzip.compress(_tar({"../../evil": b""}), mtime=0)),
    ),
    "a gem with a link that leads out": (
        GEM, lambda: _gem(data=gzip.compress(_tar({"x": ("../../../etc", SYMLINK, b"")}), mtime=0)),
    ),
    "a gem with a device": (GEM, lambda: _gem(data=gzip.compress(_tar({"x": ("", DEVICE, b"")}), mtime=0))),
    "a gem whose checksums do not hold": (GEM, lambda: _gem(sums=False, extra={"checksums.yaml.gz": _wrong_sums()})),
    "a gem with a folder in it": (GEM, lambda: _gem(extra={"x/metadata.gz": b""})),
    "a gem without files": (GEM, lambda: _tar({"metadata.gz": gzip.compress(gem("acme", "1.0").metadata)})),
    "a gem that is cut off": (GEM, lambda: gem("acme", "1.0", size=50_000).content[:30_000]),
}  # fmt: skip


def _wrong_sums() -> bytes:
    return gzip.compress(b"---\nSHA256:\n  metadata.gz: " + b"0" * 64 + b"\n", mtime=0)
