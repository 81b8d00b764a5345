"""Files of our own: what they hide and what they are merged with, who notices them, and what they survive."""

import asyncio
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from mirror.errors import UnknownFile
from mirror.index.additions import AlreadyUploaded
from tests.builders import Built, gem, sdist, wheel
from tests.objects import local_files
from tests.serving import Client, Reply, Serving, repositories, serving, spawned
from tests.simulator import Simulator
from tests.uploading import make_token, push, upload

JSON = "application/vnd.pypi.simple.v1+json"


async def files(mirror: Client, name: str = "acme") -> dict[str, str]:
    """File name → SHA-256, as the simple page says."""
    reply = await mirror.get(f"simple/{name}/", Accept=JSON)
    assert reply.status == 200, reply.text
    return {file["filename"]: file["hashes"]["sha256"] for file in reply.json()["files"]}


async def gems(mirror: Client, name: str = "acme") -> list[str]:
    """The versions on the info page, after making sure that the list of versions says the same."""
    import hashlib

    info = await mirror.get(f"info/{name}")
    assert info.status == 200, info.text
    lines = [line for line in (await mirror.get("versions")).text.splitlines() if line.startswith(f"{name} ")]
    assert lines[-1].split()[-1] == hashlib.md5(info.body).hexdigest()
    return [line.split()[0] for line in info.text.splitlines()[1:]]


async def send(mirror: Client, secret: str, built: Built) -> Reply:
    """Upload a file of either kind."""
    if built.filename.endswith(".gem"):
        return await push(mirror, secret, built.content)
    return await upload(mirror, secret, built)


async def add(mirror: Serving, *builts: Built) -> None:
    """Upload files, which have to be taken."""
    secret = await make_token(mirror)
    for built in builts:
        reply = await send(mirror, secret, built)
        assert reply.status == 200, reply.text


# What is hidden, and what is merged


async def test_an_upload_hides_upstreams_project_and_its_name_is_never_asked(
    simulator: Simulator, tmp_path: Path
) -> None:
    for built in (wheel("acme", "77.7.7"), wheel("six", "1.16")):
        simulator.publish(built)
    for built in (gem("acme", "77.7.7"), gem("rack", "3.0")):
        simulator.push(built)
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await add(mirror, mine := wheel("acme", "1.0"), gem("acme", "1.0"))
        assert await files(mirror) == {mine.filename: mine.sha256}
        assert list(await files(mirror, "six")) == ["six-1.16-py3-none-any.whl"]
        assert await gems(mirror) == ["1.0"]
        assert await gems(mirror, "rack") == ["3.0"]
        for path in (
            "simple/acme/", "pypi/acme/json", "pypi/acme/77.7.7/json", "packages/acme/acme-77.7.7-py3-none-any.whl",
            "packages/acme/acme-77.7.7-py3-none-any.whl.metadata", "info/acme", "gems/acme-77.7.7.gem",
            "quick/Marshal.4.8/acme-77.7.7.gemspec.rz", "api/v1/gems/acme.json", "api/v1/versions/acme.json",
            "api/v2/rubygems/acme/versions/77.7.7.json",
        ):  # fmt: skip
            for demand in ("max-age=600", "no-cache"):
                reply = await mirror.get(path, Cache_Control=demand)
                assert b"77.7.7" not in reply.body or reply.status == 404, path
        names = (await mirror.get("simple/", Accept=JSON)).json()["projects"]
        assert [entry["name"] for entry in names] == ["acme", "six"]
        assert simulator.asked(path="*acme*") == []


async def test_upstreams_project_that_was_there_before_the_upload_is_hidden_by_it(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(theirs := wheel("acme", "9.0"))
    simulator.push(gem("acme", "9.0"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        assert list(await files(mirror)) == [theirs.filename]
        assert await gems(mirror) == ["9.0"]
        await mirror.get(f"packages/acme/{theirs.filename}")
        await add(mirror, mine := wheel("acme", "1.0"), gem("acme", "1.0"))
        assert list(await files(mirror)) == [mine.filename]
        assert await gems(mirror) == ["1.0"]
        assert (await mirror.get(f"packages/acme/{theirs.filename}")).status == 404
        assert (await mirror.get("gems/acme-9.0.gem")).status == 404


async def test_a_name_stays_ours_after_its_last_file_is_deleted_until_it_is_released(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(theirs := wheel("acme", "9.0"))
    simulator.push(gem("acme", "9.0"))
    reserved = ("simple/acme/", "pypi/acme/json", f"packages/acme/{theirs.filename}", "info/acme", "gems/acme-9.0.gem")
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await add(mirror, mine := wheel("acme", "1.0"), gem("acme", "1.0"))
        await mirror.mirror.publishers["pypi"].delete(mine.filename)
        await mirror.mirror.publishers["rubygems"].delete("acme-1.0.gem")
        for path in reserved:
            assert (await mirror.get(path)).status == 404, path
        assert "mirror release acme" in (await mirror.get("simple/acme/")).text
        assert "acme" not in (await mirror.get("simple/")).text
        assert "acme" not in (await mirror.get("versions")).text
        assert "acme" not in (await mirror.get("names")).text
        asked = simulator.count("/simple/acme/")
        assert asked == 0
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:  # and in another process
        for path in reserved:
            assert (await mirror.get(path)).status == 404, path
        for repository in ("pypi", "rubygems"):
            serial = await mirror.mirror.catalog.claims.release(repository, "acme", mirror.mirror.clock())
            assert serial
            await mirror.mirror.journal.look(mirror.mirror.rebuild)
        assert list(await files(mirror)) == [theirs.filename]
        assert await gems(mirror) == ["9.0"]
        assert "acme" in (await mirror.get("simple/")).text
        await add(mirror, newer := wheel("acme", "1.1"))  # ours again
        assert list(await files(mirror)) == [newer.filename]
        await mirror.mirror.publishers["pypi"].delete(newer.filename)
        assert (await mirror.get("simple/acme/")).status == 404


async def test_a_private_name_is_never_asked_even_before_its_first_upload(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("acme-tools", "9.0"))
    simulator.push(gem("acme-tools", "9.0"))
    private = {"private": ["acme-*"]}
    async with serving(tmp_path / "data", repositories(simulator, pypi=private, rubygems=private)) as mirror:
        for path in ("simple/acme-tools/", "pypi/acme-tools/json", "info/acme-tools", "gems/acme-tools-9.0.gem"):
            assert (await mirror.get(path)).status == 404
        assert "acme" not in (await mirror.get("versions")).text
        assert "acme" not in (await mirror.get("simple/")).text
        await add(mirror, wheel("acme-tools", "1.0"), gem("acme-tools", "1.0"))
        assert list(await files(mirror, "acme-tools")) == ["acme_tools-1.0-py3-none-any.whl"]
        assert await gems(mirror, "acme-tools") == ["1.0"]
        assert "acme-tools" in (await mirror.get("simple/")).text
    assert simulator.asked(path="*acme-tools*") == []


async def test_in_a_union_both_show_and_the_local_file_wins(
    simulator: Simulator, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    theirs = [wheel("acme", "1.0"), wheel("acme", "2.0", summary="Theirs")]
    mine = [wheel("acme", "1.0", files={"acme/patch.py": b""}), wheel("acme", "1.0.post1", summary="Ours")]
    for built in theirs:
        simulator.publish(built)
    for version in ("1.0", "2.0"):
        simulator.push(gem("acme", version))
    union = {"union": ["acme"]}
    async with serving(tmp_path / "data", repositories(simulator, pypi=union, rubygems=union)) as mirror:
        with caplog.at_level(logging.WARNING):
            await add(mirror, *mine, gem("acme", "1.1"))
            assert await files(mirror) == {
                mine[0].filename: mine[0].sha256,
                mine[1].filename: mine[1].sha256,
                theirs[1].filename: theirs[1].sha256,
            }
        assert any("other bytes under that name" in record.getMessage() for record in caplog.records)
        assert sorted(await gems(mirror)) == ["1.0", "1.1", "2.0"]
        for built in (*mine, theirs[1]):
            assert (await mirror.get(f"packages/acme/{built.filename}")).body == built.content
        for version, summary in (("2.0", "Theirs"), ("1.0.post1", "Ours")):
            assert (await mirror.get(f"pypi/acme/{version}/json")).json()["info"]["summary"] == summary
        assert (await mirror.get("pypi/acme/json")).json()["info"]["version"] == "2.0"
        assert (await mirror.get("gems/acme-2.0.gem")).status == 200


async def test_the_unions_gem_follows_both_sides(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("acme", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator, rubygems={"union": ["acme"]})) as mirror:
        await add(mirror, gem("acme", "1.1"))
        simulator.push(gem("acme", "2.0"))
        async with asyncio.timeout(20):
            # As clients do: the list of versions first, and the page when its MD5 is another.
            while "2.0" not in (await mirror.get("versions", Cache_Control="no-cache")).text:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert sorted(await gems(mirror)) == ["1.0", "1.1", "2.0"]


async def test_uploads_are_served_while_the_upstream_is_down(simulator: Simulator, tmp_path: Path) -> None:
    simulator.push(gem("rack", "3.0"))
    async with serving(tmp_path / "data", repositories(simulator)) as mirror:
        await mirror.get("versions")
        await simulator.go_down()
        await add(mirror, built := wheel("acme", "1.0"), gem("acme", "1.0"))
        assert list(await files(mirror)) == [built.filename]
        assert await gems(mirror) == ["1.0"]
        assert "rack 3.0" in (await mirror.get("versions")).text


# Two at the same time


async def test_of_two_uploads_of_one_name_at_the_same_time_one_is_kept(tmp_path: Path) -> None:
    variants = [wheel("acme", "1.0", files={"acme/variant.py": str(number).encode()}) for number in range(8)]
    async with serving(tmp_path / "data", {"pypi": {"format": "pypi", "upstreams": []}}) as mirror:
        secret = await make_token(mirror)
        replies = await asyncio.gather(*(upload(mirror, secret, built) for built in variants))
        assert sorted(reply.status for reply in replies) == [200] + [400] * 7
        winner = variants[[reply.status for reply in replies].index(200)]
        assert await files(mirror) == {winner.filename: winner.sha256}
        assert (await mirror.get(f"packages/acme/{winner.filename}")).body == winner.content
        sidecar = (await mirror.get(f"packages/acme/{winner.filename}.metadata")).body
        held = {held.digest async for held in mirror.mirror.blobs.walk()}
        assert len(held) == 2, "the losers' bytes are gone"
        assert sidecar == winner.metadata


async def test_a_name_taken_by_another_process_is_not_overwritten(tmp_path: Path) -> None:
    first, second = wheel("acme", "1.0"), wheel("acme", "1.0", files={"acme/more.py": b""})
    async with serving(tmp_path / "data", {"pypi": {"format": "pypi", "upstreams": []}}) as mirror:
        writer = mirror.mirror.publishers["pypi"]
        await add(mirror, first)
        # As if the catalog did not know of it yet: the record is what decides.
        await mirror.mirror.store.database.write(("DELETE FROM uploads", ()))
        path = writer.incoming / "second"
        path.write_bytes(second.content)
        kept = await writer.inspect(second.filename, path)
        with pytest.raises(AlreadyUploaded):
            await writer.add(path, kept, by="somebody", origin="elsewhere")
        path.write_bytes(first.content)
        change = await writer.add(path, await writer.inspect(first.filename, path), by="somebody", origin="elsewhere")
        assert change.upload.origin == "127.0.0.1", "the record that was there stays"
        assert await files(mirror) == {first.filename: first.sha256}


async def test_changes_to_what_is_not_there_are_errors(tmp_path: Path) -> None:
    async with serving(tmp_path / "data", {"pypi": {"format": "pypi", "upstreams": []}}) as mirror:
        writer = mirror.mirror.publishers["pypi"]
        for change in (writer.yank, writer.unyank, writer.delete):
            with pytest.raises(UnknownFile):
                await change("acme-1.0.tar.gz")
        await add(mirror, built := wheel("acme", "1.0"))
        await writer.delete(built.filename)
        for change in (writer.yank, writer.unyank, writer.delete):
            with pytest.raises(UnknownFile):
                await change(built.filename)


async def test_a_file_that_upstream_has_as_well_keeps_its_bytes_when_ours_is_deleted(
    simulator: Simulator, tmp_path: Path
) -> None:
    simulator.publish(built := wheel("acme", "1.0"))
    async with serving(tmp_path / "data", repositories(simulator, pypi={"union": ["*"]})) as mirror:
        await mirror.get(f"packages/acme/{built.filename}")
        await add(mirror, built)
        await mirror.mirror.publishers["pypi"].delete(built.filename)
        simulator.forget()
        assert (await mirror.get(f"packages/acme/{built.filename}")).body == built.content
        assert simulator.asked(path="*.whl") == []


# Commands beside a running server


async def command(data: Path, *words: str) -> str:
    """What `mirror …` prints; it has to succeed."""
    settings = ["--config", str(data.with_suffix(".toml"))]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "mirror", *words, *settings,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    out, said = await process.communicate()
    assert process.returncode == 0, said.decode()
    return out.decode()


async def until(mirror: Client, path: str, true: Any) -> None:
    async with asyncio.timeout(20):
        while not true((await mirror.get(path)).text):  # noqa: ASYNC110  # another process changes it
            await asyncio.sleep(0.1)


async def test_a_running_server_notices_what_commands_change(simulator: Simulator, tmp_path: Path) -> None:
    simulator.publish(wheel("acme", "9.0"))
    simulator.push(gem("acme", "9.0"))
    shelf = tmp_path / "shelf/deep"
    shelf.mkdir(parents=True)
    for built in (wheel("acme", "1.0"), sdist("acme", "1.0"), gem("acme", "1.0"), gem("acme", "1.1")):
        (shelf / built.filename).write_bytes(built.content)
    (shelf / "README.md").write_text("no distribution")
    data = tmp_path / "data"
    async with spawned(data, repositories(simulator)) as mirror:
        await mirror.get("versions")
        assert "acme-9.0" in (await mirror.get("simple/acme/")).text
        assert (await command(data, "add", str(shelf.parent))).count("added: ") == 4
        await until(mirror, "simple/acme/", lambda page: "acme-1.0.tar.gz" in page and "9.0" not in page)
        await until(mirror, "versions", lambda log: "acme -9.0,1.0,1.1" in log or log.count("acme ") > 2)
        assert await gems(mirror) == ["1.0", "1.1"]
        assert (await command(data, "add", str(shelf))).count("already here: ") == 4

        await command(data, "yank", "acme", "1.0", "--repository", "pypi", "--reason", "it leaks")
        await until(mirror, "simple/acme/", lambda page: page.count('data-yanked="it leaks"') == 2)
        await command(data, "unyank", "acme", "1.0", "--repository", "pypi", "--file", "acme-1.0.tar.gz")
        await until(mirror, "simple/acme/", lambda page: page.count('data-yanked="it leaks"') == 1)
        await command(data, "yank", "acme", "1.1")
        await until(mirror, "info/acme", lambda page: "1.1 " not in page)
        await command(data, "delete", "acme", "1.0", "--repository", "rubygems", "--yes")
        await until(mirror, "info/acme", lambda page: page == "---\n")
        assert (await mirror.get("gems/acme-1.0.gem")).status == 404
        simulator.forget()
    assert simulator.asked(path="*acme-9.0*") == []


# What an answer is worth


async def test_what_was_answered_survives_kill_9(tmp_path: Path) -> None:
    both = {name: {"format": name, "upstreams": []} for name in ("pypi", "rubygems")}
    data = tmp_path / "data"
    answered: list[Built] = []
    builts = [built for n in range(60) for built in (wheel("acme", f"1.{n}", size=20_000), gem("acme", f"1.{n}"))]
    async with spawned(data, both) as mirror:
        secret = (await command(data, "token", "create", "--name", "t", "--right", "upload")).strip().splitlines()[-1]

        async def take_down(built: Built) -> None:
            reply = await send(mirror, secret, built)
            if reply.status == 200:
                answered.append(built)
                if len(answered) == 25:
                    os.kill(mirror.pid, signal.SIGKILL)

        await asyncio.gather(*(take_down(built) for built in builts), return_exceptions=True)
        assert await mirror.process.wait() == -signal.SIGKILL
    assert 25 <= len(answered) < len(builts)
    async with spawned(data, both) as mirror:
        assert list((local_files(data) / "incoming").iterdir()) == []
        listed, pushed = await files(mirror), await gems(mirror)
        for built in answered:
            ruby = built.filename.endswith(".gem")
            assert built.version in pushed if ruby else listed[built.filename] == built.sha256
            path = f"gems/{built.filename}" if ruby else f"packages/acme/{built.filename}"
            assert (await mirror.get(path)).body == built.content
        # Whoever had no answer tries again, and it works.
        for built in builts:
            reply = await send(mirror, secret, built)
            assert reply.status == 200, reply.text
        assert len(await files(mirror)) == 60
        assert len(await gems(mirror)) == 60
