"""The rules by which the kinds of responses differ; `mirror.server.respond` applies them."""

from functools import cache, lru_cache

import msgspec


class ResponseRules(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """The differences between the kinds of responses."""

    cache_control: str
    vary: str = ""
    encodings: tuple[str, ...] = ()
    """Content codings, in our order of preference; never with a Range header where that counts (rule 3)."""
    ranges: bool = False
    """Whether a Range header counts."""
    suffix_ranges: bool = True
    """Whether a range may count from the end."""
    unsatisfiable: int = 416
    """The status for a range past the end; with 200, the whole is sent (rule 2)."""
    digests: bool = False
    """Whether the digests of the whole are sent, also with a part (rule 1)."""
    is_private: bool = False
    """Whether no cache may give the response to another client; see `private`."""
    heals: bool = False
    """Whether a client whose range shows that its copy is damaged gets the whole instead of a 304 (rule 10)."""


ACTIVE_TYPES = ("text/html", "application/xhtml+xml", "image/svg+xml", "text/xml", "application/xml")
"""The beginnings of the media types in which a browser could run something."""
OPEN_TO_PAGES = ("Access-Control-Allow-Origin", "*")
"""Lets the pages of every site read a response that needs no login (Fetch standard, section 3.3.3)."""
NO_SNIFFING = ("X-Content-Type-Options", "nosniff")
NOTHING_RUNS = (
    "Content-Security-Policy",
    "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)
"""For an index page, which is links and nothing else: whatever got into one does nothing."""


@cache
def private(rules: ResponseRules) -> ResponseRules:
    """Return the rules for what not everyone may read: no cache between us and the client may give it to another."""
    lifetime = rules.cache_control.removeprefix("public, ")
    vary = ", ".join(filter(None, (rules.vary, "Authorization, Cookie")))
    return msgspec.structs.replace(rules, cache_control=f"private, {lifetime}", vary=vary, is_private=True)


@lru_cache(maxsize=128)
def fixed_lines(rules: ResponseRules, media_type: str) -> str:
    """Return the header lines that depend on nothing else, each after a line break."""
    headers = [("Cache-Control", rules.cache_control), NO_SNIFFING]
    if rules.ranges:
        headers.append(("Accept-Ranges", "bytes"))
    if rules.vary:
        headers.append(("Vary", rules.vary))
    if not rules.is_private:
        headers.append(OPEN_TO_PAGES)
    if media_type.startswith(ACTIVE_TYPES):
        headers.append(NOTHING_RUNS)
    return "".join(f"\r\n{name}: {value}" for name, value in headers)


FILE = ResponseRules(cache_control="public, max-age=31536000, immutable", ranges=True)
"""Files, which never change."""
PROVISIONAL_FILE = msgspec.structs.replace(FILE, cache_control="public, max-age=600")
"""What nothing vouches for, so that other bytes may follow under the same name: sidecars, parts of files."""
PAGE = ResponseRules(cache_control="max-age=600", vary="Accept, Accept-Encoding", encodings=("zstd", "gzip"))
"""Pages, each encoding of which has an ETag of its own."""
OWN_PAGE = msgspec.structs.replace(PAGE, cache_control="no-cache")
"""Pages of projects with uploads: clients ask each time, and mostly get a 304, so that they see an upload at once."""
COMPACT = ResponseRules(
    cache_control="max-age=60",
    vary="Accept-Encoding",
    encodings=("gzip",),
    ranges=True,
    suffix_ranges=False,
    unsatisfiable=200,
    digests=True,
    heals=True,
)
"""The compact index of RubyGems, of which clients fetch the tail; `mirror.rubygems.routes` explains the rules."""
