"""Looking inside gems: the genuine ones against Ruby itself, and hostile ones."""

import base64
import gzip
import hashlib
import io
import json
import re
import tarfile
import time
import tracemalloc
import zlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
from yarl import URL

from mirror.errors import Invalid, MirrorError, UpstreamProtocolError
from mirror.model import File
from mirror.rubygems import FORMAT
from mirror.rubygems.identity import content_address
from mirror.rubygems.marshal.reading import read_gemspec_rz
from mirror.rubygems.marshal.writing import gemspec_rz
from mirror.rubygems.names import abi_of, listed_as
from mirror.rubygems.package import filename_of, inspect
from mirror.rubygems.pages import dependencies, info_line, parse_info, spec_of
from tests import builders

DATA = Path(__file__).parent / "data"
GENUINE = sorted((DATA / "gems").iterdir())

# What Ruby reads of a specification, whether it comes out of a gem or out of a gemspec.rz.
DESCRIBE = """
def describe(s)
  # Where RubyGems 3 puts the licences depends on where the specification comes from.
  licenses = s.instance_variable_get(:@license) || s.instance_variable_get(:@licenses)
  [s.name, s.version.to_s, s.platform.to_s, s.original_platform.to_s, s.full_name, s.authors, s.email, s.summary,
   s.description, s.homepage, licenses, s.metadata, s.date.to_i, s.rubygems_version, s.specification_version,
   s.required_ruby_version.as_list, s.required_rubygems_version.as_list,
   s.dependencies.map { |d| [d.name, d.type.to_s, d.requirement.as_list, d.prerelease?] }]
end
"""


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
def test_the_sidecar_of_a_genuine_gem_is_to_ruby_what_the_gem_is(path, ruby):
    content = gemspec_rz(spec_of(inspect(path.name, path)))
    ours, theirs, same = ruby(
        DESCRIBE
        + """
        gem = Gem::Package.new(StringIO.new(input['gem'].unpack1('m'))).spec
        quick = Marshal.load(Zlib.inflate(input['quick'].unpack1('m')))
        answer [describe(quick), describe(gem), quick == Marshal.load(Marshal.dump(gem))]
        """,
        {"gem": base64.b64encode(path.read_bytes()).decode(), "quick": base64.b64encode(content).decode()},
    )
    assert ours == theirs
    assert same


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
def test_a_genuine_gem_gives_the_line_of_the_public_index(path):
    file = inspect(path.name, path)
    assert file.size == path.stat().st_size
    assert file.digests == {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    page = DATA / "info" / spec_of(file).name
    if page.exists():
        listed = parse_info(page.read_bytes(), page.name, URL("https://gems.example/")).file(path.name)
        if listed is not None:  # the pages are older than some of the gems
            assert info_line(file) == listed.extra["line"]
            assert dependencies(file) == dependencies(listed)


def test_the_genuine_pages_hold_some_of_the_genuine_gems():
    both = [path for path in GENUINE if path.stem.encode() in _all_full_names()]
    assert len(both) >= 5


def _all_full_names() -> set[bytes]:
    return {
        page.name.encode() + b"-" + line.split(b" ")[0]
        for page in (DATA / "info").iterdir()
        for line in page.read_bytes().splitlines()
    }


def test_what_is_found_survives_json():
    file = inspect(GENUINE[0].name, GENUINE[0])
    assert spec_of(msgspec.json.decode(msgspec.json.encode(file), type=File)) == spec_of(file)


class Counted:
    """A Body over bytes that counts what is read of it."""

    digest = "0" * 64
    modified = None
    path = None
    location = None

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.size = len(content)
        self.read_bytes = 0

    async def read(self, start: int = 0, stop: int | None = None) -> AsyncIterator[bytes]:
        piece = self.content[start:stop]
        self.read_bytes += len(piece)
        for at in range(0, len(piece), 1000):
            yield piece[at : at + 1000]


@pytest.mark.parametrize("path", GENUINE, ids=lambda path: path.stem)
async def test_a_sidecar_is_made_from_a_few_ranges(path):
    file = inspect(path.name, path)
    body = Counted(path.read_bytes())
    content = await FORMAT.make_sidecar(file, body)
    assert content == gemspec_rz(spec_of(file))
    assert body.read_bytes < 16_000
    FORMAT.check_sidecar(file, content)


async def test_the_data_of_a_gem_is_not_read_for_its_sidecar(tmp_path):
    gem = builders.gem("acme", "1.0", size=3 << 20)
    members = unpack(gem.content)
    body = Counted(pack({"data.tar.gz": members["data.tar.gz"], "metadata.gz": members["metadata.gz"]}))
    await FORMAT.make_sidecar(File(filename=gem.filename, version="1.0"), body)
    assert body.read_bytes < 4000


@pytest.mark.parametrize(
    "content",
    [b"", b"x", zlib.compress(b"x"), zlib.compress(bytes(50 << 20)), zlib.compress(b"\x04\b0"), gzip.compress(b"x")],
    ids=["empty", "short", "no marshal", "bomb", "nil", "gzip"],
)
def test_what_is_no_sidecar_is_refused(content):
    with pytest.raises(UpstreamProtocolError):
        FORMAT.check_sidecar(File(filename="rack-3.1.16.gem", version="3.1.16"), content)


def test_the_sidecar_of_another_gem_is_refused():
    content = gemspec_rz(spec_of(inspect(GENUINE[0].name, GENUINE[0])))
    with pytest.raises(UpstreamProtocolError, match="is the one of"):
        FORMAT.check_sidecar(File(filename="rack-3.1.16.gem", version="3.1.16"), content)
    assert read_gemspec_rz(content).name == "base64"


def test_sidecars_are_asked_for_in_the_quick_index():
    file = File(filename="ffi-1.0-x86_64-linux.gem", version="1.0", platform="x86_64-linux")
    asked = FORMAT.request_for_sidecar(URL("https://gems.example/x/"), file)
    assert str(asked.url) == "https://gems.example/x/quick/Marshal.4.8/ffi-1.0-x86_64-linux.gemspec.rz"


# --- gems made by hand


def pack(
    members: dict[str, bytes] | list[tuple[str, bytes]], change: Callable[[tarfile.TarInfo], None] | None = None
) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, content in members.items() if isinstance(members, dict) else members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            if change:
                change(info)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def unpack(content: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}


def rebuilt(**members: bytes | None) -> bytes:
    """A good gem with other members, and without checksums unless they are given."""
    parts = unpack(builders.gem("acme", "1.0").content)
    del parts["checksums.yaml.gz"]
    for name, content in members.items():
        parts[{"metadata": "metadata.gz", "data": "data.tar.gz", "sums": "checksums.yaml.gz"}[name]] = content
    return pack({name: content for name, content in parts.items() if content is not None})


def with_yaml(change: Callable[[str], str]) -> bytes:
    about = builders.gem("acme", "1.0", dependencies={"rack": ">= 1"}).metadata.decode()
    changed = change(about)
    assert changed != about
    return rebuilt(metadata=gzip.compress(changed.encode()))


def with_data(name: str = "lib/x.rb", kind: bytes = tarfile.REGTYPE, link: str = "") -> bytes:
    def change(info: tarfile.TarInfo) -> None:
        info.type, info.linkname = kind, link

    return rebuilt(data=gzip.compress(pack({name: b""}, change)))


def look(tmp_path: Path, content: bytes, filename: str = "acme-1.0.gem") -> File:
    path = tmp_path / "upload"
    path.write_bytes(content)
    return inspect(filename, path)


def test_a_built_gem_is_understood(tmp_path):
    gem = builders.gem(
        "acme", "1.0", platform="java", dependencies={"rack": [">= 1", "< 3"]}, development={"rake": ">= 0"},
        required_ruby=">= 2.7", metadata={"k": "v"},
    )  # fmt: skip
    file = look(tmp_path, gem.content, gem.filename)
    assert (file.filename, file.version, file.platform, file.requires) == ("acme-1.0-java.gem", "1.0", "java", ">= 2.7")
    assert info_line(file) == f"1.0-java rack:< 3&>= 1|checksum:{gem.sha256},ruby:>= 2.7".encode()


def test_old_and_unusual_but_honest_gems_are_accepted(tmp_path):
    look(tmp_path, rebuilt())  # no checksums: before RubyGems 2
    look(tmp_path, with_data("lib/link.rb", tarfile.SYMTYPE, "x.rb"))
    look(tmp_path, with_data("./lib/x.rb"))
    old = """--- !ruby/object:Gem::Specification
name: acme
version: !ruby/object:Gem::Version
  hash: 23
  prerelease: false
  segments:
  - 1
  - 0
  version: "1.0"
platform: ruby
authors:
- !binary |
  R3LDvMOfZQ==
- [Nested, Author]
date: 2010-02-01 00:30:00 +01:00
default_executable:
dependencies:
- !ruby/object:Gem::Dependency
  name: rack
  prerelease: false
  requirement: &id001 !ruby/object:Gem::Requirement
    none: false
    requirements:
    - - !ruby/object:YAML::Syck::DefaultKey {}
      - !ruby/object:Gem::Version
        version: "1.0"
  type: :runtime
  version_requirements: *id001
- !ruby/object:Gem::Dependency
  name: rake
  type: !ruby/symbol development
  version_requirement:
  version_requirements: !ruby/object:Gem::Version::Requirement
    requirements:
    - - ! '>='
      - !ruby/object:Gem::Version
        version: !str 0
email: !!null
summary: ~
"""
    spec = spec_of(look(tmp_path, rebuilt(metadata=gzip.compress(old.encode()))))
    assert spec.authors == ("Grüße", "Nested", "Author")
    assert [(need.name, need.kind, str(need.requirement)) for need in spec.dependencies] == [
        ("rack", "runtime", "= 1.0"),
        ("rake", "development", ">= 0"),
    ]
    assert (spec.email, spec.summary, spec.specification_version) == (None, None, -1)
    assert spec.date.isoformat() == "2010-01-31T00:00:00+00:00", "the day in UTC, as Ruby keeps it"


def test_texts_that_are_not_utf8_do_not_break_json(tmp_path):
    content = with_yaml(lambda y: y.replace("- Nobody", "- !binary /w=="))
    file = look(tmp_path, content)
    assert json.loads(msgspec.json.encode(file))["extra"]["spec"]["authors"] == ["\ufffd"]
    assert read_gemspec_rz(gemspec_rz(spec_of(file))) == spec_of(file)


def test_a_gem_is_named_by_one_rule_however_its_author_called_the_file(tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(builders.gem("acme", "1.0", platform="i686-linux-gnu").content)
    for name in ("", "acme-1.0-i686-linux-gnu.gem", "acme-1.0-x86-linux-gnu.gem"):
        assert filename_of(name, path) == "acme-1.0-x86-linux-gnu.gem"
    assert inspect("acme-1.0-x86-linux-gnu.gem", path).platform == "x86-linux-gnu"
    for name in ("acme-1.0-i686-linux-gnu.gem", "acme-1.0-x86-linux.gem"):
        with pytest.raises(Invalid, match="by its specification"):
            inspect(name, path)
    with pytest.raises(Invalid, match="by its specification"):
        filename_of("acme-1.0-x86-linux.gem", path)


@pytest.mark.parametrize(
    ("written", "named"),
    [
        ("x86_64-linux-gnux32", "x86_64-linux-gnux32"),
        ("x86_64-unknown-linux-gnu", "x86_64-linux-gnu"),
        ("!ruby/object:Gem::Platform {cpu: x86_64, os: linux, version: gnux32}", "x86_64-linux-gnux32"),
        ("!ruby/object:Gem::Platform {cpu: null, os: java, version: '1.8'}", "java1.8"),
    ],
)
def test_a_platform_is_written_as_rubygems_writes_it_today(written, named, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(with_yaml(lambda text: text.replace("platform: ruby", f"platform: {written}", 1)))
    assert filename_of("", path) == f"acme-1.0-{named}.gem"


def test_a_gem_for_one_ruby_abi_is_named_after_its_content(tmp_path):
    built = builders.addressed_gem("acme", "1.0", "3.4", platform="x86_64-linux-gnu")
    path = tmp_path / "upload"
    path.write_bytes(built.content)
    for name in ("", built.filename, f"acme-1.0-{built.sha256[:20]}.gem", "acme-1.0-x86_64-linux-gnu.gem"):
        assert filename_of(name, path) == built.filename
    with pytest.raises(Invalid, match="by its specification"):
        filename_of("acme-1.0-00000000.gem", path)
    file = inspect(built.filename, path)
    assert (file.platform, abi_of(file), listed_as(file)) == ("x86_64-linux-gnu", "3.4", f"1.0-{built.sha256[:8]}")
    facts = "ruby:~> 3.4.0,rubygems:>= 4.1.0.a,platform:= x86_64-linux-gnu"
    assert info_line(file) == f"1.0-{built.sha256[:8]} |checksum:{built.sha256},{facts}".encode()
    FORMAT.check_sidecar(file, gemspec_rz(spec_of(file)))


@pytest.mark.parametrize(
    ("required_ruby", "required_rubygems", "platform"),
    [
        ("~> 3.4.0", ">= 0", "x86_64-linux"),
        ("~> 3.4.0", ">= 4.0.9", "x86_64-linux"),
        ("~> 3.4", ">= 4.1.0.a", "x86_64-linux"),
        ([">= 3.4", "< 3.5"], ">= 4.1.0.a", "x86_64-linux"),
        ("~> 3.4.0", ">= 4.1.0.a", "ruby"),
    ],
)
def test_any_other_gem_is_named_after_its_platform(required_ruby, required_rubygems, platform, tmp_path):
    built = builders.gem(
        "acme", "1.0", platform=platform, required_ruby=required_ruby, required_rubygems=required_rubygems
    )
    path = tmp_path / "upload"
    path.write_bytes(built.content)
    assert filename_of("", path) == built.filename


def test_an_address_is_never_a_number():
    assert content_address("20240101ab" + "0" * 54) == "20240101a"
    assert content_address("2024010a" + "0" * 56) == "2024010a"


SIGNED = """
require 'rubygems/security'; require 'tmpdir'
key = OpenSSL::PKey::RSA.new(2048)
certificate = Gem::Security.create_cert_self_signed(Gem::Security.create_cert_email('a@example.org', key).subject, key)
Gem::DefaultUserInteraction.ui = Gem::SilentUI.new
Dir.mktmpdir do |dir|
  Dir.chdir(dir) do
    File.write('x.rb', '1')
    spec = Gem::Specification.new do |one|
      one.name, one.version, one.summary, one.authors, one.files = 'acme', '1.0', 'x', ['a'], ['x.rb']
      one.signing_key, one.cert_chain = key, [certificate]
    end
    answer([IO.binread(Gem::Package.build(spec, true))].pack('m0'))
  end
end
"""


def test_a_signature_has_to_be_that_of_what_it_stands_beside(ruby, tmp_path):
    signed = base64.b64decode(ruby(SIGNED))
    members = unpack(signed)
    assert {"metadata.gz.sig", "data.tar.gz.sig", "checksums.yaml.gz.sig"} <= members.keys()
    assert look(tmp_path, signed).version == "1.0"
    other = {**members, "data.tar.gz.sig": members["metadata.gz.sig"]}
    with pytest.raises(Invalid, match="does not have the signature"):
        look(tmp_path, pack(other))
    changed = {**members, "data.tar.gz": gzip.compress(pack({"x.rb": b"2"}))}
    del changed["checksums.yaml.gz"], changed["checksums.yaml.gz.sig"]
    with pytest.raises(Invalid, match="does not have the signature"):
        look(tmp_path, pack(changed))
    unsigned = members["metadata.gz"]
    stripped = re.sub(rb"cert_chain:\n(- |  ).*?(?=\n[a-z])", b"cert_chain: []", gzip.decompress(unsigned), flags=re.S)
    with pytest.raises(Invalid):
        look(tmp_path, pack({"metadata.gz": gzip.compress(stripped), "data.tar.gz": members["data.tar.gz"],
                             "data.tar.gz.sig": members["data.tar.gz.sig"]}))  # fmt: skip


def data_with(*entries: tuple[str, str | None]) -> bytes:
    """A gem of links (path and target) and files (path and None)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name, link in entries:
            info = tarfile.TarInfo(name)
            if link is not None:
                info.type, info.linkname = tarfile.SYMTYPE, link
            tar.addfile(info)
    return rebuilt(data=gzip.compress(out.getvalue()))


@pytest.mark.parametrize(
    "entries",
    [
        [("a/b", ".."), ("a/b/c", "../.."), ("c/evil", None)],
        [("a", "lib"), ("a/x", None)],
        [("a/x", None), ("a", "lib")],
        [("A", "lib"), ("a/x", None)],
        [("lib/up", ".."), ("out", "lib/up/../..")],
        [("out", "lib/up/../.."), ("lib/up", "..")],
        [("x", "lib"), ("x", None)],
        [("x", None), ("./x", "lib")],
        [("x", "lib/../..")],
    ],
)
def test_links_that_lead_out_step_by_step_are_refused(entries, tmp_path):
    with pytest.raises(Invalid, match=r"link|leaves"):
        look(tmp_path, data_with(*entries))


def test_links_that_stay_inside_are_no_fault(tmp_path):
    look(tmp_path, data_with(("lib/a", None), ("lib/b", "a"), ("b", "./lib/../lib/b"), ("doc", "lib")))


WRONG_SHAPES: dict[str, tuple[str, str]] = {
    "a platform that is a list": ("platform: ruby", "platform: [java]"),
    "a platform that is a number": ("platform: ruby", "platform: 5"),
    "a platform without a system": ("platform: ruby", "platform: !ruby/object:Gem::Platform {cpu: x86}"),
    "a platform like a version": ("platform: ruby", "platform: 2.0-java"),
    "a version that is a number": ("version: '1.0'", "version: 1.0"),
    "a version that is a list": ("version: '1.0'", "version: ['1.0']"),
    "a name that is a number": ("name: acme", "name: 1"),
    "authors that are a mapping": ("authors:\n- Nobody", "authors: {a: b}"),
    "a summary that is a list": ("summary: The acme of the tests", "summary: [a]"),
    "metadata that is a list": ("metadata: {}", "metadata: [a]"),
    "metadata that is no text": ("metadata: {}", "metadata: {a: [b]}"),
    "dependencies that are a mapping": ("dependencies:\n-", "dependencies:\n  a:"),
    "a dependency of a strange type": ("type: :runtime", "type: [runtime]"),
    "a requirement that is a text": ("required_ruby_version: !ruby", "required_ruby_version: '>= 1'\nx: !ruby"),
    "an operator that is a list": ("- - '>='", "- - ['>=']"),
    "a date before 1900": ("date: 2020-01-01", "date: 1899-12-31"),
    "a date before 1900 in UTC": ("date: 2020-01-01 00:00:00.000000000 Z", "date: 1900-01-01 01:00:00 +05:00"),
    "a specification version in words": ("specification_version: 4", "specification_version: four"),
}


@pytest.mark.parametrize(("before", "after"), WRONG_SHAPES.values(), ids=WRONG_SHAPES)
def test_what_is_there_in_the_wrong_shape_is_refused(before, after, tmp_path):
    path = tmp_path / "upload"
    path.write_bytes(with_yaml(lambda text: text.replace(before, after, 1)))
    with pytest.raises(Invalid) as refused:
        filename_of("", path)
    assert "by its specification" not in str(refused.value)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("summary: The acme of the tests", "summary: 2024"),
        ("authors:\n- Nobody", "authors:\n- 7"),
        ("authors:\n- Nobody", "authors: 7"),
        ("metadata: {}", "metadata: {1: 2.5}"),
    ],
)
def test_texts_that_look_like_numbers_are_texts(before, after, tmp_path):
    path = tmp_path / "acme-1.0.gem"
    path.write_bytes(with_yaml(lambda text: text.replace(before, after, 1)))
    filename = filename_of("", path)
    path = path.rename(tmp_path / filename)
    facts = inspect(filename, path).extra["spec"]
    assert {"2024", "7", "2.5"} & {facts["summary"], *facts["authors"], *facts["metadata"].values()}


def header_only(name: str, size: int, form: int = tarfile.USTAR_FORMAT) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(form) + bytes(1024)


def sums(**lines: str) -> bytes:
    return gzip.compress("".join(f"{kind}:\n  {line}\n" for kind, line in lines.items()).encode())


def bomb_of_aliases() -> str:
    rows = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    rows += [f"a{at}: &a{at} [{', '.join([f'*a{at - 1}'] * 10)}]" for at in range(1, 9)]
    return "\n".join(rows) + "\n"


GOOD = builders.gem("acme", "1.0").content
HOSTILE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "no tar": lambda: b"x" * 5000,
    "zeros": lambda: bytes(10240),
    "a zip": lambda: b"PK\x03\x04" + bytes(2000),
    "cut off": lambda: GOOD[:1200],
    "cut in the data": lambda: GOOD[: len(unpack(GOOD)["metadata.gz"]) + 1100],
    "a changed header": lambda: GOOD[:100] + b"\1" + GOOD[101:],
    "a size of 8 GB": lambda: header_only("metadata.gz", (8 << 30) - 1),
    "a size in base 256": lambda: header_only("metadata.gz", 1 << 40, tarfile.GNU_FORMAT),
    "no metadata": lambda: rebuilt(metadata=None),
    "no data": lambda: rebuilt(data=None),
    "metadata twice": lambda: pack([("metadata.gz", b"a"), ("metadata.gz", b"b")]),
    "a path outside": lambda: pack({"../metadata.gz": b"", **unpack(GOOD)}),
    "a link for a member": lambda: pack(unpack(GOOD), lambda info: setattr(info, "type", tarfile.SYMTYPE)),
    "a thousand members": lambda: pack({**unpack(GOOD), **{f"x{at}": b"" for at in range(1000)}}),
    "metadata that is not compressed": lambda: rebuilt(metadata=b"--- x"),
    "a bomb of metadata": lambda: rebuilt(metadata=gzip.compress(bytes(200 << 20), 1)),
    "metadata with a wrong sum": lambda: rebuilt(metadata=gzip.compress(b"x")[:-8] + bytes(8)),
    "an object of another class": lambda: with_yaml(lambda y: y + "x: !ruby/object:Gem::Installer\n  i: x\n"),
    "a class to call": lambda: with_yaml(lambda y: y + "x: !ruby/class 'Kernel'\n"),
    "a hash with a default": lambda: with_yaml(lambda y: y + "x: !ruby/hash:Net::HTTP {}\n"),
    "a python object": lambda: with_yaml(lambda y: y + "x: !!python/object/apply:os.system [id]\n"),
    "a bomb of aliases": lambda: with_yaml(lambda y: y + bomb_of_aliases()),
    "an alias of itself": lambda: with_yaml(lambda y: y + "x: &x [*x]\n"),
    "an alias of nothing": lambda: with_yaml(lambda y: y + "x: *nothing\n"),
    "deep lists": lambda: with_yaml(lambda y: y + "x: " + "[" * 5000 + "]" * 5000 + "\n"),
    "deeper lists": lambda: with_yaml(lambda y: y + "x: " + "[" * 500_000 + "\n"),
    "deep mappings": lambda: with_yaml(lambda y: y + "x: " + "{a: " * 5000 + "\n"),
    "a million values": lambda: with_yaml(lambda y: y + "x: [" + "a," * 1_000_000 + "]\n"),
    "two documents": lambda: with_yaml(lambda y: y + "---\nx: 1\n"),
    "another root": lambda: with_yaml(lambda y: y.replace("Gem::Specification", "Gem::Version")),
    "no YAML": lambda: with_yaml(lambda y: "{{{{"),
    "control characters": lambda: with_yaml(lambda y: y + "x: \x01\n"),
    "another name": lambda: with_yaml(lambda y: y.replace("name: acme", "name: rack")),
    "a name that is a path": lambda: with_yaml(lambda y: y.replace("name: acme", "name: ../acme")),
    "another version": lambda: with_yaml(lambda y: y.replace("'1.0'", "'1.1'")),
    "another platform": lambda: with_yaml(lambda y: y.replace("platform: ruby", "platform: java")),
    "a version with a line break": lambda: with_yaml(lambda y: y.replace("'1.0'", '"1.0\\n2.0"')),
    "a dependency with a comma": lambda: with_yaml(lambda y: y.replace("name: rack", "name: 'rack:>= 0,evil'")),
    "a dependency with a line break": lambda: with_yaml(lambda y: y.replace("name: rack", 'name: "rack\\n9.9 |"')),
    "an operator that is none": lambda: with_yaml(lambda y: y.replace(">=", "|checksum:")),
    "a wrong checksum": lambda: rebuilt(sums=sums(SHA256="metadata.gz: " + "0" * 64)),
    "a checksum of nothing": lambda: rebuilt(sums=sums(SHA256="other.gz: " + "0" * 64)),
    "a checksum of an unknown kind": lambda: rebuilt(sums=sums(CRC32="metadata.gz: 1")),
    "data that is not compressed": lambda: rebuilt(data=b"x" * 600),
    "data that is no tar": lambda: rebuilt(data=gzip.compress(b"x" * 600)),
    "data cut off": lambda: rebuilt(data=gzip.compress(bytes(5000))[:-10]),
    "a bomb of data": lambda: rebuilt(data=gzip.compress(bytes(200 << 20), 1)),
    "data with a path up": lambda: with_data("../../etc/passwd"),
    "data with a path from the root": lambda: with_data("/etc/passwd"),
    "data with a path up in the middle": lambda: with_data("lib/../../x"),
    "data with a link up": lambda: with_data("lib/x", tarfile.SYMTYPE, "../../etc/passwd"),
    "data with a link to the root": lambda: with_data("lib/x", tarfile.SYMTYPE, "/etc/passwd"),
    "data with a hard link": lambda: with_data("lib/x", tarfile.LNKTYPE, "lib/y"),
    "data with a device": lambda: with_data("lib/x", tarfile.CHRTYPE),
    "data with a pipe": lambda: with_data("lib/x", tarfile.FIFOTYPE),
}  # fmt: skip


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE)
def test_hostile_gems_are_refused_in_bounded_memory(make, tmp_path):
    content = make()
    path = tmp_path / "upload"
    path.write_bytes(content)
    del content
    inspect_good(tmp_path)  # so that what is imported and kept once does not count
    tracemalloc.start()
    started = time.process_time()
    try:
        with pytest.raises(Invalid) as refused:
            inspect("acme-1.0.gem", path)
        spent = time.process_time() - started
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(refused.value).endswith(".")
    assert "Traceback" not in str(refused.value)
    assert str(tmp_path) not in str(refused.value)
    assert peak < 64 << 20
    assert spent < 30  # a bound on what it takes under tracing, not a measure of speed


def inspect_good(tmp_path: Path) -> None:
    good = tmp_path / "good"
    good.write_bytes(GOOD)
    inspect("acme-1.0.gem", good)


@pytest.mark.parametrize(
    "filename", ["acme-1.1.gem", "rack-1.0.gem", "acme-1.0-java.gem", "acme-1.0", "../acme-1.0.gem"]
)
def test_a_gem_under_another_name_is_refused(filename, tmp_path):
    with pytest.raises(MirrorError):
        look(tmp_path, GOOD, filename)


async def test_a_hostile_body_gives_no_sidecar():
    for content in (b"", b"x" * 5000, bytes(5000), pack({"metadata.gz": b"x"}), GOOD[:700]):
        with pytest.raises(Invalid):
            await FORMAT.make_sidecar(File(filename="acme-1.0.gem", version="1.0"), Counted(content))
