"""Read pages without trust: parsed, and searched for anything that is not ours."""

from selectolax.lexbor import LexborHTMLParser

from tests.serving import Reply, Serving

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"
_ELEMENT_NAMES = """
html head meta title link script body a header div svg path nav ul li form label input button main
footer p h1 h2 h3 h4 h5 h6 dl dt dd section article strong span code details summary figure
figcaption g line rect text table thead tbody tr th td ol q time abbr progress pre em blockquote b i
br hr
"""
ELEMENTS = frozenset(_ELEMENT_NAMES.split())
_ATTRIBUTE_NAMES = """
lang charset name content rel type href src defer class id role aria-label aria-labelledby
aria-current aria-hidden action method for value placeholder maxlength autocomplete autocapitalize
spellcheck tabindex viewbox viewBox width height focusable d x x1 x2 y y1 y2 scope datetime title
download data-copy max start colspan rowspan required
"""
ATTRIBUTES = frozenset(_ATTRIBUTE_NAMES.split())


async def look(mirror: Serving, path: str, **headers: str) -> Reply:
    """Request a page as a browser does, once the catalog has what was answered before."""
    await mirror.written()
    return await mirror.get(path, **{"Accept": BROWSER, "Accept_Encoding": "identity", **headers})


def sound(reply: Reply) -> LexborHTMLParser:
    """Check that a page holds nothing but what our templates put there; its tree."""
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    policy = reply.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none';")
    assert "unsafe" not in policy
    assert reply.headers["X-Content-Type-Options"] == "nosniff"
    assert reply.headers["Referrer-Policy"] == "same-origin"
    assert "public" not in reply.headers["Cache-Control"]
    tree = LexborHTMLParser(reply.text)
    for node in tree.css("*"):
        tag = str(node.tag)
        assert tag in ELEMENTS, tag
        assert set(node.attributes) <= ATTRIBUTES, (tag, node.attributes)
        address = node.attributes.get("href") or node.attributes.get("src") or node.attributes.get("action") or ""
        if tag == "a":
            scheme = address.partition(":")[0] if ":" in address.partition("/")[0].partition("?")[0] else ""
            assert scheme in ("", "http", "https", "mailto"), address
            assert not address.startswith("//"), address
        elif address:
            assert address.startswith(("./", "../", "-/")), address
    scripts = tree.css("script")
    assert len(scripts) == 1
    assert not scripts[0].text(), "nothing is inline"
    assert not tree.css("style")
    assert len(tree.css("main")) == len(tree.css("h1")) == 1
    ids = [node.attributes["id"] for node in tree.css("[id]")]
    assert len(ids) == len(set(ids)), "two elements of one id"
    return tree
