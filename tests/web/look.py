"""Debian's Chromium, driven through its own protocol: opens pages as a person sees them, and reports what is wrong.

Nothing is downloaded: Playwright drives the browser that is installed.
"""

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright

from tests.clients import require_client

Scheme = Literal["light", "dark"]
PHONE, DESK = (390, 844), (1280, 900)
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--no-first-run", "--disable-dev-shm-usage"),
]


@asynccontextmanager
async def browser() -> AsyncIterator[Browser]:
    """A headless Chromium with a profile of its own."""
    program = require_client("chromium")
    with tempfile.TemporaryDirectory() as home:
        async with async_playwright() as playwright:
            running = await playwright.chromium.launch(
                executable_path=program, args=FLAGS, env={**os.environ, "HOME": home, "XDG_CONFIG_HOME": home}
            )
            try:
                yield running
            finally:
                await running.close()


class Viewer:
    """A browser window of one width and colour scheme."""

    def __init__(self, context: BrowserContext, url: str) -> None:
        self._context = context
        self.url = url
        self.faults: list[str] = []
        """Console errors, failed and outside requests."""

    async def open(self, path: str) -> Page:
        """Open a page in a tab of its own."""
        page = await self._context.new_page()
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.faults.append(f"{page.url}: {error}"))
        page.on("request", self._on_request)
        page.on("requestfailed", lambda request: self.faults.append(f"failed: {request.url}"))
        await page.goto(self.url + path, wait_until="load")
        return page

    def _on_console(self, message: ConsoleMessage) -> None:
        # A page with the status 404 is one of ours; the browser mentions the status of the page itself.
        expected = "status of 404" in message.text and "/-/projects/" in str(message.location.get("url"))
        if message.type in ("error", "warning") and not expected:
            self.faults.append(f"{message.location}: {message.text}")

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith(self.url):
            self.faults.append(f"asked elsewhere: {request.url}")


@asynccontextmanager
async def open_viewer(
    running: Browser, url: str, *, scheme: Scheme = "light", size: tuple[int, int] = DESK, script: bool = True
) -> AsyncIterator[Viewer]:
    """A browser window, for the length of the block."""
    context = await running.new_context(
        color_scheme=scheme,
        viewport={"width": size[0], "height": size[1]},
        java_script_enabled=script,
        reduced_motion="reduce",
    )
    context.set_default_timeout(20_000)
    try:
        yield Viewer(context, url)
    finally:
        await context.close()


def serious(results: dict[str, Any]) -> list[str]:
    """What axe-core calls serious or worse, with the elements."""
    return [
        f"{fault['id']} ({fault['impact']}): {fault['help']}: {[node['html'][:200] for node in fault['nodes'][:4]]}"
        for fault in results["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


async def shots(url: str, directory: Path, paths: list[str]) -> None:
    """Pictures of pages, in both colours and widths."""
    directory.mkdir(exist_ok=True)
    async with browser() as running:
        for scheme in ("light", "dark"):
            for word, size in (("phone", PHONE), ("desk", DESK)):
                async with open_viewer(running, url, scheme=scheme, size=size) as viewer:  # type: ignore[arg-type]
                    for path in paths:
                        page = await viewer.open(path)
                        name = path.replace("/", "_").replace("?", "_") or "start"
                        await page.screenshot(path=directory / f"{name}-{word}-{scheme}.png", full_page=True)
                    print(viewer.faults)
