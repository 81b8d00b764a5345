"""Where projects come from. A source answers for one origin of projects, with or without a network behind it.

source  what a source is
cached  an upstream with everything that it ever answered kept: `pages` and `files` of it

Nothing here knows the ecosystem but through its `Format`. What may surprise: a file is looked up by the digest that its
page promises, so bytes that came in any other way (an import, another upstream) are held here too.
"""

from mirror.sources.cached import CachedUpstream
from mirror.sources.source import Document, Listing, NameListing, Opened, Source, name_of

__all__ = ["CachedUpstream", "Document", "Listing", "NameListing", "Opened", "Source", "name_of"]
