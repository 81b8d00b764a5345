"""What bundler and gem require of the compact index, of gems, and of the legacy index beside them.

`/info` is short, so that every rule is tried on it; `/versions` may be long, and is read once.
"""

import hashlib
from contextlib import suppress
from datetime import timedelta
from email.utils import format_datetime, parsedate_to_datetime

from mirror.doctor import Finding, IndexClient, Requirement, WireResponse
from mirror.doctor.client import gunzip
from mirror.doctor.files import ExpectedFile, FileRequirements
from mirror.errors import MirrorError, TooLarge
from mirror.rubygems.doctor.index import Subject
from mirror.rubygems.marshal.reading import load_specs, read_gemspec_rz
from mirror.rubygems.names import GENERIC, full_name
from mirror.rubygems.versions import is_prerelease
from mirror.server.respond import digest_headers

_UNKNOWN = "no-such-gem-of-the-doctor"
_NAMES_LIMIT = 32 << 20

_ETAG = Requirement(
    "rubygems/etag",
    "The ETag of /versions, /names and /info is the MD5 of the unpacked body, strong and in quotes.",
    "bundler 2.3 and 2.4: they compare it with their copy, and leave the compact index where it differs",
)
_DIGESTS = Requirement(
    "rubygems/digests",
    "They carry Repr-Digest and Digest, both the SHA-256 of the whole unpacked body, also with a part of it.",
    "bundler from 2.5 on: it cannot verify what it appended, and loads everything again",
)
_ACCEPTS = Requirement(
    "rubygems/accept-ranges",
    "They say that they can be had in parts (Accept-Ranges: bytes).",
    "bundler and mirrors: they load 23 MB instead of the few bytes that are new",
)
_TYPE = Requirement(
    "rubygems/content-type", "They are text/plain in UTF-8.", "proxies and scanners that judge by the type"
)
_GZIP = Requirement(
    "rubygems/gzip",
    "A long /versions comes as gzip for clients that accept it.",
    "gem and bundler on a slow line: 23 MB instead of 10",
)
_RANGE = Requirement(
    "rubygems/range",
    "A range from the last byte on gives that byte, with the right Content-Range.",
    "bundler: it requests so what is new, and discards its copy when the overlap is wrong",
)
_BEYOND = Requirement(
    "rubygems/never-416",
    "A range from the end or behind it gives the whole body with 200, never 416, never an empty 206.",
    "bundler 2.5 to 2.7 and gem 4.1 fail on the 416; an empty 206 crashes bundler 2.5",
)
_IDENTITY = Requirement(
    "rubygems/range-identity",
    "A request with Range is never answered with gzip.",
    "bundler: it appends compressed bytes to a plain file, and has to load everything again",
)
_CONDITION = Requirement(
    "rubygems/if-none-match",
    "If-None-Match is met in quotes, weak (W/) and bare.",
    "bundler 2.5.0 to 2.5.4 send it bare, proxies make it weak: both load everything in each run",
)
_PRECEDENCE = Requirement(
    "rubygems/304-over-range",
    "What is unchanged is 304, also with a Range of its last byte.",
    "bundler 2.3 and 2.4: an update of nothing costs a retry, or the compact index",
)
_HEAL = Requirement(
    "rubygems/self-heal",
    "When the ETag matches but the Range does not begin at the last byte, the whole body comes with 200.",
    "bundler from 2.5 on: its copy is damaged, and with a 304 it stays so for ever",
)
_TAIL = Requirement(
    "rubygems/versions-range",
    "/versions from its last byte on gives that byte, and what is new.",
    "bundler, gem and mirrors: each look costs 23 MB instead of a few bytes",
)
_END = Requirement(
    "rubygems/versions-never-416",
    "/versions from behind its end is the whole body with 200, never 416.",
    "bundler 2.5 to 2.7 and gem 4.1, after the index was rewritten and has become shorter",
)
_HEAD = Requirement(
    "rubygems/head",
    "HEAD / and HEAD /versions are answered 200.",
    "gem: each install begins with one of them, and takes an error for an index that is not there",
)
_LISTED = Requirement(
    "rubygems/listed", "/versions lists the gem.", "bundler: for it, what /versions does not list is not there"
)
_MD5 = Requirement(
    "rubygems/info-md5",
    "The MD5 in /versions is that of the gem's /info.",
    "bundler: it requests /info again in each run, or keeps an old one",
)
_NAMES = Requirement("rubygems/names", "/names lists the gem.", "completion and search of gem and bundler")
_MISSING = Requirement(
    "rubygems/unknown-gem",
    "A gem that does not exist is 404.",
    "bundler: after any other error it leaves the compact index and walks the legacy one, by thousands of requests",
)
_SPECS_LIMIT = 16 << 20

_FILE = FileRequirements(
    "rubygems",
    resumes="mirrors and proxies, which go on with a download that was cut",
    parts="mirrors and proxies, which ask for size and parts of a gem before they load it",
)
_CHECKSUM = Requirement(
    "rubygems/checksum",
    "/info gives the SHA-256 of each gem.",
    "bundler from 2.6 on: Gemfile.lock gets no checksums, and a damaged gem is not noticed",
)
_SPECS = Requirement(
    "rubygems/specs",
    "specs.4.8.gz, latest_specs.4.8.gz and prerelease_specs.4.8.gz are there, in gzip and Marshal.",
    "gem up to 4.0: list, search, outdated, fetch, update and info read nothing else",
)
_SPECS_LIST = Requirement(
    "rubygems/specs-list", "They list the version that /info lists.", "gem outdated and gem update: they do not see it"
)
_SPECS_CONDITION = Requirement(
    "rubygems/specs-304",
    "They answer 304 to If-Modified-Since, also with a date after theirs.",
    "gem: it loads the whole legacy index for each command that reads it",
)
_GEMSPEC = Requirement(
    "rubygems/gemspec",
    "quick/Marshal.4.8/NAME-VERSION.gemspec.rz is there, and is the specification of that version.",
    "gem install, which requests it for each gem that it installs",
)
_KINDS = ("specs", "latest_specs", "prerelease_specs")


# The compact index


async def headers(subject: Subject) -> list[Finding]:
    """Check the headers of all three kinds of page."""
    root, client = subject.index.root, subject.client
    names = await client.get(root / "names", most=_NAMES_LIMIT, Accept_Encoding="identity")
    pages = {"/versions": (subject.log, subject.body), f"/info/{subject.gem.name}": (subject.info, subject.info.body)}
    if names.status == 200:
        pages["/names"] = names, names.body
    etags = {path: seen for path, (reply, body) in pages.items() if (seen := reply.display("ETag")) != etag_of(body)}
    if subject.log.header("Content-Encoding"):  # a compressed answer may have a validator of its own: ask for the other
        plain = await client.head(root / "versions", Accept_Encoding="identity")
        etags.pop("/versions", None)
        if plain.display("ETag") != etag_of(subject.body):
            etags["/versions"] = plain.display("ETag")
    digests = {path: wrong for path, (reply, body) in pages.items() if (wrong := wrong_digests(reply, body))}
    ranges = {path: reply.display("Accept-Ranges") for path, (reply, _) in pages.items()}
    types = {path: reply.display("Content-Type") for path, (reply, _) in pages.items()}
    listed = f"\n{subject.gem.name}\n".encode() in b"\n" + names.body
    return [
        _ETAG.judge(not etags, _first(etags)),
        _DIGESTS.judge(not digests, _first(digests)),
        _ACCEPTS.judge(set(ranges.values()) == {"bytes"}, _first(ranges)),
        _TYPE.judge(all(kind.startswith("text/plain") for kind in types.values()), _first(types)),
        _gzip(subject),
        _NAMES.judge(names.status == 200 and listed, names.phrase if names.status != 200 else "it does not"),
    ]


def etag_of(body: bytes) -> str:
    """Return the ETag that the body has to have."""
    return f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"'


def wrong_digests(reply: WireResponse, body: bytes) -> str:
    """Return what is wrong with the digest headers of a response about `body`; empty when nothing is."""
    right = digest_headers(hashlib.sha256(body).digest())
    return ", ".join(f"{name} is {reply.display(name)}" for name, value in right.items() if reply.header(name) != value)


def _first(wrong: dict[str, str]) -> str:
    return next((f"{path}: {what}" for path, what in wrong.items()), "")


def _gzip(subject: Subject) -> Finding:
    if subject.log.header("Content-Encoding").lower() == "gzip":
        return _GZIP.ok()
    if len(subject.body) < 16_384:
        return _GZIP.unknown("it is too short to be worth it")
    return _GZIP.fails(f"{len(subject.body)} bytes, Content-Encoding: {subject.log.display('Content-Encoding')}")


async def updates(subject: Subject) -> list[Finding]:
    """Check how a client that has a copy learns what is new, on `/info`."""
    url, body, client = subject.info.url, subject.info.body, subject.client
    last = f"bytes={len(body) - 1}-"
    given = subject.info.header("ETag") or etag_of(body)
    bare = given.removeprefix("W/").strip('"')
    tail = await client.get(url, Range=last)
    packed = await client.get(url, Range=last, Accept_Encoding="gzip")
    beyond = [await client.get(url, Range=f"bytes={len(body) + more}-") for more in (0, 10)]
    refused = [reply.phrase for reply in beyond if reply.status != 200 or reply.identity() != body]
    forms = {form: (await client.get(url, If_None_Match=form)).status for form in (f'"{bare}"', f'W/"{bare}"', bare)}
    unmet = [f"{form} is answered {status}" for form, status in forms.items() if status != 304]
    unchanged = await client.get(url, If_None_Match=f'"{bare}"', Range=last)
    damaged = await client.get(url, If_None_Match=f'"{bare}"', Range=f"bytes={len(body) // 2}-")
    return [
        _tail(tail, body),
        _IDENTITY.judge(
            not packed.header("Content-Encoding"), f"Content-Encoding is {packed.display('Content-Encoding')}"
        ),
        _BEYOND.judge(not refused, ", ".join(refused)),
        _CONDITION.judge(not unmet, ", ".join(unmet)),
        _PRECEDENCE.judge(unchanged.status == 304, unchanged.phrase),
        _HEAL.judge(damaged.status == 200 and damaged.identity() == body, damaged.phrase),
    ]


def _tail(reply: WireResponse, body: bytes) -> Finding:
    size = len(body)
    if reply.status != 206:
        return _RANGE.fails(reply.phrase)
    if reply.header("Content-Range") != f"bytes {size - 1}-{size - 1}/{size}":
        return _RANGE.fails(f"Content-Range is {reply.display('Content-Range')}")
    if reply.body != body[-1:]:
        return _RANGE.fails("it is another byte, or more than one")
    wrong = wrong_digests(reply, body)
    return _RANGE.judge(not wrong, f"with a part, {wrong}")


async def versions(subject: Subject) -> list[Finding]:
    """Check whether `/versions` and `/info` agree, and what clients request before all else."""
    root, client, name = subject.index.root, subject.client, subject.gem.name
    heads = {url.path: await client.head(url) for url in (root, root / "versions")}
    dead = [f"HEAD {path} is answered {reply.phrase}" for path, reply in heads.items() if reply.status != 200]
    size = len(subject.body)
    tail = await client.get(root / "versions", Range=f"bytes={max(0, size - 1)}-", most=65536, part=True)
    beyond = await client.get(root / "versions", Range=f"bytes={size + 1024}-", most=1, part=True)
    missing = await client.get(root / "info" / _UNKNOWN, most=65536, part=True)
    promised = subject.versions.md5(name)
    actual = hashlib.md5(subject.info.body, usedforsecurity=False).hexdigest()
    return [
        _HEAD.judge(not dead, ", ".join(dead)),
        _LISTED.judge(name in subject.versions, "it does not"),
        _MD5.judge(promised == actual, f"{promised} in /versions, {actual} of /info/{name}"),
        # The log may have grown since it was read.
        _TAIL.judge(tail.status == 206 and tail.body[:1] == subject.body[-1:], tail.phrase),
        _END.judge(beyond.status == 200, beyond.phrase),
        _MISSING.judge(missing.status == 404, missing.phrase),
    ]


# Gems, and the legacy index


async def file(subject: Subject) -> list[Finding]:
    """Check one gem in every way in which clients read it."""
    chosen = subject.file
    if chosen is None:
        return [_CHECKSUM.unknown("the gem has no versions; name another with --gem")]
    without = [one.filename for one in subject.gem.files if not one.sha256]
    found = _CHECKSUM.judge(not without, f"{len(without)} without, such as {without[0]}" if without else "")
    url = subject.index.root / "gems" / chosen.filename
    final = (await subject.client.follow(url, most=1, part=True)).url
    expected = ExpectedFile(url=final, algorithm="sha256", digest=chosen.sha256 or "")
    return [found, *await _FILE.check(subject.client, expected)]


async def legacy(subject: Subject) -> list[Finding]:
    """Check the legacy index, where it is not too long to be read."""
    chosen = subject.file
    replies: dict[str, WireResponse] = {}
    rows: set[tuple[str, str, str]] = set()
    long: list[str] = []
    for kind in _KINDS:
        url = subject.index.root / f"{kind}.4.8.gz"
        head = await subject.client.head(url)
        if head.status == 200 and (head.length or 0) > _SPECS_LIMIT:
            long.append(kind)
            continue
        reply = await subject.client.follow(url, most=_SPECS_LIMIT)
        if reply.status != 200:
            return [_SPECS.fails(f"{kind}.4.8.gz is answered {reply.phrase}")]
        replies[kind] = reply
        try:
            rows |= set(load_specs(gunzip(reply.body, 8 * _SPECS_LIMIT)))
        except TooLarge as error:
            return [_SPECS.unknown(str(error))]
        except MirrorError as error:
            return [_SPECS.fails(f"{kind}.4.8.gz cannot be read: {error}")]
    found = [_SPECS.unknown(f"{', '.join(long)} is too long to look at") if long else _SPECS.ok()]
    if chosen is not None and not (long and not is_prerelease(chosen.version)):
        row = (subject.gem.name, chosen.version, chosen.platform or GENERIC)
        found.append(_SPECS_LIST.judge(row in rows, f"{chosen.filename} is missing"))
    if "latest_specs" in replies:
        found.append(await _condition(subject.client, replies["latest_specs"]))
    return found


async def _condition(client: IndexClient, reply: WireResponse) -> Finding:
    since = reply.header("Last-Modified")
    if not since:
        return _SPECS_CONDITION.fails("there is no Last-Modified")
    with suppress(ValueError):  # as gem does, which sends the time of its own copy
        since = format_datetime(parsedate_to_datetime(since) + timedelta(minutes=1), usegmt=True)
    again = await client.get(reply.url, most=1, part=True, If_Modified_Since=since)
    return _SPECS_CONDITION.judge(again.status == 304, again.phrase)


async def gemspec(subject: Subject) -> list[Finding]:
    """Check the specification of the gem that is examined."""
    chosen = subject.file
    if chosen is None:
        return []
    full = full_name(subject.gem.name, chosen.version, chosen.platform)
    reply = await subject.client.follow(
        subject.index.root / "quick" / "Marshal.4.8" / f"{full}.gemspec.rz", most=4 << 20
    )
    if reply.status != 200:
        return [_GEMSPEC.fails(reply.phrase)]
    try:
        spec = read_gemspec_rz(reply.body)
    except MirrorError as error:
        return [_GEMSPEC.fails(f"it cannot be read: {error}")]
    found = (spec.name, str(spec.version))
    return [_GEMSPEC.judge(found == (subject.gem.name, chosen.version), f"it is that of {' '.join(found)}")]
