"""HTTP, as a server bears it: connections in, bytes out, and what HTTP wants of every answer.

connections   so many and no more, each as long as its client keeps up
proxies       who really asks, when a reverse proxy stands in front
lane          a request whose bytes were answered before is answered without being parsed
semantics     negotiation, conditions, cache headers, errors (RFC 9110 and 9111)
answers       finished pages, kept in memory: the whole of a hit
send          bytes of every kind out: ranges, conditions, HEAD
receive       bodies and forms in, within limits
repositories  what the routes of every repository say alike
"""
