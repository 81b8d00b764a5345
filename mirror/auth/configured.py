"""What the configuration defines: access rules, users and tokens, as the guard needs them."""

from collections.abc import Mapping

from mirror.auth.rights import RIGHTS, AccessRule, AccessRules, Normalize
from mirror.catalog import Token, User
from mirror.config import AuthSettings
from mirror.model import Grant


def rules_of(settings: AuthSettings, normalize: Mapping[str, Normalize]) -> AccessRules:
    """Return the access rules; `normalize` as in `AccessRules`."""
    rules = tuple(
        AccessRule(
            repositories=rule.repositories,
            projects=rule.projects,
            holders={right: frozenset(who) for right in RIGHTS if (who := getattr(rule, right)) is not None},
        )
        for rule in settings.rules
    )
    return AccessRules(rules, normalize)


def users_of(settings: AuthSettings) -> list[User]:
    """Return the users."""
    return [
        User(
            name=name,
            password=user.password_hash.get_secret_value(),
            groups=frozenset(user.groups),
            grants=(Grant(rights=frozenset(user.rights), repositories=user.repositories, projects=user.projects),)
            if user.rights
            else (),
        )
        for name, user in settings.users.items()
    ]


def tokens_of(settings: AuthSettings) -> list[Token]:
    """Return the tokens."""
    return [
        Token(
            name=name,
            sha256=token.sha256,
            owner=token.user,
            grants=(Grant(rights=frozenset(token.rights), repositories=token.repositories, projects=token.projects),),
            expires=token.expires.timestamp() if token.expires else None,
        )
        for name, token in settings.tokens.items()
    ]
