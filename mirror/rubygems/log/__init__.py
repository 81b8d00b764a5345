"""The log of versions, `/versions`: followed upstream, published as an append-only log of our own.

The one asymmetry between the ecosystems. Pure values, which know no clock, store or network:

versions_map      gem → its versions and the MD5 of its `/info`: parsed, rendered, compared
upstream_copy     an upstream's log as far as it was fetched, and what to believe of a response
published_log     our own log at one moment, as it is stored for all processes, and what it should list
name_owners       to whom the names of gems belong, beyond the order of the upstreams
events            what may change our log

What acts on them:

upstream_index    follows one upstream: requests, verifies and stores its log
local_entries     the gems that are listed otherwise than upstream lists them, persisted
policy_review     the changes of upstreams that policy has not seen yet
legacy_index      the lists and the info pages of an upstream that has no compact index
writer            the task that appends to the log, from a queue of events; it combines what upstreams list
published_index   what clients read, and what posts those events: polling upstreams, checking pages
"""
