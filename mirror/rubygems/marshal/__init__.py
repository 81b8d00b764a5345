"""Ruby's Marshal 4.8: exactly the shapes that the legacy index is made of, read and written.

No general Marshal: a closed list of classes, as the frozen values of `values`; all else raises Invalid. The one
surprise: Gem::Specification is marshalled as a string that is itself a marshalled array of 19 fields.
"""

from mirror.rubygems.marshal.reading import inflate, load, load_gemspec, load_specs, read_gemspec_rz
from mirror.rubygems.marshal.values import (
    SPEC_LIMIT,
    Dependency,
    Gemspec,
    Platform,
    Requirement,
    Symbol,
    Value,
    Version,
)
from mirror.rubygems.marshal.writing import dump, dump_specs, gemspec_rz

__all__ = [
    "SPEC_LIMIT",
    "Dependency",
    "Gemspec",
    "Platform",
    "Requirement",
    "Symbol",
    "Value",
    "Version",
    "dump",
    "dump_specs",
    "gemspec_rz",
    "inflate",
    "load",
    "load_gemspec",
    "load_specs",
    "read_gemspec_rz",
]
