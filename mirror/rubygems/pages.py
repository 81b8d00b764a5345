"""The pages about one gem: `/info/NAME`, and the JSON that is made from it.

Parsing keeps the raw bytes, so that a gem that nothing was hidden from is rendered byte for byte as its upstream
wrote it: `/versions` promises the MD5 of exactly those bytes. The surprise: what a line holds besides version,
platform, checksum, Ruby requirement and time is parsed only when it is needed (`dependencies`).
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
from yarl import URL

from mirror.errors import Invalid, UpstreamProtocolError
from mirror.model import File, Names, Page, Project, UpstreamRequest, UpstreamResponse
from mirror.rubygems.marshal import GemRequirement, Gemspec
from mirror.rubygems.marshal.writing import gemspec_rz
from mirror.rubygems.names import GENERIC, FullName, abi_of, address_of, canonical, is_address, is_listed, listed_as
from mirror.rubygems.versions import is_prerelease, version_key

EMPTY = b"---\n"
"""The `/info` of a gem all of whose versions are gone; `/versions` goes on listing its MD5."""

_MB = 1 << 20
_LONGEST_LINE = 64 << 10
MOST_VERSIONS = 50_000
"""The most lines of one gem, each of which takes some 2 KB of memory: the largest gems have a few thousand."""
MOST_NAMES = 1_000_000
_SHA256 = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)


def request_for(base: URL, page: Page) -> UpstreamRequest:
    """Return the request for a page; `version_json` is called NAME/VERSION[/PLATFORM[/ABI]]. Raises Invalid."""
    match page.kind, page.name.split("/"):
        case "project", [name]:
            return UpstreamRequest(url=base / "info" / canonical(name), limit=16 * _MB)
        case "names", _:
            return UpstreamRequest(url=base / "names", limit=64 * _MB, kind="list")
        case ("specs" | "latest_specs" | "prerelease_specs") as which, _:
            # Of the class without which an upstream is not down, since they can be made here.
            return UpstreamRequest(url=base / f"{which}.4.8.gz", limit=64 * _MB, timeout=600, kind="api")
        case "gem_json", [name]:
            url = base / "api/v1/gems" / f"{canonical(name)}.json"
        case "versions_json", [name]:
            url = base / "api/v1/versions" / f"{canonical(name)}.json"
        case "version_json", [name, version, *query]:
            url = base / "api/v2/rubygems" / canonical(name) / "versions" / f"{version}.json"
            url = url.with_query(dict(zip(("platform", "ruby_abi"), query, strict=False))) if query else url
        case "provenance", [filename]:
            url = base / "api/v1/attestations" / f"{filename.removesuffix('.gem')}.json"
        case _:
            raise ValueError(f"RubyGems has no page {page}.")
    return UpstreamRequest(url=url, accept="application/json", limit=8 * _MB, kind="api")


# --- /info -----------------------------------------------------------------------------------------------------


def parse(page: Page, response: UpstreamResponse, source: str = "") -> Project:
    """Return the gem of a `project` page, which a source lists. Raises UpstreamProtocolError."""
    return parse_info(response.body, page.name, URL(response.url).with_query(None).parent.parent, source)


def parse_info(body: bytes, name: str, base: URL, source: str = "") -> Project:
    """Return the gem that an `/info` body describes; its files are below `base`. Raises UpstreamProtocolError."""
    name = canonical(name)
    if body.count(b"\n") > MOST_VERSIONS:
        raise UpstreamProtocolError(f"The upstream's page of {name!r} has more than {MOST_VERSIONS:,} lines.")
    listed = _listed(body)
    # Some indexes leave the header out; then the first line has to be a version, for an error page has none.
    if body.strip() and b"---" not in body.split(b"\n") and not _listed(body.lstrip().split(b"\n", 1)[0]):
        raise UpstreamProtocolError(f"The upstream's page of {name!r} is not one of the compact index.")
    gems = base / "gems"
    files = tuple(_file(name, line, gems, source) for line in listed.values())
    return Project(
        name=name, files=files, versions=tuple(dict.fromkeys(file.version for file in files)), extra={"body": body}
    )


def _listed(body: bytes) -> dict[tuple[str, str], bytes]:
    """Return the lines that describe a version, by version and platform; the last of several for one counts."""
    lines = body.split(b"\n")
    if b"---" in lines:
        lines = lines[lines.index(b"---") + 1 :]
    listed = {}
    for line in lines:
        text = line.split(b" ", 1)[0].rstrip(b"\r").decode("utf-8", "replace")
        version, _, platform = text.partition("-")  # a version never holds a dash
        platform = platform or GENERIC
        if is_listed(version, platform) and len(line) <= _LONGEST_LINE:
            listed[version, platform] = line
    return listed


def _file(name: str, line: bytes, gems: URL, source: str) -> File:
    token, facts = _read(line)
    version, _, suffix = token.partition("-")
    suffix = suffix or GENERIC
    filename = FullName(name, version, suffix).filename
    checksum = facts.get("checksum", "")
    platform = facts.get("platform", "").removeprefix("=").strip() or GENERIC
    addressed = is_address(suffix) and platform != GENERIC and is_listed(version, platform)
    return File(
        filename=filename,
        version=version,
        platform=platform if addressed else suffix,
        digests={"sha256": checksum.lower()} if _SHA256.fullmatch(checksum) else {},
        url=str(gems / filename),
        source=source,
        requires=facts["ruby"].replace("&", ", ") if facts.get("ruby") else None,
        uploaded=_time(facts.get("created_at")),
        extra={"line": line, "address": suffix} if addressed else {"line": line},
    )


def _read(line: bytes) -> tuple[str, dict[str, str]]:
    """Return the version with its platform, and the facts after the bar."""
    token, _, rest = line.decode("utf-8", "replace").rstrip("\r").partition(" ")
    facts = {}
    for fact in rest.partition("|")[2].split(","):
        key, _, value = fact.partition(":")
        facts[key] = value
    return token, facts


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        at = datetime.fromisoformat(text)
        return at.astimezone(UTC) if at.tzinfo else at.replace(tzinfo=UTC)
    except (ValueError, OverflowError):
        return None


def dependencies(file: File) -> tuple[tuple[str, tuple[str, ...]], ...]:
    """Return the gems that a file needs at run time, each with its requirements, in the order of the page."""
    spec = spec_of(file)
    if spec is not None:
        return tuple((name, tuple(clauses.split("&"))) for name, clauses in _needs(spec))
    line = file.extra.get("line", b"").decode("utf-8", "replace")
    needs = line.partition(" ")[2].partition("|")[0]
    parts = (need.partition(":") for need in needs.split(",") if need.strip())
    return tuple((name, tuple(clauses.split("&")) if clauses else (">= 0",)) for name, _, clauses in parts)


def spec_of(file: File) -> Gemspec | None:
    """Return the specification that `package.inspect` put into a File; None for a file that only an index describes."""
    facts = file.extra.get("spec")
    return None if facts is None else msgspec.convert(facts, Gemspec)


def render_info(project: Project) -> bytes:
    """Return the `/info` body: the upstream's own bytes if they list what the project has, else line by line."""
    lines = [info_line(file) for file in project.files if file.yanked is None]
    body = project.extra.get("body")
    if body is not None and lines == list(_listed(body).values()):
        return bytes(body)
    return EMPTY + b"".join(line + b"\n" for line in lines)


def info_line(file: File) -> bytes:
    """Return a file's line on `/info`, without its end: as upstream wrote it, or made from the specification inside."""
    raw = file.extra.get("line")
    if raw is not None:
        return bytes(raw)
    spec = spec_of(file)
    facts = [f"checksum:{file.sha256}"] if file.sha256 else []
    if spec is not None:
        for key, wanted in (("ruby", spec.required_ruby_version), ("rubygems", spec.required_rubygems_version)):
            if wanted != GemRequirement():
                facts.append(f"{key}:{_sorted(wanted)}")
    if address_of(file) is not None:
        facts.append(f"platform:= {file.platform}")
    if file.uploaded is not None:
        facts.append(f"created_at:{file.uploaded.astimezone(UTC):%Y-%m-%dT%H:%M:%SZ}")
    needs = ",".join(f"{name}:{clauses}" for name, clauses in _needs(spec)) if spec else ""
    return f"{listed_as(file)} {needs}|{','.join(facts)}".encode("utf-8", "surrogateescape")


def _needs(spec: Gemspec) -> list[tuple[str, str]]:
    return sorted((need.name, _sorted(need.requirement)) for need in spec.dependencies if need.kind == "runtime")


def _sorted(wanted: GemRequirement) -> str:
    return "&".join(sorted(f"{operator} {version}" for operator, version in wanted.clauses))


def revision(body: bytes) -> str:
    """Return the MD5 that `/versions` lists for an `/info` body."""
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def parse_names(response: UpstreamResponse) -> Names:
    """Return the names of `/names`; those that cannot be names are left out. Raises UpstreamProtocolError."""
    lines = response.body.decode("utf-8", "replace").split("\n")
    if "---" not in lines or len(lines) > MOST_NAMES:
        raise UpstreamProtocolError("The upstream's list of names is not one of the compact index.")
    return Names(serials=dict.fromkeys(_canonical_names(lines[lines.index("---") + 1 :])))


def _canonical_names(lines: Iterable[str]) -> Iterator[str]:
    for line in lines:
        try:
            yield canonical(line.strip())
        except Invalid:
            continue


# --- JSON ------------------------------------------------------------------------------------------------------

Json = dict[str, Any]


def check_document(page: Page, response: UpstreamResponse) -> None:
    """Check that an upstream's JSON is what its address promises. Raises UpstreamProtocolError."""
    promised = list[Json] if page.kind in ("versions_json", "provenance") else Json
    try:
        msgspec.json.decode(response.body, type=promised)
    except (msgspec.DecodeError, RecursionError):
        raise UpstreamProtocolError(f"The upstream's JSON of {page.name} is none.") from None


class Links(NamedTuple):
    """The functions that make our own URLs."""

    gem: Callable[[str], str]
    """Of a gem file, from its name."""
    project: Callable[[str], str]
    """Of a gem's page for people, from its name."""


def gem_json(project: Project, links: Links, upstream: bytes | None = None) -> bytes:
    """Return `/api/v1/gems/NAME.json`: the newest visible version, as upstream describes it where it does."""
    return msgspec.json.encode(_gem(project, links, upstream))


def search_json(found: Iterable[tuple[Project, bytes | None]], links: Links) -> bytes:
    """Return `/api/v1/search.json`: each gem found, with its upstream's `gem_json` where there is one."""
    return msgspec.json.encode([_gem(project, links, upstream) for project, upstream in found if visible(project)])


def versions_json(project: Project, upstream: bytes | None = None) -> bytes:
    """Return `/api/v1/versions/NAME.json`: the visible versions, newest first."""
    listed = _decode(upstream)
    entries = {_key(entry): entry for entry in listed if isinstance(entry, dict)} if isinstance(listed, list) else {}
    return msgspec.json.encode([entries.get(_key_of(file)) or _release(file) for file in visible(project)])


def latest_json(project: Project | None) -> bytes:
    """Return `/api/v1/versions/NAME/latest.json`; a gem without versions has the version `unknown`."""
    newest = shown(project) if project else None
    return msgspec.json.encode({"version": newest.version if newest else "unknown"})


def version_json(project: Project, file: File, links: Links, upstream: bytes | None = None) -> bytes:
    """Return `/api/v2/rubygems/NAME/versions/VERSION.json` of one file."""
    described = _decode(upstream)
    if isinstance(described, dict) and _key(described) == _key_of(file):
        return msgspec.json.encode({**described, **_links(project, file, links)})
    return msgspec.json.encode({**_summary(project, file, links), **_release(file)})


def find(project: Project, version: str, platform: str, abi: str = "") -> File | None:
    """Return the file of a version for a platform, built for one Ruby ABI where one is given; None without one."""
    fits = (file for file in project.files if (file.version, file.platform or GENERIC) == (version, platform))
    return next((file for file in fits if abi_of(file) == (abi or None)), None)


def visible(project: Project) -> list[File]:
    """Return the files that are not yanked, newest version first, the generic platform before the others."""
    files = [file for file in project.files if file.yanked is None]
    files.sort(key=lambda file: (file.platform or GENERIC) != GENERIC)
    files.sort(key=lambda file: version_key(file.version), reverse=True)
    return files


def shown(project: Project) -> File | None:
    """Return the file that represents the gem: its newest release, generic if possible, else its newest prerelease."""
    files = visible(project)
    releases = [file for file in files if not is_prerelease(file.version)]
    generic = (file for file in releases if (file.platform or GENERIC) == GENERIC)
    return next(generic, None) or next(iter(releases or files), None)


def _gem(project: Project, links: Links, upstream: bytes | None) -> Json:
    file = shown(project)
    if file is None:
        return {"name": project.name, "version": "unknown"}
    described = _decode(upstream)
    if isinstance(described, dict) and _key(described) == _key_of(file):
        return {**described, **_links(project, file, links)}
    return _summary(project, file, links)


def _decode(upstream: bytes | None) -> object:
    """Return the upstream's JSON; None if there is none that can be read, and ours takes its place."""
    try:
        return msgspec.json.decode(upstream or b"null")
    except (msgspec.DecodeError, RecursionError):
        return None


def _key(entry: Json) -> tuple[object, object, object]:
    return entry.get("number", entry.get("version")), entry.get("platform") or GENERIC, entry.get("content_address")


def _key_of(file: File) -> tuple[object, object, object]:
    return file.version, file.platform or GENERIC, address_of(file)


def _links(project: Project, file: File, links: Links) -> Json:
    return {"project_uri": links.project(project.name), "gem_uri": links.gem(file.filename)}


def _summary(project: Project, file: File, links: Links) -> Json:
    """Return what v1 has about a gem, from the specification inside, or from what an `/info` line holds."""
    spec = spec_of(file)
    release = _release(file)
    metadata = release["metadata"]
    wanted: dict[str, list[Json]] = {"development": [], "runtime": []}
    if spec is None:
        wanted["runtime"] = [{"name": name, "requirements": ", ".join(clauses)} for name, clauses in dependencies(file)]
    else:
        for need in spec.dependencies:
            wanted[need.kind].append({"name": need.name, "requirements": str(need.requirement)})
    kinds = ("homepage", "wiki", "documentation", "mailing_list", "source_code", "bug_tracker", "changelog", "funding")
    uris = {f"{kind}_uri": metadata.get(f"{kind}_uri") for kind in kinds}
    if spec is not None:
        uris["homepage_uri"] = spec.homepage or uris["homepage_uri"]
    return {
        "name": project.name,
        "downloads": 0,
        "version": file.version,
        "version_created_at": release["created_at"],
        "version_downloads": 0,
        "platform": release["platform"],
        "authors": release["authors"],
        "info": release["description"] or release["summary"],
        "licenses": release["licenses"],
        "metadata": metadata,
        "yanked": file.yanked is not None,
        "sha": release["sha"],
        "spec_sha": release["spec_sha"],
        **_links(project, file, links),
        **uris,
        "dependencies": wanted,
    }


def _release(file: File) -> Json:
    """Return what v1 has about one version."""
    spec = spec_of(file)
    release: Json = {
        "authors": None,
        "built_at": _stamp(file.uploaded),
        "created_at": _stamp(file.uploaded),
        "description": None,
        "downloads_count": 0,
        "metadata": {},
        "number": file.version,
        "summary": None,
        "platform": file.platform or GENERIC,
        "rubygems_version": ">= 0",
        "ruby_version": file.requires or ">= 0",
        "prerelease": is_prerelease(file.version),
        "licenses": None,
        "requirements": [],
        "sha": file.sha256,
        "spec_sha": None,
    }
    if address_of(file) is not None:
        release |= {"ruby_abi": abi_of(file), "content_address": address_of(file)}
    if spec is None:
        release["rubygems_version"] = (_rubygems_wanted(file) or ">= 0").replace("&", ", ")
        return release
    return release | {
        "authors": ", ".join(author for author in spec.authors if author),
        "built_at": _stamp(spec.date) or release["built_at"],
        "description": spec.description,
        "metadata": dict(spec.metadata),
        "summary": spec.summary,
        "ruby_version": str(spec.required_ruby_version),
        "rubygems_version": str(spec.required_rubygems_version),
        "licenses": list(spec.licenses),
        "requirements": list(spec.requirements),
        "spec_sha": hashlib.sha256(gemspec_rz(spec)).hexdigest(),
    }


def _rubygems_wanted(file: File) -> str | None:
    return _read(file.extra.get("line", b""))[1].get("rubygems")


def _stamp(at: datetime | None) -> str | None:
    return None if at is None else f"{at.astimezone(UTC):%Y-%m-%dT%H:%M:%S}.{at.microsecond // 1000:03}Z"
