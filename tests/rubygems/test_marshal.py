"""Marshal, against real Ruby and against an independent implementation."""

import base64
import contextlib
import struct
import zlib
from datetime import UTC, datetime

import pytest
import rubymarshal.reader
import rubymarshal.writer
from hypothesis import given
from hypothesis import strategies as st

from mirror.errors import Invalid
from mirror.rubygems.marshal import GemDependency, GemRequirement, Gemspec, Platform, Symbol, Version
from mirror.rubygems.marshal.reading import load, load_gemspec, load_specs, read_gemspec_rz
from mirror.rubygems.marshal.writing import dump, dump_specs, gemspec_rz


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


SPEC = Gemspec(
    name="a-b",
    version="1.0.rc1",
    platform="i686-linux",
    summary="Grüße 🎉",
    description=None,
    authors=("A", "B"),
    email=("a@b.example",),
    homepage="https://a.example",
    licenses=("MIT", "Ruby"),
    metadata={"k": "v", "bug_tracker_uri": "https://b.example"},
    date=datetime(2026, 8, 1, tzinfo=UTC),
    dependencies=(
        GemDependency("rack", GemRequirement(((">=", "2"), ("<", "4")))),
        GemDependency("rake", GemRequirement(), "development"),
    ),
    required_ruby_version=GemRequirement(((">=", "2.5"), ("<", "5.dev"))),
    required_rubygems_version=GemRequirement(((">", "1.3.1"),)),
    rubygems_version="3.6.2",
)


def test_ruby_loads_the_specification_that_we_write(ruby):
    loaded = ruby(
        """
        s = Marshal.load(Zlib.inflate(input.unpack1('m')))
        answer([s.class.to_s, s.name, s.version.to_s, s.platform.class.to_s, s.platform.to_s, s.original_platform,
          s.summary, s.description, s.authors, s.email, s.homepage,
          s.instance_variable_get(:@license) || s.licenses, # where RubyGems 3 puts the licences when it loads
          s.metadata, s.date.to_i,
          s.dependencies.map { |d| [d.name, d.type.to_s, d.requirement.as_list, d.prerelease?] },
          s.required_ruby_version.as_list, s.required_rubygems_version.as_list, s.rubygems_version,
          s.specification_version, s.full_name, s.summary.encoding.to_s])
        """,
        b64(gemspec_rz(SPEC)),
    )
    assert loaded == [
        *("Gem::Specification", "a-b", "1.0.rc1", "Gem::Platform", "x86-linux", "i686-linux"),
        *("Grüße 🎉", None, ["A", "B"], ["a@b.example"], "https://a.example", ["MIT", "Ruby"]),
        *({"k": "v", "bug_tracker_uri": "https://b.example"}, int(datetime(2026, 8, 1, tzinfo=UTC).timestamp())),
        [["rack", "runtime", [">= 2", "< 4"], False], ["rake", "development", [">= 0"], False]],
        *([">= 2.5", "< 5.dev"], ["> 1.3.1"], "3.6.2", 4, "a-b-1.0.rc1-x86-linux", "UTF-8"),
    ]


def test_we_load_the_specification_that_ruby_writes(ruby):
    written = ruby(
        """
        s = Gem::Specification.new do |s|
          s.name, s.version, s.platform, s.summary = 'a-b', '1.0.rc1', 'i686-linux', 'Grüße 🎉'
          s.authors, s.email, s.homepage, s.licenses = %w[A B], ['a@b.example'], 'https://a.example', %w[MIT Ruby]
          s.metadata = { 'k' => 'v', 'bug_tracker_uri' => 'https://b.example' }
          s.date, s.rubygems_version = '2026-08-01', '3.6.2'
          s.required_ruby_version, s.required_rubygems_version = ['>= 2.5', '< 5.dev'], '> 1.3.1'
          s.add_runtime_dependency 'rack', '>= 2', '< 4'
          s.add_development_dependency 'rake'
        end
        answer [Zlib.deflate(Marshal.dump(s))].pack('m')
        """
    )
    assert read_gemspec_rz(base64.b64decode(written)) == SPEC


def test_the_independent_implementation_reads_the_same_fields():
    outer = rubymarshal.reader.loads(dump(SPEC))
    fields = rubymarshal.reader.loads(outer._private_data)
    assert outer.ruby_class_name == "Gem::Specification"
    assert len(fields) == 19
    assert [str(fields[at]) for at in (2, 5, 8)] == ["a-b", SPEC.summary, "i686-linux"]
    assert fields[3].marshal_dump() == ["1.0.rc1"]
    assert [str(item.attributes["@name"]) for item in fields[9]] == ["rack", "rake"]
    assert fields[9][1].attributes["@type"].name == "development"


VALUES = [
    None,
    True,
    False,
    "",
    "é",
    "x" * 300,
    [],
    {},
    [[], [[]]],
    {"a": [1], "b": None},
    1.5,
    Symbol("a"),
    Symbol("é"),
    [Symbol("a"), Symbol("b"), Symbol("a")],
    *range(-260, 261),
    *(sign * (1 << bits) + by for bits in (7, 8, 15, 16, 23, 24, 29) for by in (-1, 0, 1) for sign in (1, -1)),
    (1 << 30) - 1,
    -(1 << 30),
]


def test_plain_values_are_the_same_to_ruby(ruby):
    theirs = ruby(
        "v = Marshal.load(input.unpack1('m')); answer [[Marshal.dump(v)].pack('m'), v.size]", b64(dump(VALUES))
    )
    assert theirs[1] == len(VALUES)
    assert load(base64.b64decode(theirs[0])) == VALUES
    assert load(dump(VALUES)) == VALUES


def test_gem_objects_come_back():
    for value in (
        Version("1.0"),
        GemRequirement((("~>", "1.0"),)),
        GemDependency("a"),
        Platform("x86", "linux", None),
        SPEC,
    ):
        assert load(dump(value)) == value
        assert load(dump([value, value])) == [value, value]


def test_times_are_those_of_ruby(ruby):
    written = ruby(
        """
        times = [Time.utc(2020, 1, 2), Time.utc(2026, 8, 1, 12, 34, 56, 789012), Time.at(1234567890, in: '+05:00'),
                 Time.utc(1999, 12, 31)]
        answer [[Marshal.dump(times)].pack('m'), times.map { |t| [t.to_i, t.usec] }]
        """
    )
    times = load(base64.b64decode(written[0]))
    assert [[int(time.timestamp()), time.microsecond] for time in times] == written[1]
    back = ruby(
        "answer Marshal.load(input.unpack1('m')).map { |t| [t.to_i, t.usec, t.utc?] }",
        b64(dump(times)),
    )
    assert back == [[*pair, True] for pair in written[1]]


ROWS = [
    ("a", "1.0", "ruby"),
    ("a", "1.0", "java"),
    ("a", "2.0", "ruby"),
    ("b", "1.0", "ruby"),
    ("ruby", "2.0", "ruby"),
    ("1.0", "1.0", "a"),
    ("é", "0", "ruby"),
]


def test_ruby_loads_the_specs_that_we_write(ruby):
    many = ROWS + [(f"gem{at % 500}", f"{at % 91}.{at}", "ruby") for at in range(3000)]
    data = b"".join(dump_specs(many))
    theirs = ruby(
        """
        rows = Marshal.load(input.unpack1('m'))
        raise 'class' unless rows.all? { |n, v, p| String === n && Gem::Version === v && String === p }
        raise 'shared' unless rows[0][0].equal?(rows[1][0]) && rows[0][1].equal?(rows[3][1])
        answer [rows.map { |n, v, p| [n, v.to_s, p] }, rows.all? { |n, _, p| n.encoding.to_s == 'UTF-8' }]
        """,
        b64(data),
    )
    assert theirs == [[list(row) for row in many], True]
    assert list(load_specs(data)) == many


def test_we_load_the_specs_that_ruby_writes(ruby):
    written = ruby(
        """
        names, versions = Hash.new { |h, k| h[k] = k }, Hash.new { |h, k| h[k] = Gem::Version.new(k) }
        rows = input.map { |n, v, p| [names[n], versions[v], names[p]] }
        answer [Marshal.dump(rows)].pack('m')
        """,
        ROWS,
    )
    assert list(load_specs(base64.b64decode(written))) == ROWS


def test_the_independent_implementation_reads_our_specs():
    rows = rubymarshal.reader.loads(b"".join(dump_specs(ROWS)))
    assert [(str(name), version.marshal_dump()[0], str(platform)) for name, version, platform in rows] == ROWS


def test_shapes_of_old_rubies_are_understood():
    def symbol(text: bytes) -> bytes:
        return b":" + bytes((len(text) + 5,)) + text

    version = b"o" + symbol(b"Gem::Version") + b"\x06" + symbol(b"@version") + b'"\b2.0'
    equal = b"o" + symbol(b"YAML::Syck::DefaultKey") + b"\x00"
    old = (
        b"o"
        + symbol(b"Gem::Version::Requirement")
        + b"\x06"
        + symbol(b"@requirements")
        + b"[\x06[\x07"
        + equal
        + version
    )
    assert load(b"\x04\b" + old) == GemRequirement((("=", "2.0"),))


HOSTILE = {
    "nothing": b"",
    "another version": b"\x04\x09[\x00",
    "more after the end": b"\x04\b00",
    "an announced billion": b"\x04\b[\x04\x00\xca\x9a\x3b",
    "a hash of a billion": b"\x04\b{\x04\x00\xca\x9a\x3b",
    "a text of a billion": b'\x04\b"\x04\x00\xca\x9a\x3b',
    "a negative length": b'\x04\b"\xfa',
    "a negative count": b"\x04\b[\xfa",
    "a deep list": b"\x04\b" + b"[\x06" * 100_000,
    "deep attributes": b"\x04\b" + b"I" * 100_000,
    "a list in itself": b"\x04\b[\x06@\x00",
    "a link to nothing": b"\x04\b@\x06",
    "a negative link": b"\x04\b@\xfa",
    "a symbol link to nothing": b"\x04\b;\x06",
    "an unknown class": b"\x04\bo:\x0bKernel\x00",
    "an unknown dump": b"\x04\bu:\x0bKernel\x06x",
    "an unknown user class": b"\x04\bU:\x0bKernel0",
    "an extended object": b"\x04\be:\x0bKernelo:\x0bObject\x00",
    "a module": b"\x04\bm\x0bKernel",
    "a class": b"\x04\bc\x0bObject",
    "a struct": b"\x04\bS:\x08Foo\x00",
    "a regular expression": b"\x04\b/\x06x\x00",
    "a version that is none": b"\x04\bU:\x11Gem::Version[\x060",
    "a requirement that is none": b"\x04\bU:\x15Gem::Requirement[\x06i\x06",
    "an impossible time": b"\x04\bu:\tTime\r" + struct.pack("<II", 1 << 31 | 15 << 10, 0),
    "a list as a key": b"\x04\b{\x06[\x000",
    "an endless number": b"\x04\bf\x06x",
    "a symbol that is no text": b"\x04\b:\x06\xff",
}


@pytest.mark.parametrize("data", HOSTILE.values(), ids=HOSTILE)
def test_hostile_data_is_invalid(data):
    with pytest.raises(Invalid):
        load(data)


def test_a_specification_in_a_specification_does_not_go_deep():
    inner = b"\x04\b0"
    for _ in range(200):
        name = b"u:\x17Gem::Specification"
        size = len(inner)
        inner = b"\x04\b" + name + b"\x04" + struct.pack("<I", size) + inner
    with pytest.raises(Invalid, match="deep"):
        load(inner)


def test_a_bomb_of_objects_is_refused():
    with pytest.raises(Invalid, match="more than 1000 objects"):
        load(dump(["x"] * 2000), most=1000)


def test_a_deflated_bomb_is_refused():
    with pytest.raises(Invalid, match="inflates"):
        read_gemspec_rz(zlib.compress(bytes(50 << 20)))


@pytest.mark.parametrize("cut", range(0, 700, 7))
def test_a_cut_specification_is_invalid(cut):
    data = dump(SPEC)
    with pytest.raises(Invalid):
        load_gemspec(data[: min(cut, len(data) - 1)])


@given(st.binary(max_size=200))
def test_random_bytes_are_invalid_or_a_value(data):
    with contextlib.suppress(Invalid):
        load(b"\x04\b" + data)


@given(st.integers(0, 600), st.integers(0, 255))
def test_a_changed_byte_is_invalid_or_a_value(at, byte):
    data = bytearray(dump(SPEC))
    data[at % len(data)] = byte
    with contextlib.suppress(Invalid):
        load(bytes(data))


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 30), (1 << 30) - 1) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(plain)
def test_what_is_written_is_read(value):
    assert load(dump(value)) == value
