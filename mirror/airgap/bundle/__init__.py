"""Bundles: files that carry content between mirrors without a connection, whole or as the difference of two mirrors.

format (the bytes of a bundle: pure), contents (what a mirror holds, and what another one lacks), export, reading,
acceptance (what fits here) and load (the import), signing. A bundle is a plain tar that begins with the digests of
everything that follows and their signature, so that nothing is imported before it is verified.

The surprise: sources are named by their URLs, so both sides must have the same upstreams in their settings. What a
mirror evicted is not a change: a bundle never removes files, only pages, and files from pages.
"""

from mirror.airgap.bundle.contents import layout_of
from mirror.airgap.bundle.export import ExportSelection, export, write_inventory
from mirror.airgap.bundle.load import ImportResult, load
from mirror.airgap.bundle.signing import Keys

__all__ = ["ExportSelection", "ImportResult", "Keys", "export", "layout_of", "load", "write_inventory"]
