"""RubyGems: the compact index, the legacy index, and gems.

names, versions     how gems are named; the order of versions, and requirements
pages, index        what is about one gem, and about all of them: parsed and rendered
package             inside a gem: its tar (archive), files (contents) and signatures; its specification is read by
                    `specification`, and by `marshal` in Ruby's serialization; its file name is decided in `identity`
log                 the log of all versions: followed upstream, published as our own
routes, json_api    the URLs that clients read
upload              those that they write to
clients, summary, static, doctor    what people copy, what people read, exported trees, examining an index

`FORMAT` is what the index knows of it, `ECOSYSTEM` what all others do.
"""

from typing import TYPE_CHECKING, get_args

from yarl import URL

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.index.ecosystem import Ecosystem, StaticLayout, SummaryReader
from mirror.model import Body, File, Format, Page, UpstreamRequest, UpstreamResponse
from mirror.rubygems import clients, identity, names, pages, versions
from mirror.rubygems.index import SpecsKind
from mirror.rubygems.marshal.reading import check_specs, read_gemspec_rz

if TYPE_CHECKING:
    from mirror.doctor import ExamineOptions, Finding, IndexClient

__all__ = ["ECOSYSTEM", "FORMAT"]

_SIDECAR_LIMIT = 4 << 20
_LEGACY_INDEX = tuple(Page(kind) for kind in get_args(SpecsKind))


def _check_document(page: Page, response: UpstreamResponse) -> None:
    if page not in _LEGACY_INDEX:
        pages.check_document(page, response)
        return
    try:
        check_specs(response.body)
    except Invalid as error:
        raise UpstreamProtocolError(f"The upstream's {page.kind}.4.8.gz is refused: {error}") from error


def _has_sidecar(file: File) -> bool:
    return file.filename.endswith(".gem")


def _sidecar_name(file: File) -> str:
    return f"{file.filename.removesuffix('.gem')}.gemspec.rz"


def _request_for_sidecar(base: URL, file: File) -> UpstreamRequest | None:
    return UpstreamRequest(url=base / "quick/Marshal.4.8" / _sidecar_name(file), limit=_SIDECAR_LIMIT, kind="sidecar")


def _check_sidecar(file: File, content: bytes) -> None:
    try:
        spec = read_gemspec_rz(content)
    except Invalid as error:
        raise UpstreamProtocolError(f"The gemspec.rz of {file.filename} is not one: {error}") from error
    platforms = {spec.platform, names.normal_platform(spec.platform)}
    suffixes = set(platforms)
    # Where an index does not list the platform beside the content address, only the address is known.
    address = names.split_number(names.listed_as(file))[1]
    if names.is_address(address) and file.platform in {*platforms, address}:
        suffixes.add(address)
    if file.filename not in {names.FullName(spec.name, spec.version, each).filename for each in suffixes}:
        raise UpstreamProtocolError(f"The gemspec.rz of {file.filename} is the one of {spec.name} {spec.version}.")


async def _make_sidecar(file: File, body: Body) -> bytes:
    from mirror.rubygems import package  # only here and below: YAML is not needed to serve

    return await package.make_sidecar(file, body)


FORMAT = Format(
    name="rubygems",
    sidecar_kind="gemspec",
    canonical=names.canonical,
    request_for=pages.request_for,
    parse=pages.parse,
    parse_names=pages.parse_names,
    check_project=pages.render_info,
    revision=pages.revision,
    index_pages=(Page("names"), *_LEGACY_INDEX),
    check_document=_check_document,
    has_sidecar=_has_sidecar,
    sidecar_name=_sidecar_name,
    sidecar_instead_of=".gem",
    request_for_sidecar=_request_for_sidecar,
    sidecar_digest=lambda file: None,
    check_sidecar=_check_sidecar,
    make_sidecar=_make_sidecar,
    renamed=identity.renamed,
    exclude=identity.exclude,
    with_checksum=identity.with_checksum,
    package_reader="mirror.rubygems.package",
)
"""Ruby's documents and files, for the core."""


def _split_version(text: str) -> tuple[str, str | None]:
    number, platform = names.split_number(text)
    return number, platform if "-" in text else None


def _summaries() -> SummaryReader:
    from mirror.rubygems import summary

    return summary


def _layout() -> StaticLayout:
    from mirror.rubygems.static import LAYOUT

    return LAYOUT


async def _examine(client: "IndexClient", url: URL, options: "ExamineOptions") -> "list[Finding] | None":
    from mirror.rubygems.doctor import examine

    return await examine(client, url, options)


ECOSYSTEM = Ecosystem(
    format=FORMAT,
    title="Ruby",
    noun="gem",
    index_path="",
    log_path=clients.LOG_PATH,
    suffixes=(".gem",),
    pin_operator=None,
    lock_files_have_urls=False,
    versions=versions,
    split_version=_split_version,
    clients=clients,
    summaries=_summaries,
    layout=_layout,
    examine=_examine,
)
