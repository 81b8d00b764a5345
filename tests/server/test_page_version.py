"""What rendered pages look like, so that none is served from disk which an earlier version of the renderers made."""

import hashlib

import msgspec
from yarl import URL

from mirror.index.packing import PAGES_VERSION
from mirror.model import Names, Page, UpstreamResponse
from mirror.pypi import index, pages
from mirror.pypi.routes import advertised
from mirror.server.page_saver import PageFacts, SavedStamp

EXPECTED = {
    "0.1.0-1": "975dd7b0167289ff8eef772c84d9c9adcd7909e58a2bb8cdbd094cdd71e38dfc",
}
"""Version → digest of what the renderers make of the sample. Add a line, with another version, when it changes."""

SAMPLE = {
    "meta": {"api-version": "1.4", "_last-serial": 7},
    "name": "six",
    "project-status": {"status": "deprecated", "reason": "old"},
    "versions": ["1.0", "2.0"],
    "unknown": {"kept": True},
    "files": [
        {
            "filename": f"six-{version}-py3-none-any.whl",
            "url": f"../../files/six-{version}-py3-none-any.whl",
            "hashes": {"sha256": version * 21 + "0", "md5": "0" * 32},
            "size": 1234,
            "upload-time": "2025-01-02T03:04:05.678901Z",
            "requires-python": ">=3.8",
            "yanked": yanked,
            "core-metadata": metadata,
            "provenance": "https://index.example/integrity/six",
            "gpg-sig": True,
        }
        for version, yanked, metadata in [("1.0", "broken & <bad>", {"sha256": "1" * 64}), ("2.0", False, False)]
    ],
}


def test_another_look_of_pages_has_another_version() -> None:
    response = UpstreamResponse(
        url=str(URL("https://index.example/simple/six/")),
        content_type=pages.JSON_TYPE,
        body=msgspec.json.encode(SAMPLE),
    )
    project = advertised(pages.parse_simple(Page("project", "six"), response))
    listed = Names(serials={"acme": None, "six": 7}, display={"six": "Six<"}, serial=9)
    made = [
        pages.render_json(project, lambda file: file.filename, lambda file: file.version),
        pages.render_html(project, lambda file: file.filename, lambda file: file.version),
        index.render_names_json(listed),
        index.render_names_html(listed),
        repr([PageFacts.__struct_fields__, SavedStamp.__struct_fields__]).encode(),
    ]
    digest = hashlib.sha256(b"\0".join(made)).hexdigest()
    assert EXPECTED.get(PAGES_VERSION) == digest, "raise the number in mirror.index.packing.PAGES_VERSION"
