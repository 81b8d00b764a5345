"""Fuzzers of files: wheels, sdists and gems that are uploaded, lock files, bundles."""

import gzip
import hashlib
import io
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from mirror.airgap import lockfiles
from mirror.airgap.bundle import format
from mirror.airgap.bundle.format import BundleMember, BundleRepository, FileEntry, LogEntry, Manifest, PageEntry
from mirror.airgap.bundle.reading import BundleReader, read_head
from mirror.airgap.bundle.signing import Keys
from mirror.errors import Invalid, MirrorError
from mirror.pypi import package
from mirror.rubygems import package as gem_package
from tests.builders import gem, metadata, sdist, wheel
from tests.fuzz.fuzzer import Fuzzer, target

# Packages


def _wheel_around(about: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("acme/__init__.py", b"")
        archive.writestr("acme-1.0.dist-info/METADATA", about)
        archive.writestr("acme-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("acme-1.0.dist-info/RECORD", b"")
    return buffer.getvalue()


def _tar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in members.items():
            entry = tarfile.TarInfo(name.replace("__", "."))
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _whole_tar(data: bytes) -> bytes:
    """Return a tar file whose headers have the right checksums, so that what they say is read; as far as it is one."""
    repaired, at = bytearray(data), 0
    while at + 512 <= len(repaired):
        header = repaired[at : at + 512]
        repaired[at + 148 : at + 156] = b"%06o\0 " % (sum(header) - sum(header[148:156]) + 8 * 32)
        size = re.match(rb" *([0-7]{0,11})", header[124:136])
        at += 512 + -(-int(size[1] or b"0", 8) // 512 if size else 0) * 512
        if not any(repaired[at : at + 512]):
            break
    return bytes(repaired)


def _gem_around(about: bytes | None = None, data: bytes | None = None) -> bytes:
    about = gem("acme", "1.0").metadata if about is None else about
    data = _tar(acme__rb=b"") if data is None else data
    return _tar(metadata__gz=gzip.compress(about, mtime=0), data__tar__gz=gzip.compress(data, mtime=0))


_WHEEL, _SDIST, _GEM = "acme-1.0-py3-none-any.whl", "acme-1.0.tar.gz", "acme-1.0.gem"
_PACKAGES: tuple[tuple[str, Callable[[bytes], bytes]], ...] = (
    (_WHEEL, lambda data: data),
    (_WHEEL, _wheel_around),
    (_SDIST, lambda data: data),
    (_SDIST, lambda data: gzip.compress(data, 1, mtime=0)),
    (_GEM, lambda data: data),
    (_GEM, _gem_around),
    (_GEM, lambda data: _gem_around(data=data)),
    (_GEM, _whole_tar),
    (_GEM, lambda data: _gem_around(data=_whole_tar(data))),
    (_SDIST, lambda data: gzip.compress(_whole_tar(data), 1, mtime=0)),
)
"""File name, and how an input becomes such a file: the whole of it, or a part that has to be reached."""


def _check_package(data: bytes) -> bool:
    """Inspect a package; the first byte chooses which kind, and how deep the input lies in it."""
    filename, build = _PACKAGES[(data[0] if data else 0) % len(_PACKAGES)]
    with tempfile.NamedTemporaryFile() as file:
        file.write(build(data[1:]))
        file.flush()
        reader = gem_package if filename.endswith(".gem") else package
        try:
            inspected = reader.inspect(filename, Path(file.name))
            accepted = reader.accept(inspected, False)
        except Invalid:
            return False
    assert inspected.filename == filename
    assert (accepted.project, inspected.version) == ("acme", "1.0")
    return True


def _package_seeds() -> list[bytes]:
    return [
        b"\0" + wheel("acme", "1.0").content,
        b"\1" + metadata("acme", "1.0", requires=["six >= 1; python_version > '3'"]),
        b"\2" + sdist("acme", "1.0").content,
        b"\3" + gzip.decompress(sdist("acme", "1.0").content),
        b"\4" + gem("acme", "1.0").content,
        b"\5" + gem("acme", "1.0").metadata,
        b"\5" + gem("acme", "1.0", dependencies={"rack": [">= 1", "< 3"], "rake": ">= 0"}).metadata,
        b"\6" + _tar(acme__rb=b"puts 1"),
        b"\7" + gem("acme", "1.0").content,
        b"\x08" + _tar(acme__rb=b"puts 1", b__rb=b"puts 2"),
        b"\x08" + _links(),
        b"\x09" + gzip.decompress(sdist("acme", "1.0").content),
    ]


# Lock files

_KINDS = ("pylock.toml", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "Gemfile.lock", "requirements")
_ADDRESSED = b"""GEM
  remote: https://gems.example/
  specs:
    native (1.0)
    native (1.0-x86_64-linux)

PLATFORMS
  ruby
  x86_64-linux

DEPENDENCIES
  native

CONTENT ADDRESSES
  native (1.0-x86_64-linux) 78be552b sha256=%b
  native (1.0) 00c1d2e3f4

CHECKSUMS
  native (1.0) sha256=%b

RUBY VERSION
   ruby 3.4.1

BUNDLED WITH
   4.1.0
""" % (b"78be552b" * 8, b"ab" * 32)
_LOCKS = Path(__file__).parent.parent / "airgap" / "lockfiles" / "data"


def _links() -> bytes:
    """A tar file with a folder and links: to a file, and to where none may lead."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, kind, target in (
            ("lib", tarfile.DIRTYPE, ""),
            ("lib/a.rb", tarfile.SYMTYPE, "b.rb"),
            ("lib/c.rb", tarfile.LNKTYPE, "lib/b.rb"),
            ("lib/d.rb", tarfile.SYMTYPE, "../../d.rb"),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.linkname = kind, target
            archive.addfile(entry)
    return buffer.getvalue()


def _check_lock(data: bytes) -> bool:
    """Read a lock file, as the kind that the first byte chooses or as the one that it looks like, and rewrite it."""
    kind = _KINDS[data[0] % 7] if data and data[0] < 14 else None
    text = data[1:].decode("utf-8", "surrogateescape" if data[:1] > b"\x06" else "replace")
    parsed = False
    with suppress(MirrorError):
        parsed = bool(lockfiles.parse("a.lock", text, kind).pins)
    if kind in ("uv.lock", "poetry.lock", "pylock.toml", "Gemfile.lock"):
        with suppress(MirrorError):
            indexes = {"https://index.example/simple/": "http://127.0.0.1:1/simple/"}
            lockfiles.rewrite(text, kind, indexes, lockfiles.mirror_files("http://127.0.0.1:1/simple/"))
    return parsed


def _lock_seeds() -> list[bytes]:
    seeds = []
    for path in sorted(_LOCKS.glob("*.txt")):
        content = path.read_bytes()
        kind = _KINDS.index(lockfiles.kind_of("a.lock", content.decode()))
        blocks = content.split(b"\n\n")
        short = blocks if len(content) < 8000 or kind == 4 else [*blocks[:6], *blocks[-2:]]
        seeds.append(bytes([kind]) + b"\n\n".join(short))
    seeds.append(bytes([_KINDS.index("Gemfile.lock")]) + _ADDRESSED)
    seeds.append(
        b"\6-r other.txt\n-c c.txt\n--index-url https://index.example/simple\nsix==1.16 \\\n  --hash=sha256:"
        + b"ab" * 32
    )
    seeds.append(
        b"\6acme[x,y] @ https://files.example/acme-1.0.whl#sha256=" + b"cd" * 32 + b" ; python_version > '3.8'\n-e .\n"
    )
    return seeds


# Bundles

_PAGE = b"a page"
_BLOB = b"a blob"


def _zipped(page: bytes) -> bytes:
    return gzip.compress(page, 1, mtime=0)


_PACKED = _zipped(_PAGE)


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest(packed: bytes = _PACKED) -> Manifest:
    return Manifest(
        node="a",
        made=1.0,
        since=0,
        serial=7,
        whole=True,
        repositories={"pypi": BundleRepository(format="pypi", sources=("https://index.example/simple/",))},
        pages=(
            PageEntry(
                source="https://index.example/simple/",
                kind="project",
                name="acme",
                checked=1.0,
                found=True,
                revision="r",
                url="https://index.example/simple/acme/",
                content_type="text/html",
                etag=None,
                last_modified=None,
                serial=None,
                body=_sha256(packed),
                length=len(_PAGE),
            ),
        ),
        files=(FileEntry(source="s", project="acme", filename=_WHEEL, kind="file", digest=_sha256(_BLOB), size=6),),
        logs=(LogEntry(role="published", name="gems", body=_sha256(packed), length=len(_PAGE)),),
        blobs={_sha256(_BLOB): len(_BLOB)},
    )


def _member(name: str, content: bytes) -> bytes:
    member = BundleMember(name, len(content), 0)
    return format.write_header(member) + content + bytes(member.padding)


def _sums(manifest: bytes, packed: bytes = _PACKED) -> bytes:
    page, blob = format.page_path(_sha256(packed)), format.blob_path(_sha256(_BLOB))
    return format.write_sums({format.MANIFEST: _sha256(manifest), page: _sha256(packed), blob: _sha256(_BLOB)})


def _bundle(manifest: bytes, sums: bytes | None = None, packed: bytes = _PACKED) -> bytes:
    page, blob = format.page_path(_sha256(packed)), format.blob_path(_sha256(_BLOB))
    listed = _sums(manifest, packed) if sums is None else sums
    parts = {format.SUMS: listed, format.MANIFEST: manifest, page: packed, blob: _BLOB}
    return b"".join(_member(name, content) for name, content in parts.items()) + format.END


_BUNDLES: tuple[Callable[[bytes], bytes], ...] = (
    lambda data: data,
    _bundle,
    lambda data: _bundle(format.write_manifest(_manifest()), data),
    lambda data: _bundle(format.write_manifest(_manifest(data)), packed=data),
    lambda data: _bundle(format.write_manifest(_manifest(_zipped(data))), packed=_zipped(data)),
)
"""How an input becomes a bundle: it is all of it, its manifest, its list, a packed page, a page."""


def _check_bundle(data: bytes) -> bool:
    """Read a bundle to its end; the first byte chooses whether the input is all of it, or which part of it."""
    content = _BUNDLES[(data[0] if data else 0) % len(_BUNDLES)](data[1:])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "bundle.tar")
        path.write_bytes(content)
        reader = BundleReader([path])
        try:
            head = read_head(reader, Keys(Path(directory)), unsigned=True)
            lengths = {format.page_path(page.body): page.length for page in (*head.manifest.pages, *head.manifest.logs)}
            while (member := reader.header()) is not None:
                if member.name in lengths:
                    assert len(reader.page(member, lengths[member.name])) == lengths[member.name]
                else:
                    assert sum(map(len, reader.verified(member))) == member.size
        except MirrorError:
            return False
        finally:
            reader.close()
    return True


def _bundle_seeds() -> list[bytes]:
    manifest = format.write_manifest(_manifest())
    return [
        b"\0" + _bundle(manifest),
        b"\1" + manifest,
        b"\2" + _sums(manifest),
        b"\3" + _PACKED,
        b"\4" + _PAGE,
    ]


FUZZERS = (
    Fuzzer(
        "packages",
        _package_seeds,
        target(_check_package),
        [
            b"PK\1\2",
            b"PK\3\4",
            b"PK\5\6",
            b"Requires-Dist: ",
            b"\nName: x\n",
            b"!ruby/object:Gem::Version",
            b"!ruby/object:Gem::Requirement",
            b"!ruby/array:",
            b"!binary |\n  AAAA\n",
            b"!!python/object/apply:os.system",
            b"|\n  ",
            b">-\n  ",
            b"? ",
            b"<<: ",
            b"---\n",
            b"...\n",
            b"%YAML 1.1\n",
            b"../../x",
            b"/etc/x",
            b"./././@LongLink",
            b"ustar\0",
            b"0000777\0",
            b"77777777777\0",
            b"&a ",
            b"*a",
            b"2",
            b"1",
        ],
    ),
    Fuzzer(
        "lock-files",
        _lock_seeds,
        target(_check_lock),
        [
            b"[[package]]\n",
            b"--hash=sha256:",
            b".whl[",
            b'"""',
            b"'''",
            b"  remote: ",
            b"GEM\n",
            b"CONTENT ADDRESSES\n",
            b"CHECKSUMS\n",
            b" (1.0-x86_64-linux) 78be552b",
            b" sha256=" + b"ab" * 32,
            b"\x85",
            b"\xe2\x80\xa8",
            b" ; ",
            b" @ ",
            b"\\\n",
            b"a=1e9\n",
        ],
    ),
    Fuzzer("bundles", _bundle_seeds, target(_check_bundle), [b"../", b"manifest.json", b"pages/", b"  "]),
)
