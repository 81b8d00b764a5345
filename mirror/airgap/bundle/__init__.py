"""Bundles: files that carry content between mirrors that never meet, complete or as the difference of two of them.

format (what a bundle looks like: pure), inventory (what a mirror holds, and what another one lacks: pure), gather (the
same read out of a store), export, reading and load (the import), signing. A bundle is a plain tar that begins with the
digests of all that follows and their signature, so that nothing is taken in before it is known to be right.

What may surprise: sources are named by their URLs, so both sides must have the same upstreams in their settings. What a
mirror lost on purpose (by a sweep) is no change: a bundle never takes files away, only pages, and files from pages.
"""

from mirror.airgap.bundle.export import ExportResult, ExportSelection, export, write_inventory
from mirror.airgap.bundle.gather import BundleContents, Places, gather, places
from mirror.airgap.bundle.inventory import Inventory, difference
from mirror.airgap.bundle.load import ImportResult, load
from mirror.airgap.bundle.signing import Keys, PublicKey, Signer

__all__ = [
    "BundleContents",
    "ExportResult",
    "ExportSelection",
    "ImportResult",
    "Inventory",
    "Keys",
    "Places",
    "PublicKey",
    "Signer",
    "difference",
    "export",
    "gather",
    "load",
    "places",
    "write_inventory",
]  # fmt: skip
