"""[auth]: people, tokens and rules, for systems that are managed as text.

Users and tokens that commands create are in the catalog instead; both work side by side. Rules are only here.
"""

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, StringConstraints, model_validator

from mirror.config.values import Patterns, Section, Time, WordList, listed
from mirror.model import Right

NAME = r"[A-Za-z0-9][A-Za-z0-9._+@-]{0,99}"
"""The name of a user, a group or a token."""
RESERVED_NAMES = frozenset({"everyone", "authenticated", "anonymous", "unknown", "__token__"})
"""Names with a meaning of their own, which no user can have."""


def user_name(value: str) -> str:
    """Return the name of a user or a token. Raises ValueError."""
    if not re.fullmatch(NAME, value):
        raise ValueError("should be a name of letters, digits and . _ + @ -, which begins with a letter or digit")
    if value in RESERVED_NAMES:
        raise ValueError(f"may not be {value!r}, which has a meaning of its own")
    return value


def _password_hash(value: SecretStr) -> SecretStr:
    if not value.get_secret_value().startswith("$argon2id$"):
        raise ValueError("should be what `mirror user hash` prints; passwords themselves are never stored")
    return value


Name = Annotated[str, AfterValidator(user_name)]
Group = Annotated[str, StringConstraints(pattern=rf"^{NAME}$")]
Holder = Annotated[str, StringConstraints(pattern=rf"^@?{NAME}$")]
Groups = Annotated[tuple[Group, ...], WordList, BeforeValidator(listed)]
Holders = Annotated[tuple[Holder, ...] | None, WordList, BeforeValidator(listed)]
Rights = Annotated[tuple[Right, ...], WordList, BeforeValidator(listed)]


class ScopeSettings(Section):
    """The repositories and projects to which rights apply."""

    repositories: Patterns = ("*",)
    """In which repositories; names or patterns."""
    projects: Patterns = ("*",)
    """On which projects; names or patterns."""


class UserSettings(ScopeSettings):
    """[auth.users.NAME]: a user with a password."""

    password_hash: Annotated[SecretStr, AfterValidator(_password_hash)]
    """What `mirror user hash` prints."""
    groups: Groups = ()
    """The user's groups; rules name them with `@` in front."""
    rights: Rights = ()
    """The user's rights besides those of the rules: "read", "upload", "yank", "admin"."""


class TokenSettings(ScopeSettings):
    """[auth.tokens.NAME]: a secret that `mirror token create --for-file` creates."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """The digest of the token. The token itself is never stored."""
    user: Name | Literal[""] = ""
    """The user for whom it acts, at most with that user's rights; without one it has the rights below."""
    rights: Rights = ("read", "upload")
    """The rights to which it is limited: "read", "upload", "yank", "admin"."""
    expires: Time | None = None
    """When it expires: a date, or a date with a time; UTC unless it has a zone."""

    @property
    def unlimited(self) -> bool:
        """Whether it may change every project without the settings saying so: `projects = ["*"]` does."""
        return "projects" not in self.model_fields_set and set(self.rights) != {"read"}


class AccessRuleSettings(ScopeSettings):
    """[[auth.rules]]: who has which rights on some projects. For each right, the first rule that matches decides."""

    read: Holders = None
    """Who may read: names of users, of groups with `@` in front, "authenticated", "everyone". Empty: no one."""
    upload: Holders = None
    """Who may upload new files; implies read."""
    yank: Holders = None
    """Who may yank and un-yank; implies read."""
    admin: Holders = None
    """Who may do everything: all of the above, deleting, and changing owners."""

    @model_validator(mode="after")
    def _grants_something(self) -> Self:
        if self.read is self.upload is self.yank is self.admin is None:
            raise ValueError("should name who may read, upload, yank or admin")
        return self


class AuthSettings(Section):
    """[auth]: who may do what. Without rules everyone may read; uploading needs a token, or a user with that right."""

    users: dict[Name, UserSettings] = Field(default_factory=dict)
    """[auth.users.NAME]: users kept in the file."""
    tokens: dict[Name, TokenSettings] = Field(default_factory=dict)
    """[auth.tokens.NAME]: tokens kept in the file."""
    rules: tuple[AccessRuleSettings, ...] = ()
    """[[auth.rules]]: tried in this order; for each right the first rule that matches and has the right decides."""

    def repositories(self) -> set[str]:
        """Return every name and pattern of repositories in these settings."""
        tables: tuple[ScopeSettings, ...] = (*self.rules, *self.users.values(), *self.tokens.values())
        return {pattern for table in tables for pattern in table.repositories}
