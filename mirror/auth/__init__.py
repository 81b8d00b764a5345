"""Authentication, authorization, and the audit trail.

`credentials` parses headers, `passwords` hashes, `throttle` slows down guessing, `rights` decides (pure), `guard` and
`readers` are what handlers call, `audit` records. Accounts are in the catalog or in the configuration, access rules in
the configuration. `sessions` has the cookies of browsers, which package clients do not have.
"""

from mirror.auth.configured import rules_of, tokens_of, users_of
from mirror.auth.credentials import digest, new_token, requested_key
from mirror.auth.guard import Guard
from mirror.auth.readers import ReadAccess
from mirror.auth.rights import ANONYMOUS, AccessRule, AccessRules, Identity, Scope, may, scope

__all__ = [
    "ANONYMOUS",
    "AccessRule",
    "AccessRules",
    "Guard",
    "Identity",
    "ReadAccess",
    "Scope",
    "digest",
    "may",
    "new_token",
    "requested_key",
    "rules_of",
    "scope",
    "tokens_of",
    "users_of",
]
