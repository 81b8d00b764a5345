"""A data directory that an earlier version wrote is opened, and everything in it is answered byte for byte as before.

`tests/data/make_store.py` made the archives, and says what is in them. More than one may lie there.
"""

import base64
import json
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.builders import gem, wheel
from tests.serving import Reply, Serving, serving
from tests.uploading import push, upload

ARCHIVES = sorted((Path(__file__).parent.parent / "data").glob("store-*.tar.xz"))
HOST = {"Host": "mirror.example"}
POLICIES = {"removed": "hide", "yanked": "serve"}
"""What no settings meant then; gems are another matter since."""
OTHER_STATUSES = {"/info/nothing-here": 404}
"""What is answered otherwise since: the list that is held of an upstream says what that has, also offline."""


@dataclass
class OldStore:
    """An unpacked archive: the data directory, its settings, and what the earlier version answered."""

    folder: Path
    settings: dict[str, Any]
    answers: list[dict[str, Any]]

    def body(self, answer: dict[str, Any]) -> bytes:
        return (self.folder / answer["body"]).read_bytes()

    def body_of(self, path: str) -> bytes:
        """The body that the earlier version answered under a path with one representation."""
        (answer,) = (answer for answer in self.answers if answer["path"] == path)
        return self.body(answer)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Serving]:
        """This version's mirror over the data directory, with the same settings and without a network."""
        async with serving(
            self.folder / "data",
            self.settings["repositories"],
            policy=self.settings["policy"],
            policies=POLICIES,
            offline=True,
            allowed_hosts=[HOST["Host"]],
        ) as mirror:
            yield mirror


@pytest.fixture(params=ARCHIVES, ids=lambda path: path.name.split(".")[0])
def old(request: pytest.FixtureRequest, tmp_path: Path) -> OldStore:
    with tarfile.open(request.param) as archive:
        archive.extractall(tmp_path, filter="data")
    settings, answers = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("settings", "requests"))
    return OldStore(tmp_path, settings, answers)


async def versions_from(mirror: Serving, start: int) -> Reply:
    """`/versions` from a byte on, as Bundler asks for it."""
    return await mirror.get("versions", Range=f"bytes={start}-", **HOST)


def test_there_is_a_store_of_an_earlier_version() -> None:
    assert ARCHIVES


async def test_every_page_and_every_file_is_byte_for_byte_the_same(old: OldStore) -> None:
    assert len(old.answers) > 50
    async with old.serving() as mirror:
        for answer in old.answers:
            accept = {"Accept": answer["accept"]} if answer["accept"] else {}
            reply = await mirror.get(answer["path"], **HOST, **accept)
            status = OTHER_STATUSES.get(answer["path"], answer["status"])
            assert reply.status == status, answer["path"]
            if reply.status == 200:
                assert reply.body == old.body(answer), answer["path"]
            expected = dict(answer["headers"]) if status == answer["status"] else {}
            if "specs.4.8" in answer["path"]:
                del expected["Last-Modified"]  # when this process derived it
            assert {name: reply.headers.get(name) for name in expected} == expected, answer["path"]


async def test_versions_goes_on_where_it_ended(old: OldStore) -> None:
    before = old.body_of("/versions")
    async with old.serving() as mirror:
        pushed = await push(mirror, old.settings["tokens"]["all"], gem("acme-gem", "2.0").content)
        assert pushed.status == 200, pushed.text
        rest = await versions_from(mirror, len(before) - 1)
        assert rest.status == 206
        assert rest.body.startswith(before[-1:] + b"acme-gem 2.0 ")
        assert (await mirror.get("versions", **HOST)).body == before + rest.body[1:]


async def test_users_tokens_and_sets_are_still_there(old: OldStore) -> None:
    tokens = old.settings["tokens"]
    async with old.serving() as mirror:
        assert (await upload(mirror, tokens["read"], wheel("acme-own", "3.0"))).status == 403
        assert (await upload(mirror, "mirror_wrong", wheel("acme-own", "3.0"))).status in (401, 403)
        assert (await upload(mirror, tokens["all"], wheel("acme-own", "3.0"))).status == 200
        login = "Basic " + base64.b64encode(b"alice:alice's password").decode()
        key = await mirror.ask("POST", "api/v1/api_key", {"name": "here", "push_rubygem": "true"}, Authorization=login)
        assert key.status == 200, key.text
        assert list(await mirror.mirror.catalog.sets.names()) == ["kept"]
        assert len(await mirror.mirror.catalog.sets.members("kept")) >= 3


async def test_an_old_upload_is_not_overwritten(old: OldStore) -> None:
    async with old.serving() as mirror:
        other = wheel("acme-own", "1.0", summary="Another one")
        refused = await upload(mirror, old.settings["tokens"]["all"], other)
        assert refused.status in (400, 409)
        assert "already exists" in f"{refused.reason} {refused.text}"
