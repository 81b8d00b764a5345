"""What is held as a tree of files that any web server or bucket serves as an index, without us.

layout (what an ecosystem has to say about its part of such a tree), holding (what is held), tree (writing below one
directory), state (what was written last time), browse (pages for people), export (the walk). Not here on purpose: which
URL is which, for that is the ecosystems' own (`pypi.static`, `rubygems.static`).

The surprise: pages of the tree are not the pages that we serve. They list only what is in the tree, so that nobody who
resolves by them is led to a file that is not there.
"""

from mirror.airgap.static.export import StaticReport, export
from mirror.airgap.static.layout import Layout

__all__ = ["Layout", "StaticReport", "export"]
