"""What is served: a static index on disk, as nginx serves it and as the mirror's upstream."""

import gzip
import hashlib
import json
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tests.builders import wheel

SMALL, LARGE, TEN_KB = "small", "large", "ten-kb"
LARGE_FILES = 5000
SET = tuple(f"member-{number:03d}" for number in range(100))
VERSIONS = 15
BLOCK = 1 << 20

Entry = dict[str, Any]


class Tree:
    """A static index below `root`: `simple/NAME/index.json` and `packages/NAME/FILE`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def page(self, name: str, entries: Sequence[Entry]) -> None:
        """Write the page of a project, and its gzip form; a page of that name is replaced."""
        page = {
            "meta": {"api-version": "1.1"},
            "name": name,
            "versions": list(dict.fromkeys(entry["filename"].split("-")[1] for entry in entries)),
            "files": entries,
        }
        directory = self.root / "simple" / name
        directory.mkdir(parents=True, exist_ok=True)
        body = json.dumps(page).encode()
        (directory / "index.json").write_bytes(body)
        (directory / "index.json.gz").write_bytes(gzip.compress(body, 6))

    def file(self, project: str, filename: str, content: bytes, metadata: bytes | None = None) -> Entry:
        """Write a file, with its metadata where that is given, and return its entry."""
        directory = self.root / "packages" / project
        directory.mkdir(parents=True, exist_ok=True)
        (directory / filename).write_bytes(content)
        if metadata is not None:
            (directory / f"{filename}.metadata").write_bytes(metadata)
        digest = hashlib.sha256(metadata).hexdigest() if metadata is not None else ""
        return entry(project, filename, hashlib.sha256(content).hexdigest(), len(content), digest)

    def blob(self, project: str, size: int) -> str:
        """A project whose one file is `size` bytes of noise, written piece by piece; returns the file's path."""
        filename = f"{project.replace('-', '_')}-1.0-py3-none-any.whl"
        directory = self.root / "packages" / project
        directory.mkdir(parents=True, exist_ok=True)
        generator, digest = random.Random(project), hashlib.sha256()
        with (directory / filename).open("wb") as file:
            for start in range(0, size, BLOCK):
                block = generator.randbytes(min(BLOCK, size - start))
                digest.update(block)
                file.write(block)
        self.page(project, [entry(project, filename, digest.hexdigest(), size)])
        return f"/packages/{project}/{filename}"


def entry(project: str, filename: str, sha256: str, size: int, metadata: str = "") -> Entry:
    """One file as the page lists it."""
    known: Entry = {
        "filename": filename,
        "url": f"../../packages/{project}/{filename}",
        "hashes": {"sha256": sha256},
        "size": size,
        "upload-time": "2025-01-02T03:04:05.678901Z",
        "requires-python": ">=3.8",
        "yanked": False,
    }
    return {**known, "core-metadata": {"sha256": metadata}} if metadata else known


def pages(tree: Tree) -> None:
    """The small page and the large one, and a file of 10 KB."""
    tree.page(SMALL, [_listed(SMALL, f"1.{number}") for number in range(10)])
    tree.page(LARGE, [_listed(LARGE, f"{number // 100}.{number % 100}") for number in range(LARGE_FILES)])
    tree.blob(TEN_KB, 10 << 10)


def changing(tree: Tree, times: int) -> Iterator[bytes]:
    """Put other versions of the large page in its place, one at a time; each yields what only it has."""
    listed = [_listed(LARGE, f"{number // 100}.{number % 100}") for number in range(LARGE_FILES)]
    for number in range(times):  # beforehand: who measures shall not be busy with this meanwhile
        Tree(tree.root.with_name(f"change-{number}")).page(LARGE, [*listed, _listed(LARGE, f"1000.{number}")])
    for number in range(times):
        for file in ("index.json.gz", "index.json"):
            ready = tree.root.with_name(f"change-{number}") / "simple" / LARGE / file
            os.utime(ready, (number, number))  # nginx makes its ETag of the second and the size
            ready.replace(tree.root / "simple" / LARGE / file)
        yield b"-1000.%d-" % number


def small_pages(tree: Tree, names: Sequence[str]) -> None:
    """Pages like the small one."""
    for name in names:
        tree.page(name, [_listed(name, f"1.{number}") for number in range(10)])


def resolvable(tree: Tree, number: int = len(SET)) -> list[str]:
    """Projects, a hundred or so many, each needing some of the others; returns their names."""
    names = [f"member-{index:03d}" for index in range(number)]
    for index, name in enumerate(names):
        needs = [f"{other}>=1.{VERSIONS - 5}" for other in names[index + 1 : index + 30 : 7]]
        built = [wheel(name, f"1.{version}", requires=needs, requires_python=">=3.8") for version in range(VERSIONS)]
        tree.page(name, [tree.file(name, one.filename, one.content, one.metadata) for one in built])
    return names


def _listed(project: str, version: str) -> Entry:
    """A file that is only listed, never asked for."""
    digest = hashlib.sha256(f"{project} {version}".encode()).hexdigest()
    filename = f"{project}-{version}-cp312-cp312-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"
    return entry(project, filename, digest, 1_234_567, digest)
