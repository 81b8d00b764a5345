"""Names, docstrings and units keep to the agreed words, which a newcomer to this project can guess.

Read from the syntax trees of `mirror/`. Where a package has not come so far, `PENDING` has the number of its offences,
which may only become smaller.
"""

import ast
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "mirror"
PACKAGES = sorted(path.name for path in PACKAGE.iterdir() if path.suffix in ("", ".py") and path.name != "__pycache__")

RETIRED = {
    *("Lane", "Lanes", "Ready", "Answers", "Answer", "Content", "Raw", "Sent", "once_more", "Witness", "Patience"),
    *("Followed", "Published", "Own", "Judging", "Told", "Whole", "Gems", "Way", "InProcess", "Through", "Stored"),
    *("Wish", "Piece", "Backlog", "Crew", "Hand", "Kit", "Order", "Brought", "Reach", "Here", "Beside", "Shelf"),
    *("Browsing", "Abouts", "Visitors", "Demand", "say_goodbye", "keep_smooth", "ahead"),
}
"""Names that were replaced by the field's own."""
PARTICIPLES = {"Unchanged", "Refused"}
"""The outcomes of following a log, beside `Append`, `Replace` and `Refetch`."""
BOTH_ECOSYSTEMS = {"Routes", "UploadRoutes", "Index", "Subject"}
"""Classes that the two ecosystems have in modules of the same name, as they have functions."""

UNCLEAR = re.compile(
    r"(As |As `|Is |Are |Told |The same|What |Who |Whom |Whose |Where |When |How |Nobody |Somebody |Says |Tells |Asks )"
)
"""Beginnings of docstrings that only make sense beside the name, or beside another docstring."""
WORDS = re.compile(r"\b(nobody|anybody|somebody|who asks|whoever|told|written down|lets one read)\b", re.IGNORECASE)
"""Words with a plainer one in their place: no one, everyone, the client, reported, recorded, implies."""
UNITS = {"Second": "SECONDS", "Byte": "BYTES", "Character": "CHARACTERS", "Hour": "HOURS", "Day": "DAYS"}
"""The first word of a constant's docstring, in singular → what its name has to contain."""

TO_BE_RENAMED: set[str] = set()
"""Retired names and participles that are left."""
PENDING: dict[str, dict[str, int]] = {
    "docstrings": {},
    "words": {},
    "units": {},
}
"""Check → package → offences that are left."""


@cache
def trees(package: str) -> dict[Path, ast.Module]:
    """The parsed modules of one entry of `mirror/`."""
    root = PACKAGE / package
    return {path: ast.parse(path.read_text()) for path in ([root] if root.is_file() else sorted(root.rglob("*.py")))}


Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(package: str) -> Iterator[tuple[Path, Definition]]:
    """Every class and function."""
    for path, tree in trees(package).items():
        for node in ast.walk(tree):
            if isinstance(node, Definition):
                yield path, node


def is_property(node: Definition) -> bool:
    """Whether a definition reads like an attribute."""
    return any(
        getattr(one, "id", getattr(one, "attr", "")) in ("property", "cached_property") for one in node.decorator_list
    )


def judge(check: str, package: str, offences: list[str]) -> None:
    """Compare with what is still pending."""
    allowed = PENDING[check].get(package, 0)
    assert len(offences) <= allowed, f"{len(offences)} {check}, {allowed} allowed:\n" + "\n".join(offences)


@pytest.mark.parametrize("package", PACKAGES)
def test_no_retired_name_is_used_again(package: str) -> None:
    found = [
        f"{path}:{node.lineno} {node.name}"
        for path, node in definitions(package)
        if node.name.lstrip("_") in RETIRED - TO_BE_RENAMED
    ]
    assert found == []


@pytest.mark.parametrize("package", [name for name in PACKAGES if name != "errors.py"])
def test_no_class_is_a_past_participle(package: str) -> None:
    found = {
        node.name
        for _, node in definitions(package)
        if isinstance(node, ast.ClassDef) and re.fullmatch(r"_?[A-Z][a-z]+ed", node.name)
    }
    assert found - PARTICIPLES - TO_BE_RENAMED == set()


def test_a_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[Path]] = defaultdict(list)
    for package in PACKAGES:
        for path, node in definitions(package):
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(PACKAGE))
    twice = {name: found for name, found in places.items() if len(found) > 1 and name not in BOTH_ECOSYSTEMS}
    assert twice == {}


@pytest.mark.parametrize("package", PACKAGES)
def test_a_docstring_begins_with_a_clear_sentence(package: str) -> None:
    offences = []
    for path, node in definitions(package):
        text = ast.get_docstring(node)
        if not text:
            continue
        first = text.split("\n\n")[0].rstrip()
        unclear = UNCLEAR.match(first) or (
            first.startswith("Whether ") and not is_property(node) and not isinstance(node, ast.ClassDef)
        )
        if unclear or not first.endswith((".", ":", "?", "…", "`", ")")):
            offences.append(f"{path}:{node.lineno} {node.name}: {first.splitlines()[0]}")
    judge("docstrings", package, offences)


@pytest.mark.parametrize("package", PACKAGES)
def test_plain_words_are_used(package: str) -> None:
    root = PACKAGE / package
    offences = []
    for path in [root] if root.is_file() else sorted(root.rglob("*")):
        if path.suffix in (".py", ".html", ".md"):
            for number, line in enumerate(path.read_text().splitlines(), 1):
                offences += [f"{path}:{number} {found}" for found in WORDS.findall(line)]
    judge("words", package, offences)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_constant_bears_its_unit(package: str) -> None:
    offences = []
    for path, tree in trees(package).items():
        for statement, following in zip(tree.body, tree.body[1:], strict=False):
            match statement, following:
                case (
                    ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)),
                    ast.Expr(value=ast.Constant(value=str(text))),
                ) if name.isupper():
                    unit = UNITS.get(text.split()[0].removesuffix("s"))
                    if unit and unit not in name:
                        offences.append(f"{path}:{statement.lineno} {name}: {text.splitlines()[0]}")
    judge("units", package, offences)


def test_what_is_pending_still_exists() -> None:
    for check, packages in PENDING.items():
        assert set(packages) <= set(PACKAGES), check
    assert not [name for name, count in Counter(BOTH_ECOSYSTEMS | PARTICIPLES).items() if count > 1]
