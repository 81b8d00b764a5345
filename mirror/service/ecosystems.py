"""The ecosystems that the mirror serves, by the name that settings give them: the one place that lists both."""

from collections.abc import Mapping

from mirror import pypi, rubygems
from mirror.index.ecosystem import Ecosystem

ECOSYSTEMS: Mapping[str, Ecosystem] = {one.name: one for one in (pypi.ECOSYSTEM, rubygems.ECOSYSTEM)}
