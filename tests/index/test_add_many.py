"""Files that are added together are checked as if they came one after the other; what was reported is there."""

import asyncio
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from mirror.config import Settings
from mirror.errors import Conflict
from mirror.index.additions import AddedFile, AlreadyUploaded, NewFile
from mirror.service.open import Mode, open_mirror
from tests.builders import Built, gem, wheel
from tests.objects import chosen_blobs
from tests.postgres import chosen_catalog
from tests.serving import write_settings

REPOSITORIES = {
    "pypi": {"format": "pypi", "upstreams": []},
    "rubygems": {"format": "rubygems", "upstreams": []},
}


def settings_of(data: Path) -> Settings:
    stores = chosen_catalog(data) | chosen_blobs(data)
    return Settings.model_validate({"data_dir": str(data), "repositories": REPOSITORIES, **stores})


async def added(data: Path, folder: Path, repository: str, files: Sequence[tuple[str, bytes]]) -> list[AddedFile]:
    folder.mkdir(exist_ok=True)
    async with open_mirror(settings_of(data), Mode.BESIDE) as opened:
        publisher = opened.publishers[repository]
        new = []
        for number, (name, content) in enumerate(files):
            (folder / str(number)).mkdir(exist_ok=True)
            path = folder / str(number) / name
            path.write_bytes(content)
            kept = await publisher.inspect(name, path)
            new.append(NewFile(path=path, kept=kept, by="test", origin=str(path), stays=True))
        return await publisher.add_all(new)


def file(built: Built, name: str = "") -> tuple[str, bytes]:
    return name or built.filename, built.content


async def test_files_that_are_added_together_are_checked_against_each_other(tmp_path: Path) -> None:
    six, other, seven = wheel("six", "1.0"), wheel("six", "1.0", size=5_000), wheel("seven", "1.0")
    platforms = [gem("rack", "3.0", platform=platform) for platform in ("java", "ruby")]
    outcomes = await added(
        tmp_path / "data", tmp_path / "files", "pypi", [file(six), file(six), file(other), file(seven)]
    )
    first, again, different, last = outcomes
    assert first.change is not None
    assert first.change.serial is not None
    assert again.change is not None
    assert (again.change.serial, again.change.upload) == (None, first.change.upload)
    assert isinstance(different.error, AlreadyUploaded)
    assert last.change is not None
    gems = await added(tmp_path / "data", tmp_path / "gems", "rubygems", [file(one) for one in platforms])
    assert [one.error for one in gems] == [None, None]
    moments = [one.change.upload.uploaded for one in gems if one.change is not None]
    assert moments[0] < moments[1], "files of one project come one after the other"
    async with open_mirror(settings_of(tmp_path / "data"), Mode.READ_ONLY) as opened:
        for repository, names in (("pypi", [six, seven]), ("rubygems", platforms)):
            rows = await opened.catalog.uploads.all(repository)
            assert {row.upload.filename for row in rows} == {one.filename for one in names}
            for row in rows:
                assert await opened.blobs.find(row.upload.digest) is not None
                assert await opened.blobs.find(row.sidecar) is not None


async def test_another_spelling_in_the_same_batch_is_refused(tmp_path: Path) -> None:
    dashes, dots = wheel("a-b", "1.0"), wheel("a-b", "1.0", size=5_000)
    spelled = file(dots, dots.filename.replace("a_b", "a.b"))
    one, two = await added(tmp_path / "data", tmp_path / "files", "pypi", [file(dashes), spelled])
    assert one.error is None
    assert isinstance(two.error, Conflict)


async def test_a_file_that_changes_while_it_is_added_is_refused(tmp_path: Path) -> None:
    built = wheel("six", "1.0")
    path = tmp_path / built.filename
    path.write_bytes(built.content)
    async with open_mirror(settings_of(tmp_path / "data"), Mode.BESIDE) as opened:
        kept = await opened.publishers["pypi"].inspect(built.filename, path)
        path.write_bytes(built.content + b"more")
        new = NewFile(path=path, kept=kept, by="test", origin="", stays=True)
        (outcome,) = await opened.publishers["pypi"].add_all([new])
        assert isinstance(outcome.error, Conflict)
        assert await opened.catalog.uploads.all("pypi") == []
    assert path.exists()


async def test_what_was_reported_as_added_outlives_a_kill_and_the_rest_is_added_the_next_time(tmp_path: Path) -> None:
    folder = tmp_path / "gems"
    folder.mkdir()
    built = [gem(f"gem{number // 8}", f"1.{number % 8}.0") for number in range(260)]
    for one in built:
        (folder / one.filename).write_bytes(one.content)
    words = ["-m", "mirror", "add", str(folder), "--config", str(write_settings(tmp_path / "data", REPOSITORIES))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-u", *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    assert process.stdout is not None
    said = [await process.stdout.readline()]
    process.send_signal(signal.SIGKILL)
    said += (await process.stdout.read()).splitlines()
    await process.wait()
    reported = {line.split()[-1].decode() for line in said if line.startswith(b"added: ")}
    assert 0 < len(reported) < len(built)
    async with open_mirror(settings_of(tmp_path / "data"), Mode.READ_ONLY) as opened:
        assert reported <= {row.upload.filename for row in await opened.catalog.uploads.all("rubygems")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    said = (await process.communicate())[0].splitlines()
    assert process.returncode == 0
    assert len(said) == len(built)
    async with open_mirror(settings_of(tmp_path / "data"), Mode.READ_ONLY) as opened:
        rows = await opened.catalog.uploads.all("rubygems")
        assert {row.upload.filename for row in rows} == {one.filename for one in built}
