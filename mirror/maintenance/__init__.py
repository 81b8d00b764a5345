"""Keeping the store in order: eviction, verification of what is held, and backup."""
