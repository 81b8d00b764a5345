"""Observability: the application log and the access log, metrics, and totals that outlive a restart."""
