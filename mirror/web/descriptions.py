"""Descriptions of projects as harmless HTML, each rendered once by a process of its own, within limits.

When the process takes too long, dies, or finds too much, the description is shown as plain text, and that it failed is
remembered: neither other clients nor one that went away in the meantime make the process run again.
"""

import asyncio
import hashlib
import logging
import sys
from html import escape
from pathlib import Path

from mirror.index.cache import BoundedCache, MemoryBudget, SingleFlight
from mirror.model import DescriptionType

logger = logging.getLogger(__name__)

INPUT_CHARACTERS = 400_000
"""A longer description is cut off."""
HTML_CHARACTERS = 2_000_000
"""A description whose HTML is longer is shown as plain text."""
RENDER_SECONDS = 10.0
"""How long rendering may take before the process is killed; what it may take of a processor is in `markup`."""
PROCESSES = 2
"""Processes at the same time."""
WAITING_LIMIT = 50
"""Descriptions that wait for a process; further ones are shown as plain text until there is room."""
CACHE_CHARACTERS = 8 << 20
"""Characters of rendered descriptions that are kept."""
FAILURES_BYTES = 4 << 20
"""Bytes of memory for which descriptions could not be rendered: about 10,000 of them."""

_PROGRAM = Path(__file__).with_name("markup.py")


class Descriptions:
    """A cache of rendered descriptions."""

    def __init__(self, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(PROCESSES)
        self._memory: BoundedCache[str, str] = BoundedCache(MemoryBudget(CACHE_CHARACTERS))
        self._failed: BoundedCache[str, bool] = BoundedCache(MemoryBudget(FAILURES_BYTES))
        self._flight: SingleFlight[str, str] = SingleFlight()

    async def html(self, text: str, markup: DescriptionType) -> str:
        """Return a description as HTML; what cannot be rendered is shown as plain text. Never raises."""
        text = text[:INPUT_CHARACTERS]
        if markup == "plain":
            return plain(text)
        key = f"{markup} {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"
        if self._failed.value(key):
            return plain(text)
        known = self._memory.value(key)
        if known is None:
            if len(self._flight) >= WAITING_LIMIT and key not in self._flight:
                return plain(text)
            known, _ = await self._flight.run(key, lambda: self._render(key, text, markup))
        return known

    async def _render(self, key: str, text: str, markup: DescriptionType) -> str:
        """Render a description, and keep what comes of it, whether or not anyone still waits for it."""
        async with self._slots:
            html = await self._run(text, markup)
        if html is None:
            logger.info("a description in %s of %d characters is shown as plain text", markup, len(text))
            self._failed.put(key, True, len(key))
            return plain(text)
        self._memory.put(key, html, len(html))
        return html

    async def _run(self, text: str, markup: DescriptionType) -> str | None:
        """Run the process; None when it fails."""
        # -P: nothing is imported from the working directory.
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", str(_PROGRAM), markup,
            stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with asyncio.timeout(self._seconds):
                html, _ = await process.communicate(text.encode("utf-8", "replace"))
        except TimeoutError:
            return None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return html.decode() if process.returncode == 0 and html and len(html) <= HTML_CHARACTERS else None

    async def close(self) -> None:
        """Stop the processes."""
        await self._flight.close()


def plain(text: str) -> str:
    """Return HTML that shows a text with its lines."""
    return f"<pre>{escape(text)}</pre>" if text.strip() else ""
