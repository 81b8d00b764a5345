"""Real clients, as their users run them. `require_client` finds one, or says what happens without it."""

import os
import shutil
import sys
from pathlib import Path

import pytest


def require_client(name: str) -> str:
    """The path of a client's program, looked for beside this Python first.

    A client that is missing skips the test on somebody's laptop, and fails it where CI=true.
    """
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", ""), "/usr/sbin"])  # nginx
    found = shutil.which(name, path=places)
    if found is None:
        missing = f"the client {name!r} is not installed"
        if os.environ.get("CI") == "true":
            pytest.fail(missing, pytrace=False)
        pytest.skip(missing)
    return found
