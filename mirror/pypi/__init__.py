"""Python: the simple API, the JSON API, wheels and sdists.

names (names, versions, file names), versions (for policy), pages (the simple pages of one project), legacy (the JSON
API), index (the list of projects), documents (JSON or HTML before it is interpreted), metadata (core metadata), wheel
(metadata out of a wheel anywhere), package (files that are to be published), upload and routes (HTTP), summary (for
people), clients (paths, and lines to copy), static (a tree of files), doctor (checks of any index).

`ECOSYSTEM` is everything that the rest of the mirror knows of it.
"""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from yarl import URL

from mirror.errors import DigestMismatch, Invalid, UpstreamProtocolError
from mirror.index.ecosystem import Ecosystem, StaticLayout, SummaryReader
from mirror.model import AcceptedUpload, Body, File, Format, Names, Page, Project, UpstreamRequest, UpstreamResponse
from mirror.pypi import clients, index, names, pages, versions

if TYPE_CHECKING:
    from mirror.doctor import ExamineOptions, Finding, IndexClient

__all__ = ["ECOSYSTEM", "FORMAT"]


class _PyPI:
    """Python's documents and files, for the core."""

    name = "pypi"
    sidecar_kind = "metadata"

    def canonical(self, name: str) -> str:
        return names.canonical(name)

    def request_for(self, base: URL, page: Page) -> UpstreamRequest:
        return pages.request_for(base, page)

    def parse(self, page: Page, response: UpstreamResponse) -> Project:
        return pages.parse_simple(response, page.name)

    def parse_names(self, response: UpstreamResponse) -> Names:
        return index.parse_names(response)

    def revision(self, body: bytes) -> str:
        return hashlib.sha256(body).hexdigest()

    def has_sidecar(self, file: File) -> bool:
        return file.filename.endswith(".whl")

    def sidecar_name(self, file: File) -> str:
        return f"{file.filename}.metadata"

    def request_for_sidecar(self, base: URL, file: File) -> UpstreamRequest | None:
        from mirror.pypi.metadata import METADATA_LIMIT  # imported here and below, as serving needs no email parser

        if not file.extra.get("core-metadata") or not file.url:
            return None
        path, question, query = file.url.partition("?")
        return UpstreamRequest(url=URL(f"{path}.metadata{question}{query}"), limit=METADATA_LIMIT)  # PEP 658

    def check_sidecar(self, file: File, content: bytes) -> None:
        from mirror.pypi import wheel

        promised = file.extra.get("core-metadata")
        if isinstance(promised, dict) and (expected := promised.get("sha256")):
            actual = hashlib.sha256(content).hexdigest()
            if actual != expected:
                raise DigestMismatch(self.sidecar_name(file), "sha256", expected, actual)
        try:
            wheel.check_identity(file.filename, content)
        except Invalid as error:
            raise UpstreamProtocolError(f"{self.sidecar_name(file)} does not fit its file: {error}") from error

    async def make_sidecar(self, file: File, body: Body) -> bytes:
        from mirror.pypi import wheel

        return await wheel.read_metadata(file, body)

    def inspect(self, filename: str, path: Path) -> File:
        from mirror.pypi import package

        return package.inspect(filename, path)

    def accept(self, inspected: File, attested: bool) -> AcceptedUpload:
        extra = {key: value for key, value in inspected.extra.items() if key != "metadata"}
        # Simple pages show SHA-256 alone: pip gives up at the name of an algorithm that hashlib does not know.
        extra["digests"] = {name: digest for name, digest in inspected.digests.items() if name != "sha256"}
        if attested:
            extra["provenance"] = inspected.filename
        return AcceptedUpload(
            project=names.parse_filename(inspected.filename).project,
            file=msgspec.structs.replace(inspected, digests={"sha256": inspected.digests["sha256"]}, extra=extra),
            sidecar=inspected.extra["metadata"].encode(),
        )


FORMAT: Format = _PyPI()


def _split_version(text: str) -> tuple[str, str | None]:
    return names.canonical_version(text), None


def _summaries() -> SummaryReader:
    from mirror.pypi import summary

    return summary


def _layout() -> StaticLayout:
    from mirror.pypi.static import LAYOUT

    return LAYOUT


async def _examine(client: "IndexClient", url: URL, options: "ExamineOptions") -> "list[Finding] | None":
    from mirror.pypi.doctor import examine

    return await examine(client, url, options)


ECOSYSTEM = Ecosystem(
    format=FORMAT,
    title="Python",
    noun="project",
    index_path=clients.INDEX_PATH,
    log_path=None,
    suffixes=(".whl", ".tar.gz", ".zip"),
    pin_operator="==",
    lock_files_have_urls=True,
    versions=versions,
    split_version=_split_version,
    clients=clients,
    summaries=_summaries,
    layout=_layout,
    examine=_examine,
)
