"""What gem and bundler demand of gems, and of the legacy index beside them."""

from mirror.doctor import Asking, Finding, Reply, Requirement
from mirror.doctor.asking import inflated
from mirror.doctor.conduct import Conduct, Promise
from mirror.errors import MirrorError, TooLarge
from mirror.rubygems.doctor.index import Subject
from mirror.rubygems.marshal import load_specs, read_gemspec_rz
from mirror.rubygems.names import GENERIC, full_name, is_prerelease

_SPECS_LIMIT = 16 << 20

_CONDUCT = Conduct(
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
    "They answer 304 to If-Modified-Since.",
    "gem: it loads the whole legacy index for each command that reads it",
)
_GEMSPEC = Requirement(
    "rubygems/gemspec",
    "quick/Marshal.4.8/NAME-VERSION.gemspec.rz is there, and is the specification of that version.",
    "gem install, which asks for it of each gem that it installs",
)
_KINDS = ("specs", "latest_specs", "prerelease_specs")


async def file(subject: Subject) -> list[Finding]:
    """One gem, by every way in which clients read it."""
    chosen = subject.file
    if chosen is None:
        return [_CHECKSUM.unknown("the gem has no versions; name another with --gem")]
    without = [one.filename for one in subject.gem.files if not one.sha256]
    found = _CHECKSUM.judge(not without, f"{len(without)} without, such as {without[0]}" if without else "")
    url = subject.index.root / "gems" / chosen.filename
    final = (await subject.asking.follow(url, most=1, part=True)).url
    promise = Promise(url=final, algorithm="sha256", digest=chosen.sha256 or "")
    return [found, *await _CONDUCT.check(subject.asking, promise)]


async def legacy(subject: Subject) -> list[Finding]:
    """The legacy index, where it is not too long to be read."""
    chosen = subject.file
    replies: dict[str, Reply] = {}
    rows: set[tuple[str, str, str]] = set()
    long: list[str] = []
    for kind in _KINDS:
        url = subject.index.root / f"{kind}.4.8.gz"
        head = await subject.asking.head(url)
        if head.status == 200 and (head.length or 0) > _SPECS_LIMIT:
            long.append(kind)
            continue
        reply = await subject.asking.follow(url, most=_SPECS_LIMIT)
        if reply.status != 200:
            return [_SPECS.fails(f"{kind}.4.8.gz is answered {reply.said}")]
        replies[kind] = reply
        try:
            rows |= set(load_specs(inflated(reply.body, 8 * _SPECS_LIMIT)))
        except TooLarge as error:
            return [_SPECS.unknown(str(error))]
        except MirrorError as error:
            return [_SPECS.fails(f"{kind}.4.8.gz cannot be read: {error}")]
    found = [_SPECS.unknown(f"{', '.join(long)} is too long to look at") if long else _SPECS.ok()]
    if chosen is not None and not (long and not is_prerelease(chosen.version)):
        row = (subject.gem.name, chosen.version, chosen.platform or GENERIC)
        found.append(_SPECS_LIST.judge(row in rows, f"{chosen.filename} is missing"))
    if "latest_specs" in replies:
        found.append(await _condition(subject.asking, replies["latest_specs"]))
    return found


async def _condition(asking: Asking, reply: Reply) -> Finding:
    since = reply.header("Last-Modified")
    if not since:
        return _SPECS_CONDITION.fails("there is no Last-Modified")
    again = await asking.get(reply.url, most=1, part=True, If_Modified_Since=since)
    return _SPECS_CONDITION.judge(again.status == 304, again.said)


async def gemspec(subject: Subject) -> list[Finding]:
    """The specification of the gem that is looked at."""
    chosen = subject.file
    if chosen is None:
        return []
    full = full_name(subject.gem.name, chosen.version, chosen.platform)
    reply = await subject.asking.follow(
        subject.index.root / "quick" / "Marshal.4.8" / f"{full}.gemspec.rz", most=4 << 20
    )
    if reply.status != 200:
        return [_GEMSPEC.fails(reply.said)]
    try:
        spec = read_gemspec_rz(reply.body)
    except MirrorError as error:
        return [_GEMSPEC.fails(f"it cannot be read: {error}")]
    told = (spec.name, str(spec.version))
    return [_GEMSPEC.judge(told == (subject.gem.name, chosen.version), f"it is that of {' '.join(told)}")]
