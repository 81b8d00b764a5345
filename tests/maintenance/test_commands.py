"""`mirror verify`, `sweep`, `backup` and `restore`, as a user runs them."""

import asyncio
import sys
from pathlib import Path

from tests.builders import wheel
from tests.maintenance.stores import stored
from tests.serving import repositories, spawned
from tests.simulator import Simulator


async def run(*words: str | Path) -> tuple[int, str, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )  # fmt: skip
    said, complained = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode(), complained.decode()


async def test_the_commands_work_beside_a_mirror_that_serves(tmp_path: Path, simulator: Simulator) -> None:
    data = tmp_path / "data"
    built = [wheel("six", f"1.{number}", size=100_000) for number in range(5)]
    for one in built:
        simulator.publish(one)
    async with spawned(data, repositories(simulator), store={"min_age": "0s"}) as mirror:
        for one in built:
            assert (await mirror.get(f"/packages/six/{one.filename}")).status == 200
        path = data / "blobs" / built[0].sha256[:2] / built[0].sha256
        path.write_bytes(built[0].content[:-1] + b"!")
        config = ["--config", str(data.with_suffix(".toml"))]
        status, said, complained = await run("verify", *config)
        assert (status, complained) == (0, "")
        assert said.splitlines()[0] == f"damaged: {built[0].filename}: fetched again"
        assert path.read_bytes() == built[0].content
        status, said, _ = await run("sweep", "--dry-run", "--limit", "250KB", *config)
        assert (status, said.count("would go: ")) == (0, 3)
        assert len(stored(tmp_path)) == 5
        status, said, _ = await run("sweep", "--limit", "250KB", *config)
        assert (status, said.count("gone: ")) == (0, 3)
        assert len(stored(tmp_path)) == 2
        assert (await run("backup", tmp_path / "backup", *config))[0] == 0
        assert (await run("restore", tmp_path / "backup", "--data-dir", tmp_path / "again"))[0] == 0
        assert (await run("restore", tmp_path / "backup", "--data-dir", tmp_path / "again"))[0] == 1
        assert (await mirror.get(f"/packages/six/{built[0].filename}")).body == built[0].content
