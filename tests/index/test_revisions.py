"""A revision names all that a project is shown with: pages that were rendered once are kept under it."""

import msgspec

from mirror.index.checksums import _completed
from mirror.index.removals import with_removed
from mirror.model import File, Project


def file(name: str, sha256: str = "") -> File:
    return File(filename=name, version="1.0", digests={"sha256": sha256} if sha256 else {}, url="")


def test_other_bytes_of_a_removed_file_are_another_revision() -> None:
    project = Project(name="six", files=(file("six-2.whl", "2" * 64),), versions=("2.0",))
    revisions = {with_removed("page", project, [file("six-1.whl", digest * 64)])[0] for digest in "ab"}
    assert len(revisions) == 2
    assert with_removed("page", project, [file("six-1.whl", "a" * 64)])[0] in revisions


def test_another_checksum_of_ours_is_another_revision() -> None:
    project = Project(name="six", files=(file("six-1.gem"),), versions=("1.0",))

    def with_checksum(entry: File, digest: str) -> File:
        return msgspec.structs.replace(entry, digests={"sha256": digest})

    revisions = {_completed("page", project, {"six-1.gem": digest * 64}, with_checksum)[0] for digest in "ab"}
    assert len(revisions) == 2
