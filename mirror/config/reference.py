"""Every setting as data: for the test that compares it with the documents, and for suggestions in errors."""

import ast
import functools
import inspect
import re
import textwrap
import typing
from typing import Any, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from mirror.config.settings import Settings

Place = tuple[str | int, ...]
"""The path to a setting: keys, and indexes of lists."""

TABLES_BY_NAME: tuple[Place, ...] = (("repositories",), ("auth", "users"), ("auth", "tokens"))
"""The tables whose keys are names that the operator chooses."""


class Setting(NamedTuple):
    """One setting of the reference."""

    name: str
    """Dotted, with NAME for the name of a table and [] for an item of a list: repositories.NAME.upstreams[].url."""
    default: Any
    """The value in the program: durations in seconds, sizes in bytes; None also where there is no default."""
    required: bool
    text: str
    """The docstring of the field."""


@functools.cache
def describe() -> tuple[Setting, ...]:
    """Return every setting with its default and its docstring, in the order of the classes, without the tables."""
    return tuple(_settings(Settings, ""))


def keys_beside(place: Place) -> set[str]:
    """Return the known keys of the table that a place is in."""
    steps = ["NAME" if place[:at] in TABLES_BY_NAME else step for at, step in enumerate(place[:-1])]
    parent = "".join("[]" if isinstance(step, int) else f".{step}" for step in steps)
    names = [f".{setting.name}" for setting in describe()]
    return {re.split(r"[.\[]", name[len(parent) + 1 :])[0] for name in names if name.startswith(f"{parent}.")}


def _settings(model: type[BaseModel], prefix: str) -> list[Setting]:
    texts = _docstrings(model)
    settings: list[Setting] = []
    for key, field in model.model_fields.items():
        name = f"{prefix}{key}"
        inner, suffix = _section(field)
        if inner is None or suffix == "[].":
            settings.append(Setting(name, _default(field), field.is_required(), texts.get(key, "")))
        if inner is not None:
            settings += _settings(inner, name + suffix)
    return settings


def _section(field: FieldInfo) -> tuple[type[BaseModel] | None, str]:
    """Return the section of a field and the suffix of its settings' names; None for a field of a single value."""
    kind: Any = field.annotation
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is dict:
        kind, suffix = arguments[1], ".NAME."
    elif origin is tuple:
        kind, suffix = arguments[0], "[]."
    else:
        suffix = "."
    return (kind, suffix) if isinstance(kind, type) and issubclass(kind, BaseModel) else (None, "")


def _default(field: FieldInfo) -> Any:
    return None if field.default_factory or field.default is PydanticUndefined else field.default


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    """Return field → the string that follows it in the source, for the class and its bases."""
    found: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if issubclass(cls, BaseModel) and cls.__module__.startswith("mirror."):
            body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
            assert isinstance(body, ast.ClassDef)
            for field, text in zip(body.body, body.body[1:], strict=False):
                match field, text:
                    case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(content))):
                        found[name] = inspect.cleandoc(content)
    return found
