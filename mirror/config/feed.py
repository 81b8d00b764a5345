"""[feed]: the journal that other mirrors follow."""

from pydantic import Field

from mirror.config.section import Section
from mirror.config.values import Duration


class FeedSettings(Section):
    """[feed]: the journal of what changed here, which other mirrors follow."""

    keep: Duration = Field(default=30 * 86_400, ge=1)
    """How long its events are kept. Who has not asked for longer compares all that is held, and goes on from there."""
