"""One served index: where projects come from, how they are merged, and what of them is shown.

repository      one mounted index: projects and files; a `view` is what it shows of one, `names` lists all of them
merge           several projects of one name to one (pure)
precedence      which sources may answer for a name (pure)
losses          when an answer that lacks much is doubted (pure)
freshness       when a stored page may be served (pure)
source          what a source of projects is
upstream        an upstream with everything that it ever answered kept: `upstream_pages` (in a
                `page_store`, with `serials`), `upstream_files`, `removals`
uploads         files of our own, as a source
publish         adding, yanking and deleting files of our own
records         the truth about them, beside their bytes
journal         what changed, in order, for those who follow
cache           one budget of memory, single flight, and validity
ecosystem       what an ecosystem provides

Nothing here knows an ecosystem but through its `Ecosystem` and `Format`.
"""
