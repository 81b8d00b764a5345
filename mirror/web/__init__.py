"""Pages for people: server-rendered HTML that works without JavaScript and loads nothing from elsewhere.

routes        URLs and handlers
visitors      who looks, and what they may see
browsing      projects of all repositories by name, a page at a time
abouts        what projects say of themselves
descriptions  descriptions of projects, rendered by a process of its own
markup        that process: Markdown and reStructuredText → harmless HTML
views         pure: what a page shows, and how sizes, ages and hostile texts are written
clients       pure: the lines to copy that point clients at this mirror
plot          pure: the geometry of a plot
html          templates, static files and the headers of every page

Whatever is shown here was written by somebody else: templates escape everything, and the one text that is HTML, a
description, comes out of an allow-list. Nothing here changes anything, so no page needs a form but the search.
"""
