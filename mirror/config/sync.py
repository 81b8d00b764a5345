"""[[sync]]: sets of files that are kept ahead of demand while the mirror serves."""

from typing import Annotated

from pydantic import BeforeValidator, Field, StringConstraints
from pydantic_settings import NoDecode

from mirror.config.section import Section
from mirror.config.values import Duration, Flag, Whole, listed

Text = Annotated[str, StringConstraints(min_length=1, max_length=1000)]
Texts = Annotated[tuple[Text, ...], NoDecode, BeforeValidator(listed)]


class SyncSettings(Section):
    """One set. Its files are read again each time, and what is no longer in them is no longer kept on purpose."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")
    """What logs and the catalog call it."""
    files: Texts = ()
    """Lock and requirements files, by absolute path."""
    names: Texts = ()
    """Names with specifiers: "requests", "django>=4.2", "rack:~> 3.0"; "gem:rack" is a gem of any version."""
    newest: Whole = Field(default=1, ge=0)
    """Of a name that leaves the version open, so many of its newest versions; 0: all of them."""
    dependencies: Flag = True
    """Whether what is not locked is resolved, by uv and bundler; else only what is named is fetched."""
    python: Texts = ()
    """For which Pythons: "3.12", "3.13t". Without it, the one that runs the mirror."""
    platforms: Texts = ()
    """For which platforms: "linux-x86_64", "macos-arm64", … Without it, this machine."""
    sdists: Flag = False
    """Sources as well, not only where there is no wheel."""
    repositories: Texts = ()
    """Where from; without it, from the first repository of the right format."""
    every: Duration = Field(default=86400, ge=60)
    """How long after it was brought in it is looked at again."""
