"""The rules by which the kinds of responses differ; `mirror.server.respond` applies them."""

import msgspec


class ResponseRules(msgspec.Struct, frozen=True, kw_only=True):
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
    heals: bool = False
    """Whether a client whose range shows that its copy is damaged gets the whole instead of a 304 (rule 10)."""


FILE = ResponseRules(cache_control="public, max-age=31536000, immutable", ranges=True)
"""Files, which never change."""
PRIVATE_FILE = msgspec.structs.replace(FILE, cache_control="private, max-age=31536000, immutable")
"""Files that not everyone may read: no cache between us and the client may keep them."""
FILE_RULES = {
    (True, False): FILE,
    (False, False): PRIVATE_FILE,
    (True, True): msgspec.structs.replace(FILE, cache_control="max-age=600"),
    (False, True): msgspec.structs.replace(FILE, cache_control="private, max-age=600"),
}
"""By whether everyone may read it, and whether other bytes may follow under the same name."""
PAGE = ResponseRules(cache_control="max-age=600", vary="Accept, Accept-Encoding", encodings=("zstd", "gzip"))
"""Pages, each encoding of which has an ETag of its own."""
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
