"""Descriptions of projects as harmless HTML, each rendered once by a process of its own, within limits.

When the process takes too long, dies, or finds too much, the description is shown as plain text.
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
"""How long rendering may take before the process is killed."""
PROCESSES = 2
"""Processes at the same time."""
CACHE_CHARACTERS = 8 << 20
"""Characters of rendered descriptions that are kept."""

_PROGRAM = Path(__file__).with_name("markup.py")


class Descriptions:
    """A cache of rendered descriptions."""

    def __init__(self, seconds: float = RENDER_SECONDS) -> None:
        self._seconds = seconds
        self._slots = asyncio.Semaphore(PROCESSES)
        self._memory: BoundedCache[str, str] = BoundedCache(MemoryBudget(CACHE_CHARACTERS))
        self._flight: SingleFlight[str, str] = SingleFlight()

    async def html(self, text: str, markup: DescriptionType) -> str:
        """Return a description as HTML; what cannot be rendered is shown as plain text. Never raises."""
        text = text[:INPUT_CHARACTERS]
        if markup == "plain":
            return plain(text)
        key = f"{markup} {hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()}"
        known = self._memory.value(key)
        if known is None:
            known, _ = await self._flight.run(key, lambda: self._render(text, markup))
            self._memory.put(key, known, len(known))
        return known

    async def _render(self, text: str, markup: DescriptionType) -> str:
        async with self._slots:
            # -P: nothing is imported from the working directory.
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-P", str(_PROGRAM), markup,
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
            )  # fmt: skip
            try:
                async with asyncio.timeout(self._seconds):
                    html, _ = await process.communicate(text.encode("utf-8", "replace"))
            except TimeoutError:
                html = b""
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
        if process.returncode != 0 or not html or len(html) > HTML_CHARACTERS:
            logger.info("a description in %s of %d characters is shown as plain text", markup, len(text))
            return plain(text)
        return html.decode()

    async def close(self) -> None:
        """Stop the processes."""
        await self._flight.close()


def plain(text: str) -> str:
    """Return HTML that shows a text with its lines."""
    return f"<pre>{escape(text)}</pre>" if text.strip() else ""
