"""Commands beside nodes that run."""

import asyncio
import sys
from pathlib import Path


async def run_command(data_dir: Path, *words: str, code: str = "") -> str:
    """What a command says that is given the settings of the mirror with this data directory; it has to succeed.

    `code`, if any, is run in place of the command.
    """
    program = ("-c", code) if code else ("-m", "mirror")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *program, *words, "--config", str(data_dir.with_suffix(".toml")),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    said, errors = await process.communicate()
    assert process.returncode == 0, errors.decode()
    return said.decode().strip()
