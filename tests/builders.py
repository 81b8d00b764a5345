"""Real, tiny, deterministic distributions: what pip, uv and gem install as they would any other.

The same arguments give the same bytes, on every machine. Nothing here touches the network or the disk, and
nothing imports the mirror: what is built here is what the mirror is judged by. The surprise: an sdist carries its
own PEP 517 build backend, so that building it needs no other distribution.
"""

import base64
import gzip
import hashlib
import io
import json
import random
import re
import tarfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import yaml

_EPOCH = (2020, 1, 1, 0, 0, 0)
_EPOCH_SECONDS = 1577836800


@dataclass(frozen=True)
class Built:
    """One distribution file or gem."""

    name: str
    """As given: not necessarily the canonical name."""
    version: str
    filename: str
    content: bytes
    metadata: bytes
    """METADATA of a wheel, PKG-INFO of an sdist, the YAML specification of a gem."""

    @cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @cached_property
    def md5(self) -> str:
        return hashlib.md5(self.content).hexdigest()

    @property
    def size(self) -> int:
        return len(self.content)


def noise(size: int, seed: str = "") -> bytes:
    """`size` bytes that do not compress and nowhere repeat, the same for the same seed. About 1 GB a second."""
    generator = random.Random(seed)
    block = 1 << 20
    return b"".join(generator.randbytes(min(block, size - start)) for start in range(0, size, block))


def metadata(
    name: str,
    version: str,
    *,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    summary: str = "",
    extra: Sequence[str] = (),
) -> bytes:
    """Core metadata 2.1. `extra` holds whole header lines (`License: MIT`) that are added as they are."""
    lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
    lines += [f"Summary: {summary or f'The {name} of the tests'}"]
    lines += [f"Requires-Python: {requires_python}"] if requires_python else []
    lines += [f"Requires-Dist: {requirement}" for requirement in requires]
    lines += extra
    return ("\n".join(lines) + "\n").encode()


def wheel(
    name: str,
    version: str,
    *,
    files: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    size: int = 0,
    tags: str = "py3-none-any",
    build: str = "",
    summary: str = "",
    extra_metadata: Sequence[str] = (),
) -> Built:
    """A wheel with one module that holds `version`, `files` besides, and `size` bytes of noise if given.

    The file is a little larger than `size`. METADATA stands near the end, as the tools of the field write it.
    """
    stem = name.replace("-", "_").replace(".", "_")
    info = f"{stem}-{version}.dist-info"
    about = metadata(
        name,
        version,
        requires=requires,
        requires_python=requires_python,
        summary=summary,
        extra=extra_metadata,
    )
    pure = tags.endswith("-none-any")
    wheel_lines = ["Wheel-Version: 1.0", "Generator: tests", f"Root-Is-Purelib: {str(pure).lower()}"]
    wheel_lines += [f"Build: {build}"] if build else []
    wheel_lines += [f"Tag: {tag}" for tag in _tags(tags)]
    members = {f"{stem}/__init__.py": f'__version__ = "{version}"\n'.encode(), **(files or {})}
    if size:
        members[f"{stem}/noise.bin"] = noise(size, f"{name}-{version}")
    members[f"{info}/METADATA"] = about
    members[f"{info}/WHEEL"] = ("\n".join(wheel_lines) + "\n").encode()
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    filename = "-".join([stem, version, *([build] if build else []), tags]) + ".whl"
    return Built(name, version, filename, _zip(members), about)


def sdist(
    name: str,
    version: str,
    *,
    files: Mapping[str, bytes] | None = None,
    requires: Sequence[str] = (),
    requires_python: str | None = None,
    size: int = 0,
    summary: str = "",
    extra_metadata: Sequence[str] = (),
) -> Built:
    """A .tar.gz source distribution with a build backend inside itself (PEP 517, `backend-path`)."""
    stem = name.replace("-", "_").replace(".", "_").lower()
    root = f"{stem}-{version}"
    about = metadata(
        name,
        version,
        requires=requires,
        requires_python=requires_python,
        summary=summary,
        extra=extra_metadata,
    )
    ready = wheel(
        name,
        version,
        requires=requires,
        requires_python=requires_python,
        summary=summary,
        extra_metadata=extra_metadata,
    )
    backend = _BACKEND.format(filename=ready.filename, content=base64.b64encode(ready.content).decode())
    project = {"name": name, "version": version}
    pyproject = (
        '[build-system]\nrequires = []\nbuild-backend = "build_backend"\nbackend-path = ["."]\n\n[project]\n'
        + "".join(f"{key} = {json.dumps(value)}\n" for key, value in project.items())
        + (f"requires-python = {json.dumps(requires_python)}\n" if requires_python else "")
        + f"dependencies = {json.dumps(list(requires))}\n"
    )
    members = {
        f"{root}/PKG-INFO": about,
        f"{root}/pyproject.toml": pyproject.encode(),
        f"{root}/build_backend.py": backend.encode(),
        f"{root}/{stem}/__init__.py": f'__version__ = "{version}"\n'.encode(),
        **{f"{root}/{path}": content for path, content in (files or {}).items()},
    }
    if size:
        members[f"{root}/noise.bin"] = noise(size, f"{name}-{version}")
    return Built(name, version, f"{root}.tar.gz", _gzip(_tar(members)), about)


def gem(
    name: str,
    version: str,
    *,
    platform: str = "ruby",
    dependencies: Mapping[str, str | Sequence[str]] | None = None,
    development: Mapping[str, str | Sequence[str]] | None = None,
    required_ruby: str | Sequence[str] = ">= 0",
    required_rubygems: str | Sequence[str] = ">= 0",
    files: Mapping[str, bytes] | None = None,
    size: int = 0,
    summary: str = "",
    metadata: Mapping[str, str] | None = None,
) -> Built:
    """A gem whose library sets `$NAME_version`; requirements are written as in a Gemfile: `[">= 1", "< 2"]`."""
    members = {f"lib/{name}.rb": f'${name.replace("-", "_").replace(".", "_")}_version = "{version}"\n'.encode()}
    members |= files or {}
    if size:
        members["lib/noise.bin"] = noise(size, f"{name}-{version}-{platform}")
    runtime = [_dependency(other, wanted, ":runtime") for other, wanted in (dependencies or {}).items()]
    others = [_dependency(other, wanted, ":development") for other, wanted in (development or {}).items()]
    specification = _Tagged(
        "Gem::Specification",
        {
            "name": name,
            "version": _Tagged("Gem::Version", {"version": version}),
            "platform": platform,
            "authors": ["Nobody"],
            "autorequire": None,
            "bindir": "bin",
            "cert_chain": [],
            "date": _Time("2020-01-01 00:00:00.000000000 Z"),
            "dependencies": runtime + others,
            "description": None,
            "email": None,
            "executables": [],
            "extensions": [],
            "extra_rdoc_files": [],
            "files": list(members),
            "homepage": None,
            "licenses": ["MIT"],
            "metadata": dict(metadata or {}),
            "post_install_message": None,
            "rdoc_options": [],
            "require_paths": ["lib"],
            "required_ruby_version": _requirement(required_ruby),
            "required_rubygems_version": _requirement(required_rubygems),
            "requirements": [],
            "rubygems_version": "3.3.15",
            "signing_key": None,
            "specification_version": 4,
            "summary": summary or f"The {name} of the tests",
            "test_files": [],
        },
    )
    about = yaml.dump(specification, Dumper=_RubyDumper, sort_keys=False, explicit_start=True).encode()
    parts = {
        "metadata.gz": _gzip(about, 9),
        "data.tar.gz": _gzip(_tar(members)),
    }
    sums = {
        label: {part: hashlib.new(algorithm, content).hexdigest() for part, content in parts.items()}
        for label, algorithm in (("SHA256", "sha256"), ("SHA512", "sha512"))
    }
    parts["checksums.yaml.gz"] = _gzip(yaml.dump(sums, explicit_start=True).encode(), 9)
    full_name = f"{name}-{version}" if platform == "ruby" else f"{name}-{version}-{platform}"
    return Built(name, version, f"{full_name}.gem", _tar(parts, mode=0o444), about)


def addressed_gem(name: str, version: str, abi: str, *, platform: str = "x86_64-linux", summary: str = "") -> Built:
    """A gem for one Ruby ABI, named after its content, as `gem build --ruby-abi` of RubyGems 4.1 makes it."""
    built = gem(
        name, version, platform=platform, required_ruby=f"~> {abi}.0", required_rubygems=">= 4.1.0.a", summary=summary
    )
    return replace(built, filename=f"{name}-{version}-{built.sha256[:8]}.gem")


def _tags(tags: str) -> Iterator[str]:
    pythons, abis, platforms = tags.split("-")
    for python in pythons.split("."):
        for abi in abis.split("."):
            for platform in platforms.split("."):
                yield f"{python}-{abi}-{platform}"


def _record(members: Mapping[str, bytes], itself: str) -> bytes:
    lines = []
    for path, content in members.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(content)}")
    return ("\n".join([*lines, f"{itself},,"]) + "\n").encode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for path, content in members.items():
            entry = zipfile.ZipInfo(path, _EPOCH)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            archive.writestr(entry, content)
    return buffer.getvalue()


def _tar(members: Mapping[str, bytes], mode: int = 0o644) -> bytes:
    buffer = io.BytesIO()
    # The reader inside gem knows ustar only.
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for path, content in members.items():
            entry = tarfile.TarInfo(path)
            entry.size, entry.mode, entry.mtime = len(content), mode, _EPOCH_SECONDS
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _gzip(content: bytes, level: int = 6) -> bytes:
    # Noise does not shrink: trying would take seconds for each 100 MB.
    packed = gzip.compress(content, 0 if len(content) > 1 << 20 else level, mtime=0)
    return packed[:9] + b"\xff" + packed[10:]  # the system, which some versions of Python name


_BACKEND = '''"""Builds nothing: writes the wheel that it carries."""

import base64
import pathlib

FILENAME = "{filename}"
CONTENT = "{content}"


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    pathlib.Path(wheel_directory, FILENAME).write_bytes(base64.b64decode(CONTENT))
    return FILENAME
'''


class _Tagged:
    """A mapping that YAML writes with the tag of a Ruby class."""

    def __init__(self, ruby_class: str, fields: Mapping[str, object]) -> None:
        self.ruby_class = ruby_class
        self.fields = fields


class _Symbol(str):
    """Written plain, `:runtime`, which Ruby reads as a symbol."""


class _Time(str):
    """Written plain, which Ruby reads as a time."""


class _RubyDumper(yaml.SafeDumper):
    def ignore_aliases(self, data: object) -> bool:
        return True


_RubyDumper.add_representer(
    _Tagged, lambda dumper, value: dumper.represent_mapping(f"!ruby/object:{value.ruby_class}", value.fields)
)
_RubyDumper.add_representer(_Symbol, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:sym", str(value)))
_RubyDumper.add_representer(
    _Time, lambda dumper, value: dumper.represent_scalar("tag:yaml.org,2002:timestamp", str(value))
)
_RubyDumper.add_implicit_resolver("tag:yaml.org,2002:sym", re.compile(r"^:[a-z]+$"), [":"])


def _requirement(wanted: str | Sequence[str]) -> _Tagged:
    texts = [wanted] if isinstance(wanted, str) else list(wanted)
    pairs = []
    for text in texts:
        operator, _, version = text.partition(" ")
        pairs.append([operator, _Tagged("Gem::Version", {"version": version})])
    return _Tagged("Gem::Requirement", {"requirements": pairs})


def _dependency(name: str, wanted: str | Sequence[str], kind: str) -> _Tagged:
    return _Tagged(
        "Gem::Dependency",
        {
            "name": name,
            "requirement": _requirement(wanted),
            "type": _Symbol(kind),
            "prerelease": False,
            "version_requirements": _requirement(wanted),
        },
    )
