"""The figures of size of a checkout, read from its syntax trees: `python -m tests sizes [DIR]`."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

MOST_PARAMETERS = 8
MOST_LINES = 50
ECOSYSTEMS = {"pypi", "rubygems"}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sizes(root: Path) -> dict[str, int]:
    """Return the figures of `mirror/` below a directory, each with its name."""
    package = root / "mirror"
    files = {path: ast.parse(path.read_text()) for path in sorted(package.rglob("*.py"))}
    functions = [(path, node) for path, tree in files.items() for node in ast.walk(tree) if isinstance(node, Function)]
    return {
        "entries of mirror/": sum(
            path.suffix in ("", ".py") and path.name != "__pycache__" for path in package.iterdir()
        ),
        "files": len(files),
        "lines": sum(len(path.read_text().splitlines()) for path in files),
        "import depth": import_depth(package, files),
        f"constructors with more than {MOST_PARAMETERS} parameters": sum(
            node.name == "__init__" and parameters(node) > MOST_PARAMETERS for _, node in functions
        ),
        f"functions above {MOST_LINES} lines": sum(
            (node.end_lineno or 0) - node.lineno + 1 > MOST_LINES for _, node in functions
        ),
        "imports inside functions": sum(
            isinstance(inner, ast.Import | ast.ImportFrom)
            for path, tree in files.items()
            for node in outermost(tree)
            for inner in ast.walk(node)
        ),
        "comparisons with an ecosystem's name": sum(
            compares(node)
            for path, tree in files.items()
            if path.relative_to(package).parts[0] not in {*ECOSYSTEMS, "config"}
            for node in ast.walk(tree)
        ),
    }


def outermost(tree: ast.AST) -> Iterator[Function]:
    """The functions of a module and the methods of its classes, not those inside functions."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, Function):
            yield node
        else:
            yield from outermost(node)


def parameters(function: Function) -> int:
    """How many parameters a method takes, without `self`."""
    arguments = function.args
    return len(arguments.posonlyargs) + len(arguments.args) + len(arguments.kwonlyargs) - 1


def compares(node: ast.AST) -> bool:
    """Whether an expression compares something with the name of an ecosystem."""
    if not isinstance(node, ast.Compare):
        return False
    return any(isinstance(part, ast.Constant) and part.value in ECOSYSTEMS for part in (node.left, *node.comparators))


def import_depth(package: Path, files: dict[Path, ast.Module]) -> int:
    """The length of the longest chain of modules of which each imports the next at its top level."""
    names = {module_name(package, path): tree for path, tree in files.items()}
    edges = {name: set(imports(tree, names)) - {name} for name, tree in names.items()}
    open_names: set[str] = set()

    @cache
    def depth(name: str) -> int:
        open_names.add(name)
        try:
            return 1 + max((depth(target) for target in edges[name] if target not in open_names), default=0)
        finally:
            open_names.discard(name)

    return max(depth(name) for name in names)


def module_name(package: Path, path: Path) -> str:
    """The dotted name of a module."""
    parts = path.relative_to(package.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(tree: ast.Module, known: dict[str, ast.Module]) -> Iterator[str]:
    """The modules of the package that a module imports at its top level."""
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                target = f"{node.module}.{alias.name}"
                yield from (name for name in [target if target in known else node.module] if name in known)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
