"""The client of object stores: settings and credentials, the breaker, and what errors never show."""

import logging
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from mirror.blobs import objects_client
from mirror.blobs.objects_client import BREAKER_FAILURES, BREAKER_SECONDS, Breaker, ObjectClient
from mirror.blobs.objects_connect import connect
from mirror.config.blobs import BlobsSettings
from mirror.errors import ConfigError, StorageUnavailable
from tests import objects
from tests.objects_faults import faulty


@pytest.mark.parametrize(
    ("table", "wrong"),
    [
        ({"url": "s3://key:secret@bucket"}, "without credentials"),
        ({"url": "https://bucket.example"}, "s3://bucket/prefix"),
        ({"url": "s3://bucket/../other"}, "s3://bucket/prefix"),
        ({"url": "s3://bucket?key=secret"}, "without credentials"),
        ({"url": "s3://bucket", "endpoint": "https://key:secret@objects.example"}, "without credentials"),
        ({"url": "s3://bucket", "endpoint": "objects.example"}, "absolute http:// or https:// URL"),
        ({"url": "s3://bucket", "redirect": "always"}, '"never", or a size'),
        ({"redirect": "16MB"}, "no url"),
        ({"url": "s3://bucket", "cache": "much"}, "should be a size"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_an_error_that_shows_no_secret(table: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError) as refused:
        BlobsSettings.model_validate(table)
    (fault,) = refused.value.errors(include_input=False, include_url=False)
    assert wrong in fault["msg"]
    assert "secret" not in fault["msg"]


def test_a_url_is_a_bucket_and_a_prefix() -> None:
    location = BlobsSettings(url="gs://some-bucket/team/files/").location
    assert location == ("gs", "some-bucket", "team/files")
    assert BlobsSettings(url="az://container").location == ("az", "container", "")
    assert BlobsSettings().location is None


def test_a_breaker_lets_one_request_find_out() -> None:
    now = 0.0
    breaker = Breaker(lambda: now)
    for _ in range(BREAKER_FAILURES):
        breaker.check()
        breaker.record(False)
    assert breaker.is_open
    with pytest.raises(StorageUnavailable):
        breaker.check()
    now += BREAKER_SECONDS
    breaker.check()  # the one
    with pytest.raises(StorageUnavailable):
        breaker.check()
    breaker.record(True)
    breaker.check()
    assert not breaker.is_open


async def test_what_goes_wrong_is_told_without_urls_and_keys(caplog: pytest.LogCaptureFixture) -> None:
    table = objects.table("s3")
    caplog.set_level(logging.DEBUG)
    async with faulty(table["endpoint"]) as store:
        client = ObjectClient(connect(BlobsSettings.model_validate(table | {"endpoint": store.url})))
        store.fail = lambda method, path: True
        with pytest.raises(StorageUnavailable) as failed:
            await client.create("blobs/x", b"data")
    said = "\n".join([str(failed.value), *(one.getMessage() for one in caplog.records if one.name != "aiohttp.access")])
    assert "503" in said
    for secret in (store.url, "X-Amz", "AWS4", *objects.S3_KEYS.values()):
        assert secret not in said


async def test_a_store_that_does_not_answer_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(objects_client, "ANSWER_SECONDS", 0.2)
    table = objects.table("s3")
    async with faulty(table["endpoint"]) as store:
        client = ObjectClient(connect(BlobsSettings.model_validate(table | {"endpoint": store.url})))
        store.hang = lambda method, path: True
        for work in (client.head("x"), client.create("x", b""), client.content("x"), client.delete(["x"])):
            with pytest.raises(StorageUnavailable):
                await work
        assert client.breaker.is_open


def test_a_profile_of_a_file_has_the_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mirror.blobs.objects_connect import _shared_credentials

    file = tmp_path / "credentials"
    file.write_text("[default]\naws_access_key_id = a\naws_secret_access_key = b\n[ci]\naws_access_key_id = c\n")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID", raising=False)
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    assert _shared_credentials() == {}
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    assert _shared_credentials() == {"access_key_id": "a", "secret_access_key": "b"}
    for name in ("ci", "none"):
        monkeypatch.setenv("AWS_PROFILE", name)
        with pytest.raises(ConfigError, match="AWS_PROFILE"):
            _shared_credentials()
