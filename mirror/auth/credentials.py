"""What clients present: the Authorization header, tokens, and the form of `gem signin`.

Pure, but for the random bits of a new token. Whether a credential is right is decided in `guard`.
"""

import base64
import binascii
import hashlib
import re
import secrets
from collections.abc import Mapping
from urllib.parse import parse_qsl

import msgspec

from mirror.auth.rights import RIGHTS
from mirror.errors import Invalid, Unauthorized
from mirror.model import Right

TOKEN_PREFIX = "mirror_"
"""How every token begins, so that scanners for secrets find the ones that leaked."""
MAX_HEADER_CHARACTERS = 4096
"""Length of an Authorization header."""
MAX_FORM_BYTES = 10_000
"""Size of a form of `gem signin`."""
KEY_SCOPES: Mapping[str, Right] = {
    "index_rubygems": "read",
    "show_dashboard": "read",
    "push_rubygem": "upload",
    "yank_rubygem": "yank",
    "add_owner": "admin",
    "remove_owner": "admin",
}
"""The scopes that `gem signin` can request → the rights that they are here."""

_TOKEN = re.compile(r"mirror_[0-9a-f]{64}")


class TokenCredential(msgspec.Struct, frozen=True):
    """A token that a client presents."""

    secret: str

    def __repr__(self) -> str:
        return "TokenCredential(***)"


class PasswordCredential(msgspec.Struct, frozen=True):
    """A user name with a password that a client presents."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"PasswordCredential({self.user!r}, ***)"


def new_token() -> str:
    """Return a new secret of 256 random bits. It is shown once and stored only as its digest."""
    return TOKEN_PREFIX + secrets.token_hex(32)


def is_token(text: str) -> bool:
    """Return whether a text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def digest(secret: str) -> str:
    """Return what is stored of a token: one plain SHA-256, as no one can guess 256 random bits."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def parse_authorization(header: str) -> TokenCredential | PasswordCredential:
    """Return the credential in an Authorization header. Raises Unauthorized when there is none in it.

    Basic (RFC 7617) with a password, or with a token in either place and any name beside it; Bearer (RFC 6750); and the
    bare key that RubyGems sends.
    """
    if len(header) > MAX_HEADER_CHARACTERS:
        raise Unauthorized("The Authorization header is too long.")
    scheme, _, rest = header.strip().partition(" ")
    match scheme.lower(), rest.strip():
        case "basic", encoded:
            return _basic(encoded)
        case "bearer", secret if secret:
            return TokenCredential(secret)
        case _, "" if scheme:
            return TokenCredential(scheme)
    raise Unauthorized("The Authorization header should be Basic, Bearer or a key.")


def _basic(encoded: str) -> TokenCredential | PasswordCredential:
    try:
        # RFC 7617 section 2.1: UTF-8, which is also what the clients send.
        user, colon, password = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        raise Unauthorized("The Basic credentials cannot be decoded.") from None
    if not colon:
        raise Unauthorized("The Basic credentials should be a name and a password.")
    return credential_of(user, password)


def credential_of(user: str, password: str) -> TokenCredential | PasswordCredential:
    """Return the credential in a name and a password, of which either may be a token."""
    if is_token(password):
        return TokenCredential(password)
    if is_token(user) and password in ("", "x-oauth-basic"):
        return TokenCredential(user)  # as `bundle config HOST TOKEN` sends it
    if user == "__token__":
        return TokenCredential(password)
    return PasswordCredential(user, password)


def requested_key(form: bytes) -> tuple[str, frozenset[Right]]:
    """Return the name and the rights of the key that a form of `POST /api/v1/api_key` requests.

    All rights when it names no scope, as old clients do; a key never has more than its user. gem 4.x sends the form
    without a Content-Type (rule 9 of `mirror.rubygems.routes`), so the body is parsed as it is. Raises Invalid.
    """
    if len(form) > MAX_FORM_BYTES:
        raise Invalid("The form is too long.")
    try:
        fields = dict(parse_qsl(form.decode(), max_num_fields=100))
    except ValueError:
        raise Invalid("The form cannot be read.") from None
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", fields.get("name", ""))[:60].strip("-.")
    rights = frozenset(right for scope, right in KEY_SCOPES.items() if fields.get(scope, "").lower() == "true")
    return name or "key", rights or frozenset(RIGHTS)
