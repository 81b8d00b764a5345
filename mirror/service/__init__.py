"""What runs: the store, the mirror made from the settings, its jobs, its sockets, and the life of the process.

store           what is stored, and outlives every reload
ecosystems      Python and Ruby, by the names that settings give them
services        the composition root: a mirror, made from settings over a store, and the activity of the process
endpoints       the URLs of a mirror, and what answers there
generation      a mirror at work, with its connections and jobs
process         the service: start, reload, stop, signals
listening       sockets and certificates
handshakes      TLS connections until their handshake is over
systemd         the protocols of the service manager
jobs            everything that runs in the background
scheduled_sync  sync sets, for one mirror
following       followers of other mirrors, for one mirror
directory       the lock of the data directory, and where its mirror answers
open            the one way for a command to open any of this
"""
