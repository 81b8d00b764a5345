"""Open versions, decided by the clients' own resolvers with the mirror as their only index.

uv decides for Python and bundler for Ruby, each as a process in a directory and an environment of its own. Every page
that they read on the way is stored by the mirror, so that the same question has the same answer offline. They run no
code of a distribution, unless `build` allows uv to.
"""

import asyncio
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import msgspec
from yarl import URL

from mirror.airgap.lockfiles import RequirementSet, Target, parse, this_machine
from mirror.errors import Invalid

RESOLVER_SECONDS = 600.0
"""The longest time for a resolver."""
ERROR_LINES = 12
"""The most lines of a resolver's explanation in an error."""

_UV_PLATFORMS: Mapping[tuple[str, str], str] = {
    ("linux", "x86_64"): "x86_64-manylinux_2_17",
    ("linux", "aarch64"): "aarch64-manylinux_2_17",
    ("linux", "riscv64"): "riscv64-unknown-linux",
    ("musllinux", "x86_64"): "x86_64-unknown-linux-musl",
    ("musllinux", "aarch64"): "aarch64-unknown-linux-musl",
    ("macos", "x86_64"): "x86_64-apple-darwin",
    ("macos", "arm64"): "aarch64-apple-darwin",
    ("windows", "amd64"): "x86_64-pc-windows-msvc",
    ("windows", "arm64"): "aarch64-pc-windows-msvc",
    ("windows", "x86"): "i686-pc-windows-msvc",
}
_UV_GLIBC = (17, 28, *range(31, 41))
"""The minor versions of glibc 2 that uv has a name for."""
_GEM_PLATFORMS: Mapping[tuple[str, str], str] = {
    ("linux", "x86_64"): "x86_64-linux",
    ("linux", "aarch64"): "aarch64-linux",
    ("musllinux", "x86_64"): "x86_64-linux-musl",
    ("musllinux", "aarch64"): "aarch64-linux-musl",
    ("macos", "x86_64"): "x86_64-darwin",
    ("macos", "arm64"): "arm64-darwin",
    ("windows", "amd64"): "x64-mingw-ucrt",
    ("java", "java"): "java",
}
_CLIENT_VARIABLES = (
    "UV_", "PIP_", "BUNDLE_", "GEM_", "RUBY", "PYTHON", "VIRTUAL_ENV", "HTTP_PROXY", "http_proxy", "ALL_PROXY",
)  # fmt: skip
"""Beginnings of the environment variables that would change what a resolver does."""


class Resolvers:
    """The resolvers uv and bundler."""

    def __init__(self, index: Callable[[str], URL], *, build: bool = False) -> None:
        """`index` returns the URL of a repository for its clients, with credentials where they are needed."""
        self._index = index
        self._build = build

    async def __call__(self, requirements: RequirementSet, target: Target, repository: str) -> RequirementSet:
        """Return every version pinned. Raises Invalid, with the resolver's explanation."""
        if not requirements.pins and not requirements.ranges:
            return requirements
        url = self._index(repository)
        if requirements.installer == "bundler":
            return await _bundler(requirements, target, url)
        return await _uv(requirements, target, url, build=self._build)


async def _uv(requirements: RequirementSet, target: Target, url: URL, *, build: bool) -> RequirementSet:
    program = _program("uv", "uv decides the versions that are not locked, and is not installed here: pip install uv")
    lines = [pin.requirement for pin in requirements.pins] + [entry.requirement for entry in requirements.ranges]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "requirements.in").write_text("\n".join(lines) + "\n")
        (directory / "constraints.txt").write_text("".join(f"{one.requirement}\n" for one in requirements.constraints))
        command = [
            program, "pip", "compile", "requirements.in", "--constraints", "constraints.txt",
            "--no-config", "--no-cache", "--no-header", "--no-annotate", "--quiet",
            "--color", "never", "--no-python-downloads", "--python", sys.executable,
            "--python-version", target.python.removesuffix("t"), *_uv_platform(target),
        ]  # fmt: skip
        command += [] if build else ["--no-build"]
        if url.host:  # on this machine: plain http, or a certificate for another name
            command += ["--allow-insecure-host", f"{url.host}:{url.port}"]
        # Its URL may have a token, which must not stand among the arguments that every user of the machine can list.
        environment = {"UV_HTTP_TIMEOUT": "60", "UV_DEFAULT_INDEX": str(url)}
        output = await _run(command, directory, environment, requirements.name, url)
    resolved = parse(requirements.name, output, kind="requirements")
    return msgspec.structs.replace(requirements, pins=resolved.pins, ranges=(), graph=None, kind="requirements")


def _uv_platform(target: Target) -> list[str]:
    if target == this_machine():
        return []
    system = target.system
    name = _UV_PLATFORMS.get((system.family, system.machine))
    if name is None:
        raise Invalid(f"uv cannot decide versions for {target}: give a lock that was made there.")
    if system.family == "linux" and "manylinux" in name:
        minor = max((one for one in _UV_GLIBC if one <= system.oldest[1]), default=17)
        name = re.sub(r"2_\d+$", f"2_{minor}", name)
    return ["--python-platform", name]


async def _bundler(requirements: RequirementSet, target: Target, url: URL) -> RequirementSet:
    program = _program("bundle", "bundler decides the versions of gems that are not locked, and is not installed here")
    lines = [f'source "{url}"', *(_gem(entry.project, _requirements(entry.specifier)) for entry in requirements.ranges)]
    lines += [_gem(pin.project, [f"= {pin.version}"]) for pin in requirements.pins]
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "Gemfile").write_text("\n".join(lines) + "\n")
        command = [program, "lock"]
        platform = _GEM_PLATFORMS.get((target.system.family, target.system.machine))
        command += ["--add-platform", platform] if platform else []
        environment = {
            "HOME": name, "BUNDLE_GEMFILE": str(directory / "Gemfile"), "BUNDLE_APP_CONFIG": f"{name}/.bundle",
            "BUNDLE_USER_HOME": f"{name}/.bundle", "BUNDLE_SILENCE_ROOT_WARNING": "1", "BUNDLE_RETRY": "1",
            "BUNDLE_SSL_VERIFY_MODE": "0",
        }  # fmt: skip
        await _run(command, directory, environment, requirements.name, url)
        text = (directory / "Gemfile.lock").read_text()
    resolved = parse(requirements.name, text, kind="Gemfile.lock")
    pins = tuple(msgspec.structs.replace(pin, where=requirements.name) for pin in resolved.pins)
    return msgspec.structs.replace(resolved, pins=pins)


def _gem(name: str, requirements: Sequence[str]) -> str:
    return "gem " + ", ".join(f'"{text}"' for text in (name, *requirements))


def _requirements(specifier: str) -> list[str]:
    return [part.strip() for part in specifier.split(",") if part.strip()]


def _program(name: str, missing: str) -> str:
    """Return the path of a resolver: beside this Python, else on the PATH. Raises Invalid."""
    directories = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    program = shutil.which(name, path=directories)
    if program is None:
        raise Invalid(f"{missing}; or give a lock file, or take only what is named (--no-deps).")
    return program


async def _run(command: Sequence[str], directory: Path, environment: Mapping[str, str], what: str, url: URL) -> str:
    """Return the output of a resolver. Raises Invalid with its explanation when it fails or takes too long."""
    bare = {name: value for name, value in os.environ.items() if not name.startswith(_CLIENT_VARIABLES)}
    process = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env={**bare, **environment, "NO_PROXY": "*"},
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    name = Path(command[0]).name
    try:
        async with asyncio.timeout(RESOLVER_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise Invalid(f"{name} took longer than {RESOLVER_SECONDS:.0f} s to decide the versions for {what}.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        text = (errors or output).decode(errors="replace").replace(url.password or "\0", "…")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        hint = " (With --build, uv may build it, which runs its code.)" if "--no-build" in text else ""
        raise Invalid(f"{name} finds no versions that fit: {' '.join(lines[:ERROR_LINES])}{hint}")
    return output.decode(errors="replace")
