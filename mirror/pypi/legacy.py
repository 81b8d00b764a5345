"""The JSON API: `/pypi/<project>/json` and `/pypi/<project>/<version>/json`.

It lists exactly the files of the project that it is given, so that policy applies here as on the simple page. What an
upstream's own document has beyond files (ownership, known vulnerabilities, keys of the future) is passed through;
without one, everything is derived.

The surprise: an upstream's `info` is about the newest version *there*; when that version is hidden here, its `info` is
not used.
"""

from collections.abc import Mapping
from datetime import UTC
from typing import Any

import msgspec
from packaging.version import Version

from mirror.errors import Invalid, NotFound, UpstreamProtocolError
from mirror.model import File, Page, Project
from mirror.pypi.documents import decode_object, fits
from mirror.pypi.metadata import info_from_metadata
from mirror.pypi.names import kind_of, same_version, wheel_tags
from mirror.pypi.pages import Link, timestamp, version_key

_OTHER_TYPES = {
    ".egg": "bdist_egg",
    ".exe": "bdist_wininst",
    ".msi": "bdist_msi",
    ".rpm": "bdist_rpm",
    ".dmg": "bdist_dmg",
}


class _Info(msgspec.Struct):
    version: str


class _LegacyDocument(msgspec.Struct):
    info: _Info


_ABOUT = msgspec.json.Decoder(_LegacyDocument)
_OF_ONE_VERSION = ("yanked", "yanked_reason", "requires_python", "requires_dist", "provides_extra", "dynamic")


def legacy_page(project: str, version: str | None = None) -> Page:
    """Return the page of the JSON API at an upstream: of a project, or of one version."""
    return Page("release", f"{project}/{version}") if version else Page("legacy", project)


def latest_version(project: Project) -> str | None:
    """Return the version of `info`: the newest final one with a file that is not yanked, or the next best."""

    def rank(version: str) -> tuple[bool, bool, tuple[bool, Version | str]]:
        key = version_key(version)
        final = isinstance(key[1], Version) and not key[1].is_prerelease
        return version in usable, final, key

    usable = {file.version for file in project.files if file.yanked is None}
    return max((file.version for file in project.files if file.version), key=rank, default=None)


def files_of(project: Project, version: str | None) -> list[File]:
    """Return the files of a version (None: the one of the whole project's document), wheels first.

    Raises NotFound when the project has no such version.
    """
    wanted = _project_spelling(project, version) if version is not None else latest_version(project)
    files = [file for file in project.files if file.version == wanted]
    return sorted(files, key=lambda file: kind_of(file.filename) != "wheel")


def is_about(upstream: bytes, version: str) -> bool:
    """Return whether the `info` of an upstream's document is about that version."""
    try:
        return _same_version(_ABOUT.decode(upstream).info.version, version)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return False


def render(
    project: Project, upstream: bytes | None, version: str | None, link: Link, metadata: bytes | None = None
) -> bytes:
    """Render the JSON document about a project, or about one of its versions.

    `upstream` is the same document from an upstream; `metadata` the core metadata of the version, used where the
    upstream's document is about another version; `link` returns the URL of a file. Raises NotFound when the project has
    no such version.
    """
    wanted = _project_spelling(project, version) if version is not None else latest_version(project)
    upstream_document = _decode(upstream)
    entries = _entries(upstream_document)
    info = upstream_document.get("info")
    same = isinstance(info, dict) and _same_version(info.get("version"), wanted)
    urls = [_entry(file, entries.get(file.filename), link) for file in project.files if file.version == wanted]

    document = {key: value for key, value in upstream_document.items() if key not in ("releases", "urls")}
    document["info"] = dict(info) if same and isinstance(info, dict) else _info(project, wanted, metadata)
    _set_yanked_and_requires(document["info"], [file for file in project.files if file.version == wanted])
    document["last_serial"] = project.serial if project.serial is not None else upstream_document.get("last_serial")
    document["urls"] = urls
    document["vulnerabilities"] = upstream_document.get("vulnerabilities", []) if same else []
    document.setdefault("ownership", {"organization": None, "roles": []})
    if version is None:  # the public index has no `releases` in the document of one version
        releases: dict[str, list[dict[str, Any]]] = {v: [] for v in sorted(project.versions, key=version_key)}
        for file in project.files:
            releases.setdefault(file.version, []).append(_entry(file, entries.get(file.filename), link))
        document["releases"] = releases
    return msgspec.json.encode(document)


def _project_spelling(project: Project, version: str) -> str:
    """Return the version in the project's spelling. Raises NotFound."""
    known = dict.fromkeys((*project.versions, *(file.version for file in project.files)))
    if version in known:
        return version
    for each in known:
        if same_version(each, version[:200]):
            return each
    raise NotFound(f"The project {project.name!r} has no version {version[:80]!r}.")


def _same_version(found: object, wanted: str | None) -> bool:
    return isinstance(found, str) and wanted is not None and same_version(found, wanted)


def _decode(upstream: bytes | None) -> dict[str, Any]:
    """Decode the upstream's document; an empty one where it is invalid, as all that must be right is derived."""
    try:
        document = decode_object(upstream) if upstream else {}
    except UpstreamProtocolError:
        return {}
    return document if fits(document) else {}


def _entries(document: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Return file name → the file's entry in the upstream's document."""
    releases = document.get("releases")
    lists = [document.get("urls"), *(releases.values() if isinstance(releases, dict) else ())]
    return {
        entry["filename"]: entry
        for entries in lists
        if isinstance(entries, list)
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("filename"), str)
    }


def _entry(file: File, upstream: Mapping[str, Any] | None, link: Link) -> dict[str, Any]:
    upstream = upstream or {}
    found = upstream.get("digests")
    found = found if isinstance(found, dict) else {}
    if file.sha256 is not None and found.get("sha256", file.sha256) != file.sha256:
        upstream, found = {}, {}  # another file of that name: its entry does not describe this one
    known = {**file.extra.get("digests", {}), **file.digests}
    digests = {"blake2b_256": None, "md5": None, "sha256": None} | found | known
    return {
        "comment_text": "",
        "downloads": -1,
        "has_sig": bool(file.extra.get("gpg-sig", False)),
        "packagetype": _packagetype(file.filename),
        "python_version": _python_version(file.filename),
        **upstream,
        "digests": digests,
        "filename": file.filename,
        "md5_digest": digests["md5"],
        "requires_python": file.requires,
        "size": file.size if file.size is not None else upstream.get("size"),
        "upload_time": (
            file.uploaded.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S")
            if file.uploaded
            else upstream.get("upload_time")
        ),
        "upload_time_iso_8601": timestamp(file.uploaded) if file.uploaded else upstream.get("upload_time_iso_8601"),
        "url": link(file),
        "yanked": file.yanked is not None,
        "yanked_reason": file.yanked or None,
    }


def _packagetype(filename: str) -> str:
    kind = kind_of(filename)
    if kind != "other":
        return "bdist_wheel" if kind == "wheel" else "sdist"
    return next((name for suffix, name in _OTHER_TYPES.items() if filename.lower().endswith(suffix)), "bdist_dumb")


def _python_version(filename: str) -> str:
    kind = kind_of(filename)
    if kind == "sdist":
        return "source"
    if kind == "wheel" and (tags := wheel_tags(filename)) is not None:
        return tags[0]
    parts = filename.rpartition(".")[0].split("-")
    return next((part[2:] for part in parts if part.startswith("py") and part[2:3].isdigit()), "any")


def _info(project: Project, version: str | None, metadata: bytes | None) -> dict[str, Any]:
    """Return `info` without an upstream's: from the core metadata when that is of the version."""
    try:
        info = info_from_metadata(metadata or b"")
    except Invalid:
        info = info_from_metadata(b"")
    if metadata and not _same_version(info["version"], version):
        info |= dict.fromkeys(_OF_ONE_VERSION)
    return info | {"name": info["name"] or project.name, "version": version}


def _set_yanked_and_requires(info: dict[str, Any], files: list[File]) -> None:
    """Set what `info` repeats from the files; a version is yanked when all of its files are."""
    reasons = [file.yanked for file in files]
    info["yanked"] = bool(files) and None not in reasons
    info["yanked_reason"] = next((reason for reason in reasons if reason), None) if info["yanked"] else None
    if not info.get("requires_python"):
        info["requires_python"] = next((file.requires for file in files if file.requires), None)
