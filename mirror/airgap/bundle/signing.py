"""Signatures of bundles: Ed25519 keys, the mirror's own and trusted ones, as small text files below `data_dir/keys`.

The public half of a key is one line, `mirror-ed25519 BASE64 NAME`, which is given to the other side by another way than
the bundles. The id of a key is the beginning of its SHA-256.
"""

import base64
import binascii
import hashlib
import os
import re
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from mirror.airgap.bundle.format import DamagedBundle
from mirror.errors import Conflict, Forbidden, Invalid, NotFound

_KIND = "mirror-ed25519"
_SECRET = "mirror-ed25519-secret"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,99}", re.ASCII)
_ID = re.compile(r"[0-9a-f]{16}", re.ASCII)


class PublicKey(msgspec.Struct, frozen=True):
    """The public half of a key."""

    raw: bytes
    name: str

    @property
    def id(self) -> str:
        """Its name in signatures."""
        return hashlib.sha256(self.raw).hexdigest()[:16]

    @property
    def line(self) -> str:
        """The line that is given to the other side."""
        return f"{_KIND} {base64.b64encode(self.raw).decode()} {self.name}"


class Signer:
    """The private key of this mirror."""

    def __init__(self, secret: bytes, name: str) -> None:
        """Raises Invalid when `secret` is not a key."""
        try:
            self._key = Ed25519PrivateKey.from_private_bytes(secret)
        except ValueError:
            raise Invalid("A private key has 32 bytes.") from None
        self.public = PublicKey(self._key.public_key().public_bytes_raw(), name)

    def sign(self, content: bytes) -> bytes:
        """Return the text of a signature."""
        signature = base64.b64encode(self._key.sign(content)).decode()
        return f"ed25519 {self.public.id} {signature}\n".encode()


def parse_key(text: str) -> PublicKey:
    """Parse the line of a public key. Raises Invalid."""
    words = text.split()
    if len(words) in (2, 3) and words[0] == _KIND and (raw := _decoded(words[1], 32)) is not None:
        return PublicKey(raw, _checked(words[2]) if len(words) == 3 else "unnamed")
    raise Invalid(
        f"That is not a public key: it must be a line `{_KIND} BASE64 NAME`, as `mirror key create` prints it."
    )


class Keys:
    """The keys of one mirror."""

    def __init__(self, data_dir: Path) -> None:
        self._own = data_dir / "keys"
        self._trusted = self._own / "trusted"

    def create(self, name: str) -> PublicKey:
        """Create the mirror's own key. Raises Conflict when there is one already, Invalid for a bad name."""
        _checked(name)
        if own := self.own():
            raise Conflict(f"There is a key already, {own.public.name} ({own.public.id}): bundles are signed with it.")
        secret = Ed25519PrivateKey.generate().private_bytes_raw()
        signer = Signer(secret, name)
        self._own.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._own / f"{signer.public.id}.key", f"{_SECRET} {base64.b64encode(secret).decode()} {name}\n")
        return signer.public

    def own(self) -> Signer | None:
        """Return the key that signs bundles, if there is one. Raises Invalid."""
        for path in sorted(self._own.glob("*.key")):
            words = path.read_text().split()
            secret = _decoded(words[1], 32) if len(words) == 3 and words[0] == _SECRET else None
            if secret is None:
                raise Invalid(f"The private key {path.name} is damaged: remove it and create another one.")
            return Signer(secret, words[2])
        return None

    def trust(self, key: PublicKey) -> None:
        """Accept bundles that are signed with this key."""
        self._trusted.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self._trusted / f"{key.id}.pub", f"{key.line}\n")

    def distrust(self, key_id: str) -> None:
        """Accept no more bundles that are signed with a key. Raises NotFound."""
        path = self._trusted / f"{key_id}.pub"
        if not _ID.fullmatch(key_id) or not path.exists():
            raise NotFound(f"The key {key_id[:80]!r} is not among the trusted ones.")
        path.unlink()

    def trusted(self) -> list[PublicKey]:
        """Return all trusted keys, the mirror's own among them. Raises Invalid."""
        own = self.own()
        known = [parse_key(path.read_text()) for path in sorted(self._trusted.glob("*.pub"))]
        return [*([own.public] if own else ()), *known]

    def verify(self, content: bytes, signature: bytes) -> PublicKey:
        """Return the key that signed the content. Raises Forbidden for a foreign key, DamagedBundle for a wrong one."""
        words = signature.decode("ascii", "replace").split()
        raw = _decoded(words[2], 64) if len(words) == 3 and words[0] == "ed25519" else None
        if raw is None or not _ID.fullmatch(words[1]):
            raise DamagedBundle("The bundle's signature is malformed.")
        key = next((key for key in self.trusted() if key.id == words[1]), None)
        if key is None:
            raise Forbidden(
                f"The bundle is signed by the key {words[1]}, which is not trusted here: get the public key from"
                " the mirror that made the bundle, and run `mirror key trust`."
            )
        try:
            Ed25519PublicKey.from_public_bytes(key.raw).verify(raw, content)
        except (InvalidSignature, ValueError):
            raise DamagedBundle(f"The bundle is altered: its list of digests is not what {key.name} signed.") from None
        return key


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise Invalid("The name of a key consists of letters, digits, dots, dashes and @, such as ci@build-host.")
    return name


def _decoded(text: str, size: int) -> bytes | None:
    try:
        raw = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if len(raw) == size else None


def _write(path: Path, text: str) -> None:
    """Write a file that only its owner may read, durably."""
    part = path.with_suffix(".new")
    fd = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(fd)
    part.replace(path)
