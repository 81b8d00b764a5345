"""Reading pages: what is read elsewhere is what would be read here, and a page that costs too much is refused."""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from mirror.errors import UpstreamProtocolError
from mirror.index import page_reader
from mirror.index.page_reader import PageReader
from mirror.isolation.processes import IsolatedProcesses
from mirror.model import Page, UpstreamResponse
from mirror.pypi import FORMAT
from tests.loop_lag import LAG_SECONDS, loop_lag

JSON = "application/vnd.pypi.simple.v1+json"


def response(document: Any) -> UpstreamResponse:
    return UpstreamResponse(
        url="https://index.example/simple/acme/", content_type=JSON, body=json.dumps(document).encode(), etag='"x"'
    )


def page_of(files: int) -> UpstreamResponse:
    entry = {"url": "/f", "hashes": {"sha256": "ab" * 32}, "size": 3, "upload-time": "2024-01-01T00:00:00.5Z"}
    return response(
        {
            "meta": {"api-version": "1.1"},
            "name": "acme",
            "versions": ["1.0"],
            "files": [{**entry, "filename": f"acme-{n}.0.tar.gz", "yanked": "why", "x": [1]} for n in range(files)],
        }
    )


@pytest.fixture
async def reader() -> AsyncIterator[PageReader]:
    isolated = IsolatedProcesses()
    yield PageReader(FORMAT, isolated)
    await isolated.close()


async def test_a_page_read_elsewhere_is_the_same(reader: PageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    page, content = Page("project", "acme"), page_of(4500)
    expected = FORMAT.parse(page, content)
    monkeypatch.setattr(page_reader, "ISOLATED_PAGE_BYTES", 1000)
    monkeypatch.setattr(page_reader, "LARGE_PAGE_BYTES", 100)
    assert await reader.project(page, content) == expected


async def test_a_list_read_elsewhere_is_the_same(reader: PageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = [{"name": f"Project.{n}", "_last-serial": n} for n in range(30_000)]
    content = response({"meta": {"api-version": "1.1", "_last-serial": 9}, "projects": listed})
    expected = FORMAT.parse_names(content)
    monkeypatch.setattr(page_reader, "ISOLATED_PAGE_BYTES", 1000)
    monkeypatch.setattr(page_reader, "LARGE_PAGE_BYTES", 100)
    assert await reader.names(content) == expected


async def test_what_is_no_page_is_the_upstreams_fault_wherever_it_is_read(
    reader: PageReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(page_reader, "ISOLATED_PAGE_BYTES", 1)
    monkeypatch.setattr(page_reader, "LARGE_PAGE_BYTES", 1)
    with pytest.raises(UpstreamProtocolError):
        await reader.project(Page("project", "acme"), response(["no page"]))


async def test_a_page_that_takes_too_long_is_refused(reader: PageReader, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_reader, "ISOLATED_PAGE_BYTES", 1000)
    reader._isolated._call_seconds = 0.001
    with pytest.raises(UpstreamProtocolError, match="cannot be read: it takes longer than"):
        await reader.project(Page("project", "acme"), page_of(5000))


async def test_the_largest_page_does_not_keep_the_event_loop_waiting(reader: PageReader) -> None:
    content = page_of(60_000)
    assert len(content.body) > page_reader.ISOLATED_PAGE_BYTES
    async with loop_lag() as lag:
        project = await reader.project(Page("project", "acme"), content)
    assert len(project.files) == 60_000
    assert lag.busy < LAG_SECONDS
