"""The shape of the source: who may import whom, equal ecosystems, and no registry named in code.

Read from the syntax trees, so that an import inside a function or below TYPE_CHECKING counts like any other.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "mirror"

ORDER = [
    *("errors", "model", "runtime", "isolation", "config", "policy"),
    *("blobs", "catalog", "upstream", "transfer", "doctor", "index"),
    *("server", "telemetry", "auth"),
    *("pypi", "rubygems"),
    *("api", "web", "airgap", "maintenance", "service", "cli", "__main__"),
]
"""Each entry of `mirror/` imports only from those before it."""

ECOSYSTEMS = ("pypi", "rubygems")
ONLY_IN_PYPI = {"documents", "legacy", "metadata", "provenance", "sdist", "strict_zip", "wheel"}
"""Two forms of each document, the JSON API, core metadata, provenance, archives, and wheels read from afar."""
ONLY_IN_RUBYGEMS = {"identity", "json_api", "log", "marshal", "specification"}
"""JSON about gems, Ruby's own serialisation, what stands inside a gem, and the one asymmetry: an index that is
followed, and published as a growing log."""
MAY_NAME_BOTH = {"service"}
"""The composition root; everything else has an `Ecosystem`."""
READS_BOTH = "airgap.lockfiles"
"""Lock files are those of both, and are read with what is `PURE`."""
BACK_ENDS = (
    "blobs.local.LocalBlobs",
    "blobs.objects.ObjectBlobs",
    "catalog.sqlite.SQLite",
    "catalog.postgres.PostgreSQL",
)

REGISTRIES = [".".join(parts) for parts in (("pypi", "org"), ("pythonhosted", "org"), ("rubygems", "org"))] + [
    ".".join(parts) for parts in (("debian", "org"), ("npmjs", "org"), ("npmjs", "com"))
]
TEXT = {".py", ".md", ".toml", ".sql", ".html", ".css", ".js", ".json", ".service", ".socket", ".timer", ".yml", ""}


def modules() -> Iterator[tuple[str, Path]]:
    """Dotted name below `mirror` and file of every module; the package itself has the empty name."""
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())


def imported(path: Path) -> Iterator[tuple[str, int]]:
    """What a file imports from `mirror`: dotted names below it (of modules, or of things in them), with the line."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Import():
                names = [alias.name for alias in node.names]
            case ast.ImportFrom(level=0, module=str(module)):
                names = [f"{module}.{alias.name}" for alias in node.names]
            case ast.ImportFrom():
                pytest.fail(f"{path}:{node.lineno}: imports are absolute")
            case _:
                continue
        yield from ((name.removeprefix("mirror."), node.lineno) for name in names if name.startswith("mirror."))


def entry(name: str) -> str:
    """The entry of `mirror/` that a module, or a thing in it, belongs to."""
    return name.partition(".")[0]


def test_every_entry_has_its_place_in_the_order() -> None:
    assert {entry(name) for name in MODULES if name} == set(ORDER)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_a_module_imports_only_from_those_before_it(name: str) -> None:
    for target, line in imported(MODULES[name]):
        if entry(target) in ORDER:  # else a thing in the package itself, such as __version__
            assert ORDER.index(entry(target)) <= ORDER.index(entry(name)), f"{MODULES[name]}:{line}: {target}"


@pytest.mark.parametrize("pair", [("telemetry", "auth"), ("auth", "telemetry")], ids=" imports ".join)
def test_telemetry_and_auth_do_not_import_each_other(pair: tuple[str, str]) -> None:
    importer, other = pair
    for name in MODULES:
        if entry(name) == importer:
            assert other not in {entry(target) for target, _ in imported(MODULES[name])}, MODULES[name]


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    assert not list(imported(MODULES[""]))


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_only_the_composition_root_knows_the_ecosystems(name: str) -> None:
    if name.partition(".")[0] in MAY_NAME_BOTH:
        return
    own = name.partition(".")[0]
    known = {target for target, _ in imported(MODULES[name]) if entry(target) in ECOSYSTEMS and entry(target) != own}
    if name.startswith(f"{READS_BOTH}."):
        known = {target for target in known if not target.startswith(tuple(PURE))}
    assert not known, f"{MODULES[name]} knows {known}"


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_only_the_composition_root_chooses_back_ends(name: str) -> None:
    if name.partition(".")[0] in MAY_NAME_BOTH:
        return
    chosen = {target for target, _ in imported(MODULES[name]) if target in BACK_ENDS}
    assert not chosen, f"{MODULES[name]} should take the protocol, not {chosen}"


def test_both_ecosystems_have_the_same_modules() -> None:
    # A module may grow into a package of that name.
    python, ruby = (
        {name.split(".")[1] for name in MODULES if name.startswith(f"{ecosystem}.")} for ecosystem in ECOSYSTEMS
    )
    assert python - ONLY_IN_PYPI == ruby - ONLY_IN_RUBYGEMS
    assert {"names", "pages", "package", "upload", "routes"} <= python & ruby


ECOSYSTEM_NAMES = {"pypi", "rubygems"}
MAY_COMPARE = ("pypi.", "rubygems.", "config.", "service.ecosystems")
"""Beginnings of the names of modules that may look at the name of an ecosystem."""


def compared(tree: ast.AST) -> Iterator[tuple[ast.expr, int]]:
    """Every expression that decides something: sides of comparisons, patterns, keys and subscripts, with its line."""
    for node in ast.walk(tree):
        found: list[ast.expr | None]
        match node:
            case ast.Compare():
                found = [node.left, *node.comparators]
            case ast.MatchValue():
                found = [node.value]
            case ast.Dict():
                found = [*node.keys]
            case ast.Subscript():
                found = [node.slice]
            case _:
                continue
        for expression in found:
            parts = expression.elts if isinstance(expression, ast.Tuple | ast.List | ast.Set) else [expression]
            yield from ((part, node.lineno if isinstance(node, ast.expr) else part.lineno) for part in parts if part)


@pytest.mark.parametrize("name", [name for name in MODULES if name])
def test_the_name_of_an_ecosystem_is_compared_nowhere_else(name: str) -> None:
    # What differs between the two is a field of `index.ecosystem.Ecosystem`. A type (`Literal[…]`) decides nothing.
    if f"{name}.".startswith(MAY_COMPARE):
        return
    tree = ast.parse(MODULES[name].read_text())
    types = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.Subscript) and ast.unparse(node.value) == "Literal"
        for part in ast.walk(node.slice)
    }
    found = [
        line for part, line in compared(tree)
        if isinstance(part, ast.Constant) and part.value in ECOSYSTEM_NAMES and id(part) not in types
    ]  # fmt: skip
    assert not found, f"{MODULES[name]} looks at the name of an ecosystem in lines {found}: ask the Ecosystem"


def test_no_template_compares_the_name_of_an_ecosystem() -> None:
    for path in (PACKAGE / "web").rglob("*.html"):
        assert not re.search(r"""[=!]=\s*["'](?:pypi|rubygems)["']""", path.read_text()), path


def test_no_registry_is_named_outside_the_configuration() -> None:
    allowed = {ROOT / "README.md", *(PACKAGE / "config").glob("*.py"), *(ROOT / "config").glob("*.toml")}
    roots = (PACKAGE, ROOT / "tests", ROOT / "config", ROOT / "systemd", ROOT / ".ci")
    files = [path for root in roots for path in root.rglob("*") if path.is_file() and path.suffix in TEXT]
    files += [path for path in ROOT.iterdir() if path.is_file() and path.suffix in TEXT and path.name != ".git"]
    assert len(files) > 50, "the search looks in the wrong place"
    for path in set(files) - allowed:
        if "data" not in path.parts and "__pycache__" not in path.parts:
            text = path.read_text(encoding="utf-8", errors="replace").lower()
            named = [registry for registry in REGISTRIES if registry in text]
            assert not named, f"{path} names {named}"


def test_the_public_indexes_are_named_once_in_code() -> None:
    code = "".join(path.read_text() for path in (PACKAGE / "config").glob("*.py"))
    assert [code.count(f"https://{registry}/") for registry in REGISTRIES if registry in code] == [1, 1]


def test_nothing_shared_is_read_before_an_await_and_written_after_it() -> None:
    # `self.n += await f()` reads n first: what other tasks add meanwhile is lost.
    found = [
        f"{path}:{node.lineno}" for path in (*MODULES.values(), *(ROOT / "tests").rglob("*.py"))
        if re.search(r"[-+*/|&]= (.*\bawait\b|.*[(\[{]$)", text := path.read_text(), re.MULTILINE)
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.AugAssign)
        and isinstance(node.target, ast.Attribute | ast.Subscript)
        and any(isinstance(part, ast.Await) for part in ast.walk(node.value))
    ]  # fmt: skip
    assert not found, f"{found}: await first, then add"


PURE = [
    *(
        f"{each}.{name}"
        for each in ECOSYSTEMS
        for name in ("names", "versions", "pages", "static", "summary", "clients")
    ),
    *("pypi.documents", "pypi.index", "pypi.legacy", "pypi.metadata", "rubygems.index", "rubygems.specification"),
    *(
        "rubygems.log.versions_map",
        "rubygems.log.upstream_copy",
        "rubygems.log.published_log",
        "rubygems.log.name_owners",
    ),
    *(
        "index.merge",
        "index.freshness",
        "index.losses",
        "index.precedence",
        "policy.rules",
        "policy.osv",
        "policy.verdicts",
        "policy.explanation",
    ),
    *(name for name in MODULES if name.startswith("rubygems.marshal")),
]
"""Modules that decide, parse and render: equal arguments, equal results. What they import is here too, or a value."""
VALUES = ("errors", "model", "config.policy", "index.ecosystem")
IMPURE = {"asyncio", "aiohttp", "sqlite3", "http", "os", "random", "secrets", "socket", "subprocess", "time"}
"""Libraries that read a clock, a file, the network or chance."""


def imports_from_elsewhere(path: Path) -> set[str]:
    """The first names of the libraries that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add((node.module or "").partition(".")[0])
    return found


@pytest.mark.parametrize("name", PURE)
def test_a_pure_module_knows_no_store_no_server_and_no_clock(name: str) -> None:
    path = MODULES[name]
    for target, line in imported(path):
        module = target if target in MODULES else target.rpartition(".")[0]
        own = module in ECOSYSTEMS or module == "policy"  # a name out of the package itself: see its own imports
        assert own or module in PURE or module in VALUES, f"{path}:{line}: {target} is not pure"
    assert not imports_from_elsewhere(path) & IMPURE
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    for call in calls:
        called = ast.unparse(call.func)
        assert called not in {"open", "io.open", "datetime.now", "datetime.utcnow", "date.today"}, (
            f"{path}:{call.lineno}"
        )
