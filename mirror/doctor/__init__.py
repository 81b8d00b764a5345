"""What `mirror doctor` needs for any index: a client for it, and findings about it.

client (an HTTP client that limits everything), findings (requirements, and whether they are met), files (requirements
on files that both ecosystems share), machine (this mirror's own disk, clock, certificate and catalog). The requirements
of Python and Ruby clients are in `pypi.doctor` and `rubygems.doctor`.

Not done, on purpose: crawling. One project and one gem stand for all of an index.
"""

from mirror.doctor.client import IndexClient, Login, WireResponse, WireSession, open_session
from mirror.doctor.findings import Check, ExamineOptions, Finding, Requirement, run

__all__ = [
    "Check",
    "ExamineOptions",
    "Finding",
    "IndexClient",
    "Login",
    "Requirement",
    "WireResponse",
    "WireSession",
    "open_session",
    "run",
]
