"""The simulator as a process: prints its URL, then answers until it is ended.

    python -m tests.simulator --port 0 --gems DIR --wheels DIR [--log FILE]

Each line of the log is a JSON object: method, path, status, sent, at.
"""

import argparse
import asyncio
import json
import re
import signal
import tarfile
import zipfile
from pathlib import Path

from tests.builders import Built

from . import Simulator


def read_built(path: Path) -> Built:
    """A wheel or sdist from the disk; its metadata is read from inside."""
    content = path.read_bytes()
    if path.suffix == ".whl":
        name, version = path.name.split("-")[:2]
        with zipfile.ZipFile(path) as archive:
            inside = next(each for each in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/METADATA", each))
            metadata = archive.read(inside)
    else:
        name, _, version = path.name.removesuffix(".tar.gz").rpartition("-")
        with tarfile.open(path) as archive:
            inside = next(each for each in archive.getnames() if re.fullmatch(r"[^/]+/PKG-INFO", each))
            member = archive.extractfile(inside)
            assert member is not None
            metadata = member.read()
    named = re.search(rb"^Name: *(.+?)\r?$", metadata, re.MULTILINE)
    return Built(named.group(1).decode() if named else name, version, path.name, content, metadata)


async def run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Simulator(arguments.port) as simulator:
        simulator.load_genuine(arguments.gems, arguments.info)
        for path in sorted(arguments.wheels.iterdir()) if arguments.wheels else ():
            if path.name.endswith((".whl", ".tar.gz")):
                simulator.publish(read_built(path))
        print(simulator.url, flush=True)
        await stop.wait()
        if arguments.log:
            keys = ("method", "path", "query", "status", "sent", "at")
            lines = [json.dumps({key: getattr(request, key) for key in keys}) for request in simulator.requests]
            arguments.log.write_text("".join(f"{line}\n" for line in lines))


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.simulator", description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument("--gems", type=Path, help="a folder of .gem files")
    parser.add_argument("--info", type=Path, help="a folder of /info bodies, served byte for byte")
    parser.add_argument("--wheels", type=Path, help="a folder of wheels and sdists")
    parser.add_argument("--log", type=Path, help="written when the process is ended")
    asyncio.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
