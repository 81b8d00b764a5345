"""Regular expressions: no text makes one take more than the length of the text allows.

Each compiled expression of the mirror is tried with texts that repeat its own characters and words, by the methods by
which it is used. Time is processor time, so that a busy machine does not matter.
"""

import importlib
import pkgutil
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import ModuleType

import pytest

import mirror

Text = str | bytes
CHARACTERS = 4096
"""The length of the texts: an expression that is quadratic takes some 40 ms for one, others less than 1 ms."""
SLOW_SECONDS = 0.004
PUMPS = 60
"""The pieces that are repeated, for each expression."""
METHODS = ("search", "match", "fullmatch")
_SEARCHING = {"finditer", "findall", "sub", "subn", "split"}
"""Methods that look for the expression anywhere, as `search` does."""


def _modules() -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(mirror.__path__, "mirror."):
        if not info.name.endswith("__main__"):
            yield importlib.import_module(info.name)


def _values(owner: object) -> Iterator[tuple[str, object]]:
    """Yield the values of a module or class, with what collections and classes hold."""
    for name, value in list(vars(owner).items()):
        if isinstance(value, type) and value.__module__ == getattr(owner, "__name__", ""):
            yield from _values(value)
        elif isinstance(value, dict):
            yield from ((name, each) for each in value.values())
        elif isinstance(value, list | tuple):
            for each in value:
                yield from ((name, one) for one in (each if isinstance(each, tuple) else (each,)))
        else:
            yield name, value


def expressions() -> dict[str, tuple[re.Pattern[str] | re.Pattern[bytes], tuple[str, ...]]]:
    """Return where each expression stands → the expression, and the methods by which it is used."""
    sources = "\n".join(path.read_text() for path in Path(mirror.__path__[0]).rglob("*.py"))
    found: dict[tuple[Text, int], tuple[str, re.Pattern[str] | re.Pattern[bytes]]] = {}
    for module in _modules():
        for name, value in _values(module):
            if isinstance(value, re.Pattern):
                found.setdefault((value.pattern, value.flags), (f"{module.__name__}.{name}", value))
    result = {}
    for where, value in found.values():
        name = where.rpartition(".")[2]
        used = set(re.findall(rf"\b{name}\.(\w+)\b", sources))
        used = {"search" if method in _SEARCHING else method for method in used} & set(METHODS)
        # Where it is used under another name, any method may be.
        elsewhere = len(re.findall(rf"\b{name}\b(?!\.\w|\s*[:=])", sources)) > 0
        result[f"{where} {value.pattern!r:.60}"] = value, (METHODS if elsewhere or not used else tuple(used))
    return result


def pumps(pattern: Text, random: Random) -> Iterator[tuple[str, str]]:
    """Yield beginnings of texts, and the pieces that are repeated after them."""
    text = pattern if isinstance(pattern, str) else pattern.decode("latin-1")
    plain = re.sub(r"\\[dwsSDWbBAZ]|\(\?[:=!P<]*|\\|\{[0-9,]+\}", "", text)
    words = re.findall(r"[\w./:;-]{2,20}", plain)[:12]
    pieces = [*sorted(set(plain) | set("a1 -._\t\n")), *words]
    singles = random.sample(pieces, min(PUMPS // 2, len(pieces)))
    for number in range(PUMPS):
        mixed = "".join(random.choice(pieces) for _ in range(random.randint(2, 3)))
        piece = singles[number] if number < len(singles) else mixed
        yield ("", words[0] if words else "a", words[-1] if words else "a")[number % 3], piece


def seconds(run: Callable[[Text], object], text: Text) -> float:
    began = time.thread_time()
    run(text)
    return time.thread_time() - began


def is_superlinear(run: Callable[[Text], object], make: Callable[[int], Text]) -> bool:
    """Return whether a text of some length takes long, and twice the length much more than twice that."""
    for length in range(8, 64, 4):  # an exponential one is noticed before it takes minutes
        if seconds(run, make(length)) > SLOW_SECONDS and seconds(run, make(length)) > SLOW_SECONDS:
            return True
    length = 64
    while length < CHARACTERS and seconds(run, make(length)) < SLOW_SECONDS:
        length *= 2
    if seconds(run, make(length)) < SLOW_SECONDS:
        return False
    once = min(seconds(run, make(length)) for _ in range(3))
    twice = min(seconds(run, make(2 * length)) for _ in range(3))
    return once > SLOW_SECONDS / 4 and twice > 3 * once


def culprits(
    expression: re.Pattern[str] | re.Pattern[bytes], methods: tuple[str, ...]
) -> Iterator[tuple[str, str, str]]:
    """Yield with which method, beginning and piece an expression takes more time than it may."""
    for start, piece in pumps(expression.pattern, Random(5)):

        def make(length: int, start: str = start, piece: str = piece) -> Text:
            text = start + piece * (length // len(piece)) + "\0"
            return text if isinstance(expression.pattern, str) else text.encode("latin-1", "replace")

        for method in methods:
            if is_superlinear(getattr(expression, method), make):
                yield method, start, piece


EXPRESSIONS = expressions()


def test_the_expressions_are_found() -> None:
    assert len(EXPRESSIONS) > 60


@pytest.mark.parametrize("where", EXPRESSIONS)
def test_no_text_makes_an_expression_take_more_than_its_length_allows(where: str) -> None:
    assert next(culprits(*EXPRESSIONS[where]), None) is None


@pytest.mark.parametrize("pattern", [r"(a|aa)+b", r"a*a*b", r"x.*y.*z", rb"(?:a+)+!", r"a+b"])
def test_an_expression_that_takes_more_is_noticed(pattern: str | bytes) -> None:
    assert next(culprits(re.compile(pattern), METHODS), None) is not None
