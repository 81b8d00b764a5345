"""Lock files that a serving mirror reads, in a process of their own: others write them, and serving goes on.

The surprise: a file may be read several times. The process does not see the environment, which holds secrets; it
returns the names of the variables that the file asks for, and is given those alone.
"""

import os
from collections.abc import Mapping
from pathlib import Path

import msgspec

from mirror.airgap.lockfiles import RequirementSet, read
from mirror.errors import Invalid, InvalidLock
from mirror.isolation.processes import IsolatedProcesses, IsolationError

_MOST_READINGS = 20
"""An error at the first variable that is missing hides the next one."""
_FUNCTION = f"{__name__}:read_bytes"


class _Request(msgspec.Struct, frozen=True):
    path: str
    variables: Mapping[str, str] = {}


class _Response(msgspec.Struct, frozen=True):
    requirements: RequirementSet | None = None
    missing: frozenset[str] = frozenset()
    """Variables that the file asks for and was not given; there are no requirements then."""


class _Variables(dict[str, str]):
    """The variables that are given; asked for another one, it remembers the name."""

    def __init__(self, given: Mapping[str, str]) -> None:
        super().__init__(given)
        self.missing: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]  # the only method that is used
        if name not in self:
            self.missing.add(name)
        return super().get(name, default)


async def read_isolated(path: Path, processes: IsolatedProcesses) -> RequirementSet:
    """Return what a file requires, as `read` does. Raises Invalid, also for what takes too much time or memory."""
    given: dict[str, str] = {}
    response = _Response()
    for _ in range(_MOST_READINGS):
        response = await _call(_Request(str(path.absolute()), given), path, processes)
        if not response.missing:
            break
        # A variable that is not set is given too, as it is written.
        given |= {name: os.environ.get(name, f"${{{name}}}") for name in response.missing}
    if response.requirements is None:
        raise InvalidLock(str(path), None, "it needs too many environment variables")
    return msgspec.structs.replace(response.requirements, name=str(path))


async def _call(request: _Request, path: Path, processes: IsolatedProcesses) -> _Response:
    try:
        content = await processes.run(_FUNCTION, msgspec.msgpack.encode(request))
    except IsolationError as error:
        raise InvalidLock(str(path), None, str(error).rstrip(".")) from error
    return msgspec.msgpack.decode(content, type=_Response)


def read_bytes(content: bytes) -> bytes:
    """Read the file that a request names; both are MessagePack. Raises Invalid."""
    request = msgspec.msgpack.decode(content, type=_Request)
    variables = _Variables(request.variables)
    try:
        requirements = read(Path(request.path), variables)
    except Invalid:
        if not variables.missing:
            raise
        requirements = None
    response = _Response(missing=frozenset(variables.missing)) if variables.missing else _Response(requirements)
    return msgspec.msgpack.encode(response)
