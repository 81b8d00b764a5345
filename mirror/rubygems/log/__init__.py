"""The index as a whole: `/versions` (followed upstream, published as our own append-only log), `/names`, the specs.

listed   what `/versions` says
log      our own log of it
copy     our copy of an upstream's, and what to believe of an answer
derived  names and specs

Values in, values out: no clock, no store, no network. What is heavy (parsing, diffing or compressing the whole) is a
plain function to be called in a thread.
"""

from mirror.rubygems.log.copy import Append, Refetch, Refused, Replace, Unchanged, UpstreamCopy, Verdict, follow
from mirror.rubygems.log.derived import Which, info_from_gemspecs, map_from_specs, render_names, specs
from mirror.rubygems.log.published_log import PublishedLog, digest_headers
from mirror.rubygems.log.versions import EMPTY_MD5, VersionsMap, diff, names_in, parse_versions, render_versions

__all__ = [
    "EMPTY_MD5",
    "Append",
    "PublishedLog",
    "Refetch",
    "Refused",
    "Replace",
    "Unchanged",
    "UpstreamCopy",
    "Verdict",
    "VersionsMap",
    "Which",
    "diff",
    "digest_headers",
    "follow",
    "info_from_gemspecs",
    "map_from_specs",
    "names_in",
    "parse_versions",
    "render_names",
    "render_versions",
    "specs",
]
