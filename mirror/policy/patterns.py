"""Glob patterns on names, compiled once: `acme-*`, `*_x86_64`.

Case counts, and a pattern is compared as it stands: whoever reads patterns from the configuration spells them first
as canonical names are spelled (`Versions.pattern`), or `Acme_*` would never match anything.
"""

import fnmatch
import re
from functools import lru_cache


@lru_cache(maxsize=1024)
def _compiled(patterns: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile("|".join(map(fnmatch.translate, patterns)))


def matches(patterns: tuple[str, ...], name: str) -> bool:
    """Whether any of the patterns matches the whole name; no patterns match nothing."""
    return bool(patterns) and _compiled(patterns).match(name) is not None
