"""No SQL is made of what a client, an upstream or an operator has sent: values go into placeholders."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent.parent / "mirror"
CATALOG = PACKAGE / "catalog"
SQL = re.compile(r"\b(SELECT .+ FROM|INSERT INTO|UPDATE \w+ SET|DELETE FROM|WHERE \w+ (=|IN|LIKE)|VALUES \()")
ENGINES = {"self", "database", "copy"}
"""Arguments that are no values: what runs the SQL."""
COUNTS = {"len", "enumerate", "range", "_numbered"}
"""Calls that make numbers of placeholders out of values."""


def interpolated(function: ast.AST) -> Iterator[tuple[ast.expr, int]]:
    """What a function puts into text that looks like SQL: by f-strings, `format`, `%`, `+` with something variable."""
    for node in ast.walk(function):
        match node:
            case ast.JoinedStr(values=values):
                text = "".join(str(part.value) for part in values if isinstance(part, ast.Constant))
                if SQL.search(text):
                    yield from ((part.value, node.lineno) for part in values if isinstance(part, ast.FormattedValue))
            case ast.Call(func=ast.Attribute(value=text_node, attr="format" | "replace"), args=arguments):
                if SQL.search(ast.unparse(text_node)):
                    yield from ((argument, node.lineno) for argument in arguments)
            case ast.BinOp(left=left, op=ast.Add() | ast.Mod(), right=right) if SQL.search(ast.unparse(left)):
                yield right, node.lineno


def names_in(expression: ast.AST) -> set[str]:
    """The names that an expression takes its text from, without those that it only counts."""
    match expression:
        case ast.Call(func=ast.Name(id=name)) if name in COUNTS:
            return set()
        case ast.Name(id=name):
            return {name}
    return {name for child in ast.iter_child_nodes(expression) for name in names_in(child)}


def given(function: ast.AsyncFunctionDef) -> set[str]:
    """What callers give to a query, and what is taken out of that."""
    arguments = function.args
    names = {one.arg for one in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)} - ENGINES
    for node in ast.walk(function):
        match node:
            case ast.Assign(targets=[target], value=value) if names_in(value) & names and not SQL.search(
                ast.unparse(value)
            ):
                names |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
            case ast.For(target=target, iter=value) | ast.comprehension(target=target, iter=value):
                if names_in(value) & names:
                    names |= {one.id for one in ast.walk(target) if isinstance(one, ast.Name)}
    return names


def offences(source: str) -> list[str]:
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.AsyncFunctionDef):
            names = given(function)
            for expression, line in interpolated(function):
                if used := names_in(expression) & names:
                    found.append(f"line {line}: {', '.join(sorted(used))} in {ast.unparse(expression)}")
    return found


@pytest.mark.parametrize("path", sorted(CATALOG.rglob("*.py")), ids=lambda path: str(path.relative_to(CATALOG)))
def test_values_go_into_placeholders(path: Path) -> None:
    assert offences(path.read_text()) == []


@pytest.mark.parametrize(
    "body",
    [
        "return await db.read(f'SELECT a FROM t WHERE b = {project}')",
        "return await db.read('SELECT a FROM t WHERE b = ' + project)",
        "return await db.read('SELECT a FROM t WHERE b = {}'.format(project))",
        "return await db.read('SELECT a FROM t WHERE b = %s' % project)",
        "part = project.lower()\n return await db.read(f\"DELETE FROM t WHERE b = '{part}'\")",
        "return [await db.read(f'SELECT a FROM t WHERE b = {one}') for one in project]",
    ],
)
def test_a_value_in_the_text_is_found(body: str) -> None:
    assert len(offences(f"async def query(self, project):\n {body}\n")) == 1


def test_sql_stands_in_the_catalog_alone() -> None:
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if CATALOG in path.parents:
            continue
        found += [
            f"{path.relative_to(PACKAGE)}:{node.lineno}"
            for node in ast.walk(ast.parse(path.read_text()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and SQL.search(node.value)
        ]
    assert found == []
