"""The RubyGems side: the compact index, the legacy index, gems and JSON.

As the public index answers by default; `configure` makes it like others. The surprise: /versions is append-only only
until `unyank`, `rewrite` or a late `push`, exactly as in public.
"""

import base64
import gzip
import hashlib
import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qs, unquote

from tests.builders import Built

from .gemspec import Spec, joined, marshalled_tuples, order
from .wire import Representation, Request, SimulatedResponse, answer, digest_etag, plain


@dataclass(frozen=True)
class Modes:
    """How an index differs from the public one. All defaults are the public one's behaviour."""

    legacy_only: bool = False
    """No compact index: 404 for /versions, /info and /names."""
    legacy_index: bool = True
    """specs.4.8.gz and its like."""
    gemspecs: bool = True
    """quick/Marshal.4.8/*.gemspec.rz."""
    json: bool = True
    created_at: bool = True
    checksums: bool = True
    """Format v2 of /info."""
    etag: bool = True
    digest: Literal["structured", "quoted", "bare"] | None = "structured"
    """How Repr-Digest and Digest are written: `:x:`, `"x"`, `x`, or not at all."""
    ranges: bool = True
    refuse_ranges_past_end: bool = False
    """416 on a range from beyond the end, else 200 with everything."""
    gzip: bool = True


@dataclass
class Pushed:
    """One gem in the index."""

    spec: Spec
    created: datetime
    yanked: bool = False


@dataclass(frozen=True)
class Line:
    """One line of /versions: items are version numbers, with `-` in front when removed."""

    name: str
    items: tuple[str, ...]
    md5: str

    def text(self) -> str:
        return f"{self.name} {','.join(self.items)} {self.md5}\n"


class RubyGems:
    """A gem index: `gems` by full name, `lines` of /versions, and what changes them."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.modes = Modes()
        self.gems: dict[str, Pushed] = {}
        """Full name (rack-3.0, ffi-1.17-java) → gem, in the order of pushing."""
        self.lines: list[Line] = []
        self.recorded: dict[str, bytes] = {}
        """Name → the beginning of its /info, byte for byte, before what was pushed since."""
        self.attestations: dict[str, list[dict[str, Any]]] = {}
        """Full name → what its author attested."""
        self._recorded_numbers: dict[str, tuple[str, ...]] = {}
        self._by_name: dict[str, list[Pushed]] = {}
        self._created = self._now()
        self._changed = self._now()
        self._versions: bytes | None = None

    def configure(self, **changes: Any) -> None:
        """Change `Modes` by field name. Turning `created_at` changes the MD5s: do it before pushing."""
        self.modes = replace(self.modes, **changes)

    # What changes the index

    def push(self, gem: Built | bytes, *, created: datetime | None = None, before_last: int = 0) -> Spec:
        """List a gem: a line at the end of /versions, or before the last `before_last` lines (a late commit)."""
        spec = Spec.read(gem if isinstance(gem, bytes) else gem.content)
        pushed = Pushed(spec, created or self._now())
        self.gems[spec.full_name] = pushed
        others = [other for other in self._by_name.get(spec.name, []) if other.spec.full_name != spec.full_name]
        self._by_name[spec.name] = [*others, pushed]
        line = Line(spec.name, (spec.number,), self.md5(spec.name))
        self.lines.insert(len(self.lines) - before_last, line)
        self._touch()
        return spec

    def yank(self, name: str, version: str, platform: str = "ruby") -> None:
        """Take a version out of /info and the specs, and append its removal to /versions; the file is 403 then."""
        spec = self._set_yanked(name, version, platform, True)
        self.lines.append(Line(name, (f"-{spec.number}",), self.md5(name)))

    def unyank(self, name: str, version: str, platform: str = "ruby") -> None:
        """Undo a yank: its line in /versions vanishes, and the last line of the name gets the new MD5."""
        spec = self._set_yanked(name, version, platform, False)
        self.lines = [line for line in self.lines if (line.name, line.items) != (name, (f"-{spec.number}",))]
        last = max(place for place, line in enumerate(self.lines) if line.name == name)
        self.lines[last] = replace(self.lines[last], md5=self.md5(name))

    def rewrite(self) -> None:
        """The monthly compaction: a new created_at, one line for each name, sorted, nothing yanked."""
        self._created = self._now()
        numbers: dict[str, list[str]] = {name: list(known) for name, known in self._recorded_numbers.items()}
        for name, gems in self._by_name.items():
            numbers.setdefault(name, []).extend(gem.spec.number for gem in gems if not gem.yanked)
        self.lines = [Line(name, tuple(known), self.md5(name)) for name, known in sorted(numbers.items()) if known]
        self._touch()

    def load_genuine(self, gems: Path | None = None, info: Path | None = None) -> None:
        """Push every .gem of a folder; serve every /info body of another byte for byte, and list what it lists.

        With `info`, /versions also lists versions whose gems are not there.
        """
        for path in sorted(info.iterdir()) if info else ():
            self.record_info(path.name, path.read_bytes())
        for path in sorted(gems.glob("*.gem")) if gems else ():
            spec = Spec.read(path.read_bytes())
            if spec.name in self.recorded and spec.number in self._recorded_numbers[spec.name]:
                self.gems[spec.full_name] = Pushed(spec, self._now())  # listed already: only its file is new
            else:
                self.push(path.read_bytes())

    def record_info(self, name: str, body: bytes) -> None:
        """Serve an /info body as it is, with one line in /versions that lists everything in it."""
        numbers = (line.split(" ", 1)[0] for line in body.decode().splitlines() if line and line != "---")
        self.recorded[name] = body
        self._recorded_numbers[name] = tuple(dict.fromkeys(numbers))
        self.lines.append(Line(name, self._recorded_numbers[name], self.md5(name)))
        self._touch()

    def _set_yanked(self, name: str, version: str, platform: str, yanked: bool) -> Spec:
        number = version if platform == "ruby" else f"{version}-{platform}"
        pushed = self.gems[f"{name}-{number}"]
        pushed.yanked = yanked
        self._touch()
        return pushed.spec

    def _now(self) -> datetime:
        return datetime.fromtimestamp(int(self.clock()), UTC)

    def _touch(self) -> None:
        self._changed = self._now()
        self._versions = None

    # Bodies

    def versions(self) -> bytes:
        """/versions as it is now."""
        if self._versions is None:
            head = f"created_at: {self._created:%Y-%m-%dT%H:%M:%SZ}\n---\n"
            self._versions = (head + "".join(line.text() for line in self.lines)).encode()
        return self._versions

    def info(self, name: str) -> bytes:
        """/info/NAME as it is now."""
        lines = [
            gem.spec.info_line(gem.created if self.modes.created_at else None) + "\n"
            for gem in self._by_name.get(name, [])
            if not gem.yanked
        ]
        if not self.modes.checksums:
            lines = [re.sub(r"checksum:[0-9a-f]{64},?", "", line) for line in lines]
        return self.recorded.get(name, b"---\n") + "".join(lines).encode()

    def md5(self, name: str) -> str:
        """What /versions lists for a gem."""
        return hashlib.md5(self.info(name)).hexdigest()

    def names(self) -> bytes:
        """/names as it is now."""
        known = {*self.recorded, *(gem.spec.name for gem in self.gems.values() if not gem.yanked)}
        return ("---\n" + "".join(f"{name}\n" for name in sorted(known))).encode()

    def listed(self, name: str | None = None) -> list[Spec]:
        """The specifications that are not yanked, sorted by name and version."""
        gems = self.gems.values() if name is None else self._by_name.get(name, [])
        specs = (gem.spec for gem in gems if not gem.yanked)
        return sorted(specs, key=lambda spec: (spec.name, order(spec.version), spec.platform))

    # Answers

    def answer(self, request: Request) -> SimulatedResponse | None:
        """None when the path is none of ours."""
        match unquote(request.path).strip("/").split("/"):
            case [""]:
                return plain(200, "A simulated gem index.\n")
            case ["versions"]:
                return self._compact(request, self.versions())
            case ["names"]:
                return self._compact(request, self.names())
            case ["info", name]:
                known = name in self.recorded or name in self._by_name
                return self._compact(request, self.info(name) if known else None)
            case ["gems", filename]:
                return self._gem(request, filename.removesuffix(".gem"))
            case ["quick", "Marshal.4.8", filename]:
                return self._gemspec(request, filename.removesuffix(".gemspec.rz"))
            case [filename] if filename.removesuffix(".gz").endswith("specs.4.8"):
                return self._specs(request, filename)
            case ["api", version, *rest] if self.modes.json:
                return self._json(request, [version, *rest])
        return None

    def _compact(self, request: Request, body: bytes | None) -> SimulatedResponse:
        if body is None or self.modes.legacy_only:
            return plain(404, "This gem could not be found\n")
        headers = {"Cache-Control": "max-age=60, public", "Vary": "Accept-Encoding"}
        if self.modes.digest:
            value = base64.b64encode(hashlib.sha256(body).digest()).decode()
            written = {"structured": f":{value}:", "quoted": f'"{value}"', "bare": value}[self.modes.digest]
            headers |= {"Repr-Digest": f"sha-256={written}", "Digest": f"sha-256={written.strip(':')}"}
        thing = Representation(
            body,
            "text/plain; charset=utf-8",
            etag=digest_etag(body, "md5") if self.modes.etag else None,
            headers=headers,
            ranges=self.modes.ranges,
            refuse_ranges_past_end=self.modes.refuse_ranges_past_end,
            gzip=self.modes.gzip,
        )
        return answer(request, thing)

    def _gem(self, request: Request, full_name: str) -> SimulatedResponse:
        found = self.gems.get(full_name)
        if found is None or found.yanked:
            return plain(404 if found is None else 403, "No such gem.\n")
        return answer(request, self._static(found.spec.content, found.created))

    def _gemspec(self, request: Request, full_name: str) -> SimulatedResponse:
        found = self.gems.get(full_name)
        if found is None or found.yanked or not self.modes.gemspecs:
            return plain(404 if found is None or not found.yanked else 403, "No such gem.\n")
        return answer(request, self._static(found.spec.marshalled(), found.created))

    def _specs(self, request: Request, filename: str) -> SimulatedResponse:
        kind = filename.removesuffix(".gz").removesuffix("specs.4.8").rstrip("_")
        if not self.modes.legacy_index or kind not in ("", "latest", "prerelease"):
            return plain(404, "Not found.\n")
        listed = [spec for spec in self.listed() if not spec.address]
        specs: Iterable[Spec] = [spec for spec in listed if spec.prerelease == (kind == "prerelease")]
        if kind == "latest":
            specs = {(spec.name, spec.platform): spec for spec in specs}.values()
        body = marshalled_tuples(specs)
        return answer(
            request, self._static(gzip.compress(body, mtime=0) if filename.endswith(".gz") else body, self._changed)
        )

    def _static(self, body: bytes, modified: datetime) -> Representation:
        return Representation(
            body,
            "application/octet-stream",
            etag=digest_etag(body, "md5") if self.modes.etag else None,
            last_modified=format_datetime(modified, usegmt=True),
            ranges=self.modes.ranges,
        )

    def _json(self, request: Request, parts: list[str]) -> SimulatedResponse:
        query = {key: values[0] for key, values in parse_qs(request.query).items()}
        value: object = None
        match parts:
            case ["v1", "gems", filename] if specs := self.listed(filename.removesuffix(".json")):
                value = self._gem_json(max(specs, key=lambda spec: (not spec.prerelease, order(spec.version))))
            case ["v1", "versions", name, "latest.json"]:
                stable = [spec.version for spec in self.listed(name) if not spec.prerelease]
                value = {"version": stable[-1] if stable else "unknown"}
            case ["v1", "versions", filename] if specs := self.listed(filename.removesuffix(".json")):
                value = [self._version_json(spec) for spec in reversed(specs)]
            case ["v2", "rubygems", name, "versions", filename]:
                version, platform = filename.removesuffix(".json"), query.get("platform")
                matching = [spec for spec in self.listed(name) if spec.version == version]
                matching = [spec for spec in matching if platform in (None, spec.platform)]
                value = self._gem_json(matching[0]) | self._version_json(matching[0]) if matching else None
            case ["v1", "attestations", filename]:
                value = self.attestations.get(filename.removesuffix(".json"))
            case ["v1", "search.json"]:
                newest = {spec.name: spec for spec in self.listed() if query.get("query", "") in spec.name}
                page = int(query.get("page", "1"))
                value = [self._gem_json(spec) for spec in newest.values()][30 * (page - 1) : 30 * page]
        if value is None:
            return plain(404, "This rubygem could not be found.\n")
        body = json.dumps(value).encode()
        return answer(
            request, Representation(body, "application/json; charset=utf-8", digest_etag(body, "md5"), ranges=False)
        )

    def _gem_json(self, spec: Spec) -> dict[str, Any]:
        def listed(dependencies: Iterable[tuple[str, Any]]) -> list[dict[str, str]]:
            return [{"name": name, "requirements": joined(wanted).replace("&", ", ")} for name, wanted in dependencies]

        return {
            "name": spec.name,
            "downloads": 0,
            "version": spec.version,
            "version_created_at": self._moment(spec),
            "version_downloads": 0,
            "platform": spec.platform,
            "authors": ", ".join(spec.fields["authors"]),
            "info": spec.fields["description"] or spec.fields["summary"],
            "licenses": spec.fields["licenses"],
            "metadata": spec.fields["metadata"],
            "yanked": False,
            "sha": spec.sha256,
            "homepage_uri": spec.fields["homepage"],
            "dependencies": {"development": listed(spec.development), "runtime": listed(spec.runtime)},
        }

    def _version_json(self, spec: Spec) -> dict[str, Any]:
        return {
            "authors": ", ".join(spec.fields["authors"]),
            "built_at": f"{spec.fields['date']:%Y-%m-%dT00:00:00.000Z}",
            "created_at": self._moment(spec),
            "description": spec.fields["description"],
            "downloads_count": 0,
            "metadata": spec.fields["metadata"],
            "number": spec.version,
            "summary": spec.fields["summary"],
            "platform": spec.platform,
            "rubygems_version": joined(spec.required_rubygems).replace("&", ", "),
            "ruby_version": joined(spec.required_ruby).replace("&", ", "),
            "prerelease": spec.prerelease,
            "licenses": spec.fields["licenses"],
            "requirements": spec.fields["requirements"],
            "sha": spec.sha256,
        }

    def _moment(self, spec: Spec) -> str:
        return f"{self.gems[spec.full_name].created.astimezone(UTC):%Y-%m-%dT%H:%M:%S.000Z}"
