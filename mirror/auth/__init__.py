"""Who may do what: people and tokens show who they are, rules say what they may.

`rights` decides and is pure; `credentials` takes headers apart; `guard` is what handlers ask. Accounts are in the
catalog or in the configuration, rules in the configuration. Not here on purpose: sessions and cookies (package clients
have none), and who is behind a proxy (the address is the one that connects).
"""

from mirror.auth.credentials import digest, new_token
from mirror.auth.guard import Guard, ReadAccess
from mirror.auth.rights import ANONYMOUS, AccessRule, AccessRules, Identity, Scope, may, scope
from mirror.auth.settings import rules_of, tokens_of, users_of
from mirror.auth.signin import asked

__all__ = [
    "ANONYMOUS",
    "AccessRule",
    "AccessRules",
    "Guard",
    "Identity",
    "ReadAccess",
    "Scope",
    "asked",
    "digest",
    "may",
    "new_token",
    "rules_of",
    "scope",
    "tokens_of",
    "users_of",
]
