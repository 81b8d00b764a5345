"""A page with very many files does not stop the mirror that selects from it."""

import time
from types import SimpleNamespace
from typing import cast

from mirror.airgap.lockfiles import RequirementSet, Target, named
from mirror.airgap.sync.inputs import SyncInput
from mirror.airgap.sync.plan import plan
from mirror.airgap.sync.queue import FetchQueue
from mirror.index.repository import View
from mirror.model import File, Project
from tests.loop_lag import LAG_SECONDS, loop_lag

LINUX = Target("3.11", "manylinux_2_36_x86_64")
FILES = 60_000


class HugePage:
    """A fetcher whose only project has very many files."""

    def __init__(self) -> None:
        files = (
            File(filename=f"acme-1.{number}-py3-none-any.whl", version=f"1.{number}", requires=f">=3.{number % 9}.0")
            for number in range(FILES)
        )
        project = Project(name="acme", files=tuple(files), versions=())
        self.view = cast(View, SimpleNamespace(project=project, withheld={}))  # all that is asked of it

    async def fetch_index(self, repository: str) -> None:
        return

    async def project(self, repository: str, name: str) -> View:
        return self.view

    async def fetch(self, repository: str, project: str, file: File) -> None:
        raise AssertionError

    def is_small(self, file: File) -> bool:
        raise AssertionError

    async def fetch_small(self, small: FetchQueue, rest: FetchQueue, on_fetched: object) -> None:
        raise AssertionError


async def unresolved(requirements: RequirementSet, target: Target, repository: str) -> RequirementSet:
    raise AssertionError


async def test_selecting_among_very_many_files_does_not_stop_the_loop() -> None:
    (wanted,) = named(["acme"], 1)
    one = SyncInput(requirements=wanted, repository="pypi", targets=(LINUX,), dependencies=False)
    fetcher = HugePage()
    async with loop_lag() as lag:
        began = time.perf_counter()
        found = await plan([one], fetcher, unresolved)
        took = time.perf_counter() - began
    assert [file.file.version for file in found.files] == [f"1.{FILES - 1}"]
    # Half of the whole, as this machine may be busy: on the loop it would be all of it.
    assert lag.worst < max(LAG_SECONDS, took / 2)
