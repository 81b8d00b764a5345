"""Several processes that answer like one mirror: workers of one machine, and nodes that share a catalog and a store."""
