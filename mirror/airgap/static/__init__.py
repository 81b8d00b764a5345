"""Export what is held as a tree of files that any web server or bucket serves as an index, without the mirror.

layout (what an ecosystem defines of its part of the tree), content (what is held), tree (writing below one directory,
and the record of the last export), export (the walk). The URLs are the ecosystems' own (`pypi.static`,
`rubygems.static`).

The surprise: pages of the tree are not the pages that the mirror serves. They list only what is in the tree, so that no
resolver is led to a file that is not there.
"""

from mirror.airgap.static.export import StaticReport, StaticSource, export
from mirror.airgap.static.layout import Layout

__all__ = ["Layout", "StaticReport", "StaticSource", "export"]
