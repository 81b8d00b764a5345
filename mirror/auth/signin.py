"""What `gem signin` asks for when it wants a key: pure.

The form of `POST /api/v1/api_key` arrives without a Content-Type (gem 4.x), so the body is read as it stands.
"""

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from mirror.auth.rights import RIGHTS
from mirror.errors import Invalid
from mirror.model import Right

SCOPES: Mapping[str, Right] = {
    "index_rubygems": "read",
    "show_dashboard": "read",
    "push_rubygem": "upload",
    "yank_rubygem": "yank",
    "add_owner": "admin",
    "remove_owner": "admin",
}
"""The scopes that the client can ask for → the rights that they are here."""

LONGEST = 10_000
"""Bytes of the form."""


def asked(form: bytes) -> tuple[str, frozenset[Right]]:
    """The name and the rights of the key that a form asks for; all rights when it names no scope, as old clients do.

    A key never has more than its user. Raises Invalid.
    """
    if len(form) > LONGEST:
        raise Invalid("The form is too long.")
    try:
        fields = dict(parse_qsl(form.decode(), max_num_fields=100))
    except ValueError:
        raise Invalid("The form cannot be read.") from None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", fields.get("name", ""))[:60].strip("-.")
    rights = frozenset(right for word, right in SCOPES.items() if fields.get(word, "").lower() == "true")
    return name or "key", rights or frozenset(RIGHTS)
