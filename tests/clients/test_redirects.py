"""uv, gem and bundler against a mirror that redirects files to an object store."""

import sys
from pathlib import Path

import pytest

from tests import objects
from tests.builders import wheel
from tests.clients.python import running, uv
from tests.clients.ruby import Ruby
from tests.genuine import GEMS
from tests.objects_faults import faulty
from tests.serving import repositories, serving
from tests.simulator import Simulator

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

LARGE = wheel("large", "1.0", size=300_000)
GEMFILE = 'gem "sinatra"\n'


async def test_uv_gem_and_bundler_follow_redirects_and_verify_what_they_get(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(LARGE)
    simulator.load_genuine(GEMS)
    table = objects.table("s3")
    async with faulty(table["endpoint"]) as store:
        blobs = table | {"endpoint": store.url, "redirect": "1KB"}
        async with serving(tmp_path / "data", repositories(simulator), blobs=blobs) as mirror:
            for time in ("miss", "hit"):
                await running(
                    uv(), "pip", "install", "--no-cache", "--target", tmp_path / time, "--python", sys.executable,
                    "--index-url", f"{mirror.url}simple/", "large==1.0",
                )  # fmt: skip
                with Ruby().home(mirror.url) as home:
                    await home.bundle("install", gemfile=GEMFILE)
                    await home.run("gem", "install", "sinatra")
                    await home.run("gem", "fetch", "sinatra")
                    assert (home.place / "sinatra-4.1.1.gem").read_bytes() == (GEMS / "sinatra-4.1.1.gem").read_bytes()
        assert (tmp_path / "hit" / "large" / "__init__.py").exists()
        signed = [path for path in store.paths if path.startswith("GET") and "X-Amz-Signature" in path]
    assert any(LARGE.sha256 in path for path in signed)
    assert len({path.partition("?")[0] for path in signed}) > 3  # gems as well
