"""One served index: where projects come from, how they are merged, and what of them is shown.

ecosystem       what the rest of the mirror knows of Python and of Ruby
repository      one mounted index: names, project, file
merge           several projects of one name to one (pure)
freshness       when a stored page may be served (pure)
source          what a source of projects is
upstream        an upstream with everything that it ever answered kept: `upstream_pages` and `upstream_files`
uploads         files of our own, as a source
publish         how files of our own come and go
records         the truth about them, beside their bytes
removals        what an upstream has taken back
journal         what changed, in order, for whoever follows
cache           bounded memory and single flight

Nothing here knows an ecosystem except through its `Format`.
"""
