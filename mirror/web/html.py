"""Templates, static files, and the headers of every page.

The template engine is loaded some time after the start, or with the first page, so that it makes no start slower. Links
are relative to the page, so that they are right under every host name and every prefix that a proxy puts in front.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING
from urllib.parse import quote

from aiohttp import web

from mirror.web import views

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

HEADERS = {
    # Only our own files are loaded and run, and nothing inline, so that a hole in a page stays harmless.
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; form-action 'self';"
        " base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with no-referrer, browsers send `Origin: null` with our own forms
    "Cross-Origin-Opener-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Vary": "Accept, Authorization, Cookie",
}
STATIC = {
    "style.css": "text/css; charset=utf-8",
    "copy.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mirror.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters |= {
        "printable": views.printable,
        "size": views.size,
        "count": views.count,
        "counted": views.counted,
        "moment": views.moment,
        "age": views.age,
        "segment": lambda text: quote(str(text), safe=""),
    }
    environment.globals |= {"asset": asset}
    return environment


def prepare() -> None:
    """Load the template engine and compile all templates, so that no visitor waits for it. Blocks."""
    environment = _environment()
    for name in environment.list_templates():
        environment.get_template(name)


def asset(name: str) -> str:
    """Return the address of a static file below the root; it changes with the content."""
    return f"-/static/{name}?{static(name)[1][:12]}"


@cache
def static(name: str) -> tuple[bytes, str]:
    """Return the content of a static file, and its digest."""
    content = files("mirror.web").joinpath("static", name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()


def root_from(path: str) -> str:
    """Return the relative address of the root from the page at `path`."""
    return "../" * (path.count("/") - 1) or "./"


def render_page(request: web.Request, template: str, values: Mapping[str, object], status: int = 200) -> web.Response:
    """Render a template; all `values` are escaped, unless they are `Markup`."""
    text = render_text(request, template, values)
    return page_of(text, status, signed_in=bool(values.get("user")) or "Authorization" in request.headers)


def render_text(request: web.Request, template: str, values: Mapping[str, object]) -> str:
    """Render a template to the text of a page; see `render_page`."""
    return _environment().get_template(template).render(values, at=root_from(request.path))


def page_of(text: str, status: int = 200, *, signed_in: bool = False) -> web.Response:
    """Return a page with its headers."""
    response = web.Response(
        status=status,
        text=text,
        content_type="text/html",
        headers={**HEADERS, "Cache-Control": "no-store" if signed_in else "private, no-cache"},
    )
    if status == 401:  # RFC 9110 section 15.5.2; a scheme that makes no browser ask for a password of HTTP
        response.headers["WWW-Authenticate"] = 'Session realm="mirror"'
    if len(text) > 2000:
        response.enable_compression()
    return response


def unescaped(html: str) -> "Markup":
    """Mark HTML that is known to be harmless, so that a template does not escape it."""
    from markupsafe import Markup

    return Markup(html)


async def static_file(request: web.Request) -> web.Response:
    """Serve `/-/static/…`, whose content never changes under one address."""
    name = request.match_info["name"]
    if name not in STATIC:
        raise web.HTTPNotFound
    content, _ = static(name)
    return web.Response(
        body=content,
        headers={
            "Content-Type": STATIC[name],
            "Cache-Control": "public, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )
