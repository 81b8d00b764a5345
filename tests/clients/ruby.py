"""Ruby's clients, as this machine has them and as newer Debian releases do.

TEST_RUBIES names a directory that holds unpacked Debian releases, each with ruby and bundler inside; `.ci/run`
makes it. They run by chroot and see the same loopback.
"""

import asyncio
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from tests.clients import require_client

PATIENCE = 180
"""Seconds for one command, on a slow machine, with a compiler run in it."""


class Ruby:
    """One set of clients; `home` makes it a user with nothing installed."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self.name = "machine" if root == Path("/") else root.name

    def __str__(self) -> str:
        return self.name

    @contextmanager
    def home(self, source: str) -> Iterator["Home"]:
        """A home directory of its own, with this gem source and no other."""
        if self.root == Path("/"):
            for client in ("gem", "bundle"):
                require_client(client)
        place = Path(tempfile.mkdtemp(prefix="home-", dir=self.root / "tmp"))
        try:
            (place / ".gemrc").write_text(f"---\n:sources:\n- {source}\ngem: --no-document\n")
            yield Home(self, place, source)
        finally:
            shutil.rmtree(place)


class Home:
    """Where commands run."""

    def __init__(self, ruby: Ruby, place: Path, source: str) -> None:
        self.ruby = ruby
        self.place = place
        """As this process sees it."""
        self.source = source
        self._inside = "/" + str(place.relative_to(ruby.root))

    async def run(self, *words: str, **variables: str) -> str:
        """What a command prints; an assertion fails unless it succeeds."""
        return await asyncio.to_thread(self._run, words, variables)

    def _run(self, words: tuple[str, ...], variables: Mapping[str, str]) -> str:
        environment = {
            "HOME": self._inside,
            "GEM_HOME": f"{self._inside}/gems",
            "PATH": f"{self._inside}/gems/bin:/usr/local/bin:/usr/bin:/bin",
            "LANG": "C.UTF-8",
            "BUNDLE_SILENCE_ROOT_WARNING": "true",
            **variables,
        }
        given = [f"{name}={value}" for name, value in environment.items()]
        enter = [] if self.ruby.root == Path("/") else ["chroot", str(self.ruby.root)]
        command = [*enter, "/usr/bin/env", "-i", "-C", self._inside, *given, *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)
        assert done.returncode == 0, f"{' '.join(words)}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    async def bundle(self, *words: str, gemfile: str = "", public: str = "https://gems.example/") -> str:
        """Bundler, with a Gemfile of `public` that is mirrored here."""
        if gemfile:
            (self.place / "Gemfile").write_text(f'source "{public}"\n{gemfile}')
            await self.run("bundle", "config", "set", "--global", f"mirror.{public}", self.source)
        return await self.run("bundle", *words)

    def locked(self) -> set[str]:
        """The gems of the lock file, as `name (version)`."""
        text = (self.place / "Gemfile.lock").read_text()
        return set(re.findall(r"^    (\S+ \(.+\))$", text, re.MULTILINE))

    async def versions(self) -> str:
        """What runs here, for the record."""
        said = [await self.run(client, "--version") for client in ("ruby", "gem", "bundle")]
        return f"{self.ruby}: " + ", ".join(line.strip() for line in said)


@cache
def newer_rubies() -> list[Path]:
    """The unpacked releases that TEST_RUBIES names, the oldest first."""
    found = os.environ.get("TEST_RUBIES", "")
    # By their own versions, not by the names of the releases.
    programs = sorted(Path(found).glob("*/usr/bin/bundle"), key=_version) if found else []
    return [program.parent.parent.parent for program in programs]


def _version(program: Path) -> tuple[int, ...]:
    root = program.parent.parent.parent
    said = subprocess.run(["chroot", str(root), "gem", "--version"], capture_output=True, text=True, timeout=60)
    return tuple(map(int, re.findall(r"\d+", said.stdout)))


def rubies() -> list[Ruby]:
    """This machine's clients, and those of every unpacked release."""
    return [Ruby(), *map(Ruby, newer_rubies())]
