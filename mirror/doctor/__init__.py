"""What `mirror doctor` knows of every index: how to ask it, and how to say what was found.

findings (demands and what became of them), client (an HTTP client that bounds everything), conduct (what both
ecosystems ask of any answer), machine (this mirror's own disk, clock, certificate and catalog). What Python and Ruby
clients demand stands in `pypi.doctor` and `rubygems.doctor`. Not done, on purpose: crawling; one project and one gem
stand for all of an index.
"""

from mirror.doctor.client import IndexClient, Login, WireResponse, open_session
from mirror.doctor.findings import Check, ExamineOptions, Finding, Requirement, run

__all__ = [
    "Check",
    "ExamineOptions",
    "Finding",
    "IndexClient",
    "Login",
    "Requirement",
    "WireResponse",
    "open_session",
    "run",
]
