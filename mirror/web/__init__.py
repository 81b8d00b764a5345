"""Pages for people: server-rendered HTML that works without JavaScript and loads nothing from elsewhere.

routes        URLs and handlers
access        what a viewer may see
projects      the list of projects of all repositories by name, a page at a time
summaries     summaries of projects, read from their metadata
descriptions  descriptions of projects, rendered by a process of its own
markup        that process: Markdown and reStructuredText → harmless HTML
views         pure: what a page shows, and how sizes, ages and untrusted texts are written
plot          pure: the geometry of a plot
html          templates, static files and the headers of every page

Everything that is shown here comes from untrusted authors: templates escape everything, and the one text that is HTML,
a description, passes through an allow-list. Nothing here changes anything, so no page needs a form but the search.
"""
