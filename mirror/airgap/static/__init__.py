"""Export what is held as a tree of files that any web server or bucket serves as an index, without the mirror.

content (what is held), tree (writing below one directory, and the record of the last export), export (the walk). The
paths are the ecosystems' own (`index.ecosystem.StaticLayout`).

The surprise: pages of the tree are not the pages that the mirror serves. They list only what is in the tree, so that no
resolver is led to a file that is not there.
"""

from mirror.airgap.static.export import StaticReport, StaticSource, export

__all__ = ["StaticReport", "StaticSource", "export"]
