"""The signatures of a gem: `metadata.gz.sig` and its siblings, by the last certificate of the specification's chain.

Who signed, and whether that one can be trusted, is for those who install to judge. Here a signature has to be one of
what it stands beside, so that nothing is published that `gem install -P` calls tampered with.
"""

import hashlib
from collections.abc import Mapping

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509 import load_pem_x509_certificate

from mirror.errors import Invalid

SUFFIX = ".sig"
"""What the name of a signature has more than that of what is signed."""
MOST_CERTIFICATES = 10
_ALGORITHMS = ("sha256", "sha1")
"""The digests that RubyGems signs with, and signed with before version 2."""
_HASHES: Mapping[str, hashes.HashAlgorithm] = {"sha256": hashes.SHA256(), "sha1": hashes.SHA1()}


def check(signed: Mapping[str, Mapping[str, bytes]], signatures: Mapping[str, bytes], chain: tuple[str, ...]) -> None:
    """Check each signature against the digests of what it is for. Raises Invalid.

    `signed`: file name → algorithm → digest, with every one of `ALGORITHMS`; `signatures`: file name → its signature.
    """
    if not signatures:
        return
    if not chain or len(chain) > MOST_CERTIFICATES:
        raise Invalid("The gem is signed, but does not hold the certificates of who signed it.")
    try:
        key = load_pem_x509_certificate(chain[-1].encode()).public_key()
    except ValueError as error:
        raise Invalid("The gem is signed, but the last certificate in it cannot be read.") from error
    for name, signature in signatures.items():
        if name not in signed:
            raise Invalid(f"The gem holds a signature of {name[:60]!r}, but no such file.")
        if not any(_verifies(key, signature, signed[name][one], one) for one in _ALGORITHMS):
            raise Invalid(f"The gem's {name} does not have the signature that the gem itself holds: build it again.")


def digests(content: "list[hashlib._Hash]") -> dict[str, bytes]:
    """Return finished digests by the names of their algorithms."""
    return {one.name: one.digest() for one in content}


def new_digests() -> "list[hashlib._Hash]":
    """Return a digest of each algorithm that a signature may be made with."""
    return [hashlib.new(one, usedforsecurity=False) for one in _ALGORITHMS]


def _verifies(key: object, signature: bytes, digest: bytes, algorithm: str) -> bool:
    """Return whether a signature is that of a digest, which RubyGems digests once more."""
    try:
        match key:
            case rsa.RSAPublicKey():
                key.verify(signature, digest, padding.PKCS1v15(), _HASHES[algorithm])
            case ec.EllipticCurvePublicKey():
                key.verify(signature, digest, ec.ECDSA(_HASHES[algorithm]))
            case _:
                raise Invalid("The gem is signed with a kind of key that is not known here: RSA and EC are.")
    except InvalidSignature:
        return False
    return True
