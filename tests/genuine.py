"""Genuine gems and pages of the public Ruby index, and the headers that came with the pages."""

import json
from pathlib import Path

GEMS = Path(__file__).parent / "rubygems/data/gems"
INFO = Path(__file__).parent / "rubygems/data/info"
HEADERS: dict[str, dict[str, str]] = json.loads((INFO.parent / "info-headers.json").read_text())
"""Gem → header of its page → value."""
