"""What all sections of the settings have in common."""

from pydantic import BaseModel, ConfigDict


class Section(BaseModel):
    """What all sections have in common: they never change, and an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
