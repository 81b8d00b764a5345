"""What `mirror doctor` knows of every index: how to ask it, and how to say what was found.

findings (demands and what became of them), asking (an HTTP client that bounds everything), conduct (what both
ecosystems ask of any answer), machine (this mirror's own disk, clock, certificate and catalog). What Python and Ruby
clients demand stands in `pypi.doctor` and `rubygems.doctor`. Not done, on purpose: crawling; one project and one gem
stand for all of an index.
"""

from mirror.doctor.asking import Asking, Login, Reply, opened
from mirror.doctor.findings import Check, Finding, Requirement, Wishes, run

__all__ = ["Asking", "Check", "Finding", "Login", "Reply", "Requirement", "Wishes", "opened", "run"]
