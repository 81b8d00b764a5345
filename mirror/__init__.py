"""A pull-through caching proxy and mirror for Python and Ruby packages.

The map, each layer importing only from those above it:

    errors, model, memory, config        what is said and agreed
    freshness, policy, merge, flight     decisions, pure
    pypi/, rubygems/                     the two ecosystems, with the same file names
    blobs/, catalog/                     what is stored
    upstream, transfer                   the way in
    feed, sources, repository            one served index: which names, what has a project, give me this file
    http, send, answers                  the way out
    pypi.routes, rubygems.routes         which URL is which
    app, cli/                            put together, and run
"""

__version__ = "0.1.0"
