"""Our own endpoints below `/-/`, for both ecosystems, and the state that they report."""
