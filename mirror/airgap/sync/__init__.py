"""Keep a chosen set ahead of demand: decide what is needed, fetch it, record that it is held.

`fetch` what the inputs need and is not held; or only `plan` it, and list what is `lacking`. A `Fetcher` is how the
mirror is reached: `LocalFetcher` in the process that owns the store; a command beside a running mirror is a client of
it like any other, so that only one process ever writes pages and the list of gems, and both may fetch the same file at
once. plan (what is needed), resolve (uv and bundler decide versions), fetching (the run), queue (files on their way),
fetchers, bulk and workers (many small files).

What is fetched is entered in a set, and what a set names is never evicted. The surprise: pages are fetched before files
and again on every run, because an installer that is offline reads them and not the lock.
"""
