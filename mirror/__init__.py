"""A pull-through caching proxy and mirror for Python and Ruby packages.

The map, each layer importing only from those above it:

    errors, model, memory, config        what is said and agreed
    freshness, policy, merge, flight     decisions, pure
    pypi/, rubygems/                     the two ecosystems, with the same file names
    blobs/, catalog/                     what is stored
    upstream, transfer                   the way in
    feed, sources, repository            one served index: which names, what has a project, give me this file
    lockfiles, sync, bundle, sweep       ahead of demand, between mirrors that never meet, and out again
    http, send, answers                  the way out
    proxies, connections, lane           who asks, how many at once, and those who repeat themselves
    doctor/                              is an index what its clients need
    pypi.routes, rubygems.routes, web/   which URL is which
    state, metrics, log, systemd         what monitors are told
    app                                  put together
    listening, serving, cli/             and run
    static/                              the same as plain files, for any web server
"""

__version__ = "0.1.0"
