"""Python: the simple API, the JSON API, wheels and sdists.

names (names, versions, file names), versions (for policy), pages (the simple pages of one project), legacy (the JSON
API), index (the list of projects), documents (JSON or HTML before it is interpreted), metadata (core metadata), wheel
(metadata out of a wheel anywhere), package (files that are to be published; strict_zip and sdist read them), provenance
(attestations), upload and routes (HTTP), summary (for people), clients (paths, and lines to copy), static (a tree of
files), doctor (checks of any index).

`ECOSYSTEM` is everything that the rest of the mirror knows of it.
"""

import hashlib
from typing import TYPE_CHECKING

from yarl import URL

from mirror.errors import DigestMismatch, UpstreamProtocolError
from mirror.index.ecosystem import Ecosystem, StaticLayout, SummaryReader
from mirror.model import Body, File, Format, UpstreamRequest
from mirror.pypi import clients, index, names, pages, versions

if TYPE_CHECKING:
    from mirror.doctor import ExamineOptions, Finding, IndexClient

__all__ = ["ECOSYSTEM", "FORMAT"]


def _has_sidecar(file: File) -> bool:
    return names.has_metadata(file)


def _sidecar_name(file: File) -> str:
    return f"{file.filename}.metadata"


def _request_for_sidecar(base: URL, file: File) -> UpstreamRequest | None:
    from mirror.pypi.metadata import METADATA_LIMIT

    if not file.extra.get("core-metadata") or not file.url:
        return None
    path, question, query = file.url.partition("?")
    url = URL(f"{path}.metadata{question}{query}", encoded=True)  # PEP 658
    return UpstreamRequest(url=url, limit=METADATA_LIMIT, kind="sidecar")


def _sidecar_digest(file: File) -> str | None:
    promised = file.extra.get("core-metadata")
    return promised.get("sha256") if isinstance(promised, dict) else None


def _check_sidecar(file: File, content: bytes) -> None:
    from mirror.pypi.metadata import looks_like_metadata

    if expected := _sidecar_digest(file):
        actual = hashlib.sha256(content).hexdigest()
        if actual != expected:
            raise DigestMismatch(_sidecar_name(file), "sha256", expected, actual)
    if not looks_like_metadata(content):
        # Which project and version it names is not looked at: the wheel's own METADATA may differ from its file name.
        raise UpstreamProtocolError(f"{_sidecar_name(file)} is not core metadata.")


async def _make_sidecar(file: File, body: Body) -> bytes:
    from mirror.pypi import wheel

    return await wheel.read_metadata(file, body)


FORMAT = Format(
    name="pypi",
    sidecar_kind="metadata",
    canonical=names.canonical,
    request_for=pages.request_for,
    parse=pages.parse_simple,
    parse_names=index.parse_names,
    check_project=pages.check_project,
    revision=pages.revision,
    has_sidecar=_has_sidecar,
    sidecar_name=_sidecar_name,
    request_for_sidecar=_request_for_sidecar,
    sidecar_digest=_sidecar_digest,
    check_sidecar=_check_sidecar,
    make_sidecar=_make_sidecar,
    package_reader="mirror.pypi.package",
)
"""Python's documents and files, for the core."""


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
