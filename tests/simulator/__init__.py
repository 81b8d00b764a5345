"""Upstreams on a loopback port: a PyPI and a RubyGems index that behave as the public ones do, or as badly as wanted.

What for: everything that the mirror asks of an upstream is asked here, counted, and can be made to go wrong.
It uses no code of the mirror, on purpose: it is what the mirror is judged by. `python -m tests.simulator`
runs it as a process of its own. The surprise: the same server answers on two ports, and the second stands for
"another host" (files elsewhere, redirects, credentials that must not leak).
"""

from .faults import (
    Body,
    Chunked,
    Corrupt,
    Cut,
    Drip,
    EmptyPartial,
    Fault,
    GzipDespiteRange,
    Headers,
    IgnoreRange,
    Injection,
    Instead,
    RangeNotSatisfiable,
    RotateEtag,
    Stall,
    Status,
    Truncate,
    WrongOverlap,
    no_digest,
    wrong_content_type,
)
from .lies import CutCompression, HangUp, LongHeader, RateLimit, Redirect
from .pypi import PyPI
from .rubygems import RubyGems
from .server import Simulator
from .wire import Request, SimulatedResponse

__all__ = [
    "Body",
    "Chunked",
    "Corrupt",
    "Cut",
    "CutCompression",
    "Drip",
    "EmptyPartial",
    "Fault",
    "GzipDespiteRange",
    "HangUp",
    "Headers",
    "IgnoreRange",
    "Injection",
    "Instead",
    "LongHeader",
    "PyPI",
    "RangeNotSatisfiable",
    "RateLimit",
    "Redirect",
    "Request",
    "RotateEtag",
    "RubyGems",
    "SimulatedResponse",
    "Simulator",
    "Stall",
    "Status",
    "Truncate",
    "WrongOverlap",
    "no_digest",
    "wrong_content_type",
]
