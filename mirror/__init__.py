"""A pull-through caching proxy and mirror for Python and Ruby packages.

The map, each layer importing only from those above it:

    errors, model, memory, loops, config/   what is said and agreed
    freshness, policy/, merge, flight       decisions, pure
    pypi/, rubygems/                        the two ecosystems, with the same file names
    blobs/, catalog/                        what is stored
    upstream/, transfer/, bulk/             the way in
    feed, removals, sources/, uploads/      what changed, where projects come from, and our own
    repository                              one served index: which names, what has a project, give me this file
    lockfiles/, sync/, bundle/              ahead of demand, and between mirrors that never meet
    sweep/, backup                          what goes, what is mended, what is carried away
    http/                                   connections in, bytes out: the fast lane, sending, receiving, headers
    telemetry/, auth/, systemd              what is noted, who may do what, what the service manager is told
    endpoints/                              our own below /-/: state, journal, changes, explanations
    doctor/                                 is an index what its clients need
    pypi.routes, rubygems.routes, web/      which URL is which
    policies, app                           put together
    housekeeping, ahead, follow/, static/   what works over the whole
    listening, serving, cli/                and run

Follow one request: `pypi.routes` → `http.answers` → `repository` → `sources.cached` → `sources.pages` → `freshness`,
and back through `http.send`.
"""

__version__ = "0.1.0"
