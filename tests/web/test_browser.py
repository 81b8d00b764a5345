"""Pages as people see them: Chromium opens each, light and dark, on a phone and on a desk, and axe-core judges them."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser

from mirror.auth.passwords import hash_password
from mirror.catalog import User
from tests.builders import wheel
from tests.serving import Serving, repositories, serving
from tests.simulator import Simulator
from tests.uploading import make_token, upload
from tests.web import stage
from tests.web.look import DESK, PHONE, Scheme, browser, open_viewer, serious

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]

PAGES = [
    "",
    "-/projects/",
    "-/projects/?q=fla",
    "-/projects/?q=nothing-like-it",
    "-/projects/pypi/flask/",
    "-/projects/pypi/flask/?version=2.3.1",
    "-/projects/pypi/six/",
    "-/projects/pypi/acme-tools/",
    "-/projects/pypi/hostile/",
    "-/projects/pypi/unheard-of/",
    "-/projects/rubygems/rack/",
    "-/activity/",
    "-/state/",
]


@pytest.fixture
async def mirror(simulator: Simulator, tmp_path: Path) -> AsyncIterator[Serving]:
    stage.publish(simulator)
    hostile = "<script>alert(1)</script><img src=x onerror=alert(1)>" * 5
    extra = stage.described("text/markdown", f"{hostile}\n\n{'x' * 500}\n\n| {'y' * 300} | z |\n|---|---|\n| 1 | 2 |")
    simulator.publish(wheel("hostile", "1.0", summary=hostile, extra_metadata=extra), yanked=hostile)
    rule = {"name": "no old flask", "kind": "deny", "reason": "Too old.", "projects": ["flask"], "versions": "<2.3"}
    async with serving(tmp_path / "data", repositories(simulator), policy=[rule | {"action": "hide"}]) as running:
        await stage.use(running)
        await stage.month(running)
        token = await make_token(running)
        await upload(running, token, wheel("acme-tools", "1.0", summary="Our own tools"))
        for one in await running.mirror.catalog.accounts.tokens():  # with a token the state is for administrators
            await running.mirror.catalog.accounts.remove_token(one.name)
        yield running


@pytest.fixture
async def chromium() -> AsyncIterator[Browser]:
    async with browser() as running:
        yield running


# Each scheme once and each size once: colours do not depend on the size, nor what fits on the scheme.
@pytest.mark.parametrize(("scheme", "size"), [("light", PHONE), ("dark", DESK)], ids=["light-phone", "dark-desk"])
async def test_every_page_is_sound_readable_and_fits(
    mirror: Serving, chromium: Browser, scheme: Scheme, size: tuple[int, int]
) -> None:
    axe = Axe()
    async with open_viewer(chromium, mirror.url, scheme=scheme, size=size) as viewer:
        for path in PAGES:
            page = await viewer.open(path)
            assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth"), f"{path} is too wide"
            background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (background == "rgb(19, 22, 24)") == (scheme == "dark"), background
            assert serious((await axe.run(page)).response) == [], path
            await page.close()
        assert viewer.faults == []


async def test_the_search_is_followed_to_a_project_and_its_dependency(mirror: Serving, chromium: Browser) -> None:
    async with open_viewer(chromium, mirror.url) as viewer:
        page = await viewer.open("")
        await page.fill("#q", "flask")
        await page.press("#q", "Enter")
        await page.wait_for_url("**/-/projects/?q=flask")
        await page.click(".projects a")
        await page.wait_for_url("**/-/projects/pypi/flask/")
        assert await page.inner_text("h1") == "flask 3.1.0"
        await page.click(".needs a >> text=jinja2")
        await page.wait_for_url("**/-/projects/pypi/jinja2/")
        await page.click("nav >> text=Activity")
        await page.wait_for_url("**/-/activity/")
        assert viewer.faults == []


async def test_a_line_is_copied_and_said_to_be(mirror: Serving, chromium: Browser) -> None:
    async with open_viewer(chromium, mirror.url) as viewer:
        page = await viewer.open("")
        await page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        await page.click(".copy")
        await page.wait_for_selector(".copy >> text=Copied")
        copied = await page.evaluate("navigator.clipboard.readText()")
        assert copied == f"pip install --index-url {mirror.url}simple/ NAME"
        assert await page.inner_text("[role=status]") == "Copied"


async def test_pages_work_without_script_and_by_keyboard(mirror: Serving, chromium: Browser) -> None:
    async with open_viewer(chromium, mirror.url, script=False) as viewer:
        page = await viewer.open("")
        assert await page.locator(".copy").count() == 0, "no button that does nothing"
        await page.locator("summary").first.click()
        assert await page.locator("text=twine upload").first.is_visible()
        await page.fill("#q", "rack")
        await page.click("text=Search >> nth=-1")
        await page.wait_for_url("**/?q=rack")
        assert await page.locator(".projects a").count() == 1
    async with open_viewer(chromium, mirror.url) as viewer:
        page = await viewer.open("-/projects/pypi/flask/")
        await page.keyboard.press("Tab")
        assert await page.evaluate("document.activeElement.textContent") == "Skip to content"
        await page.keyboard.press("Enter")
        assert await page.evaluate("document.activeElement.id") == "content"
        reached = set()
        for _ in range(60):
            await page.keyboard.press("Tab")
            reached.add(await page.evaluate("document.activeElement.className || document.activeElement.tagName"))
        assert {"A", "copy", "description"} <= reached


async def test_nothing_that_an_author_wrote_runs(mirror: Serving, chromium: Browser) -> None:
    async with open_viewer(chromium, mirror.url) as viewer:
        for path in ("-/projects/pypi/hostile/", "-/projects/?q=%3Cscript%3Ealert(1)%3C/script%3E"):
            page = await viewer.open(path)
            page.on("dialog", lambda dialog: viewer.faults.append(dialog.message))
            assert await page.locator("script").count() == 1
            assert await page.locator("img").count() == 0
        assert viewer.faults == []


FETCHES = """
async ([page, file]) => {
    const names = await (await fetch(page, {headers: {Accept: "application/vnd.pypi.simple.v1+json"}})).json()
    const part = await (await fetch(file, {headers: {Range: "bytes=0-3"}})).arrayBuffer()
    return [names.name, new TextDecoder().decode(part.slice(0, 2))]
}
"""


async def test_a_page_of_another_origin_reads_what_everyone_may_read_and_nothing_else(
    simulator: Simulator, chromium: Browser, tmp_path: Path
) -> None:
    simulator.publish(wheel("six", "1.0"))
    paths = ["simple/six/", "packages/six/six-1.0-py3-none-any.whl"]
    closed = {"rules": [{"read": ["authenticated"]}]}
    async with (
        serving(tmp_path / "other", repositories(simulator)) as other,
        serving(tmp_path / "open", repositories(simulator)) as everyone,
        serving(tmp_path / "closed", repositories(simulator), auth=closed) as members,
    ):
        context = await chromium.new_context()
        page = await context.new_page()
        await page.goto(f"{other.url}health")  # which no policy of ours keeps from fetching
        assert await page.evaluate(FETCHES, [everyone.url + path for path in paths]) == ["six", "PK"]
        token = await make_token(members, ["read"])
        for headers in ("{}", f"{{headers: {{Authorization: 'Bearer {token}'}}}}"):
            for path in paths:
                refused = f"fetch('{members.url}{path}', {headers}).then(() => 'read', (error) => error.name)"
                assert await page.evaluate(refused) == "TypeError", f"{path} {headers}"
        uploads = f"fetch('{everyone.url}legacy/', {{method: 'POST', body: 'x'}}).then(() => 'sent', (e) => e.name)"
        assert await page.evaluate(uploads) == "TypeError"
        await context.close()


async def test_the_page_to_sign_in_is_sound_and_signs_in(
    simulator: Simulator, chromium: Browser, tmp_path: Path
) -> None:
    simulator.publish(wheel("six", "1.0"))
    closed = {"rules": [{"read": ["authenticated"]}]}
    async with serving(tmp_path / "data", repositories(simulator), auth=closed) as members:
        await members.mirror.catalog.accounts.add_user(User(name="rita", password=hash_password("correct horse")))
        for scheme, size in (("light", DESK), ("dark", PHONE)):
            async with open_viewer(chromium, members.url, scheme=scheme, size=size) as viewer:  # type: ignore[arg-type]
                page = await viewer.open("-/signin")
                assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")
                assert serious((await Axe().run(page)).response) == []
                await page.get_by_label("Name").fill("rita")
                await page.get_by_label("Password").fill("correct horse")
                await page.keyboard.press("Enter")
                await page.wait_for_url("**/-/projects/")
                assert "Signed in as rita" in await page.inner_text("footer")
                assert serious((await Axe().run(page)).response) == []
                assert viewer.faults == []
