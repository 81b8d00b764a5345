"""A pull-through caching proxy and mirror for Python and Ruby packages.

The map; each entry imports only from those above it:

    errors, model, runtime     what can go wrong, the values that packages share, the event loop
    isolation/                 reading hostile bytes in processes with limits of memory and time
    config/                    settings: types, loading, reference
    policy/                    rules → verdicts, pure
    blobs/, catalog/           stored bytes; the database, with all SQL
    upstream/, transfer/       the HTTP client of an upstream; a file on its way in, readable while it grows
    doctor/                    whether an index is what its clients need
    index/                     one served index: sources, merge, freshness, uploads, journal
    server/                    HTTP in and out: middleware, connections, replay, negotiation, responses, request bodies
    telemetry/, auth/          metrics and logs; users, tokens, rights, the audit trail
    pypi/, rubygems/           the two ecosystems, with the same file names; `rubygems/log/` holds what only Ruby has
    api/, web/                 our own endpoints below /-/; pages for people
    airgap/                    without a network: lock files, sync, bundles, following, static trees
    maintenance/               eviction, verification, backup
    service/                   what runs: the store, the mirror with its URLs and jobs, sockets, the process
    cli/                       the commands

The way of a page: `server` → `pypi.routes` → `index.repository` → `index.upstream_pages` → `upstream.client`, and back
through `server.pages` and `server.respond`. The way of a file is the same, with `index.upstream_files` and `transfer`
in the middle. `DECISIONS.md` beside this file explains what a newcomer would question, `SECURITY.md` what the mirror
protects against.
"""

__version__ = "0.1.0"
