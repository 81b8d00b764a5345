"""[store]: how much is kept on disk, and how it is looked after."""

from mirror.config.section import Section
from mirror.config.values import Duration, Size


class StoreSettings(Section):
    """[store]: how much is kept on disk, and how it is looked after."""

    limit: Size | None = None
    """The most that the files may take; above it the least recently used go. What was uploaded, what a sync set names
    and what upstream no longer has never goes. Without a limit everything stays."""
    min_age: Duration = 86_400
    """What was asked for within this time does not go, even when the limit is exceeded by it."""
    sweep_every: Duration = 600
    """How often `serve` looks whether anything has to go, when there is a limit."""
    verify_rate: Size = 0
    """So many bytes a second `serve` reads again of what is held, to find what the disk has forgotten; 0: none."""
