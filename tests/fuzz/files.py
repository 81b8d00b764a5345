"""Fuzzers of files: wheels, sdists and gems that are uploaded, lock files, bundles."""

import gzip
import hashlib
import io
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
)
"""File name, and how an input becomes such a file: the whole of it, or a part that has to be reached."""


def _check_package(data: bytes) -> None:
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
            return
    assert inspected.filename == filename
    assert (accepted.project, inspected.version) == ("acme", "1.0")


def _package_seeds() -> list[bytes]:
    return [
        b"\0" + wheel("acme", "1.0").content,
        b"\1" + metadata("acme", "1.0", requires=["six >= 1; python_version > '3'"]),
        b"\2" + sdist("acme", "1.0").content,
        b"\3" + gzip.decompress(sdist("acme", "1.0").content),
        b"\4" + gem("acme", "1.0").content,
        b"\5" + gem("acme", "1.0").metadata,
        b"\6" + _tar(acme__rb=b"puts 1"),
    ]


# Lock files

_KINDS = ("pylock.toml", "uv.lock", "poetry.lock", "pdm.lock", "Pipfile.lock", "Gemfile.lock", "requirements")
_LOCKS = Path(__file__).parent.parent / "airgap" / "lockfiles" / "data"


def _check_lock(data: bytes) -> None:
    """Read a lock file, as the kind that the first byte chooses or as the one that it looks like, and rewrite it."""
    kind = _KINDS[data[0] % 7] if data and data[0] < 14 else None
    text = data[1:].decode("utf-8", "surrogateescape" if data[:1] > b"\x06" else "replace")
    with suppress(MirrorError):
        lockfiles.parse("a.lock", text, kind)
    if kind in ("uv.lock", "poetry.lock", "pylock.toml", "Gemfile.lock"):
        with suppress(MirrorError):
            indexes = {"https://index.example/simple/": "http://127.0.0.1:1/simple/"}
            lockfiles.rewrite(text, kind, indexes, lockfiles.mirror_files("http://127.0.0.1:1/simple/"))


def _lock_seeds() -> list[bytes]:
    seeds = []
    for path in sorted(_LOCKS.glob("*.txt")):
        content = path.read_bytes()
        kind = _KINDS.index(lockfiles.kind_of("a.lock", content.decode()))
        seeds.append(bytes([kind]) + content[:8000])
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
_PACKED = gzip.compress(_PAGE, mtime=0)
_BLOB = b"a blob"


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _manifest() -> Manifest:
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
                body=_sha256(_PACKED),
                length=len(_PAGE),
            ),
        ),
        files=(FileEntry(source="s", project="acme", filename=_WHEEL, kind="file", digest=_sha256(_BLOB), size=6),),
        logs=(LogEntry(role="published", name="gems", body=_sha256(_PACKED), length=len(_PAGE)),),
        blobs={_sha256(_BLOB): len(_BLOB)},
    )


def _member(name: str, content: bytes) -> bytes:
    member = BundleMember(name, len(content), 0)
    return format.write_header(member) + content + bytes(member.padding)


def _bundle(manifest: bytes, sums: bytes | None = None) -> bytes:
    page, blob = format.page_path(_sha256(_PACKED)), format.blob_path(_sha256(_BLOB))
    listed = format.write_sums({format.MANIFEST: _sha256(manifest), page: _sha256(_PACKED), blob: _sha256(_BLOB)})
    parts = {format.SUMS: listed if sums is None else sums, format.MANIFEST: manifest, page: _PACKED, blob: _BLOB}
    return b"".join(_member(name, content) for name, content in parts.items()) + format.END


def _check_bundle(data: bytes) -> None:
    """Read a bundle to its end; the first byte chooses whether the input is all of it, its manifest, or its list."""
    kind, rest = (data[0] if data else 0) % 3, data[1:]
    content = (rest, _bundle(rest), _bundle(format.write_manifest(_manifest()), rest))[kind]
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
            return
        finally:
            reader.close()


def _bundle_seeds() -> list[bytes]:
    manifest = format.write_manifest(_manifest())
    return [
        b"\0" + _bundle(manifest),
        b"\1" + manifest,
        b"\2" + format.write_sums({format.MANIFEST: _sha256(manifest)}),
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
            b" ; ",
            b" @ ",
            b"\\\n",
            b"a=1e9\n",
        ],
    ),
    Fuzzer("bundles", _bundle_seeds, target(_check_bundle), [b"../", b"manifest.json", b"pages/", b"  "]),
)
