"""Read the settings of environment variables, in the structure of the file.

The surprise: variables are always text, so they are marked as `Text`, which may stand for a number; `retries = "3"` is
a fault in a file, while MIRROR_NETWORK__RETRIES=3 is not.
"""

import logging
import os
import re
from typing import Any

from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict, SettingsError

from mirror.config.reference import keys_beside
from mirror.config.settings import Settings
from mirror.config.values import Text, WordList
from mirror.config.variables import PREFIX, meaning
from mirror.errors import ConfigError

logger = logging.getLogger(__name__)


class _Variables(Settings, BaseSettings):
    """The settings in the form that the environment source reads; never instantiated."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_nested_delimiter="__", env_ignore_empty=True, defer_build=True
    )


class _VariableSource(EnvSettingsSource):
    """The environment source, which leaves lists of words as they are written."""

    def decode_complex_value(self, field_name: str, field: FieldInfo | None, value: Any) -> Any:
        if field is not None and WordList in field.metadata:
            return value
        return super().decode_complex_value(field_name, field, value)  # type: ignore[arg-type]  # as it is called


def read_variables() -> dict[str, Any]:
    """Return the settings of the environment. Raises ConfigError."""
    tables: dict[str, set[str]] = {field: keys_beside((field, "")) for field in Settings.model_fields}
    for name in sorted(os.environ):
        if not name.startswith(PREFIX):
            continue
        match meaning(name, os.environ[name], tables):
            case "misspelt", meant:
                raise ConfigError(f"{name}: is not a setting (did you mean {meant}?)")
            case "unknown", _:
                logger.warning("%s: is not a setting, and is ignored", name)
    try:
        return {key: _marked(value) for key, value in _VariableSource(_Variables)().items()}
    except SettingsError as error:
        found = re.search(r'field "(\w+)"', str(error))
        raise ConfigError(f"{PREFIX}{found[1].upper() if found else '*'}: should be JSON") from None


def _marked(value: object) -> object:
    if isinstance(value, dict):
        return {key: _marked(inner) for key, inner in value.items()}
    return Text(value) if isinstance(value, str) else value
