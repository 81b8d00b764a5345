"""Mutations of inputs: small changes, repetitions, pieces of other inputs. The random numbers are an argument."""

import json
import re
from collections.abc import Callable, Sequence
from random import Random

MOST_BYTES = 48 << 10
"""Bytes that an input has at most."""

_NUMBERS = (b"0", b"-1", b"1", b"255", b"65536", b"2147483648", b"9223372036854775808", b"1e400", b"9" * 400, b"0x10")
_VALUE = re.compile(rb"(?<=[:=,|&; ])[^\n:=,|&; ]+")
"""A value in a line: of a header, of YAML, of a lock file, of the compact index."""
_QUOTED = re.compile(rb"(?<=\")[^\"\n]*(?=\")|(?<=')[^'\n]*(?=')")
_ODD = (
    b"",
    b"\0",
    b"\xff",
    b"\xc0\x80",
    b"\xed\xa0\x80",
    b"\x1b[2J",
    b"\r\n",
    b"\n",
    b"\r",
    b"\t",
    b" ",
    b"%00",
    b"%2f",
    b"..",
    b"/",
    b"\\",
    b"'",
    b'"',
    b"<",
    b">",
    b"&",
    b"{",
    b"}",
    b"[",
    b"]",
    b"(",
    b":",
    b",",
    b";",
    b"#",
    b"@",
    b"=",
    b"null",
    b"true",
    b"[]",
    b"{}",
    "\u202e".encode(),
    "\ud7ff\U0001f40d".encode(),
    b"\\ud800",
    b"NaN",
    b"Infinity",
)


_VALUES: tuple[object, ...] = (
    None,
    True,
    False,
    0,
    -1,
    1 << 70,
    1.5,
    "",
    "x",
    "\ud800",
    "\0",
    "\x1b[31m",
    "../x",
    "9" * 5000,
    "a" * 300,
    "<script>",
    [],
    {},
    [[]],
    [None],
    {"": {}},
    ["x"],
    {"x": "y"},
    "9999-12-31T23:59:59.999999Z",
    "0001-01-01T00:00:00+23:59",
    "1.0",
    "acme",
)


class Mutator:
    """Makes inputs out of others."""

    def __init__(self, seeds: Sequence[bytes], words: Sequence[bytes], random: Random) -> None:
        self._seeds = [seed[:MOST_BYTES] for seed in seeds]
        self._words = [*words, *_ODD]
        self._random = random
        # Lengths and places in a binary format go on being right.
        self._keeping_lengths = (self._flip, self._set, self._overwrite)
        self._changes: tuple[Callable[[bytes], bytes], ...] = (
            self._flip,
            self._set,
            self._delete,
            self._repeat,
            self._insert_word,
            self._insert_word,
            self._replace_word,
            self._splice,
            self._swap,
            self._number,
            self._cut,
            self._noise,
            self._nest,
            self._double_line,
            self._indent,
            self._value,
            self._value,
            self._quoted,
            self._json,
            self._json,
            self._json,
        )

    def next(self) -> bytes:
        """Return the next input."""
        data = self._random.choice(self._seeds)
        chance = self._random.random()
        if chance < 0.4 and data[1:2] in (b"{", b"["):
            return self._json(data)[:MOST_BYTES]
        changes = self._keeping_lengths if chance < 0.4 else self._changes
        # Of a short input nothing is left after many changes.
        for _ in range(min(12, 1 + int(self._random.expovariate(0.5)), 1 + len(data) // 100)):
            data = self._random.choice(changes)(data)[:MOST_BYTES]
        return data

    def _slice(self, data: bytes, longest: int = 64) -> tuple[int, int]:
        start = self._random.randint(0, len(data))
        longest = len(data) if self._random.random() < 0.05 else longest
        return start, min(len(data), start + self._random.randint(0, longest))

    def _flip(self, data: bytes) -> bytes:
        if not data:
            return b"\x80"
        at = self._random.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << self._random.randrange(8))]) + data[at + 1 :]

    def _set(self, data: bytes) -> bytes:
        at = self._random.randint(0, len(data))
        return data[:at] + bytes([self._random.choice((0, 10, 13, 32, 127, 128, 255))]) + data[at + 1 :]

    def _overwrite(self, data: bytes) -> bytes:
        start, stop = self._slice(data, 8)
        other, _ = self._slice(data)
        new = data[other : other + stop - start]
        return data[:start] + new + data[start + len(new) :]

    def _delete(self, data: bytes) -> bytes:
        start, stop = self._slice(data)
        return data[:start] + data[stop:]

    def _repeat(self, data: bytes) -> bytes:
        start, stop = self._slice(data)
        times = 2 ** self._random.randint(1, 12)
        return data[:start] + data[start:stop] * min(times, MOST_BYTES // max(1, stop - start)) + data[stop:]

    def _insert_word(self, data: bytes) -> bytes:
        at = self._random.randint(0, len(data))
        return data[:at] + self._random.choice(self._words) + data[at:]

    def _replace_word(self, data: bytes) -> bytes:
        start, stop = self._slice(data, 12)
        return data[:start] + self._random.choice(self._words) + data[stop:]

    def _splice(self, data: bytes) -> bytes:
        other = self._random.choice(self._seeds)
        start, stop = self._slice(other, 400)
        at, end = self._slice(data)
        return data[:at] + other[start:stop] + data[end:]

    def _swap(self, data: bytes) -> bytes:
        start, stop = self._slice(data)
        again, end = self._slice(data[stop:])
        again, end = again + stop, end + stop
        return data[:start] + data[again:end] + data[stop:again] + data[start:stop] + data[end:]

    def _number(self, data: bytes) -> bytes:
        digits = [at for at, byte in enumerate(data[:4096]) if 48 <= byte < 58]
        if not digits:
            return self._insert_word(data)
        at = self._random.choice(digits)
        end = at
        while end < len(data) and 48 <= data[end] < 58:
            end += 1
        number = str(self._random.randint(0, 1 << 17)).encode()
        return data[:at] + self._random.choice((*_NUMBERS, *[number] * 4)) + data[end:]

    def _cut(self, data: bytes) -> bytes:
        return data[: self._random.randint(0, len(data))]

    def _noise(self, data: bytes) -> bytes:
        at = self._random.randint(0, len(data))
        return data[:at] + self._random.randbytes(self._random.randint(1, 16)) + data[at:]

    def _nest(self, data: bytes) -> bytes:
        start, stop = self._slice(data)
        opening, closing = self._random.choice(
            ((b"[", b"]"), (b"{", b"}"), (b"(", b")"), (b"<b>", b"</b>"), (b'{"a":', b"}"))
        )
        depth = self._random.choice((1, 10, 1000, 5000))
        return data[:start] + opening * depth + data[start:stop] + closing * depth + data[stop:]

    def _double_line(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        line = self._random.choice(lines)
        lines.insert(self._random.randint(0, len(lines)), line)
        return b"\n".join(lines)

    def _indent(self, data: bytes) -> bytes:
        lines = data.split(b"\n")
        at = self._random.randrange(len(lines))
        lines[at] = b" " * self._random.randint(0, 8) + lines[at].lstrip(b" ")
        return b"\n".join(lines)

    def _value(self, data: bytes) -> bytes:
        return self._exchange(data, _VALUE)

    def _quoted(self, data: bytes) -> bytes:
        return self._exchange(data, _QUOTED)

    def _exchange(self, data: bytes, pattern: re.Pattern[bytes]) -> bytes:
        """Put another value, a word, or many of itself, where the pattern finds one."""
        found = [match.span() for match in pattern.finditer(data[1:4096])]
        if not found:
            return self._flip(data)
        start, stop = (1 + at for at in self._random.choice(found))
        other, end = (1 + at for at in self._random.choice(found))
        new = self._random.choice(
            (data[other:end], data[other:end], self._random.choice(self._words), data[start:stop] * 2, b"x" * 300)
        )
        return data[:start] + new + data[stop:]

    def _json(self, data: bytes) -> bytes:
        """Change values of a JSON document behind the first byte; most other changes leave none that can be read."""
        try:
            document = json.loads(data[1:])
        except (ValueError, RecursionError):
            return self._flip(data)
        for _ in range(1 + int(self._random.expovariate(1))):
            document = self._changed(document)
        return data[:1] + json.dumps(document).encode()

    def _changed(self, value: object, depth: int = 0) -> object:
        if depth < 40 and isinstance(value, dict) and value and self._random.random() < 0.85:
            key = self._random.choice(list(value))
            if self._random.random() < 0.1:
                return {name: each for name, each in value.items() if name != key}
            return {**value, key: self._changed(value[key], depth + 1)}
        if depth < 40 and isinstance(value, list) and value and self._random.random() < 0.85:
            at = self._random.randrange(len(value))
            if self._random.random() < 0.1:
                return value + [value[at]] * self._random.randint(1, 50)
            return [*value[:at], self._changed(value[at], depth + 1), *value[at + 1 :]]
        return self._random.choice(_VALUES)
