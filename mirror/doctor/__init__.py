"""What `mirror doctor` knows of every index: how to ask it, and how to say what was found.

findings (demands and what became of them), asking (an HTTP client that bounds everything), conduct (what both
ecosystems ask of any answer), machine (this mirror's own disk, clock, certificate and catalog). What Python and Ruby
clients demand stands in `pypi.doctor` and `rubygems.doctor`. Not done, on purpose: crawling; one project and one gem
stand for all of an index.
"""

from mirror.doctor.asking import Asking, Login, Reply, opened
from mirror.doctor.findings import Check, Demand, Finding, Wishes, run

__all__ = ["Asking", "Check", "Demand", "Finding", "Login", "Reply", "Wishes", "opened", "run"]
