"""Ahead of demand and without a network: lock files, sync, bundles, following another mirror, static trees."""
