"""HTTP in and out: connections, negotiation, pages kept in memory, and bytes of every kind."""
