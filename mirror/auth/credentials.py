"""What clients show of themselves: the Authorization header, taken apart; tokens, made and recognised.

Pure but for the randomness of a new token. Nothing here knows whether a credential is right.
"""

import base64
import binascii
import hashlib
import re
import secrets

import msgspec

from mirror.errors import Unauthorized

PREFIX = "mirror_"
"""How every token begins, so that scanners for secrets find the ones that leaked."""
LONGEST = 4096
"""Characters of an Authorization header that are looked at."""

_TOKEN = re.compile(r"mirror_[0-9a-f]{64}")


class TokenCredential(msgspec.Struct, frozen=True):
    """A token, as it was shown."""

    secret: str

    def __repr__(self) -> str:
        return "ShownToken(***)"


class PasswordCredential(msgspec.Struct, frozen=True):
    """A user name with a password."""

    user: str
    password: str

    def __repr__(self) -> str:
        return f"ShownPassword({self.user!r}, ***)"


def new_token() -> str:
    """A new secret of 256 random bits. It is shown once and kept only as its digest."""
    return PREFIX + secrets.token_hex(32)


def is_token(text: str) -> bool:
    """Whether the text has the form of a token."""
    return _TOKEN.fullmatch(text) is not None


def digest(secret: str) -> str:
    """What is kept of a token. One plain SHA-256: there is nothing to guess in 256 random bits."""
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def parse(header: str) -> TokenCredential | PasswordCredential:
    """The credentials in an Authorization header. Raises Unauthorized when there are none in it.

    Basic (RFC 7617) with a password, or with a token in either place and any name beside it; Bearer (RFC 6750); and the
    bare key that RubyGems sends.
    """
    if len(header) > LONGEST:
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
    if is_token(password):
        return TokenCredential(password)
    if is_token(user) and password in ("", "x-oauth-basic"):
        return TokenCredential(user)  # as `bundle config HOST TOKEN` sends it
    if user == "__token__":
        return TokenCredential(password)
    return PasswordCredential(user, password)
