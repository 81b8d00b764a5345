"""The start page for people at the top of each mount of a tree: what is here and how to use it, without scripts."""

from collections.abc import Iterable
from html import escape

from mirror.index.ecosystem import StaticLayout


def start_page(layouts: Iterable[StaticLayout], below: Iterable[str]) -> bytes:
    """Render the start page of a mount with these indexes; `below` are the paths of other mounts, relative to it."""
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        "<title>Package index</title>\n</head>\n<body>\n<h1>Package index</h1>",
    ]
    for layout in layouts:
        lines.append(f'<h2>{escape(layout.title)}</h2>\n<p><a href="{layout.start}">All of them</a></p>')
        lines.append(f"<p>To use it:</p>\n<pre>{escape(layout.usage('https://this-server.example/'))}</pre>")
    if others := [f'<li><a href="{escape(path)}/">{escape(path)}</a></li>' for path in below]:
        lines += ["<h2>More</h2>\n<ul>", *others, "</ul>"]
    lines.append("</body>\n</html>\n")
    return "\n".join(lines).encode()
